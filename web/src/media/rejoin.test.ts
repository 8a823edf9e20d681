import { DisconnectReason } from 'livekit-client'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { afterLoss, InRoomRetry, Rejoin, rejoinDelay, REJOIN_DELAYS_MS } from './rejoin'

beforeEach(() => vi.useFakeTimers())
afterEach(() => vi.useRealTimers())

describe('delays', () => {
  it('grow and stay bounded', () => {
    expect(rejoinDelay(0, () => 0.5)).toBe(300)
    expect(rejoinDelay(1000, () => 1)).toBe(6000)
    expect(rejoinDelay(1000, () => 0)).toBe(4000)
  })
  it('livekit-client gives up within about ten seconds, so that a fresh token is fetched in time', () => {
    const policy = new InRoomRetry()
    let total = 0
    let tries = 0
    for (;;) {
      const delay = policy.nextRetryDelayInMs({ retryCount: tries, elapsedMs: total })
      if (delay === null) break
      total += delay
      tries += 1
    }
    expect(tries).toBeGreaterThan(4)
    expect(total).toBeLessThan(11_000)
  })
})

describe('after a loss', () => {
  it('tells a taken seat and a removal from a broken line', () => {
    expect(afterLoss(DisconnectReason.DUPLICATE_IDENTITY)).toBe('replaced')
    expect(afterLoss(DisconnectReason.PARTICIPANT_REMOVED)).toBe('removed')
    expect(afterLoss(DisconnectReason.ROOM_DELETED)).toBe('removed')
    expect(afterLoss(DisconnectReason.SERVER_SHUTDOWN)).toBe('rejoin')
    expect(afterLoss(DisconnectReason.SIGNAL_CLOSE)).toBe('rejoin')
    expect(afterLoss(undefined)).toBe('rejoin')
  })
})

describe('Rejoin', () => {
  it('goes on for ever until it succeeds', async () => {
    let tries = 0
    const rejoin = new Rejoin(async () => ++tries === 40)
    rejoin.start()
    await vi.advanceTimersByTimeAsync(40 * 6000)
    expect(tries).toBe(40)
    expect(rejoin.active).toBe(false)
    await vi.advanceTimersByTimeAsync(60_000)
    expect(tries).toBe(40)
  })
  it('an attempt that throws is one that failed', async () => {
    let tries = 0
    const rejoin = new Rejoin(async () => {
      tries += 1
      if (tries < 3) throw new Error('refused')
      return true
    })
    rejoin.start()
    await vi.advanceTimersByTimeAsync(10_000)
    expect(tries).toBe(3)
  })
  it('a nudge cuts the pause short, but never runs two attempts at once', async () => {
    let tries = 0
    let finish: (done: boolean) => void = () => undefined
    const rejoin = new Rejoin(() => {
      tries += 1
      return new Promise((resolve) => (finish = resolve))
    })
    rejoin.start()
    rejoin.nudge()
    expect(tries).toBe(1)
    rejoin.nudge()
    expect(tries).toBe(1)
    finish(false)
    await vi.advanceTimersByTimeAsync(0)
    rejoin.nudge()
    expect(tries).toBe(2)
  })
  it('stop ends it, also in the middle of an attempt', async () => {
    let tries = 0
    const rejoin = new Rejoin(async () => {
      tries += 1
      return false
    })
    rejoin.start()
    await vi.advanceTimersByTimeAsync(REJOIN_DELAYS_MS[0]! * 1.3)
    rejoin.stop()
    await vi.advanceTimersByTimeAsync(60_000)
    expect(tries).toBe(1)
  })
})
