/**
 * In place of src/media/MediaSession.ts in the build mode "shots": pictures are drawn, nothing is sent. The shape is the
 * part of MediaSession that pages use.
 */
export type SessionState = 'idle' | 'connecting' | 'connected' | 'reconnecting' | 'lost'
export const OWN_MUTE = { own_mute: true } as const
export type VideoSource = 'camera' | 'screen_share'

const hash = (s: string) => [...s].reduce((h, c) => Math.imul(h ^ c.charCodeAt(0), 16777619), 2166136261) >>> 0

/** A quiet meeting room: back wall, banner or screen, rows of people behind desks. */
function paint(canvas: HTMLCanvasElement, identity: string, source: VideoSource): void {
  const g = canvas.getContext('2d')!
  const { width: w, height: h } = canvas
  let seed = hash(identity)
  const random = () => ((seed = Math.imul(seed, 1664525) + 1013904223), (seed >>> 0) / 4294967296)
  if (source === 'screen_share') {
    g.fillStyle = '#f4f5f7'
    g.fillRect(0, 0, w, h)
    g.fillStyle = '#1a2f55'
    g.fillRect(w * 0.08, h * 0.12, w * 0.5, h * 0.07)
    for (let i = 0; i < 6; i++) {
      g.fillStyle = '#8793a5'
      g.fillRect(w * 0.08, h * (0.28 + i * 0.1), w * (0.4 + random() * 0.4), h * 0.03)
    }
    return
  }
  const hue = 20 + random() * 40
  const warm = random() < 0.6
  const wall = g.createLinearGradient(0, 0, 0, h)
  wall.addColorStop(0, `hsl(${warm ? hue : 205} ${warm ? 26 : 12}% 62%)`)
  wall.addColorStop(1, `hsl(${warm ? hue : 205} ${warm ? 30 : 12}% 34%)`)
  g.fillStyle = wall
  g.fillRect(0, 0, w, h)
  g.fillStyle = 'rgba(255,255,255,.5)'
  for (let i = 0; i < 4; i++) g.fillRect(w * (0.12 + i * 0.21), h * 0.03, w * 0.12, h * 0.025)
  if (random() < 0.6) {
    g.fillStyle = '#8f1c20'
    g.fillRect(w * 0.2, h * 0.16, w * 0.6, h * 0.09)
    g.fillStyle = '#e8d59a'
    g.fillRect(w * 0.28, h * 0.195, w * 0.44, h * 0.02)
  } else {
    g.fillStyle = '#2c4f86'
    g.fillRect(w * 0.34, h * 0.14, w * 0.32, h * 0.24)
  }
  const rows = 1 + Math.floor(random() * 3)
  for (let row = rows; row >= 1; row--) {
    const scale = 1 - (row - 1) * 0.24
    const seats = 4 + Math.floor(random() * 3)
    const y = h * (0.62 - (row - 1) * 0.1)
    for (let n = 0; n < seats; n++) {
      const x = w / 2 + (n - (seats - 1) / 2) * w * 0.16 * scale
      const r = h * 0.055 * scale
      g.fillStyle = ['#e6e9ec', '#c9d6e4', '#4a5468', '#eceae4'][Math.floor(random() * 4)]!
      g.beginPath()
      g.ellipse(x, y + r * 2.9, r * 1.9, r * 2.1, 0, 0, 7)
      g.fill()
      g.fillStyle = '#c99b78'
      g.beginPath()
      g.ellipse(x, y, r * 0.86, r * 1.12, 0, 0, 7)
      g.fill()
      g.fillStyle = '#241f1d'
      g.beginPath()
      g.ellipse(x, y - r * 0.5, r * 0.95, r * 0.75, 0, Math.PI, 7)
      g.fill()
    }
    g.fillStyle = `hsl(24 42% ${24 + row * 3}%)`
    g.fillRect(w * (0.04 + (row - 1) * 0.06), y + h * 0.14 * scale, w * (0.92 - (row - 1) * 0.12), h * (row === 1 ? 0.5 : 0.08))
  }
  const shade = g.createRadialGradient(w / 2, h * 0.45, h * 0.3, w / 2, h / 2, w * 0.65)
  shade.addColorStop(0, 'rgba(0,0,0,0)')
  shade.addColorStop(1, 'rgba(0,0,0,.45)')
  g.fillStyle = shade
  g.fillRect(0, 0, w, h)
}

class FakeTrack {
  private stream: MediaStream
  constructor(identity: string, source: VideoSource) {
    const canvas = document.createElement('canvas')
    canvas.width = 960
    canvas.height = 540
    paint(canvas, identity, source)
    this.stream = canvas.captureStream(2)
  }
  attach(element: HTMLVideoElement): void {
    element.srcObject = this.stream
    void element.play().catch(() => undefined)
  }
  detach(element: HTMLVideoElement): void {
    element.srcObject = null
  }
}

export class MediaSession {
  state: SessionState = 'idle'
  lostReason: 'replaced' | 'removed' | null = null
  microphone = true
  camera = true
  sharing = false
  audioBlocked = false
  identity = '340000'
  activeSpeakers: string[] = []
  private readonly tracks = new Map<string, FakeTrack>()
  private readonly listeners = new Set<() => void>()
  constructor(private readonly options: { onChange: () => void }) {}
  subscribe(listener: () => void): () => void {
    this.listeners.add(listener)
    return () => this.listeners.delete(listener)
  }
  async connect(): Promise<void> {
    this.state = 'connected'
    this.changed()
  }
  async close(): Promise<void> {
    this.state = 'idle'
  }
  track(identity: string, source: VideoSource): FakeTrack | null {
    if (this.state !== 'connected') return null
    const key = `${identity}/${source}`
    let track = this.tracks.get(key)
    if (!track) this.tracks.set(key, (track = new FakeTrack(identity, source)))
    return track
  }
  /** Identities whose pictures stand still, as the screenshot wants it. */
  waits(identity: string): boolean {
    return ((globalThis as { __waits?: string[] }).__waits ?? []).includes(identity)
  }
  setMicrophone(on: boolean): void {
    this.microphone = on
    this.changed()
  }
  setCamera(on: boolean): void {
    this.camera = on
    this.changed()
  }
  async setScreenShare(): Promise<void> {}
  wantSize(): void {}
  show(): () => void {
    return () => undefined
  }
  localLevel(): number {
    return 0.3
  }
  setVolume(): void {}
  async setSpeaker(): Promise<void> {}
  async startAudio(): Promise<void> {}
  takeBack(): void {}
  private changed(): void {
    this.options.onChange()
    for (const listener of this.listeners) listener()
  }
}
