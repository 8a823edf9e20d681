import { describe, expect, it } from 'vitest'
import type { MeetingView, VenueView } from '../protocol/types'
import { CAUSE_NOTES, faultsOf, lineState, worstLoss, type MachineStatus } from './faults'

const venue = (id: string, more: Partial<VenueView> = {}): VenueView => ({
  id, name: id, short: id, pinyin: '', parent: null, tier: 1, order: Number(id), status: 'connected', reason: null, online: true,
  muted_by_chair: false, muted_locally: false, camera: true, microphone: true, sharing: false, since: 0, ...more,
})
const meeting = (...venues: VenueView[]) => ({ venues: Object.fromEntries(venues.map((v) => [v.id, v])) }) as unknown as MeetingView
const status = (more: Partial<MachineStatus['workers'][0]>): MachineStatus =>
  ({ workers: [{ id: 'w1', alive: true, cpu_percent: 10, transports: 1, rooms: 1, loop_delay_ms: 1, restarts: 0, ...more }] }) as MachineStatus

describe('faults', () => {
  it('says nothing when all is well', () => expect(faultsOf(status({}), meeting(venue('1')), { '1': { loss_up: 0.001 } })).toEqual([]))
  it('puts the worst first', () => {
    const found = faultsOf(
      status({ cpu_percent: 80 }),
      meeting(venue('1', { camera: false }), venue('2', { status: 'left', reason: 'network_lost', online: false }), venue('3')),
      { '3': { loss_up: 0.042, rtt_ms: 400 } },
    )
    expect(found[0]).toMatchObject({ key: 'Lost', subject: '2', bad: true, offline: true })
    expect(found.map((f) => f.key)).toEqual(['Lost', 'Busy', 'NoCamera', 'LossUp', 'Rtt'])
    expect(found.find((f) => f.key === 'LossUp')?.n).toBe(4.2)
  })
  it('says what the server says of a line, once', () => {
    const cause = { code: 'loss_up', zh: '上行丢包 12%，疑似本地网络', en: '', params: { percent: 12 } }
    const found = faultsOf(null, meeting(venue('1'), venue('2')), {
      '1': { loss_up: 0.12, rtt_ms: 400, quality: 'poor', cause },
      '2': { over_tcp: true, quality: 'excellent', cause: { ...cause, code: 'tcp' } },
    })
    expect(found.map((f) => [f.key, f.subject, f.bad, f.cause?.code])).toEqual([['Line', '1', true, 'loss_up'], ['Line', '2', false, 'tcp']])
  })
  it('has a note for every cause of the server', () => {
    expect(Object.keys(CAUSE_NOTES).sort()).toEqual(
      ['delay', 'delay_central', 'held', 'jitter', 'line_lost', 'loss_down', 'loss_down_central', 'loss_up', 'loss_up_central', 'narrow', 'tcp'],
    )
  })
  it('a hung up venue is no fault', () => expect(faultsOf(null, meeting(venue('1', { status: 'left', reason: 'hung_up' })), {})).toEqual([]))
  it('names a dead worker', () => expect(faultsOf(status({ alive: false }), null, {})[0]).toMatchObject({ key: 'Worker', bad: true }))
  it('words the state of a line', () => {
    expect(lineState(venue('1'), undefined)).toBe('fine')
    expect(lineState(venue('1'), { loss_down: 0.03 })).toBe('losing')
    expect(lineState(venue('1'), { quality: 'poor' })).toBe('poor')
    expect(lineState(venue('1'), { held: 1, loss_down: 0.03 })).toBe('narrow')
    expect(lineState(venue('1', { status: 'left', reason: 'network_lost' }), undefined)).toBe('lost')
    expect(lineState(venue('1', { status: 'left', reason: 'left' }), undefined)).toBe('left')
    expect(lineState(venue('1', { status: 'idle' }), undefined)).toBe('idle')
  })
  it('finds the highest loss of those who are in', () => {
    expect(worstLoss(meeting(venue('1'), venue('2')), { '1': { loss_up: 0.01 }, '2': { loss_down: 0.02 } })).toEqual({ venue: '2', direction: 'down', share: 0.02 })
    expect(worstLoss(meeting(venue('1')), {})).toBeNull()
  })
})
