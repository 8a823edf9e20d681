/** 需关注: each fault one line, one reason, one action. Pure. */
import type { MeetingView, Quality, VenueView } from '../protocol/types'
import type { IconName } from '../ui/Icon.vue'
import type { TextKey } from '../ui/i18n'
import { worstLoss } from './tiles'

export interface Notice {
  venue: string
  kind: 'alarm' | 'warn' | 'plain'
  icon: IconName
  reason: TextKey
  values: Record<string, string>
  /** What the server says of the line, in both languages: goes before `reason`. */
  cause: Quality['cause']
  note: TextKey | null
  act: 'call' | 'show'
  at: number
}

export const percent = (share: number) => (share * 100).toFixed(1)

export function noticeOf(venue: VenueView, quality: Quality | undefined): Notice | null {
  const line = (kind: Notice['kind'], icon: IconName, reason: TextKey, note: TextKey | null, act: Notice['act'], values = {}) => ({
    venue: venue.id, kind, icon, reason, values, cause: null as Quality['cause'], note, act, at: venue.since
  })
  if (venue.status === 'left') {
    const back: TextKey = venue.online ? 'console.callAgainNote' : 'console.offlineNote'
    if (venue.reason === 'network_lost') return line('alarm', 'alarm', 'console.networkLost', back, 'call')
    if (venue.reason === 'no_answer') return line('warn', 'phone', 'console.noAnswer', back, 'call')
    if (venue.reason === 'refused') return line('warn', 'phone-down', 'console.refused', back, 'call')
    if (venue.reason === 'left') return line('plain', 'chair', 'console.leftItself', back, 'call')
    return null
  }
  if (venue.status !== 'connected') return null
  if (quality?.quality === 'lost') return line('alarm', 'alarm', 'console.lineLost', null, 'show')
  // Media over TCP work: that is for the IT desk.
  const cause = quality?.cause
  if (cause && cause.code !== 'tcp') return { ...line('warn', 'warn', 'console.lineNarrow', null, 'show'), cause }
  const up = quality?.loss_up ?? 0
  const down = quality?.loss_down ?? 0
  if (worstLoss(quality) !== null) {
    return up >= down
      ? line('warn', 'warn', 'console.lossUp', null, 'show', { loss: percent(up) })
      : line('warn', 'warn', 'console.lossDown', null, 'show', { loss: percent(down) })
  }
  if (!venue.camera) return line('warn', 'camera-off', 'console.noPicture', 'console.noPictureNote', 'show')
  if (!venue.microphone) return line('warn', 'mic-off', 'console.noSound', 'console.noSoundNote', 'show')
  return null
}

const WEIGHT = { alarm: 0, warn: 1, plain: 2 }

export function attention(meeting: MeetingView, quality: Record<string, Quality>): Notice[] {
  const found: Notice[] = []
  for (const venue of Object.values(meeting.venues)) {
    const notice = noticeOf(venue, quality[venue.id])
    if (notice) found.push(notice)
  }
  const order = (id: string) => meeting.venues[id]?.order ?? 0
  return found.sort((a, b) => WEIGHT[a.kind] - WEIGHT[b.kind] || order(a.venue) - order(b.venue))
}
