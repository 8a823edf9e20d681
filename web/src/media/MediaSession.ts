/**
 * One place in one media room: publishes this computer's camera, microphone and screen, plays
 * everybody's sound, hands out pictures, and comes back by itself.
 *
 * Two mutes, kept apart. The chair's mute is done by the relay and shown in TrackInfo.muted; it never
 * touches the local track. The local mute is ours alone: livekit-client would let the server switch the
 * local track (`SignalResponse.mute`), so publications are shielded from it (see `shield`).
 */
import {
  AudioPresets,
  ConnectionState,
  DisconnectReason,
  LocalAudioTrack,
  LocalVideoTrack,
  RemoteTrackPublication,
  RemoteVideoTrack,
  Room,
  RoomEvent,
  Track,
  VideoPreset,
  type LocalTrackPublication,
  type Participant,
  type RemoteParticipant,
  type RemoteTrack,
  type RoomOptions,
} from 'livekit-client'
import { Capture, type CaptureKind } from './capture'
import { afterLoss, InRoomRetry, Rejoin } from './rejoin'

export type SessionState = 'idle' | 'connecting' | 'connected' | 'reconnecting' | 'lost'
export type VideoSource = 'camera' | 'screen_share'
export type RemoteOrLocalVideo = RemoteVideoTrack | LocalVideoTrack
/** Why a session is lost for good: another computer took the seat, or the server sent us away. */
export type LostReason = 'replaced' | 'removed' | null

export interface PublishWish {
  camera: boolean
  microphone: boolean
  cameraId?: string
  microphoneId?: string
  /** Devices that the page already holds open; the session then neither opens nor closes them. */
  capture?: Capture
}

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

const PUBLISH_RETRY_MS = 3000
const PUBLISH_LIMIT_MS = 15_000
const LAYER_180P = new VideoPreset(320, 180, 150_000, 15)
const LAYER_360P = new VideoPreset(640, 360, 500_000, 25)
const LAYER_720P = new VideoPreset(1280, 720, 1_700_000, 25)
const SCREEN_1080P = { maxBitrate: 2_500_000, maxFramerate: 15 }

const SOURCE: Record<VideoSource, Track.Source> = {
  camera: Track.Source.Camera,
  screen_share: Track.Source.ScreenShare,
}
const CAPTURE_SOURCE: Record<CaptureKind, Track.Source> = {
  camera: Track.Source.Camera,
  microphone: Track.Source.Microphone,
}

function roomOptions(speakerId: string | undefined): RoomOptions {
  return {
    // pixelDensity 1: the layers are 180/360/720 lines, a 4K screen gains nothing from asking for more.
    // A venue's television must go on when the browser thinks that nobody looks.
    adaptiveStream: { pixelDensity: 1, pauseVideoInBackground: false },
    dynacast: true,
    disconnectOnPageLeave: true,
    stopLocalTrackOnUnpublish: false, // tracks are clones of a Capture: this class stops them
    reconnectPolicy: new InRoomRetry(),
    publishDefaults: {
      simulcast: true,
      videoCodec: 'vp8',
      backupCodec: false,
      videoEncoding: LAYER_720P.encoding,
      videoSimulcastLayers: [LAYER_180P, LAYER_360P],
      screenShareEncoding: SCREEN_1080P,
      audioPreset: AudioPresets.music,
      red: true,
      dtx: true,
    },
    ...(speakerId ? { audioOutput: { deviceId: speakerId } } : {}),
  }
}

export class MediaSession {
  private room: Room | null = null
  private wish: PublishWish | null = null
  private capture: Capture | null = null
  private ownsCapture = false
  private leaveCapture: (() => void) | null = null
  private readonly sent = new Map<CaptureKind, MediaStreamTrack>()
  /** livekit-client's wrappers of the clones: each listens to the page until it is stopped. */
  private readonly wrapped = new Set<LocalAudioTrack | LocalVideoTrack>()
  private screen: MediaStream | null = null
  private readonly rejoin = new Rejoin(() => this.joinAgain())
  private readonly listeners = new Set<() => void>()
  private readonly sizes = new Map<string, { width: number; height: number }>()
  private readonly volumes = new Map<string, number>()
  private speakers: string[] = []
  private token = ''
  private joining = false
  private closed = true
  private generation = 0
  private calls = 0
  private publishing: Promise<void> = Promise.resolve()
  private current: SessionState = 'idle'
  private blocked = false
  private micOn = true
  private cameraOn = true
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
    return this.micOn
  }

  get camera(): boolean {
    return this.cameraOn
  }

  get sharing(): boolean {
    return this.screen !== null
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
    const found: string[] = []
    for (const [identity, participant] of this.room?.remoteParticipants ?? []) {
      const publication = participant.getTrackPublication(Track.Source.Camera)
      if (publication && !publication.isMuted) found.push(identity)
    }
    return found
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
    this.wish = opts.publish
    this.micOn = opts.publish?.microphone ?? false
    this.cameraOn = opts.publish?.camera ?? false
    this.lostReason = null
    window.addEventListener('online', this.onOnline)
    this.openCapture()
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
      this.silence(room)
      await room.disconnect(false).catch(() => undefined)
    }
    this.stopScreen()
    this.leaveCapture?.()
    this.leaveCapture = null
    if (this.ownsCapture) this.capture?.close()
    this.capture = null
    this.stopClones()
    this.sizes.clear()
    this.speakers = []
    this.blocked = false
    this.set('idle')
  }

  /** The picture of a participant, or null if there is none to show now. */
  track(identity: string, source: VideoSource): RemoteOrLocalVideo | null {
    const participant = this.participant(identity)
    const publication = participant?.getTrackPublication(SOURCE[source])
    const track = publication?.track
    if (!publication || publication.isMuted || !track) return null
    return track instanceof RemoteVideoTrack || track instanceof LocalVideoTrack ? track : null
  }

  setMicrophone(on: boolean): void {
    this.micOn = on
    if (on && this.ownsCapture) void this.capture?.open('microphone', this.wish?.microphoneId)
    this.applyMute('microphone')
    this.changed()
  }

  setCamera(on: boolean): void {
    this.cameraOn = on
    if (on && this.ownsCapture) void this.capture?.open('camera', this.wish?.cameraId)
    this.applyMute('camera')
    this.changed()
  }

  /** Starts or stops sharing the screen. Rejects with the browser's error (NotAllowedError: the person said no). */
  async setScreenShare(on: boolean): Promise<void> {
    if (!on) {
      await this.unpublishScreen()
      this.changed()
      return
    }
    if (this.screen) return
    const stream = await navigator.mediaDevices.getDisplayMedia({
      video: { width: { max: 1920 }, height: { max: 1080 }, frameRate: { max: 15 } },
      audio: true,
    })
    if (this.closed) {
      for (const track of stream.getTracks()) track.stop()
      return
    }
    this.screen = stream
    const picture = stream.getVideoTracks()[0]
    if (picture) picture.contentHint = 'detail'
    picture?.addEventListener('ended', () => void this.setScreenShare(false))
    this.changed()
    await this.publishScreen()
    this.changed()
  }

  /** Asks for at least this many pixels of a picture, whatever the size of its element. */
  wantSize(identity: string, source: VideoSource, width: number, height: number): void {
    this.sizes.set(`${identity}/${source}`, { width, height })
    const track = this.track(identity, source)
    if (track instanceof RemoteVideoTrack) this.pinSize(track, identity, source)
  }

  /** Own microphone from 0 to 1, also while muted. */
  localLevel(): number {
    return this.capture?.level() ?? 0
  }

  setVolume(identity: string, volume: number): void {
    this.volumes.set(identity, volume)
    this.applyVolume(identity)
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
      await room.connect(this.options.signalUrl ?? location.origin.replace(/^http/, 'ws'), this.token, {
        autoSubscribe: true,
        maxRetries: 0,
        websocketTimeout: 6_000,
        peerConnectionTimeout: 10_000,
        rtcConfig: { iceServers: [] },
      })
    } finally {
      this.joining = false
    }
    if (generation !== this.generation) {
      await room.disconnect(false).catch(() => undefined)
      return
    }
    this.set('connected')
    // Not awaited: livekit-client's publishTrack may never settle when the room goes away under it.
    this.publishing = Promise.resolve()
    this.publishAll()
    this.blocked = !room.canPlaybackAudio
    this.changed()
  }

  private dropRoom(): void {
    const room = this.room
    if (!room) return
    this.room = null
    room.removeAllListeners()
    this.silence(room)
    void room.disconnect(false).catch(() => undefined)
    this.stopClones()
  }

  private onDisconnected(room: Room, reason: DisconnectReason | undefined): void {
    if (room !== this.room || this.closed) return
    this.silence(room)
    this.stopClones()
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
        if (track.kind === Track.Kind.Audio) {
          track.attach() // plays without being in the page; livekit-client keeps the element
          this.applyVolume(from.identity)
        } else if (track instanceof RemoteVideoTrack) {
          this.pinSize(track, from.identity, publication.source === Track.Source.ScreenShare ? 'screen_share' : 'camera')
        }
        this.changed()
      })
      .on(RoomEvent.TrackUnsubscribed, (track: RemoteTrack) => {
        if (track.kind === Track.Kind.Audio) for (const element of track.detach()) element.remove()
        this.changed()
      })
      .on(RoomEvent.LocalTrackPublished, (publication: LocalTrackPublication) => {
        this.shield(publication)
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

  /** The server's mute message must not reach the local track: only this page mutes and unmutes it. */
  private shield(publication: LocalTrackPublication): void {
    const untouched = (): Promise<undefined> => Promise.resolve(undefined)
    publication.mute = untouched
    publication.unmute = untouched
  }

  // -- publishing ------------------------------------------------------------------------------------

  private openCapture(): void {
    const wish = this.wish
    if (!wish) return
    this.ownsCapture = !wish.capture
    this.capture = wish.capture ?? new Capture()
    this.leaveCapture = this.capture.subscribe((kind) => {
      void this.publishDevice(kind)
      this.changed()
    })
    if (this.ownsCapture) {
      if (wish.camera) void this.capture.open('camera', wish.cameraId)
      if (wish.microphone) void this.capture.open('microphone', wish.microphoneId)
    }
  }

  private publishAll(): void {
    void this.publishDevice('camera')
    void this.publishDevice('microphone')
    void this.publishScreen().catch(() => undefined)
  }

  /** Brings what is sent for one device in line with what the capture holds. Serialised: one at a time. */
  private publishDevice(kind: CaptureKind): Promise<void> {
    const step = this.publishing.then(() => Promise.race([this.publishDeviceNow(kind), tooLate(PUBLISH_LIMIT_MS)]))
    this.publishing = step.catch(() => {
      // The server was busy or just going away. Still in the room after a while: try again.
      setTimeout(() => {
        if (this.current === 'connected') void this.publishDevice(kind)
      }, PUBLISH_RETRY_MS)
    })
    return this.publishing
  }

  private async publishDeviceNow(kind: CaptureKind): Promise<void> {
    const room = this.room
    if (!room || room.state !== ConnectionState.Connected || !this.capture) return
    const original = this.capture.track(kind)
    const publication = room.localParticipant.getTrackPublication(CAPTURE_SOURCE[kind])
    const old = this.sent.get(kind)
    if (!original) {
      if (publication?.track) await room.localParticipant.unpublishTrack(publication.track, true)
      old?.stop()
      this.sent.delete(kind)
      return
    }
    const clone = original.clone()
    this.sent.set(kind, clone)
    const on = kind === 'microphone' ? this.micOn : this.cameraOn
    clone.enabled = on
    if (publication?.track) {
      await publication.track.replaceTrack(clone, { userProvidedTrack: true })
    } else {
      // Muted before it is announced, so that a local mute is never lifted for a blink by a rejoin.
      const track = kind === 'microphone' ? new LocalAudioTrack(clone, undefined, true) : new LocalVideoTrack(clone, undefined, true)
      this.wrapped.add(track)
      if (!on) await track.mute()
      this.shield(await room.localParticipant.publishTrack(track, { source: CAPTURE_SOURCE[kind] }))
    }
    old?.stop()
    this.applyMute(kind)
  }

  private applyMute(kind: CaptureKind): void {
    const on = kind === 'microphone' ? this.micOn : this.cameraOn
    const clone = this.sent.get(kind)
    if (clone) clone.enabled = on
    const track = this.room?.localParticipant.getTrackPublication(CAPTURE_SOURCE[kind])?.track
    if (!track || track.isMuted === !on) return
    void (on ? track.unmute() : track.mute()).then(() => this.changed())
  }

  private async publishScreen(): Promise<void> {
    const room = this.room
    if (!room || room.state !== ConnectionState.Connected || !this.screen) return
    for (const track of this.screen.getTracks()) {
      if (track.readyState !== 'live') continue
      const source = track.kind === 'video' ? Track.Source.ScreenShare : Track.Source.ScreenShareAudio
      if (room.localParticipant.getTrackPublication(source)) continue
      await room.localParticipant.publishTrack(track, { source })
    }
  }

  private async unpublishScreen(): Promise<void> {
    const room = this.room
    this.stopScreen()
    for (const source of [Track.Source.ScreenShare, Track.Source.ScreenShareAudio]) {
      const track = room?.localParticipant.getTrackPublication(source)?.track
      if (track) await room?.localParticipant.unpublishTrack(track, true).catch(() => undefined)
    }
  }

  private stopScreen(): void {
    for (const track of this.screen?.getTracks() ?? []) track.stop()
    this.screen = null
  }

  private stopClones(): void {
    for (const track of this.wrapped) track.stop()
    this.wrapped.clear()
    for (const clone of this.sent.values()) clone.stop()
    this.sent.clear()
  }

  // -- receiving -------------------------------------------------------------------------------------

  private participant(identity: string): Participant | undefined {
    const room = this.room
    if (!room) return undefined
    if (room.localParticipant.identity === identity) return room.localParticipant
    return room.remoteParticipants.get(identity)
  }

  private applyVolume(identity: string): void {
    const volume = this.volumes.get(identity)
    if (volume === undefined) return
    const remote = this.room?.remoteParticipants.get(identity)
    remote?.setVolume(volume, Track.Source.Microphone)
    remote?.setVolume(volume, Track.Source.ScreenShareAudio)
  }

  private pinSize(track: RemoteVideoTrack, identity: string, source: VideoSource): void {
    const size = this.sizes.get(`${identity}/${source}`)
    if (!size || !track.isAdaptiveStream) return
    pinned.get(track)?.()
    const wish = {
      element: {},
      width: () => size.width,
      height: () => size.height,
      visible: true,
      pictureInPicture: false,
      visibilityChangedAt: 0,
      observe: () => undefined,
      stopObserving: () => undefined,
    }
    track.observeElementInfo(wish)
    pinned.set(track, () => track.stopObservingElementInfo(wish))
  }

  /** Takes remote sound out of the page; a detached element would otherwise live on. */
  private silence(room: Room): void {
    for (const participant of room.remoteParticipants.values()) {
      for (const publication of participant.audioTrackPublications.values()) {
        for (const element of publication.track?.detach() ?? []) element.remove()
      }
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

function tooLate(ms: number): Promise<never> {
  return new Promise((_, reject) => setTimeout(() => reject(new Error(`not done within ${ms} ms`)), ms))
}

/** Size wishes that are registered with livekit-client's adaptive stream, by track. */
const pinned = new WeakMap<RemoteVideoTrack, () => void>()
