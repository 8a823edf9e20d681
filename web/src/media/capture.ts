/**
 * This computer's camera and microphone. Opened once and kept through standby and meetings, so that
 * joining costs no device start and a rejoin never finds the camera busy. Sessions get clones: muting
 * a clone leaves the preview and the level meter alive.
 */
import { chosenDevice, rawAudio } from './devices'
import { LevelMeter } from './sound'

export type CaptureKind = 'camera' | 'microphone'

/** Why a device gives nothing. The code is what the person reads to the IT desk. */
export type FaultReason = 'insecure' | 'absent' | 'busy' | 'forbidden' | 'unplugged' | 'failed'

export interface Fault {
  reason: FaultReason
  code: string
}

const FAULT_NUMBER: Record<FaultReason, string> = {
  insecure: '00',
  absent: '01',
  busy: '02',
  forbidden: '03',
  unplugged: '04',
  failed: '09',
}

export function fault(kind: CaptureKind, reason: FaultReason): Fault {
  return { reason, code: `${kind === 'camera' ? 'CAM' : 'MIC'}-${FAULT_NUMBER[reason]}` }
}

/** Maps an exception of getUserMedia (Media Capture and Streams, 9.2.2) to a reason. */
export function faultOf(kind: CaptureKind, error: unknown): Fault {
  const name = error instanceof Error || error instanceof DOMException ? error.name : ''
  switch (name) {
    case 'NotFoundError':
    case 'OverconstrainedError':
      return fault(kind, 'absent')
    case 'NotReadableError':
    case 'AbortError':
      return fault(kind, 'busy')
    case 'NotAllowedError':
    case 'SecurityError':
      return fault(kind, 'forbidden')
    default:
      return fault(kind, 'failed')
  }
}

const RETRY_MS = 5000

interface Slot {
  track: MediaStreamTrack | null
  fault: Fault | null
  deviceId: string | undefined
  opening: Promise<void> | null
}

export class Capture {
  private readonly slots: Record<CaptureKind, Slot> = {
    camera: { track: null, fault: null, deviceId: undefined, opening: null },
    microphone: { track: null, fault: null, deviceId: undefined, opening: null },
  }
  private readonly wanted = new Set<CaptureKind>()
  private readonly listeners = new Set<(kind: CaptureKind) => void>()
  private meter: LevelMeter | null = null
  private retry: ReturnType<typeof setInterval> | null = null
  private closed = false

  /** Told whenever a device's track or fault changed. Returns the way to stop listening. */
  subscribe(listener: (kind: CaptureKind) => void): () => void {
    this.listeners.add(listener)
    return () => this.listeners.delete(listener)
  }

  track(kind: CaptureKind): MediaStreamTrack | null {
    return this.slots[kind].track
  }

  fault(kind: CaptureKind): Fault | null {
    return this.slots[kind].fault
  }

  /** Own microphone from 0 to 1; goes on while muted in the meeting. */
  level(): number {
    return this.meter?.level() ?? 0
  }

  /** Opens a device (deviceId absent: the remembered or the system's) and keeps it open through replugging. */
  async open(kind: CaptureKind, deviceId?: string): Promise<void> {
    if (this.closed) return
    this.wanted.add(kind)
    if (this.retry === null) {
      this.retry = setInterval(this.repair, RETRY_MS)
      navigator.mediaDevices?.addEventListener?.('devicechange', this.repair)
    }
    const slot = this.slots[kind]
    await slot.opening
    if (slot.track && (deviceId === undefined || deviceId === slot.deviceId)) return
    if (deviceId !== undefined) slot.deviceId = deviceId
    slot.opening = this.acquire(kind).finally(() => {
      slot.opening = null
    })
    await slot.opening
  }

  /** Takes the device anew, for a changed choice or changed sound processing. */
  async reopen(kind: CaptureKind, deviceId?: string): Promise<void> {
    const slot = this.slots[kind]
    await slot.opening
    slot.deviceId = deviceId
    this.drop(kind)
    await this.open(kind)
  }

  close(): void {
    this.closed = true
    this.wanted.clear()
    if (this.retry !== null) clearInterval(this.retry)
    this.retry = null
    navigator.mediaDevices?.removeEventListener?.('devicechange', this.repair)
    this.drop('camera')
    this.drop('microphone')
    this.listeners.clear()
  }

  private readonly repair = (): void => {
    for (const kind of this.wanted) {
      const slot = this.slots[kind]
      if (!slot.opening && slot.track?.readyState !== 'live') void this.open(kind)
    }
  }

  private async acquire(kind: CaptureKind): Promise<void> {
    const slot = this.slots[kind]
    if (!navigator.mediaDevices?.getUserMedia) {
      this.set(kind, null, fault(kind, 'insecure'))
      return
    }
    try {
      const chosen = slot.deviceId ?? (await chosenDevice(kind))
      const track = await this.capture(kind, chosen)
      if (this.closed) {
        track.stop()
        return
      }
      this.drop(kind)
      track.addEventListener('ended', () => this.onEnded(kind, track))
      this.set(kind, track, null)
    } catch (error) {
      const before = slot.fault
      const now = faultOf(kind, error)
      // A device that was pulled out stays "pulled out" while it is absent: the better hint.
      const keep = before?.reason === 'unplugged' && now.reason === 'absent'
      this.set(kind, null, keep ? before : now)
    }
  }

  private async capture(kind: CaptureKind, deviceId: string | undefined): Promise<MediaStreamTrack> {
    const device: MediaTrackConstraints = deviceId ? { deviceId: { exact: deviceId } } : {}
    const constraints = kind === 'camera' ? cameraConstraints(device) : microphoneConstraints(device)
    try {
      return firstTrack(await navigator.mediaDevices.getUserMedia(constraints))
    } catch (error) {
      // The chosen device is gone: any device is better than a dark room.
      if (deviceId && error instanceof Error && ['OverconstrainedError', 'NotFoundError'].includes(error.name)) {
        return this.capture(kind, undefined)
      }
      throw error
    }
  }

  private onEnded(kind: CaptureKind, track: MediaStreamTrack): void {
    if (this.slots[kind].track !== track) return
    this.set(kind, null, fault(kind, 'unplugged'))
    this.repair()
  }

  private drop(kind: CaptureKind): void {
    const slot = this.slots[kind]
    slot.track?.stop()
    slot.track = null
    if (kind === 'microphone') {
      this.meter?.close()
      this.meter = null
    }
  }

  private set(kind: CaptureKind, track: MediaStreamTrack | null, problem: Fault | null): void {
    if (this.closed) return
    const slot = this.slots[kind]
    const same = slot.track === track && slot.fault?.code === problem?.code
    slot.track = track
    slot.fault = problem
    if (kind === 'microphone') {
      this.meter?.close()
      this.meter = track ? new LevelMeter(track) : null
    }
    if (!same) for (const listener of [...this.listeners]) listener(kind)
  }
}

function cameraConstraints(device: MediaTrackConstraints): MediaStreamConstraints {
  return {
    video: { ...device, width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 25, max: 30 } },
  }
}

function microphoneConstraints(device: MediaTrackConstraints): MediaStreamConstraints {
  const processed = !rawAudio()
  return {
    audio: {
      ...device,
      channelCount: { ideal: 1 },
      echoCancellation: processed,
      // Rooms play anthems and test tones, which suppression would take for noise and wipe out.
      noiseSuppression: false,
      autoGainControl: processed,
    },
  }
}

function firstTrack(stream: MediaStream): MediaStreamTrack {
  const track = stream.getTracks()[0]
  if (!track) throw new DOMException('no track in the stream', 'NotFoundError')
  return track
}
