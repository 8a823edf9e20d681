/** What a tile and a tree row say about a venue: pure, so that every state has a table test. */
import type { MeetingView, Quality, VenueView } from '../protocol/types'
import type { Glyph } from '../ui/StateGlyph.vue'
import type { IconName } from '../ui/Icon.vue'
import type { TextKey } from '../ui/i18n'

/** Loss of packets above which a venue is worth a look. */
export const LOSS_SHOWN = 0.01

export type Mark = 'floor' | 'imposed' | 'own' | 'ask' | 'chair' | 'sharing'
export type Tone = 'floor' | 'ask' | 'warn' | 'alarm' | 'bright' | 'off' | 'plain'

export interface Absence {
  icon: IconName
  title: TextKey
  note: TextKey | null
  alarm: boolean
}

export interface TileState {
  program: boolean
  preview: boolean
  /** Null: its picture is shown. */
  absence: Absence | null
  marks: Mark[]
  /** The microphone is open to the others: a meter exists only then. */
  open: boolean
  /** 0…1, only if above LOSS_SHOWN. */
  loss: number | null
  /** The venue's line is too narrow for what it should see: worse than loss. */
  narrow: TextKey | null
}

export interface RowState {
  glyph: Glyph
  word: TextKey
  tone: Tone
}

/** The venue whose picture goes out to all: the stage, or the main venue while nothing is broadcast. */
export function onAir(meeting: MeetingView): string {
  return meeting.stage ?? meeting.main_venue
}

/** Is this venue's microphone open to the others? Giving the floor mutes the others: nothing more to know here. */
export function micOpen(venue: VenueView): boolean {
  if (venue.status !== 'connected' || !venue.microphone) return false
  return !venue.muted_by_chair && !venue.muted_locally
}

export function worstLoss(quality: Quality | undefined): number | null {
  const loss = Math.max(quality?.loss_up ?? 0, quality?.loss_down ?? 0)
  return loss > LOSS_SHOWN ? loss : null
}

/** Pictures for this venue wait, or are made smaller, because of its line. */
export function narrowLine(quality: Quality | undefined): TextKey | null {
  if ((quality?.held ?? 0) > 0) return 'console.lineHeld'
  return quality?.reasons?.includes('narrow') ? 'console.lineNarrow' : null
}

export function absenceOf(venue: VenueView): Absence | null {
  const note = (key: TextKey | null = null) => key
  switch (venue.status) {
    case 'connected':
      return venue.camera ? null : { icon: 'camera-off', title: 'console.noPicture', note: note('console.noPictureNote'), alarm: false }
    case 'calling':
      return { icon: 'phone', title: 'console.calling', note: note(!venue.online ? 'console.callingOffline' : venue.answered ? 'console.callingAnswered' : 'console.callingNote'), alarm: false }
    case 'idle':
      return { icon: 'chair', title: 'console.notCalled', note: note(!venue.online ? 'console.offlineNote' : venue.devices && !venue.devices.camera ? 'console.standbyNoCamera' : 'console.standbyNote'), alarm: false }
    case 'left':
      return {
        icon: venue.reason === 'network_lost' ? 'alarm' : 'chair',
        title: REASONS[venue.reason ?? 'left'],
        note: note(venue.online ? 'console.callAgainNote' : 'console.offlineNote'),
        alarm: venue.reason === 'network_lost'
      }
  }
}

const REASONS = {
  network_lost: 'console.networkLost',
  hung_up: 'console.hungUp',
  refused: 'console.refused',
  no_answer: 'console.noAnswer',
  left: 'console.leftItself',
  removed: 'console.removed'
} as const satisfies Record<string, TextKey>

export function tileState(meeting: MeetingView, id: string, preview: string | null, quality?: Quality): TileState {
  const venue = meeting.venues[id]
  if (!venue) return { program: false, preview: false, absence: null, marks: [], open: false, loss: null, narrow: null }
  const connected = venue.status === 'connected'
  // While one venue has the floor all others are closed, as the line under the program says: no mark on every tile.
  const asRule = meeting.floor !== null && meeting.floor !== id && id !== meeting.main_venue
  const marks: Mark[] = []
  if (id === meeting.main_venue) marks.push('chair')
  if (meeting.content?.venue === id) marks.push('sharing')
  if (meeting.floor === id) marks.push('floor')
  else if (meeting.queue.some((entry) => entry.venue === id)) marks.push('ask')
  if (venue.muted_by_chair && !asRule) marks.push('imposed')
  if (connected && venue.muted_locally) marks.push('own') // also under the chair's mute: opening it would not open the room
  return {
    program: onAir(meeting) === id && (connected || meeting.stage === id),
    preview: preview === id,
    absence: absenceOf(venue),
    marks,
    open: micOpen(venue),
    loss: connected ? worstLoss(quality) : null,
    narrow: connected ? narrowLine(quality) : null
  }
}

/** One word for the tree: the most urgent truth first. */
export function rowState(meeting: MeetingView, id: string, preview: string | null, quality?: Quality): RowState {
  const venue = meeting.venues[id]
  if (!venue) return { glyph: 'none', word: 'console.rowIdle', tone: 'off' }
  if (venue.status === 'left' && venue.reason === 'network_lost') return { glyph: 'lost', word: 'console.rowLost', tone: 'alarm' }
  if (venue.status === 'calling') return { glyph: 'calling', word: 'console.rowCalling', tone: 'bright' }
  if (venue.status !== 'connected') {
    if (venue.status === 'left') return { glyph: 'none', word: REASON_WORDS[venue.reason ?? 'left'], tone: 'off' }
    if (venue.online) return { glyph: 'standby', word: 'console.rowStandby', tone: 'plain' }
    return { glyph: 'none', word: 'console.rowIdle', tone: 'off' }
  }
  if (meeting.floor === id) return { glyph: 'floor', word: 'console.rowFloor', tone: 'floor' }
  if (meeting.queue.some((entry) => entry.venue === id)) return { glyph: 'hand', word: 'console.rowAsk', tone: 'ask' }
  if (narrowLine(quality) !== null) return { glyph: 'warn', word: 'console.rowNarrow', tone: 'warn' }
  if (worstLoss(quality) !== null) return { glyph: 'warn', word: 'console.rowLoss', tone: 'warn' }
  if (meeting.stage === id) return { glyph: 'program', word: 'console.rowProgram', tone: 'bright' }
  if (preview === id) return { glyph: 'preview', word: 'console.rowPreview', tone: 'bright' }
  if (id === meeting.main_venue) return { glyph: 'chair', word: 'console.rowChair', tone: 'bright' }
  if (venue.muted_by_chair && !meeting.floor) return { glyph: 'disc', word: 'console.rowImposed', tone: 'bright' }
  if (venue.muted_locally) return { glyph: 'ring', word: 'console.rowOwn', tone: 'bright' }
  return { glyph: 'on', word: 'console.rowOn', tone: 'plain' }
}

const REASON_WORDS = {
  network_lost: 'console.rowLost',
  hung_up: 'console.rowHungUp',
  refused: 'console.rowRefused',
  no_answer: 'console.rowNoAnswer',
  left: 'console.rowLeft',
  removed: 'console.rowLeft'
} as const satisfies Record<string, TextKey>

export type TileAction = 'call' | 'hangup' | 'broadcast' | 'floor' | 'mute' | 'unmute'

/** The acts that make sense on a venue now, in a fixed order so that buttons keep their places. */
export function actionsOf(meeting: MeetingView, id: string): TileAction[] {
  const venue = meeting.venues[id]
  if (!venue) return []
  const main = id === meeting.main_venue
  if (venue.status === 'calling') return ['hangup']
  if (venue.status !== 'connected') {
    const acts: TileAction[] = main ? [] : ['call']
    if (venue.muted_by_chair) acts.push('unmute')
    return acts
  }
  const sound: TileAction = venue.muted_by_chair ? 'unmute' : 'mute'
  return main ? ['broadcast', sound] : ['broadcast', 'floor', sound, 'hangup']
}
