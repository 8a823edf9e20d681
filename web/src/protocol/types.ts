/** What the control plane says: /api/v1 and /ws. Times are epoch milliseconds, levels dBov (0 loud, −127 silent). */

export type Role = 'host' | 'it' | 'venue'

export interface User {
  user_id: string
  username: string
  name: string
  role: Role
  venue_id: string | null
}

export type VenueStatus = 'idle' | 'calling' | 'connected' | 'left'
export type VenueReason = 'hung_up' | 'refused' | 'network_lost' | 'no_answer' | 'left' | 'removed'

export interface VenueView {
  id: string
  name: string
  short: string
  pinyin: string
  parent: string | null
  tier: number
  order: number
  status: VenueStatus
  reason: VenueReason | null
  /** A signed-in page of this venue is on /ws. */
  online: boolean
  /** What the venue's page found of its own devices; null while it has not said. */
  devices?: { camera: boolean; microphone: boolean } | null
  /** Which call this is, from 1. */
  rings?: number
  /** The venue said yes; its media are on the way. */
  answered?: boolean
  muted_by_chair: boolean
  muted_locally: boolean
  camera: boolean
  microphone: boolean
  sharing: boolean
  since: number
}

export interface QueueEntry {
  venue: string
  at: number
}

export interface MeetingView {
  id: string
  title: string
  status: 'active' | 'ended'
  main_venue: string
  created_at: number
  locked: boolean
  broadcast: string | null
  floor: string | null
  /** What everybody sees: the floor holder or the broadcast venue. */
  stage: string | null
  mode: 'free' | 'broadcast' | 'floor'
  recording: { state: 'off' | 'on'; since: number | null; recording_id: string | null }
  content: { venue: string } | null
  queue: QueueEntry[]
  venues: Record<string, VenueView>
}

export interface MeetingSummary {
  id: string
  title: string
  status: 'active' | 'ended'
  created_at: number
}

/** The whole of what one signed-in page is told; changes are applied to it by path. */
export interface View {
  me: User
  meetings: Record<string, MeetingSummary>
  meeting: MeetingView | null
}

export interface VenueEntry {
  id: string
  name: string
  short: string
  pinyin: string
  parent: string | null
  tier: number
  order: number
}

export interface Quality {
  loss_up?: number
  loss_down?: number
  rtt_ms?: number
  width?: number
  height?: number
  kbps_up?: number
  kbps_down?: number
  quality?: 'excellent' | 'good' | 'poor' | 'lost'
  jitter_up_ms?: number
  jitter_down_ms?: number
  /** What the line down to the venue carries, and what the pictures for it would take. Absent: unknown. */
  estimate_kbps?: number
  wanted_kbps?: number
  /** Pictures that wait because the venue's line can't carry them. */
  held?: number
  over_tcp?: boolean
  /** Codes of what can be felt, worst first. */
  reasons?: string[]
  /** One sentence for the person at the desk; stands for at least 5 s. */
  cause?: { code: string; zh: string; en: string; params: Record<string, number> } | null
}

export type Command =
  | { type: 'call'; venue?: string }
  | { type: 'hang_up'; venue: string }
  | { type: 'broadcast'; venue: string }
  | { type: 'stop_broadcast' }
  | { type: 'give_floor'; venue: string }
  | { type: 'free_discussion' }
  | { type: 'request_floor'; venue?: string }
  | { type: 'withdraw_request'; venue?: string }
  | { type: 'mute'; venue: string }
  | { type: 'unmute'; venue?: string }
  | { type: 'mute_all' }
  | { type: 'lock' }
  | { type: 'unlock' }
  | { type: 'start_recording' }
  | { type: 'stop_recording' }
  | { type: 'end' }
  | { type: 'answer'; accept: boolean }
  | { type: 'leave' }

export interface Change {
  path: (string | number)[]
  value: unknown
  /** With value null: the key is deleted, not set to null. */
  gone?: boolean
}

export interface CommandError {
  code: string
  message: string
  message_en: string
}

export type ServerMessage =
  | { type: 'snapshot'; rev: number; now: number; view: View }
  | { type: 'change'; rev: number; changes: Change[] }
  | { type: 'levels'; venues: Record<string, number> }
  | { type: 'quality'; venues: Record<string, Quality> }
  | { type: 'result'; id: string; ok: true }
  | { type: 'result'; id: string; ok: false; error: CommandError }
  | { type: 'pong'; now: number }
  | ({ type: 'error' } & CommandError)

export type ClientMessage =
  | { type: 'command'; id: string; meeting: string; command: Command }
  | { type: 'watch'; meeting: string | null }
  | { type: 'resync' }
  | { type: 'ping' }
  | { type: 'profile'; devices: { camera: boolean; microphone: boolean } }

export interface MediaToken {
  /** Empty: this page's own origin. */
  url: string
  token: string
  identity: string
  occupies: string | null
}
