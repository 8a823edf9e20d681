import { ConnectionState, DisconnectReason, RoomEvent, type Room } from 'livekit-client'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { MediaSession, type SessionState } from './MediaSession'

type Listener = (...args: unknown[]) => void

/** As much of a Room as a session without devices touches. */
class FakeRoom {
  static refuse = false
  static made: FakeRoom[] = []
  state = ConnectionState.Disconnected
  remoteParticipants = new Map()
  localParticipant = { identity: '340100', getTrackPublication: () => undefined }
  canPlaybackAudio = true
  tokens: string[] = []
  left = 0
  private readonly listeners = new Map<string, Listener[]>()
  constructor() {
    FakeRoom.made.push(this)
  }
  on(event: string, listener: Listener): this {
    this.listeners.set(event, [...(this.listeners.get(event) ?? []), listener])
    return this
  }
  removeAllListeners(): this {
    this.listeners.clear()
    return this
  }
  emit(event: string, ...args: unknown[]): void {
    for (const listener of this.listeners.get(event) ?? []) listener(...args)
  }
  async connect(_url: string, token: string): Promise<void> {
    this.tokens.push(token)
    if (FakeRoom.refuse) throw new Error('server is down')
    this.state = ConnectionState.Connected
  }
  async disconnect(): Promise<void> {
    this.left += 1
    this.state = ConnectionState.Disconnected
  }
  lose(reason: DisconnectReason): void {
    this.state = ConnectionState.Disconnected
    this.emit(RoomEvent.Disconnected, reason)
  }
}
const last = (): FakeRoom => FakeRoom.made.at(-1)!

function open(renew: () => Promise<string> = async () => 'fresh') {
  const states: SessionState[] = []
  const session: MediaSession = new MediaSession({
    onChange: () => {
      if (states.at(-1) !== session.state) states.push(session.state)
    },
    renew,
    openRoom: () => new FakeRoom() as unknown as Room,
    signalUrl: 'ws://test',
  })
  return { session, states }
}

beforeEach(() => {
  vi.useFakeTimers()
  FakeRoom.made = []
  FakeRoom.refuse = false
})
afterEach(() => vi.useRealTimers())

describe('MediaSession', () => {
  it('joins with the given token, or fetches one', async () => {
    const { session, states } = open()
    await session.connect('first', { publish: null })
    expect(states).toEqual(['connecting', 'connected'])
    expect(last().tokens).toEqual(['first'])
    await session.connect('', { publish: null })
    expect(last().tokens).toEqual(['fresh'])
  })

  it('comes back with a fresh token after the server went away', async () => {
    const { session } = open()
    await session.connect('first', { publish: null })
    FakeRoom.refuse = true
    last().lose(DisconnectReason.SIGNAL_CLOSE)
    expect(session.state).toBe('reconnecting')
    await vi.advanceTimersByTimeAsync(60_000)
    expect(session.state).toBe('reconnecting')
    expect(FakeRoom.made.length).toBeGreaterThan(8)
    FakeRoom.refuse = false
    await vi.advanceTimersByTimeAsync(6000)
    expect(session.state).toBe('connected')
    expect(last().tokens).toEqual(['fresh'])
    expect(FakeRoom.made.slice(0, -1).every((room) => room.left > 0)).toBe(true)
  })

  it('goes on when the token itself cannot be had, for ever', async () => {
    let up = false
    const { session } = open(() => (up ? Promise.resolve('late') : Promise.reject(new Error('503'))))
    await expect(session.connect('', { publish: null })).rejects.toThrow('503')
    await vi.advanceTimersByTimeAsync(10 * 60_000)
    expect(session.state).toBe('connecting')
    up = true
    await vi.advanceTimersByTimeAsync(6000)
    expect(session.state).toBe('connected')
  })

  it('tries at once when the network is back', async () => {
    const { session } = open()
    await session.connect('first', { publish: null })
    last().lose(DisconnectReason.SIGNAL_CLOSE)
    window.dispatchEvent(new Event('online'))
    await vi.advanceTimersByTimeAsync(0)
    expect(session.state).toBe('connected')
  })

  it('does not fight for a seat that another computer took; a person may take it back', async () => {
    const { session } = open()
    await session.connect('first', { publish: null })
    last().lose(DisconnectReason.DUPLICATE_IDENTITY)
    await vi.advanceTimersByTimeAsync(60_000)
    expect(session.state).toBe('lost')
    expect(session.lostReason).toBe('replaced')
    expect(FakeRoom.made).toHaveLength(1)
    session.takeBack()
    await vi.advanceTimersByTimeAsync(0)
    expect(session.state).toBe('connected')
    expect(session.lostReason).toBeNull()
  })

  it('a removal is not answered by a rejoin', async () => {
    const { session } = open()
    await session.connect('first', { publish: null })
    last().lose(DisconnectReason.PARTICIPANT_REMOVED)
    await vi.advanceTimersByTimeAsync(60_000)
    expect(session).toMatchObject({ state: 'lost', lostReason: 'removed' })
    expect(FakeRoom.made).toHaveLength(1)
  })

  it('close wins over a join that is under way', async () => {
    const { session } = open()
    const joining = session.connect('first', { publish: null })
    await session.close()
    await joining
    await vi.advanceTimersByTimeAsync(60_000)
    expect(session.state).toBe('idle')
    expect(FakeRoom.made.every((room) => room.state === ConnectionState.Disconnected)).toBe(true)
  })

  it('close ends the rejoining', async () => {
    const { session } = open()
    await session.connect('first', { publish: null })
    FakeRoom.refuse = true
    last().lose(DisconnectReason.SIGNAL_CLOSE)
    await session.close()
    const made = FakeRoom.made.length
    await vi.advanceTimersByTimeAsync(60_000)
    expect(session.state).toBe('idle')
    expect(FakeRoom.made).toHaveLength(made)
  })

  it('remembers the local mute as its own, whatever the server says of the track', async () => {
    const { session } = open()
    await session.connect('first', { publish: null })
    session.setMicrophone(false)
    last().lose(DisconnectReason.SIGNAL_CLOSE)
    await vi.advanceTimersByTimeAsync(6000)
    expect(session.state).toBe('connected')
    expect(session.microphone).toBe(false)
  })
})
