/**
 * How a lost connection is taken up again. Two loops, both here so that their sum can be seen:
 * livekit-client first tries to resume on the same token (`InRoomRetry`), and when it gives up the
 * session fetches a fresh token and joins anew for ever (`Rejoin`).
 */
import { DisconnectReason, type ReconnectContext, type ReconnectPolicy } from 'livekit-client'

/** Delays in ms of livekit-client's own tries. Short, because a restarted server is back within seconds. */
const IN_ROOM_DELAYS_MS = [0, 300, 600, 1000, 1500, 1500, 2000, 2000]

export class InRoomRetry implements ReconnectPolicy {
  nextRetryDelayInMs(context: ReconnectContext): number | null {
    const delay = IN_ROOM_DELAYS_MS[context.retryCount]
    if (delay === undefined) return null
    return Math.round(delay * (0.8 + 0.4 * Math.random())) // many venues lose the same server at once
  }
}

/** Delays in ms before the n-th rejoin; the last one repeats for ever. */
export const REJOIN_DELAYS_MS = [300, 1000, 2000, 3000, 5000]

export function rejoinDelay(attempt: number, random: () => number = Math.random): number {
  const last = REJOIN_DELAYS_MS.length - 1
  const base = REJOIN_DELAYS_MS[Math.min(attempt, last)] ?? 5000
  return Math.round(base * (0.8 + 0.4 * random()))
}

/** What to do when livekit-client says that the room is over for us. */
export type AfterLoss = 'rejoin' | 'replaced' | 'removed'

export function afterLoss(reason: DisconnectReason | undefined): AfterLoss {
  switch (reason) {
    case DisconnectReason.DUPLICATE_IDENTITY:
      return 'replaced' // another computer of this venue took the seat: fighting it would flip for ever
    case DisconnectReason.PARTICIPANT_REMOVED:
    case DisconnectReason.ROOM_DELETED:
    case DisconnectReason.ROOM_CLOSED:
      return 'removed' // hung up or meeting over: the room state on /ws says what comes next
    default:
      return 'rejoin'
  }
}

/**
 * Runs `attempt` until it succeeds, with growing pauses; `nudge()` cuts a pause short (the network
 * came back). Ends for good with `stop()`.
 */
export class Rejoin {
  private timer: ReturnType<typeof setTimeout> | null = null
  private tries = 0
  private running = false
  private stopped = true

  constructor(private readonly attempt: () => Promise<boolean>) {}

  get active(): boolean {
    return !this.stopped
  }

  start(): void {
    if (!this.stopped) return
    this.stopped = false
    this.tries = 0
    this.schedule()
  }

  nudge(): void {
    if (this.stopped || this.running || this.timer === null) return
    clearTimeout(this.timer)
    this.timer = null
    void this.run()
  }

  stop(): void {
    this.stopped = true
    if (this.timer !== null) clearTimeout(this.timer)
    this.timer = null
  }

  private schedule(): void {
    const delay = rejoinDelay(this.tries)
    this.tries += 1
    this.timer = setTimeout(() => {
      this.timer = null
      void this.run()
    }, delay)
  }

  private async run(): Promise<void> {
    this.running = true
    let done = false
    try {
      done = await this.attempt()
    } catch {
      done = false // the attempt reports its own error; here only: not yet
    }
    this.running = false
    if (this.stopped) return
    if (done) this.stopped = true
    else this.schedule()
  }
}
