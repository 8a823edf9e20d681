import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { backoffMs } from './backoff'
import { ServerError } from './errors'
import { ControlSocket, type LinkState } from './socket'
import type { View } from './types'

class Line {
  static all: Line[] = []
  readyState = 1
  sent: Record<string, unknown>[] = []
  onmessage: ((event: { data: string }) => void) | null = null
  onclose: ((event: { code: number }) => void) | null = null
  constructor(readonly url: string) {
    Line.all.push(this)
  }
  send(text: string): void {
    this.sent.push(JSON.parse(text) as Record<string, unknown>)
  }
  close(): void {
    this.readyState = 3
  }
  says(message: unknown): void {
    this.onmessage?.({ data: typeof message === 'string' ? message : JSON.stringify(message) })
  }
  breaks(code = 1006): void {
    this.readyState = 3
    this.onclose?.({ code })
  }
}

const me = { user_id: 'u', username: 'host', name: '主持', role: 'host' as const, venue_id: null }
const snapshot = (rev: number, title = 'A') => ({
  type: 'snapshot', rev, now: Date.now(), view: { me, meetings: {}, meeting: { title, venues: {} } }
})

let held: View | null
let states: LinkState[]
let failures: number
let socket: ControlSocket
const line = () => Line.all.at(-1)!

beforeEach(() => {
  vi.useFakeTimers()
  Line.all = []
  held = null
  states = []
  failures = 0
  socket = new ControlSocket(
    () => 'ws://x/ws',
    { hold: (view) => (held = view), state: (s) => states.push(s), failed: () => (failures += 1) },
    (url) => new Line(url) as unknown as WebSocket
  )
  socket.open()
})
afterEach(() => {
  socket.close()
  vi.useRealTimers()
})

describe('the link to the control plane', () => {
  it('opens with a snapshot and applies numbered changes in place', () => {
    line().says(snapshot(7))
    line().says({ type: 'change', rev: 8, changes: [{ path: ['meeting', 'title'], value: 'B' }] })
    expect(states).toEqual(['connecting', 'open'])
    expect(held?.meeting?.title).toBe('B')
    expect(socket.rev).toBe(8)
  })

  it('asks again after a gap, ignores changes until the snapshot, and goes on from it', () => {
    line().says(snapshot(1))
    line().says({ type: 'change', rev: 3, changes: [{ path: ['meeting', 'title'], value: 'lost' }] })
    expect(line().sent).toContainEqual({ type: 'resync' })
    line().says({ type: 'change', rev: 4, changes: [{ path: ['meeting', 'title'], value: 'lost too' }] })
    expect(held?.meeting?.title).toBe('A')
    expect(line().sent.filter((m) => m['type'] === 'resync')).toHaveLength(1)
    line().says(snapshot(4, 'whole'))
    line().says({ type: 'change', rev: 5, changes: [{ path: ['meeting', 'locked'], value: true }] })
    expect(held?.meeting).toMatchObject({ title: 'whole', locked: true })
  })

  it('asks again when a change does not fit', () => {
    line().says(snapshot(1))
    line().says({ type: 'change', rev: 2, changes: [{ path: ['meeting', 'venues', 'nobody', 'status'], value: 'x' }] })
    expect(line().sent).toContainEqual({ type: 'resync' })
  })

  it('takes a new link when the snapshot does not come', () => {
    line().says(snapshot(1))
    line().says({ type: 'change', rev: 9, changes: [] })
    vi.advanceTimersByTime(5_000)
    expect(states.at(-1)).toBe('waiting')
    vi.advanceTimersByTime(1_000)
    expect(Line.all).toHaveLength(2)
  })

  it('comes back after a break, for ever, with the pause growing to a bound', () => {
    for (let n = 0; n < 12; n++) {
      const before = Line.all.length
      line().breaks()
      let waited = 0
      for (; Line.all.length === before; waited += 100) vi.advanceTimersByTime(100)
      expect(waited).toBeLessThanOrEqual(9_700)
    }
    expect(Line.all.length).toBe(13)
    expect(failures).toBe(12)
    line().says(snapshot(1))
    expect(states.at(-1)).toBe('open')
  })

  it('comes back at once when the network does', () => {
    line().says(snapshot(1))
    line().breaks()
    expect(Line.all).toHaveLength(1)
    window.dispatchEvent(new Event('online'))
    expect(Line.all).toHaveLength(2)
  })

  it('gives up a link that has gone silent', () => {
    line().says(snapshot(1))
    vi.advanceTimersByTime(20_000)
    expect(states).toContain('waiting')
    expect(Line.all.length).toBeGreaterThan(1)
  })

  it('keeps a link that answers pings', () => {
    line().says(snapshot(1))
    for (let n = 0; n < 10; n++) {
      vi.advanceTimersByTime(5_000)
      line().says({ type: 'pong', now: Date.now() })
    }
    expect(Line.all).toHaveLength(1)
  })

  it('asks about the session when the server closes with "signed out"', () => {
    line().says(snapshot(1))
    line().breaks(4401)
    expect(failures).toBe(1)
  })

  it('tells how a command went', async () => {
    line().says(snapshot(1))
    const done = socket.command('mt_1', { type: 'lock' })
    const refused = socket.command('mt_1', { type: 'broadcast', venue: 'a' })
    const [first, second] = line().sent.filter((m) => m['type'] === 'command')
    line().says({ type: 'result', id: second!['id'], ok: false, error: { code: 'no_picture', message: '没有图像', message_en: 'no picture' } })
    line().says({ type: 'result', id: first!['id'], ok: true })
    await expect(done).resolves.toBeUndefined()
    await expect(refused).rejects.toMatchObject({ code: 'no_picture', zh: '没有图像', en: 'no picture' })
  })

  it('never keeps a command for a later link', async () => {
    await expect(socket.command('mt_1', { type: 'lock' })).rejects.toBeInstanceOf(ServerError)
    line().says(snapshot(1))
    const under = socket.command('mt_1', { type: 'lock' })
    line().breaks()
    await expect(under).rejects.toMatchObject({ code: 'unreachable' })
    vi.advanceTimersByTime(1_000)
    line().says(snapshot(1))
    expect(line().sent.filter((m) => m['type'] === 'command')).toEqual([])
  })

  it('survives what is no message', () => {
    line().says('{"type":')
    line().says({ type: 'something new' })
    line().says(snapshot(1))
    expect(states.at(-1)).toBe('open')
  })

  it('says its devices again after a break', () => {
    line().says(snapshot(1))
    socket.profile({ camera: true, microphone: false })
    line().breaks()
    vi.advanceTimersByTime(1_000)
    line().says(snapshot(1))
    expect(line().sent).toContainEqual({ type: 'profile', devices: { camera: true, microphone: false } })
  })
})

describe('the pause before the next attempt', () => {
  it('grows, and stops growing at 8 s', () => {
    const mid = () => 0.5
    expect([0, 1, 2, 3].map((n) => backoffMs(n, mid))).toEqual([300, 600, 1200, 2400])
    expect(backoffMs(50, mid)).toBe(4000)
    expect(backoffMs(1000, () => 1)).toBeLessThanOrEqual(9600)
  })
})
