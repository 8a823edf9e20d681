/**
 * What goes out: clones of this computer's camera and microphone, and its screen.
 *
 * Two mutes, kept apart. The chair's mute is done by the relay and shown in TrackInfo.muted; it never
 * touches the local track. The local mute is ours alone: livekit-client would let the server switch the
 * local track (`SignalResponse.mute`), so publications are shielded from it (see `shield`).
 */
import {
  ConnectionState,
  LocalAudioTrack,
  LocalVideoTrack,
  Track,
  type LocalTrackPublication,
  type Room,
} from 'livekit-client'
import { Capture, type CaptureKind } from './capture'

export interface PublishWish {
  camera: boolean
  microphone: boolean
  cameraId?: string
  microphoneId?: string
  /** Devices that the page already holds open; the session then neither opens nor closes them. */
  capture?: Capture
}

/** Where it is sent to: the session, which joins anew without telling the publications. */
export interface Outlet {
  room: () => Room | null
  connected: () => boolean
  closed: () => boolean
  changed: () => void
}

/** Said when a media token is asked for: the server may take each mute that we report for our own (see `shield`). */
export const OWN_MUTE = { own_mute: true } as const

const PUBLISH_RETRY_MS = 3000
const PUBLISH_LIMIT_MS = 15_000

const SOURCE: Record<CaptureKind, Track.Source> = {
  camera: Track.Source.Camera,
  microphone: Track.Source.Microphone,
}

export class Publications {
  private wish: PublishWish | null = null
  private capture: Capture | null = null
  private ownsCapture = false
  private leaveCapture: (() => void) | null = null
  private readonly sent = new Map<CaptureKind, MediaStreamTrack>()
  /** livekit-client's wrappers of the clones: each listens to the page until it is stopped. */
  private readonly wrapped = new Set<LocalAudioTrack | LocalVideoTrack>()
  private readonly on: Record<CaptureKind, boolean> = { camera: true, microphone: true }
  private screen: MediaStream | null = null
  private publishing: Promise<void> = Promise.resolve()

  constructor(private readonly outlet: Outlet) {}

  get sharing(): boolean {
    return this.screen !== null
  }

  /** Local mute state, as wished here; the chair's mute is not in it. */
  isOn(kind: CaptureKind): boolean {
    return this.on[kind]
  }

  /** Own microphone from 0 to 1, also while muted. */
  level(): number {
    return this.capture?.level() ?? 0
  }

  /** A new wish: devices are opened now and sent by every `publishAll`. Null: nothing is sent. */
  begin(wish: PublishWish | null): void {
    this.wish = wish
    this.on.microphone = wish?.microphone ?? false
    this.on.camera = wish?.camera ?? false
    if (!wish) return
    this.ownsCapture = !wish.capture
    this.capture = wish.capture ?? new Capture()
    this.leaveCapture = this.capture.subscribe((kind) => {
      void this.publishDevice(kind)
      this.outlet.changed()
    })
    if (this.ownsCapture) {
      if (wish.camera) void this.capture.open('camera', wish.cameraId)
      if (wish.microphone) void this.capture.open('microphone', wish.microphoneId)
    }
  }

  end(): void {
    this.stopScreen()
    this.leaveCapture?.()
    this.leaveCapture = null
    if (this.ownsCapture) this.capture?.close()
    this.capture = null
    this.stopClones()
  }

  /** To be called in a room just joined. What an earlier room left unfinished is not waited for. */
  publishAll(): void {
    this.publishing = Promise.resolve()
    void this.publishDevice('camera')
    void this.publishDevice('microphone')
    void this.publishScreen().catch(() => undefined)
  }

  /** The room is gone: its clones too. The devices stay open for the next one. */
  stopClones(): void {
    for (const track of this.wrapped) track.stop()
    this.wrapped.clear()
    for (const clone of this.sent.values()) clone.stop()
    this.sent.clear()
  }

  switchDevice(kind: CaptureKind, on: boolean): void {
    this.on[kind] = on
    const id = kind === 'microphone' ? this.wish?.microphoneId : this.wish?.cameraId
    if (on && this.ownsCapture) void this.capture?.open(kind, id)
    this.applyMute(kind)
    this.outlet.changed()
  }

  /** Starts or stops sharing the screen. Rejects with the browser's error (NotAllowedError: the person said no). */
  async shareScreen(on: boolean): Promise<void> {
    if (!on) {
      await this.unpublishScreen()
      this.outlet.changed()
      return
    }
    if (this.screen) return
    const stream = await navigator.mediaDevices.getDisplayMedia({
      video: { width: { max: 1920 }, height: { max: 1080 }, frameRate: { max: 15 } },
      audio: true,
    })
    if (this.outlet.closed()) {
      for (const track of stream.getTracks()) track.stop()
      return
    }
    this.screen = stream
    const picture = stream.getVideoTracks()[0]
    if (picture) picture.contentHint = 'detail'
    picture?.addEventListener('ended', () => void this.shareScreen(false))
    this.outlet.changed()
    await this.publishScreen()
    this.outlet.changed()
  }

  /** The room that can take a publication now. */
  private get ready(): Room | null {
    const room = this.outlet.room()
    return room?.state === ConnectionState.Connected ? room : null
  }

  /** Brings what is sent for one device in line with what the capture holds. Serialised: one at a time. */
  private publishDevice(kind: CaptureKind): Promise<void> {
    const step = this.publishing.then(() => Promise.race([this.publishDeviceNow(kind), tooLate(PUBLISH_LIMIT_MS)]))
    this.publishing = step.catch(() => {
      // The server was busy or just going away. Still in the room after a while: try again.
      setTimeout(() => {
        if (this.outlet.connected()) void this.publishDevice(kind)
      }, PUBLISH_RETRY_MS)
    })
    return this.publishing
  }

  private async publishDeviceNow(kind: CaptureKind): Promise<void> {
    const room = this.ready
    if (!room || !this.capture) return
    const original = this.capture.track(kind)
    const publication = room.localParticipant.getTrackPublication(SOURCE[kind])
    const old = this.sent.get(kind)
    if (!original) {
      if (publication?.track) await room.localParticipant.unpublishTrack(publication.track, true)
      old?.stop()
      this.sent.delete(kind)
      return
    }
    const clone = original.clone()
    this.sent.set(kind, clone)
    const on = this.on[kind]
    clone.enabled = on
    if (publication?.track) {
      await publication.track.replaceTrack(clone, { userProvidedTrack: true })
    } else {
      // Muted before it is announced, so that a local mute is never lifted for a blink by a rejoin.
      const track = kind === 'microphone' ? new LocalAudioTrack(clone, undefined, true) : new LocalVideoTrack(clone, undefined, true)
      this.wrapped.add(track)
      if (!on) await track.mute()
      shield(await room.localParticipant.publishTrack(track, { source: SOURCE[kind] }))
    }
    old?.stop()
    this.applyMute(kind)
  }

  private applyMute(kind: CaptureKind): void {
    const on = this.on[kind]
    const clone = this.sent.get(kind)
    if (clone) clone.enabled = on
    const track = this.outlet.room()?.localParticipant.getTrackPublication(SOURCE[kind])?.track
    if (!track || track.isMuted === !on) return
    void (on ? track.unmute() : track.mute()).then(() => this.outlet.changed())
  }

  private async publishScreen(): Promise<void> {
    const room = this.ready
    if (!room || !this.screen) return
    for (const track of this.screen.getTracks()) {
      if (track.readyState !== 'live') continue
      const source = track.kind === 'video' ? Track.Source.ScreenShare : Track.Source.ScreenShareAudio
      if (room.localParticipant.getTrackPublication(source)) continue
      await room.localParticipant.publishTrack(track, { source })
    }
  }

  private async unpublishScreen(): Promise<void> {
    const room = this.outlet.room()
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
}

/** The server's mute message must not reach the local track: only this page mutes and unmutes it. */
export function shield(publication: LocalTrackPublication): void {
  const untouched = (): Promise<undefined> => Promise.resolve(undefined)
  publication.mute = untouched
  publication.unmute = untouched
}

function tooLate(ms: number): Promise<never> {
  return new Promise((_, reject) => setTimeout(() => reject(new Error(`not done within ${ms} ms`)), ms))
}
