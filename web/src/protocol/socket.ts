import { backoffMs } from './backoff'
import { applyChanges, PathMismatch } from './changes'
import { ServerError, Unreachable } from './errors'
import type { ClientMessage, Command, Quality, ServerMessage, View } from './types'

export type LinkState = 'idle' | 'connecting' | 'open' | 'waiting' | 'closed'

export interface SocketEvents {
  /** A new whole; the receiver keeps `view` and later changes are applied to what `hold` returned. */
  hold(view: View): View
  changed?(): void
  levels?(venues: Record<string, number>): void
  quality?(venues: Record<string, Quality>): void
  state(state: LinkState): void
  /** Server clock minus ours, milliseconds. */
  offset?(ms: number): void
  /** The server refused something that was no command (an unknown meeting, too many messages). */
  refused?(error: ServerError): void
  /** The link could not be opened: maybe the session has ended. */
  failed?(): void
}

interface Pending {
  resolve(): void
  reject(error: ServerError): void
  timer: ReturnType<typeof setTimeout>
}

const PING_MS = 5_000
const SILENCE_MS = 12_000
const OPEN_MS = 8_000
const COMMAND_MS = 8_000
const RESYNC_MS = 5_000
const MAX_PENDING = 64
const SIGNED_OUT = 4401 // close code of the server: the session has ended

/**
 * The page's end of /ws: a snapshot, then numbered changes. A gap or a change that does not fit asks for a new
 * snapshot. Lost links are taken up again for ever, at once when the network or the page comes back.
 * Commands are never queued over a lost link: what the chair meant a minute ago may be wrong now.
 */
export class ControlSocket {
  state: LinkState = 'idle'
  rev = -1
  private ws: WebSocket | null = null
  private held: View | null = null
  private resyncing: ReturnType<typeof setTimeout> | null = null
  private attempt = 0
  private heard = 0
  private retry: ReturnType<typeof setTimeout> | null = null
  private beat: ReturnType<typeof setInterval> | null = null
  private readonly pending = new Map<string, Pending>()
  private serial = 0
  private devices: { camera: boolean; microphone: boolean } | null = null

  constructor(
    private readonly address: () => string,
    private readonly on: SocketEvents,
    private readonly dial: (url: string) => WebSocket = (url) => new WebSocket(url)
  ) {}

  open(): void {
    if (this.state !== 'idle' && this.state !== 'closed') return
    globalThis.addEventListener?.('online', this.wake)
    globalThis.document?.addEventListener('visibilitychange', this.wake)
    this.beat = setInterval(() => this.heartbeat(), PING_MS)
    this.connect()
  }

  close(): void {
    globalThis.removeEventListener?.('online', this.wake)
    globalThis.document?.removeEventListener('visibilitychange', this.wake)
    if (this.beat) clearInterval(this.beat)
    if (this.retry) clearTimeout(this.retry)
    this.beat = this.retry = null
    this.drop()
    this.to('closed')
  }

  /** Resolves when the server has carried the command out; rejects with a ServerError that has a sentence. */
  command(meeting: string, command: Command): Promise<void> {
    if (this.state !== 'open' || this.pending.size >= MAX_PENDING) return Promise.reject(new Unreachable())
    const id = `c${++this.serial}`
    return new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.pending.delete(id)
        reject(new Unreachable())
      }, COMMAND_MS)
      this.pending.set(id, { resolve, reject, timer })
      this.send({ type: 'command', id, meeting, command })
    })
  }

  /** A console looks at another meeting (the address callback must name it too, for the next reconnect). */
  watch(meeting: string | null): void {
    this.send({ type: 'watch', meeting })
  }

  profile(devices: { camera: boolean; microphone: boolean }): void {
    this.devices = devices
    this.send({ type: 'profile', devices })
  }

  private send(message: ClientMessage): void {
    if (this.ws?.readyState === 1) this.ws.send(JSON.stringify(message))
  }

  private connect(): void {
    if (this.retry) clearTimeout(this.retry)
    this.retry = null
    this.to('connecting')
    let ws: WebSocket
    try {
      ws = this.dial(this.address())
    } catch {
      this.lost()
      return
    }
    this.ws = ws
    this.heard = Date.now()
    let met = false
    const late = setTimeout(() => {
      if (!met && this.ws === ws) this.abandon()
    }, OPEN_MS)
    ws.onmessage = (event: MessageEvent) => {
      if (this.ws !== ws) return
      this.heard = Date.now()
      met = true
      this.receive(event.data)
    }
    ws.onclose = (event) => {
      clearTimeout(late)
      if (this.ws !== ws) return
      if (!met || event.code === SIGNED_OUT) this.on.failed?.()
      this.ws = null
      this.lost()
    }
  }

  private receive(raw: unknown): void {
    let message: ServerMessage
    try {
      message = JSON.parse(String(raw)) as ServerMessage
    } catch {
      return // not ours; the heartbeat decides about the link
    }
    switch (message.type) {
      case 'snapshot': {
        if (this.resyncing) clearTimeout(this.resyncing)
        this.resyncing = null
        this.rev = message.rev
        this.attempt = 0
        this.on.offset?.(message.now - Date.now())
        this.held = this.on.hold(message.view)
        if (this.state !== 'open') {
          this.to('open')
          if (this.devices) this.profile(this.devices)
        }
        this.on.changed?.()
        return
      }
      case 'change':
        return this.change(message)
      case 'levels':
        return this.on.levels?.(message.venues)
      case 'quality':
        return this.on.quality?.(message.venues)
      case 'pong':
        return this.on.offset?.(message.now - Date.now())
      case 'error':
        return this.on.refused?.(new ServerError(409, message.code, message.message, message.message_en || message.message))
      case 'result': {
        const pending = this.pending.get(message.id)
        if (!pending) return
        this.pending.delete(message.id)
        clearTimeout(pending.timer)
        if (message.ok) pending.resolve()
        else {
          const { code, message: zh, message_en: en } = message.error
          pending.reject(new ServerError(409, code, zh, en || zh))
        }
      }
    }
  }

  private change(message: Extract<ServerMessage, { type: 'change' }>): void {
    if (!this.held || this.resyncing) return
    if (message.rev <= this.rev) return
    if (message.rev !== this.rev + 1) return this.resync()
    try {
      applyChanges(this.held, message.changes)
    } catch (error) {
      if (error instanceof PathMismatch) return this.resync()
      throw error
    }
    this.rev = message.rev
    this.on.changed?.()
  }

  private resync(): void {
    this.send({ type: 'resync' })
    this.resyncing = setTimeout(() => {
      this.resyncing = null
      this.abandon()
    }, RESYNC_MS)
  }

  private heartbeat(): void {
    if (!this.ws) return
    if (this.state === 'open' && Date.now() - this.heard > SILENCE_MS) return this.abandon()
    this.send({ type: 'ping' })
  }

  private readonly wake = (): void => {
    if (globalThis.document?.visibilityState === 'hidden') return
    if (this.state === 'waiting') {
      this.attempt = 0
      this.connect()
    } else this.heartbeat()
  }

  /** Gives up a link that says nothing, without waiting for the close handshake. */
  private abandon(): void {
    this.drop()
    this.lost()
  }

  private drop(): void {
    const ws = this.ws
    this.ws = null
    if (this.resyncing) clearTimeout(this.resyncing)
    this.resyncing = null
    ws?.close()
    for (const pending of this.pending.values()) {
      clearTimeout(pending.timer)
      pending.reject(new Unreachable())
    }
    this.pending.clear()
  }

  private lost(): void {
    this.drop()
    if (this.state === 'closed') return
    this.to('waiting')
    this.retry = setTimeout(() => this.connect(), backoffMs(this.attempt++))
  }

  private to(state: LinkState): void {
    if (this.state === state) return
    this.state = state
    this.on.state(state)
  }
}
