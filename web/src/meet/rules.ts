/** What the venue page does and says, as pure functions of what it knows. No DOM, no timers. */
import type { LostReason, SessionState, VideoSource } from '../media/MediaSession'
import type { LinkState } from '../protocol/socket'
import type { MeetingView, Quality, VenueReason } from '../protocol/types'

export type Phase = 'standby' | 'calling' | 'joining' | 'in-meeting' | 'reconnecting' | 'replaced'

const SENT_AWAY: readonly (VenueReason | null)[] = ['hung_up', 'removed']

/** What the room state asks of this page. */
export type Wish = 'none' | 'ring' | 'join'

export interface Answering {
  auto: boolean
  /** Meeting that a person on this page wants to be in: its ring was accepted, or 入会 pressed in standby. */
  accepted: string | null
}

/**
 * The join rule. Connected: be there (a reload or a restart comes back by itself). Called: answer by
 * itself or ring. Lost by the network: come back. Hung up, refused or left: stay in standby.
 */
export function wishOf(meeting: MeetingView | null, me: string, answering: Answering): Wish {
  if (!meeting || meeting.status !== 'active') return 'none'
  const own = meeting.venues[me]
  switch (own?.status) {
    case 'connected':
      return 'join'
    case 'calling':
      return answering.auto || answering.accepted === meeting.id ? 'join' : 'ring'
    case 'left':
      if (own.reason === 'network_lost') return 'join'
      return answering.accepted === meeting.id && !SENT_AWAY.includes(own.reason) ? 'join' : 'none'
    case 'idle':
      return answering.accepted === meeting.id ? 'join' : 'none'
    default:
      return 'none'
  }
}

export function phaseOf(wish: Wish, media: SessionState, lost: LostReason): Phase {
  if (wish === 'none') return 'standby'
  if (wish === 'ring') return 'calling'
  if (lost === 'replaced') return 'replaced'
  switch (media) {
    case 'connected':
      return 'in-meeting'
    case 'reconnecting':
    case 'lost':
      return 'reconnecting'
    default:
      return 'joining'
  }
}

export interface Picture {
  venue: string
  source: VideoSource
}

export interface StageChoice {
  main: Picture | null
  /** People beside shared content. */
  inset: Picture | null
}

/**
 * What this venue sees. `cameras`: identities whose picture is in the media room. Everybody sees the stage venue; the stage venue itself and, while nothing is
 * broadcast, every branch see the main venue (mode A); the main venue sees who speaks. Shared content
 * takes the big picture, people go to the inset; who shares sees people.
 */
export function stageOf(meeting: MeetingView, me: string, loudest: string | null, cameras: readonly string[]): StageChoice {
  const people = peopleOn(meeting, me, loudest, cameras)
  const content = meeting.content?.venue
  if (content && content !== me) {
    return { main: { venue: content, source: 'screen_share' }, inset: people }
  }
  return { main: people, inset: null }
}

function peopleOn(meeting: MeetingView, me: string, loudest: string | null, cameras: readonly string[]): Picture | null {
  const stage = meeting.stage
  if (stage && stage !== me) return { venue: stage, source: 'camera' }
  if (me !== meeting.main_venue) return { venue: meeting.main_venue, source: 'camera' }
  // A venue account is told of few venues: who is here to be seen, the media room knows.
  const others = cameras.filter((id) => id !== me).sort()
  const shown = others.find((id) => id === loudest) ?? others[0]
  return shown ? { venue: shown, source: 'camera' } : null
}

/** The loudest venue with a hold, so that a cough does not move the main venue's picture. */
export interface Heard {
  shown: string | null
  rival: string | null
  rival_since: number
}

export const HEARD_HOLD_MS = 2000

export function hear(before: Heard, speakers: readonly string[], me: string, now: number): Heard {
  const first = speakers.find((id) => id !== me) ?? null
  if (first === null || first === before.shown) return { shown: before.shown, rival: null, rival_since: 0 }
  if (before.shown === null) return { shown: first, rival: null, rival_since: 0 }
  if (before.rival !== first) return { shown: before.shown, rival: first, rival_since: now }
  if (now - before.rival_since < HEARD_HOLD_MS) return before
  return { shown: first, rival: null, rival_since: 0 }
}

export type BannerKey =
  | 'reconnecting'
  | 'floor'
  | 'floorMuted'
  | 'onAir'
  | 'mutedByChair'
  | 'mutedBoth'
  | 'mutedLocally'
  | 'listening'
  | 'waiting'
  | 'noMicrophone'
  | 'open'

export type Tone = 'plain' | 'muted' | 'floor' | 'air' | 'warn'

export interface Banner {
  key: BannerKey
  tone: Tone
  /** True statements beside the main one, in the order in which they are shown. */
  also: ('linkDown' | 'queued' | 'sharing')[]
  /** Position in the queue of floor requests, from 1; 0 = not asked. */
  queued: number
  recording: boolean
  /** Whose floor closes our microphone. */
  speaker: string | null
}

export interface BannerFacts {
  me: string
  media: SessionState
  link: LinkState
  micOn: boolean
  micWorks: boolean
  sharing: boolean
}

/** The one sentence that is most important to the people in this room now, and what else is true. */
export function bannerOf(meeting: MeetingView, facts: BannerFacts): Banner {
  const own = meeting.venues[facts.me]
  const queued = meeting.queue.findIndex((entry) => entry.venue === facts.me) + 1
  const recording = meeting.recording.state === 'on'
  const also: Banner['also'] = []
  if (facts.link !== 'open') also.push('linkDown')
  if (queued > 0) also.push('queued')
  if (facts.sharing) also.push('sharing')
  const say = (key: BannerKey, tone: Tone, speaker: string | null = null): Banner => ({
    key,
    tone,
    also,
    queued,
    recording,
    speaker,
  })

  if (facts.media === 'reconnecting' || facts.media === 'lost') return say('reconnecting', 'warn')
  if (meeting.floor === facts.me) return facts.micOn ? say('floor', 'floor') : say('floorMuted', 'warn')
  const byChair = own?.muted_by_chair ?? false
  if (byChair) return say(facts.micOn ? 'mutedByChair' : 'mutedBoth', 'muted')
  if (!facts.micWorks) return say('noMicrophone', 'warn')
  if (!facts.micOn) return say('mutedLocally', 'plain')
  if (meeting.broadcast === facts.me) return say('onAir', 'air')
  if (meeting.mode === 'floor' && facts.me !== meeting.main_venue) return say('listening', 'plain', meeting.floor)
  if (!meeting.stage && facts.me !== meeting.main_venue && meeting.venues[meeting.main_venue]?.status !== 'connected') {
    return say('waiting', 'plain')
  }
  return say('open', 'plain')
}

/** What this room should know of its own line. Media over TCP work: that is for the IT desk. */
export function lineCause(quality: Quality | undefined): NonNullable<Quality['cause']> | null {
  const cause = quality?.cause
  return cause && cause.code !== 'tcp' && cause.code !== 'line_lost' ? cause : null
}

/** Name of a venue as its television shows it; the demo tree's names lack the word 会场. */
export function roomName(name: string, locale: 'zh' | 'en'): string {
  if (locale === 'en' || /(会场|会议室|中心)$/.test(name)) return name
  return `${name}会场`
}

/** `?auto=1` or `?auto=0` in the address wins over what is remembered; default on. */
export function autoAnswer(remembered: string | null, search: string): boolean {
  const asked = new URLSearchParams(search).get('auto')
  if (asked === '1') return true
  if (asked === '0') return false
  return remembered !== '0'
}

/** The page's own entry script as index.html names it, or null: a changed name means a new version. */
export function entryScript(html: string): string | null {
  return /\/assets\/index-[\w-]+\.js/.exec(html)?.[0] ?? null
}
