import { describe, expect, it } from 'vitest'
import { attention } from './attention'
import { digest, happened } from './chronicle'
import { shortSpan, span } from './format'
import { meeting, venue } from './sample'
import type { MeetingView } from '../protocol/types'

const told = (before: MeetingView, after: MeetingView) => happened(digest(before), digest(after), 1).map((one) => [one.key.slice(8), one.values['venue'] ?? ''])
const m = meeting([venue('a'), venue('b'), venue('c', { status: 'idle' })])
const withVenue = (id: string, over: object): MeetingView => ({ ...m, venues: { ...m.venues, [id]: { ...m.venues[id]!, ...over } } })

describe('the log', () => {
  it('says nothing when nothing happened, and nothing across meetings', () => {
    expect(told(m, m)).toEqual([])
    expect(told(m, { ...m, id: 'mt_2', locked: true })).toEqual([])
  })
  it.each([
    [withVenue('c', { status: 'calling' }), [['logCalling', 'c']]],
    [withVenue('c', { status: 'connected' }), [['logJoined', 'c']]],
    [withVenue('a', { status: 'left', reason: 'network_lost' }), [['logLost', 'a']]],
    [withVenue('a', { muted_by_chair: true }), [['logMuted', 'a']]],
    [withVenue('a', { muted_locally: true }), [['logOwnMute', 'a']]],
    [{ ...m, queue: [{ venue: 'a', at: 1 }] }, [['logAsks', 'a']]],
    [{ ...m, stage: 'a', broadcast: 'a' }, [['logOnAir', 'a']]],
    [{ ...m, stage: 'a', floor: 'a' }, [['logFloor', 'a']]],
    [{ ...m, locked: true }, [['logLocked', '']]],
    [{ ...m, recording: { state: 'on' as const, since: 1, recording_id: 'r' } }, [['logRecords', '']]]
  ])('tells what happened: %#', (after, lines) => expect(told(m, after)).toEqual(lines))
  it('granting is one line, not also a withdrawal', () => {
    const asked = { ...m, queue: [{ venue: 'a', at: 1 }] }
    expect(told(asked, { ...m, stage: 'a', floor: 'a' })).toEqual([['logFloor', 'a']])
    expect(told(asked, m)).toEqual([['logAsksNot', 'a']])
  })
  it('a call to everybody is one line', () => {
    const many = (status: 'idle' | 'calling') => meeting(Array.from({ length: 121 }, (_, n) => venue(`v${n}`, { status })))
    const lines = told(many('idle'), many('calling'))
    expect(lines).toHaveLength(1)
    expect(lines[0]![1]).toContain('121')
  })
})

describe('需关注', () => {
  it('is empty when all is well or nobody was called', () => expect(attention(m, {})).toEqual([]))
  it('one line a venue, alarms first', () => {
    const faulty = meeting([
      venue('loss', { order: 1 }), venue('lost', { order: 9, status: 'left', reason: 'network_lost' }),
      venue('dark', { order: 3, camera: false, microphone: false }), venue('hung', { order: 4, status: 'left', reason: 'hung_up' })
    ])
    const lines = attention(faulty, { loss: { loss_up: 0.042, quality: 'poor' } })
    expect(lines.map((one) => [one.venue, one.kind, one.act])).toEqual([['lost', 'alarm', 'call'], ['loss', 'warn', 'show'], ['dark', 'warn', 'show']])
    expect(lines[1]!.values).toEqual({ loss: '4.2' })
  })
  it('repeats what the server says of a line, but not what only the IT desk can change', () => {
    const cause = { code: 'loss_up', zh: '上行丢包 12%，疑似本地网络', en: '', params: { percent: 12 } }
    expect(attention(m, { a: { loss_up: 0.12, cause } })).toMatchObject([{ venue: 'a', kind: 'warn', cause }])
    expect(attention(m, { a: { cause: { ...cause, code: 'tcp' } } })).toEqual([])
    expect(attention(m, { a: { quality: 'lost', cause: { ...cause, code: 'line_lost' } } })).toMatchObject([{ kind: 'alarm', cause: null }])
  })
})

describe('times', () => {
  it('are read at a glance and never negative', () => {
    expect(span(2_530_000)).toBe('00:42:10')
    expect(span(-5)).toBe('00:00:00')
    expect(shortSpan(192_000)).toBe('03:12')
    expect(shortSpan(3_600_000)).toBe('01:00:00')
  })
})
