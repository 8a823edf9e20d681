/** What is wrong, one fault one sentence, worst first. Pure. */
import type { MeetingView, Quality, VenueView } from '../protocol/types'
import type { TextKey } from '../ui/i18n'

export interface WorkerStatus {
  id: string
  alive: boolean
  cpu_percent: number
  transports: number
  rooms: number
  loop_delay_ms: number
  restarts: number
}

export interface MachineStatus {
  version: string
  started_at: number
  workers: WorkerStatus[]
  meetings: number
  participants: number
  ws_clients: number
  recordings: { active: number; queued: number }
  disk: { free_bytes: number; total_bytes: number }
  database: string
  bus: string
  alerts: { code: string; message: string; message_en: string }[]
}

export type FaultKey = 'Lost' | 'Line' | 'LossUp' | 'LossDown' | 'Rtt' | 'NoCamera' | 'NoMicrophone' | 'Worker' | 'Busy' | 'Delay'

export interface OpsFault {
  key: FaultKey
  bad: boolean
  /** Venue's short name, or the worker's id. */
  subject: string
  n: number
  /** The venue's page is not there either. */
  offline: boolean
  /** Of 'Line': what the server says of it. */
  cause?: NonNullable<Quality['cause']>
}

/** What the IT desk can do about it. */
export const CAUSE_NOTES: Record<string, TextKey> = {
  line_lost: 'ops.faultLostNote',
  held: 'ops.faultNarrowNote',
  narrow: 'ops.faultNarrowNote',
  loss_up: 'ops.faultLossUpNote',
  loss_down: 'ops.faultLossDownNote',
  delay: 'ops.faultRttNote',
  jitter: 'ops.faultJitterNote',
  tcp: 'ops.faultTcpNote',
  loss_up_central: 'ops.faultCentralNote',
  loss_down_central: 'ops.faultCentralNote',
  delay_central: 'ops.faultCentralNote',
}

export const LOSS_WARN = 0.02
export const LOSS_BAD = 0.05
export const RTT_WARN_MS = 300
export const CPU_WARN = 75
export const DELAY_WARN_MS = 50

export type LineState = 'fine' | 'narrow' | 'losing' | 'poor' | 'lost' | 'calling' | 'idle' | 'left'

export function lineState(venue: VenueView, quality: Quality | undefined): LineState {
  if (venue.status === 'calling') return 'calling'
  if (venue.status === 'idle') return 'idle'
  if (venue.status === 'left') return venue.reason === 'network_lost' ? 'lost' : 'left'
  if (quality?.quality === 'lost') return 'lost'
  if ((quality?.held ?? 0) > 0 || quality?.reasons?.includes('narrow')) return 'narrow'
  if (Math.max(quality?.loss_up ?? 0, quality?.loss_down ?? 0) >= LOSS_WARN) return 'losing'
  return quality?.quality === 'poor' ? 'poor' : 'fine'
}

export function faultsOf(status: MachineStatus | null, meeting: MeetingView | null, quality: Record<string, Quality>): OpsFault[] {
  const found: OpsFault[] = []
  const add = (key: FaultKey, bad: boolean, subject: string, n = 0, offline = false): void => {
    found.push({ key, bad, subject, n, offline })
  }
  for (const worker of status?.workers ?? []) {
    if (!worker.alive) add('Worker', true, worker.id)
    else {
      if (worker.cpu_percent >= CPU_WARN) add('Busy', worker.cpu_percent >= 95, worker.id, Math.round(worker.cpu_percent))
      if (worker.loop_delay_ms >= DELAY_WARN_MS) add('Delay', false, worker.id, Math.round(worker.loop_delay_ms))
    }
  }
  const venues = Object.values(meeting?.venues ?? {}).sort((a, b) => a.tier - b.tier || a.order - b.order)
  for (const venue of venues) {
    if (venue.status === 'left' && venue.reason === 'network_lost') add('Lost', true, venue.short, 0, !venue.online)
    if (venue.status !== 'connected') continue
    const q = quality[venue.id]
    if (q?.cause) {
      const bad = q.quality === 'poor' || q.quality === 'lost'
      found.push({ key: 'Line', bad, subject: venue.short, n: 0, offline: false, cause: q.cause })
    } else if ((q?.loss_up ?? 0) >= LOSS_WARN) add('LossUp', q!.loss_up! >= LOSS_BAD, venue.short, percent(q!.loss_up!))
    if (!q?.cause && (q?.loss_down ?? 0) >= LOSS_WARN) add('LossDown', q!.loss_down! >= LOSS_BAD, venue.short, percent(q!.loss_down!))
    if (!q?.cause && (q?.rtt_ms ?? 0) >= RTT_WARN_MS) add('Rtt', false, venue.short, Math.round(q!.rtt_ms!))
    if (!venue.camera) add('NoCamera', false, venue.short)
    if (!venue.microphone) add('NoMicrophone', false, venue.short)
  }
  return found.sort((a, b) => Number(b.bad) - Number(a.bad))
}

export function percent(share: number): number {
  return Math.round(share * 1000) / 10
}

export interface WorstLoss {
  venue: string
  direction: 'up' | 'down'
  share: number
}

export function worstLoss(meeting: MeetingView | null, quality: Record<string, Quality>): WorstLoss | null {
  let worst: WorstLoss | null = null
  for (const venue of Object.values(meeting?.venues ?? {})) {
    if (venue.status !== 'connected') continue
    const q = quality[venue.id]
    for (const direction of ['up', 'down'] as const) {
      const share = (direction === 'up' ? q?.loss_up : q?.loss_down) ?? 0
      if (share > 0 && share > (worst?.share ?? 0)) worst = { venue: venue.short, direction, share }
    }
  }
  return worst
}
