/**
 * One place in one media room: joins it, stays in it and comes back by itself. What goes out is in
 * `publishing.ts`, what comes in is in `receiving.ts`; this is what pages hold.
 */
import {
  ConnectionState,
  DisconnectReason,
  Room,
  RoomEvent,
  type LocalTrackPublication,
  type Participant,
  type RemoteParticipant,
  type RemoteTrack,
  type RemoteTrackPublication,
  type RoomOptions,
} from 'livekit-client'
import { Publications, shield, type PublishWish } from './publishing'
import { Reception, type RemoteOrLocalVideo, type VideoSource } from './receiving'
import { afterLoss, Rejoin } from './rejoin'
import { CONNECT_OPTIONS, roomOptions } from './roomOptions'

export { OWN_MUTE, type PublishWish } from './publishing'
export type { RemoteOrLocalVideo, VideoSource } from './receiving'
export type SessionState = 'idle' | 'connecting' | 'connected' | 'reconnecting' | 'lost'
/** Why a session is lost for good: another computer took the seat, or the server sent us away. */
export type LostReason = 'replaced' | 'removed' | null

export interface SessionOptions {
  onChange: () => void
  /** Fetches a fresh media token for a rejoin. Without it the first token is used again. */
  renew?: () => Promise<string>
  speakerId?: string
  /** Tests put a stand-in here. */
  openRoom?: (options: RoomOptions) => Room
  signalUrl?: string
}

// livekit-client 2.23.0: the clean-up it registers for a dropped Room holds that Room by its scope, so none is ever
// collected (130 kB a call). Without a registry it takes its listener off at the disconnect, which we always do.
Room.cleanupRegistry = false

export class MediaSession {
  private room: Room | null = null
  private readonly publications: Publications = new Publications({
    room: () => this.room,
    connected: () => this.current === 'connected',
    closed: () => this.closed,
    changed: () => this.changed(),
  })
  private readonly reception: Reception = new Reception(() => this.room)
  private readonly rejoin = new Rejoin(() => this.joinAgain())
  private readonly listeners = new Set<() => void>()
  private speakers: string[] = []
  private token = ''
  private joining = false
  private closed = true
  private generation = 0
  private calls = 0
  private current: SessionState = 'idle'
  private blocked = false
  lostReason: LostReason = null

  constructor(private readonly options: SessionOptions) {}

  get state(): SessionState {
    return this.current
  }

  /** Own identity in the room, as soon as the server said so. */
  get identity(): string {
    return this.room?.localParticipant.identity ?? ''
  }

  /** Local mute state, as wished here; the chair's mute is not in it. */
  get microphone(): boolean {
    return this.publications.isOn('microphone')
  }

  get camera(): boolean {
    return this.publications.isOn('camera')
  }

  get sharing(): boolean {
    return this.publications.sharing
  }

  /** The browser refuses to play sound until somebody clicks: show a button that calls `startAudio`. */
  get audioBlocked(): boolean {
    return this.blocked
  }

  /** Identities that speak now, loudest first, as the server tells. */
  get activeSpeakers(): readonly string[] {
    return this.speakers
  }

  /** Identities of the others whose camera is in the room now, as this client was told. */
  get cameras(): string[] {
    return this.reception.cameras
  }

  /** Like `onChange`, for components. Returns the way to stop listening. */
  subscribe(listener: () => void): () => void {
    this.listeners.add(listener)
    return () => this.listeners.delete(listener)
  }

  /**
   * Joins and keeps joined until `close()`. Resolves when in the room for the first time; rejects if
   * the first join fails, but then already tries again by itself. An empty token is fetched by `renew`.
   */
  async connect(token: string, opts: { publish: PublishWish | null }): Promise<void> {
    const call = ++this.calls
    await this.tearDown()
    if (call !== this.calls) return // closed or connected anew meanwhile: that one counts
    this.closed = false
    this.generation += 1
    this.token = token
    this.lostReason = null
    window.addEventListener('online', this.onOnline)
    this.publications.begin(opts.publish)
    this.set('connecting')
    const generation = this.generation
    try {
      if (!this.token && this.options.renew) {
        const fresh = await this.options.renew()
        if (generation !== this.generation) return
        this.token = fresh
      }
      await this.join()
    } catch (error) {
      if (generation === this.generation && this.current !== 'lost') {
        this.rejoin.start()
      }
      throw error
    }
  }

  async close(): Promise<void> {
    this.calls += 1
    await this.tearDown()
  }

  private async tearDown(): Promise<void> {
    this.closed = true
    this.generation += 1
    this.rejoin.stop()
    window.removeEventListener('online', this.onOnline)
    const room = this.room
    this.room = null
    if (room) {
      room.removeAllListeners()
      this.reception.silence(room)
      await room.disconnect(false).catch(() => undefined)
    }
    this.publications.end()
    this.reception.forgetSizes()
    this.speakers = []
    this.blocked = false
    this.set('idle')
  }

  /** The picture of a participant, or null if there is none to show now. */
  track(identity: string, source: VideoSource): RemoteOrLocalVideo | null {
    return this.reception.track(identity, source)
  }

  /** The server sends nothing of this picture now; it comes back by itself. */
  waits(identity: string, source: VideoSource): boolean {
    return this.reception.waits(identity, source)
  }

  setMicrophone(on: boolean): void {
    this.publications.switchDevice('microphone', on)
  }

  setCamera(on: boolean): void {
    this.publications.switchDevice('camera', on)
  }

  /** Starts or stops sharing the screen. Rejects with the browser's error (NotAllowedError: the person said no). */
  setScreenShare(on: boolean): Promise<void> {
    return this.publications.shareScreen(on)
  }

  /** Asks for at least this many pixels of a picture, whatever the size of its element. */
  wantSize(identity: string, source: VideoSource, width: number, height: number): void {
    this.reception.wantSize(identity, source, width, height)
  }

  /** A view shows this picture until the returned function is called: large meetings send only what is shown. */
  show(identity: string, source: VideoSource): () => void {
    return this.reception.show(identity, source)
  }

  /** Own microphone from 0 to 1, also while muted. */
  localLevel(): number {
    return this.publications.level()
  }

  setVolume(identity: string, volume: number): void {
    this.reception.setVolume(identity, volume)
  }

  async setSpeaker(speakerId: string | undefined): Promise<void> {
    await this.room?.switchActiveDevice('audiooutput', speakerId ?? 'default').catch(() => undefined)
  }

  /** To be called from a click, when `audioBlocked`. */
  async startAudio(): Promise<void> {
    await this.room?.startAudio().catch(() => undefined)
    this.blocked = this.room ? !this.room.canPlaybackAudio : false
    this.changed()
  }

  /** Takes the seat back after `lostReason === 'replaced'`. */
  takeBack(): void {
    if (this.closed || this.current !== 'lost') return
    this.lostReason = null
    this.set('reconnecting')
    this.rejoin.start()
    this.rejoin.nudge()
  }

  // -- joining ---------------------------------------------------------------------------------------

  private async joinAgain(): Promise<boolean> {
    const generation = this.generation
    try {
      if (this.options.renew) {
        const token = await this.options.renew()
        if (generation !== this.generation) return true
        this.token = token
      }
      await this.join()
      return generation !== this.generation || this.current === 'connected'
    } catch {
      return this.closed || this.current === 'lost'
    }
  }

  private async join(): Promise<void> {
    const generation = this.generation
    this.dropRoom()
    const room = (this.options.openRoom ?? ((options) => new Room(options)))(roomOptions(this.options.speakerId))
    this.room = room
    this.listen(room)
    this.joining = true
    try {
      await room.connect(this.options.signalUrl ?? location.origin.replace(/^http/, 'ws'), this.token, CONNECT_OPTIONS)
    } finally {
      this.joining = false
    }
    if (generation !== this.generation) {
      await room.disconnect(false).catch(() => undefined)
      return
    }
    this.set('connected')
    // Not awaited: livekit-client's publishTrack may never settle when the room goes away under it.
    this.publications.publishAll()
    this.reception.settleSoon()
    this.blocked = !room.canPlaybackAudio
    this.changed()
  }

  private dropRoom(): void {
    const room = this.room
    if (!room) return
    this.room = null
    room.removeAllListeners()
    this.reception.silence(room)
    void room.disconnect(false).catch(() => undefined)
    this.publications.stopClones()
  }

  private onDisconnected(room: Room, reason: DisconnectReason | undefined): void {
    if (room !== this.room || this.closed) return
    this.reception.silence(room)
    this.publications.stopClones()
    this.speakers = []
    const next = afterLoss(reason)
    if (next !== 'rejoin') {
      this.rejoin.stop()
      this.lostReason = next
      this.set('lost')
      return
    }
    if (this.joining) return // connect() rejects as well, and its caller goes on
    this.set('reconnecting')
    this.rejoin.start()
  }

  private readonly onOnline = (): void => {
    this.rejoin.nudge()
  }

  private listen(room: Room): void {
    room
      .on(RoomEvent.Disconnected, (reason?: DisconnectReason) => this.onDisconnected(room, reason))
      .on(RoomEvent.SignalReconnecting, () => this.changed())
      .on(RoomEvent.Reconnecting, () => this.set('reconnecting'))
      .on(RoomEvent.Reconnected, () => {
        if (room === this.room) this.set('connected')
      })
      .on(RoomEvent.ConnectionStateChanged, (state: ConnectionState) => {
        if (room === this.room && state === ConnectionState.Connected && this.current === 'reconnecting') {
          this.set('connected')
        }
      })
      .on(RoomEvent.TrackSubscribed, (track: RemoteTrack, publication: RemoteTrackPublication, from: RemoteParticipant) => {
        this.reception.arrived(track, publication, from.identity)
        this.changed()
      })
      .on(RoomEvent.TrackUnsubscribed, (track: RemoteTrack) => {
        this.reception.gone(track)
        this.changed()
      })
      .on(RoomEvent.LocalTrackPublished, (publication: LocalTrackPublication) => {
        shield(publication)
        this.changed()
      })
      .on(RoomEvent.ActiveSpeakersChanged, (speakers: Participant[]) => {
        this.speakers = speakers.map((p) => p.identity)
        this.changed()
      })
      .on(RoomEvent.AudioPlaybackStatusChanged, (playing: boolean) => {
        this.blocked = !playing
        this.changed()
      })
    for (const event of [RoomEvent.TrackPublished, RoomEvent.TrackUnpublished, RoomEvent.ParticipantDisconnected] as const) {
      room.on(event, () => this.reception.settleSoon())
    }
    for (const event of [
      RoomEvent.TrackMuted,
      RoomEvent.TrackUnmuted,
      RoomEvent.TrackStreamStateChanged,
      RoomEvent.LocalTrackUnpublished,
      RoomEvent.ParticipantConnected,
      RoomEvent.ParticipantDisconnected,
    ] as const) {
      room.on(event, () => this.changed())
    }
  }

  private set(state: SessionState): void {
    if (state === this.current) return
    if (this.closed && state !== 'idle') return
    this.current = state
    this.changed()
  }

  private changed(): void {
    this.options.onChange()
    for (const listener of [...this.listeners]) listener()
  }
}
