/** Everything the page itself does with sound: level meters, the ring, the speaker test. */

let shared: AudioContext | null = null

export function audioContext(): AudioContext {
  shared ??= new AudioContext({ latencyHint: 'interactive' })
  if (shared.state === 'suspended') void shared.resume().catch(() => undefined)
  return shared
}

/** Sends ring and test tone to the chosen loudspeaker (Chromium; elsewhere the default stays). */
export async function setSoundOutput(speakerId: string | undefined): Promise<void> {
  const context = audioContext() as AudioContext & { setSinkId?: (id: string) => Promise<void> }
  await context.setSinkId?.(speakerId ?? '').catch(() => undefined)
}

/** Peak of a block of samples on a meter from 0 (-60 dBFS and below) to 1 (0 dBFS). */
export function meterValue(peak: number): number {
  if (!(peak > 0.001)) return 0
  return Math.min(1, 1 + Math.log10(peak) / 3)
}

/** Listens to one MediaStreamTrack without playing it. */
export class LevelMeter {
  private readonly source: MediaStreamAudioSourceNode
  private readonly analyser: AnalyserNode
  private readonly samples: Float32Array<ArrayBuffer>

  constructor(track: MediaStreamTrack) {
    const context = audioContext()
    this.source = context.createMediaStreamSource(new MediaStream([track]))
    this.analyser = context.createAnalyser()
    this.analyser.fftSize = 1024
    this.samples = new Float32Array(this.analyser.fftSize)
    this.source.connect(this.analyser)
  }

  level(): number {
    this.analyser.getFloatTimeDomainData(this.samples)
    let peak = 0
    for (const sample of this.samples) peak = Math.max(peak, Math.abs(sample))
    return meterValue(peak)
  }

  close(): void {
    this.source.disconnect()
    this.analyser.disconnect()
  }
}

function tone(context: AudioContext, hz: number, from: number, seconds: number, gain: number): OscillatorNode {
  const oscillator = context.createOscillator()
  const envelope = context.createGain()
  oscillator.frequency.value = hz
  envelope.gain.setValueAtTime(0, from)
  envelope.gain.linearRampToValueAtTime(gain, from + 0.03)
  envelope.gain.setValueAtTime(gain, from + seconds - 0.08)
  envelope.gain.linearRampToValueAtTime(0, from + seconds)
  oscillator.connect(envelope).connect(context.destination)
  oscillator.start(from)
  oscillator.stop(from + seconds)
  oscillator.onended = () => envelope.disconnect()
  return oscillator
}

/** The ring of an incoming call: two tones, a pause, until stopped. */
export class Ring {
  private timer: ReturnType<typeof setInterval> | null = null
  private playing: OscillatorNode[] = []

  start(): void {
    if (this.timer !== null) return
    this.burst()
    this.timer = setInterval(() => this.burst(), 3000)
  }

  stop(): void {
    if (this.timer !== null) clearInterval(this.timer)
    this.timer = null
    for (const oscillator of this.playing) {
      try {
        oscillator.stop()
      } catch {
        /* already ended */
      }
    }
    this.playing = []
  }

  private burst(): void {
    const context = audioContext()
    const now = context.currentTime + 0.02
    this.playing = [0, 0.55].flatMap((offset) => [
      tone(context, 587.3, now + offset, 0.45, 0.16),
      tone(context, 739.9, now + offset, 0.45, 0.12),
    ])
  }
}

/** Three rising notes for "do you hear the loudspeaker". Resolves when they are over. */
export async function playTestTone(speakerId: string | undefined): Promise<void> {
  await setSoundOutput(speakerId)
  const context = audioContext()
  const now = context.currentTime + 0.05
  ;[523.3, 659.3, 784].forEach((hz, i) => tone(context, hz, now + i * 0.35, 0.4, 0.2))
  await new Promise((resolve) => setTimeout(resolve, 1300))
}
