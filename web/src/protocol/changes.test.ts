import { describe, expect, it } from 'vitest'
import { applyChanges, PathMismatch } from './changes'

const view = () => ({ meeting: { venues: { a: { status: 'idle' }, b: { status: 'idle' } }, queue: [{ venue: 'a' }] } as Record<string, unknown> | null })

describe('changes by path', () => {
  it('set, replace and delete, in order', () => {
    const v = view()
    applyChanges(v, [
      { path: ['meeting', 'venues', 'a', 'status'], value: 'calling' },
      { path: ['meeting', 'venues', 'b'], value: null, gone: true },
      { path: ['meeting', 'queue'], value: [] },
      { path: ['meeting', 'floor'], value: null }
    ])
    expect(v).toEqual({ meeting: { venues: { a: { status: 'calling' } }, queue: [], floor: null } })
  })
  it('replace the meeting as a whole', () => {
    const v = view()
    applyChanges(v, [{ path: ['meeting'], value: null }])
    expect(v.meeting).toBeNull()
  })
  it('keep the object, so that what watches it sees the change', () => {
    const v = view()
    const before = v.meeting
    applyChanges(v, [{ path: ['meeting', 'locked'], value: true }])
    expect(v.meeting).toBe(before)
  })
  it.each([
    [['meeting', 'venues', 'zz', 'status']],
    [['nothing', 'here']],
    [['__proto__', 'polluted']],
    [['meeting', 'constructor', 'prototype', 'x']],
    [[]],
    [Array.from({ length: 40 }, () => 'x')]
  ])('refuse a path that does not fit: %j', (path) => {
    expect(() => applyChanges(view(), [{ path, value: 1 }])).toThrow(PathMismatch)
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined()
  })
})
