/** What comes from the others: their pictures, the size wanted of each, and how loud each is played. */
import {
  LocalVideoTrack,
  RemoteTrackPublication,
  RemoteVideoTrack,
  Track,
  type Participant,
  type RemoteTrack,
  type Room,
} from 'livekit-client'

export type VideoSource = 'camera' | 'screen_share'
export type RemoteOrLocalVideo = RemoteVideoTrack | LocalVideoTrack

const SOURCE: Record<VideoSource, Track.Source> = {
  camera: Track.Source.Camera,
  screen_share: Track.Source.ScreenShare,
}

/** From as many cameras on, this page says which it wants, as the server no longer sends all unasked beyond 25. */
const ASKED_FROM = 20
const SHOWN_ONLY_BEYOND = 25
/** Turning a page unmounts and mounts its tiles: only what stays is told. */
const SETTLE_MS = 100

/** What to say about one camera among `cameras`: true/false = subscribe or not, null = nothing new. */
export function cameraWish(cameras: number, shown: boolean, asked: boolean | undefined): boolean | null {
  const wish = cameras <= SHOWN_ONLY_BEYOND || shown
  if (wish === asked) return null
  return cameras < ASKED_FROM && asked === undefined ? null : wish
}

/** `room` gives the room of now, null between two joins; the wishes outlive it. */
export class Reception {
  private readonly sizes = new Map<string, { width: number; height: number }>()
  private readonly volumes = new Map<string, number>()

  /** How many views show a participant's camera now. */
  private readonly shown = new Map<string, number>()
  private readonly asked = new WeakMap<RemoteTrackPublication, boolean>()
  private settling: ReturnType<typeof setTimeout> | null = null

  constructor(private readonly room: () => Room | null) {}

  /** A view shows this picture until the returned function is called. In a large meeting only such cameras are received. */
  show(identity: string, source: VideoSource): () => void {
    if (source !== 'camera') return () => undefined
    this.shown.set(identity, (this.shown.get(identity) ?? 0) + 1)
    this.settleSoon()
    let over = false
    return () => {
      if (over) return
      over = true
      const left = (this.shown.get(identity) ?? 1) - 1
      if (left > 0) this.shown.set(identity, left)
      else this.shown.delete(identity)
      this.settleSoon()
    }
  }

  /** Cameras came or went, or others are shown. */
  settleSoon(): void {
    this.settling ??= setTimeout(() => {
      this.settling = null
      this.settle()
    }, SETTLE_MS)
  }

  private settle(): void {
    const cameras: [string, RemoteTrackPublication][] = []
    for (const [identity, participant] of this.room()?.remoteParticipants ?? []) {
      const publication = participant.getTrackPublication(Track.Source.Camera)
      if (publication instanceof RemoteTrackPublication) cameras.push([identity, publication])
    }
    for (const [identity, publication] of cameras) {
      const wish = cameraWish(cameras.length, this.shown.has(identity), this.asked.get(publication))
      if (wish === null) continue
      this.asked.set(publication, wish)
      publication.setSubscribed(wish)
    }
  }

  /** The picture of a participant, or null if there is none to show now. */
  track(identity: string, source: VideoSource): RemoteOrLocalVideo | null {
    const publication = this.participant(identity)?.getTrackPublication(SOURCE[source])
    const track = publication?.track
    if (!publication || publication.isMuted || !track) return null
    return track instanceof RemoteVideoTrack || track instanceof LocalVideoTrack ? track : null
  }

  /** The server sends nothing of it now: the line can't carry it, or the sender's is down. It comes back by itself. */
  waits(identity: string, source: VideoSource): boolean {
    return this.participant(identity)?.getTrackPublication(SOURCE[source])?.track?.streamState === Track.StreamState.Paused
  }

  /** Identities of the others whose camera is in the room now, as this client was told. */
  get cameras(): string[] {
    const found: string[] = []
    for (const [identity, participant] of this.room()?.remoteParticipants ?? []) {
      const publication = participant.getTrackPublication(Track.Source.Camera)
      if (publication && !publication.isMuted) found.push(identity)
    }
    return found
  }

  wantSize(identity: string, source: VideoSource, width: number, height: number): void {
    this.sizes.set(`${identity}/${source}`, { width, height })
    const track = this.track(identity, source)
    if (track instanceof RemoteVideoTrack) this.pinSize(track, identity, source)
  }

  forgetSizes(): void {
    this.sizes.clear()
  }

  setVolume(identity: string, volume: number): void {
    this.volumes.set(identity, volume)
    this.applyVolume(identity)
  }

  /** A subscribed track: sound plays at once, pictures get the size that was asked for. */
  arrived(track: RemoteTrack, publication: RemoteTrackPublication, identity: string): void {
    if (track.kind === Track.Kind.Audio) {
      track.attach() // plays without being in the page; livekit-client keeps the element
      this.applyVolume(identity)
    } else if (track instanceof RemoteVideoTrack) {
      this.pinSize(track, identity, publication.source === Track.Source.ScreenShare ? 'screen_share' : 'camera')
    }
  }

  gone(track: RemoteTrack): void {
    if (track.kind === Track.Kind.Audio) for (const element of track.detach()) element.remove()
  }

  /** Takes remote sound out of the page; a detached element would otherwise live on. */
  silence(room: Room): void {
    for (const participant of room.remoteParticipants.values()) {
      for (const publication of participant.audioTrackPublications.values()) {
        for (const element of publication.track?.detach() ?? []) element.remove()
      }
    }
  }

  private participant(identity: string): Participant | undefined {
    const room = this.room()
    if (!room) return undefined
    if (room.localParticipant.identity === identity) return room.localParticipant
    return room.remoteParticipants.get(identity)
  }

  private applyVolume(identity: string): void {
    const volume = this.volumes.get(identity)
    if (volume === undefined) return
    const remote = this.room()?.remoteParticipants.get(identity)
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
}

/** Size wishes that are registered with livekit-client's adaptive stream, by track. */
const pinned = new WeakMap<RemoteVideoTrack, () => void>()
