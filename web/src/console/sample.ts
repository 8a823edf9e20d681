/** A meeting for tests. */
import type { MeetingView, VenueView } from '../protocol/types'

export function venue(id: string, over: Partial<VenueView> = {}): VenueView {
  return {
    id, name: `${id}总工会`, short: id, pinyin: id, parent: 'main', tier: 1, order: 1, status: 'connected', reason: null, online: true,
    muted_by_chair: false, muted_locally: false, camera: true, microphone: true, sharing: false, since: 0, ...over
  }
}

export function meeting(venues: VenueView[], over: Partial<MeetingView> = {}): MeetingView {
  const main = venue('main', { parent: null, tier: 0, order: 0 })
  return {
    id: 'mt_1', title: '会议', status: 'active', main_venue: 'main', created_at: 0, locked: false, broadcast: null, floor: null,
    stage: null, mode: 'free', recording: { state: 'off', since: null, recording_id: null }, content: null, queue: [],
    venues: Object.fromEntries([main, ...venues].map((v) => [v.id, v])), ...over
  }
}
