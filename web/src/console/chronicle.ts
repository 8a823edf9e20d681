/** The console's log: what happened, told from the difference of two states. Pure. */
import type { MeetingView, VenueView } from '../protocol/types'
import type { TextKey } from '../ui/i18n'

export interface Entry {
  at: number
  key: TextKey
  values: Record<string, string>
  kind: 'plain' | 'warn' | 'alarm'
}

type VenueDigest = Pick<VenueView, 'short' | 'status' | 'reason' | 'muted_by_chair' | 'muted_locally' | 'sharing'>
export interface Digest {
  id: string
  stage: string | null
  floor: string | null
  locked: boolean
  recording: boolean
  queue: string[]
  venues: Record<string, VenueDigest>
}

/** The view is changed in place, so the past must be copied: only what the log tells. */
export function digest(meeting: MeetingView): Digest {
  const venues: Record<string, VenueDigest> = {}
  for (const [id, v] of Object.entries(meeting.venues)) {
    venues[id] = {
      short: v.short, status: v.status, reason: v.reason, sharing: v.sharing,
      muted_by_chair: v.muted_by_chair, muted_locally: v.muted_locally
    }
  }
  return {
    id: meeting.id, stage: meeting.stage, floor: meeting.floor, locked: meeting.locked,
    recording: meeting.recording.state === 'on', queue: meeting.queue.map((q) => q.venue), venues
  }
}

/** More of the same kind at once than this become one line (a call to 122 venues is one event). */
const MOST_ALIKE = 3

export function happened(before: Digest, after: Digest, at: number): Entry[] {
  if (before.id !== after.id) return []
  const out: Entry[] = []
  const name = (id: string | null) => (id && after.venues[id]?.short) || id || ''
  const tell = (key: TextKey, venue: string | null = null, kind: Entry['kind'] = 'plain') =>
    out.push({ at, key, kind, values: venue === null ? {} : { venue: name(venue) } })

  const alike = new Map<TextKey, { ids: string[]; kind: Entry['kind'] }>()
  const many = (key: TextKey, id: string, kind: Entry['kind'] = 'plain') => {
    const group = alike.get(key) ?? { ids: [], kind }
    group.ids.push(id)
    alike.set(key, group)
  }
  for (const [id, now] of Object.entries(after.venues)) {
    const then = before.venues[id]
    if (!then) {
      many('console.logAdded', id)
      continue
    }
    if (then.status !== now.status) {
      if (now.status === 'connected') many('console.logJoined', id)
      else if (now.status === 'calling') many('console.logCalling', id)
      else if (now.status === 'left') many(LEFT[now.reason ?? 'left'], id, now.reason === 'network_lost' ? 'alarm' : 'plain')
    }
    if (now.status === 'connected' && then.status === 'connected') {
      if (then.muted_locally !== now.muted_locally) many(now.muted_locally ? 'console.logOwnMute' : 'console.logOwnUnmute', id)
    }
    if (then.muted_by_chair !== now.muted_by_chair) many(now.muted_by_chair ? 'console.logMuted' : 'console.logUnmuted', id)
    if (then.sharing !== now.sharing) many(now.sharing ? 'console.logShares' : 'console.logSharesNot', id)
  }
  for (const [key, { ids, kind }] of alike) {
    if (ids.length <= MOST_ALIKE) for (const id of ids) tell(key, id, kind)
    else out.push({ at, key, kind, values: { venue: `${ids.slice(0, 2).map(name).join('、')} … (${ids.length})` } })
  }

  for (const id of after.queue) if (!before.queue.includes(id)) tell('console.logAsks', id)
  for (const id of before.queue) if (!after.queue.includes(id) && after.floor !== id) tell('console.logAsksNot', id)
  if (after.floor !== before.floor) {
    if (after.floor) tell('console.logFloor', after.floor)
    else if (!after.stage) tell('console.logFree')
  }
  if (after.stage !== before.stage && after.floor === before.floor) {
    if (after.stage) tell('console.logOnAir', after.stage)
    else tell('console.logOffAir', before.stage)
  }
  if (after.locked !== before.locked) tell(after.locked ? 'console.logLocked' : 'console.logUnlocked')
  if (after.recording !== before.recording) tell(after.recording ? 'console.logRecords' : 'console.logRecordsNot')
  return out
}

const LEFT = {
  network_lost: 'console.logLost',
  hung_up: 'console.logHungUp',
  refused: 'console.logRefused',
  no_answer: 'console.logNoAnswer',
  left: 'console.logLeft',
  removed: 'console.logHungUp'
} as const satisfies Record<string, TextKey>
