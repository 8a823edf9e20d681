/** Stand-in for media/MediaSession in screenshots: every venue's camera is a drawn picture. */
import type { Capture } from '../../src/media/capture'

const HUES: Record<string, number> = { '340000': 12, '340100': 34, '340200': 205, '341500': 96 }
const drawn = new Map<string, MediaStream>()

function draw(identity: string, source: string): MediaStream {
  const key = `${identity}/${source}`
  const known = drawn.get(key)
  if (known) return known
  const canvas = document.createElement('canvas')
  canvas.width = 1280
  canvas.height = 720
  const c = canvas.getContext('2d')!
  const hue = HUES[identity] ?? 150
  let tick = 0
  const paint = (): void => {
    tick += 1
    if (source === 'screen_share') {
      c.fillStyle = '#f6f6f2'
      c.fillRect(0, 0, 1280, 720)
      c.fillStyle = '#1d63c4'
      c.fillRect(0, 0, 1280, 96)
      c.fillStyle = '#20262c'
      c.font = '600 44px sans-serif'
      c.fillText('上半年工会工作情况通报', 60, 190)
      c.font = '30px sans-serif'
      for (let i = 0; i < 6; i++) {
        c.fillStyle = '#55606c'
        c.fillText(`${i + 1}. 建会入会、维权帮扶、职工服务`, 90, 270 + i * 66)
        c.fillStyle = `hsl(${210 + i * 8} 50% 60%)`
        c.fillRect(780, 244 + i * 66, 100 + ((i * 137) % 320), 32)
      }
    } else {
      const wall = c.createLinearGradient(0, 0, 0, 720)
      wall.addColorStop(0, `hsl(${hue} 26% 62%)`)
      wall.addColorStop(1, `hsl(${hue} 30% 34%)`)
      c.fillStyle = wall
      c.fillRect(0, 0, 1280, 720)
      for (let i = 0; i < 5; i++) {
        const x = 160 + i * 240
        const y = 330 + Math.sin(tick / 20 + i) * 3
        c.fillStyle = '#2c2622'
        c.fillRect(x - 70, y + 40, 140, 190)
        c.fillStyle = `hsl(${hue + i * 9} 16% ${74 + (i % 2) * 8}%)`
        c.beginPath()
        c.ellipse(x, y + 190, 84, 110, 0, Math.PI, 0)
        c.fill()
        c.fillStyle = '#d9ad8a'
        c.beginPath()
        c.ellipse(x, y, 42, 54, 0, 0, 7)
        c.fill()
        c.fillStyle = '#1c1714'
        c.beginPath()
        c.ellipse(x, y - 22, 44, 36, 0, Math.PI, 0)
        c.fill()
      }
      c.fillStyle = '#6d4126'
      c.fillRect(0, 520, 1280, 200)
    }
  }
  paint()
  setInterval(paint, 100)
  const stream = canvas.captureStream(10)
  drawn.set(key, stream)
  return stream
}

interface Opts {
  onChange: () => void
}

export const OWN_MUTE = { own_mute: true } as const
export class MediaSession {
  state = 'idle'
  lostReason: string | null = null
  audioBlocked = new URLSearchParams(location.search).has('blocked')
  sharing = false
  activeSpeakers: string[] = []
  identity = ''
  private capture: Capture | null = null
  private readonly listeners = new Set<() => void>()
  constructor(private readonly opts: Opts) {
    Object.assign(window, { mockSession: this })
  }
  /** Pictures stand still (`?waits`), as when the line can't carry them. */
  waits(): boolean {
    return new URLSearchParams(location.search).has('waits')
  }
  private tell(): void {
    this.opts.onChange()
    for (const listener of [...this.listeners]) listener()
  }
  become(state: string, lost: string | null = null): void {
    this.state = state
    this.lostReason = lost
    this.tell()
  }
  subscribe(listener: () => void): () => void {
    this.listeners.add(listener)
    return () => this.listeners.delete(listener)
  }
  async connect(_token: string, opts: { publish: { capture?: Capture } | null }): Promise<void> {
    this.capture = opts.publish?.capture ?? null
    this.become('connecting')
    const stay = new URLSearchParams(location.search).get('media')
    if (stay !== 'connecting') setTimeout(() => this.become(stay ?? 'connected', stay === 'lost' ? 'replaced' : null), 50)
  }
  async close(): Promise<void> {
    this.become('idle')
  }
  track(identity: string, source: string): unknown {
    if (this.state !== 'connected' && this.state !== 'reconnecting') return null
    if (new URLSearchParams(location.search).has('dark')) return null
    const key = `${identity}/${source}`
    let track = tracks.get(key)
    if (!track) {
      track = {
        attach: (element: HTMLVideoElement) => {
          element.srcObject = draw(identity, source)
        },
        detach: (element: HTMLVideoElement) => {
          element.srcObject = null
        },
      }
      tracks.set(key, track)
    }
    return track
  }
  setMicrophone(): void {
    this.tell()
  }
  setCamera(): void {
    this.tell()
  }
  async setScreenShare(on: boolean): Promise<void> {
    this.sharing = on
    this.tell()
  }
  wantSize(): void {}
  show(): () => void {
    return () => undefined
  }
  localLevel(): number {
    return this.capture?.level() ?? 0
  }
  setVolume(): void {}
  async setSpeaker(): Promise<void> {}
  async startAudio(): Promise<void> {
    this.audioBlocked = false
    this.tell()
  }
  takeBack(): void {
    this.become('connected')
  }
}
const tracks = new Map<string, object>()
