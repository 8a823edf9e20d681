import { describe, expect, it } from 'vitest'
import type { MeetingView, VenueReason, VenueStatus, VenueView } from '../protocol/types'
import { autoAnswer, bannerOf, entryScript, hear,
  lineCause, HEARD_HOLD_MS, phaseOf, stageOf, wishOf, type BannerFacts, type Heard } from './rules'

const MAIN = '340000'
const HEFEI = '340100'
const WUHU = '340200'

function venue(id: string, status: VenueStatus = 'connected', more: Partial<VenueView> = {}): VenueView {
  return {
    id,
    name: id,
    short: id,
    pinyin: '',
    parent: id === MAIN ? null : MAIN,
    tier: id === MAIN ? 0 : 1,
    order: Number(id),
    status,
    reason: null,
    online: true,
    muted_by_chair: false,
    muted_locally: false,
    camera: true,
    microphone: true,
    sharing: false,
    since: 0,
    ...more,
  }
}

function meeting(more: Partial<MeetingView> = {}, venues: VenueView[] = [venue(MAIN), venue(HEFEI), venue(WUHU)]): MeetingView {
  return {
    id: 'mt_1',
    title: '全省工会系统视频会议',
    status: 'active',
    main_venue: MAIN,
    created_at: 0,
    locked: false,
    broadcast: null,
    floor: null,
    stage: null,
    mode: 'free',
    recording: { state: 'off', since: null, recording_id: null },
    content: null,
    queue: [],
    venues: Object.fromEntries(venues.map((v) => [v.id, v])),
    ...more,
  }
}

const FACTS: BannerFacts = { me: HEFEI, media: 'connected', link: 'open', micOn: true, micWorks: true, sharing: false }

describe('join rule', () => {
  const ringing = { auto: false, accepted: null }
  const withOwn = (status: VenueStatus, reason: VenueReason | null = null) => meeting({}, [venue(MAIN), venue(HEFEI, status, { reason })])

  it('joins when connected, whatever the answering', () => expect(wishOf(withOwn('connected'), HEFEI, ringing)).toBe('join'))
  it('rings when called', () => expect(wishOf(withOwn('calling'), HEFEI, ringing)).toBe('ring'))
  it('answers by itself', () => expect(wishOf(withOwn('calling'), HEFEI, { auto: true, accepted: null })).toBe('join'))
  it('joins what was accepted, and only that', () => {
    expect(wishOf(withOwn('calling'), HEFEI, { auto: false, accepted: 'mt_1' })).toBe('join')
    expect(wishOf(withOwn('calling'), HEFEI, { auto: false, accepted: 'mt_0' })).toBe('ring')
  })
  it('comes back after a lost network', () => expect(wishOf(withOwn('left', 'network_lost'), HEFEI, ringing)).toBe('join'))
  for (const reason of ['hung_up', 'refused', 'left', 'removed', 'no_answer'] as const) {
    it(`stays in standby after ${reason}`, () => {
      expect(wishOf(withOwn('left', reason), HEFEI, { auto: true, accepted: null })).toBe('none')
    })
  }
  it('goes in again when somebody here asks, but not after the chair hung up', () => {
    const asked = { auto: false, accepted: 'mt_1' }
    expect(wishOf(withOwn('left', 'left'), HEFEI, asked)).toBe('join')
    expect(wishOf(withOwn('idle'), HEFEI, asked)).toBe('join')
    expect(wishOf(withOwn('left', 'hung_up'), HEFEI, asked)).toBe('none')
  })
  it('has nothing to do without a meeting, in an ended one, or when not listed', () => {
    expect(wishOf(null, HEFEI, ringing)).toBe('none')
    expect(wishOf(meeting({ status: 'ended' }), HEFEI, ringing)).toBe('none')
    expect(wishOf(meeting(), '349999', { auto: true, accepted: null })).toBe('none')
  })
})

describe('phase', () => {
  it('follows wish and media', () => {
    expect(phaseOf('none', 'connected', null)).toBe('standby')
    expect(phaseOf('ring', 'idle', null)).toBe('calling')
    expect(phaseOf('join', 'idle', null)).toBe('joining')
    expect(phaseOf('join', 'connecting', null)).toBe('joining')
    expect(phaseOf('join', 'connected', null)).toBe('in-meeting')
    expect(phaseOf('join', 'reconnecting', null)).toBe('reconnecting')
    expect(phaseOf('join', 'lost', 'removed')).toBe('reconnecting')
    expect(phaseOf('join', 'lost', 'replaced')).toBe('replaced')
  })
  it('a hung up venue that was replaced is simply in standby', () => expect(phaseOf('none', 'lost', 'replaced')).toBe('standby'))
})

describe('stage', () => {
  const camera = (id: string) => ({ venue: id, source: 'camera' })
  const ALL = [WUHU, HEFEI]

  it('branches see the main venue while nothing is broadcast', () => {
    expect(stageOf(meeting(), HEFEI, WUHU, ALL)).toEqual({ main: camera(MAIN), inset: null })
  })
  it('everybody sees the stage venue, which itself sees the main venue', () => {
    const wuhu = meeting({ stage: WUHU, broadcast: WUHU, mode: 'broadcast' })
    expect(stageOf(wuhu, HEFEI, null, ALL).main).toEqual(camera(WUHU))
    expect(stageOf(wuhu, MAIN, HEFEI, ALL).main).toEqual(camera(WUHU))
    expect(stageOf(wuhu, WUHU, HEFEI, ALL).main).toEqual(camera(MAIN))
  })
  it('the main venue sees the loudest, else the first present, else nobody', () => {
    expect(stageOf(meeting(), MAIN, WUHU, ALL).main).toEqual(camera(WUHU))
    expect(stageOf(meeting(), MAIN, null, ALL).main).toEqual(camera(HEFEI))
    expect(stageOf(meeting(), MAIN, HEFEI, [WUHU]).main).toEqual(camera(WUHU))
    expect(stageOf(meeting(), MAIN, null, []).main).toBeNull()
  })
  it('the main venue sees venues that its view does not list', () => {
    expect(stageOf(meeting({}, [venue(MAIN)]), MAIN, WUHU, ALL).main).toEqual(camera(WUHU))
  })
  it('the main venue on air sees the others, not itself', () => {
    expect(stageOf(meeting({ stage: MAIN }), MAIN, WUHU, ALL).main).toEqual(camera(WUHU))
  })
  it('content takes the stage, people go to the inset; who shares sees people', () => {
    const shared = meeting({ content: { venue: WUHU }, stage: WUHU })
    expect(stageOf(shared, HEFEI, null, ALL)).toEqual({ main: { venue: WUHU, source: 'screen_share' }, inset: camera(WUHU) })
    expect(stageOf(shared, WUHU, null, ALL)).toEqual({ main: camera(MAIN), inset: null })
  })
})

describe('loudest with a hold', () => {
  const silent: Heard = { shown: null, rival: null, rival_since: 0 }
  it('takes the first speaker at once, ignores itself, keeps it through silence', () => {
    const first = hear(silent, [MAIN, WUHU], MAIN, 0)
    expect(first.shown).toBe(WUHU)
    expect(hear(first, [], MAIN, 100).shown).toBe(WUHU)
    expect(hear(silent, [MAIN], MAIN, 0).shown).toBeNull()
  })
  it('changes only after the rival held', () => {
    let now = hear({ ...silent, shown: WUHU }, [HEFEI], MAIN, 1000)
    expect(now.shown).toBe(WUHU)
    now = hear(now, [HEFEI], MAIN, 1000 + HEARD_HOLD_MS - 1)
    expect(now.shown).toBe(WUHU)
    now = hear(now, [HEFEI], MAIN, 1000 + HEARD_HOLD_MS)
    expect(now.shown).toBe(HEFEI)
  })
  it('a cough is forgotten', () => {
    const cough = hear({ ...silent, shown: WUHU }, [HEFEI], MAIN, 1000)
    expect(hear(cough, [WUHU], MAIN, 1500).rival).toBeNull()
  })
})

describe('banner', () => {
  const muted = (by_chair: boolean) => meeting({}, [venue(MAIN), venue(HEFEI, 'connected', { muted_by_chair: by_chair })])

  it('keeps the two mutes apart', () => {
    expect(bannerOf(muted(true), FACTS).key).toBe('mutedByChair')
    expect(bannerOf(muted(true), { ...FACTS, micOn: false }).key).toBe('mutedBoth')
    expect(bannerOf(muted(false), { ...FACTS, micOn: false }).key).toBe('mutedLocally')
    expect(bannerOf(muted(false), FACTS).key).toBe('open')
  })
  it('says who speaks', () => {
    expect(bannerOf(meeting({ floor: HEFEI, stage: HEFEI, mode: 'floor' }), FACTS)).toMatchObject({ key: 'floor', tone: 'floor' })
    expect(bannerOf(meeting({ floor: HEFEI, stage: HEFEI, mode: 'floor' }), { ...FACTS, micOn: false }).key).toBe('floorMuted')
    expect(bannerOf(meeting({ floor: WUHU, stage: WUHU, mode: 'floor' }), FACTS)).toMatchObject({ key: 'listening', speaker: WUHU })
    expect(bannerOf(meeting({ broadcast: HEFEI, stage: HEFEI, mode: 'broadcast' }), FACTS).key).toBe('onAir')
  })
  it('the main venue is not closed by somebody else having the floor', () => {
    expect(bannerOf(meeting({ floor: WUHU, stage: WUHU, mode: 'floor' }), { ...FACTS, me: MAIN }).key).toBe('open')
  })
  it('waits for the chair', () => {
    expect(bannerOf(meeting({}, [venue(MAIN, 'idle'), venue(HEFEI)]), FACTS).key).toBe('waiting')
  })
  it('a lost line comes before all else; a lost control link is said beside', () => {
    expect(bannerOf(muted(true), { ...FACTS, media: 'reconnecting' }).key).toBe('reconnecting')
    expect(bannerOf(muted(true), { ...FACTS, link: 'waiting' })).toMatchObject({ key: 'mutedByChair', also: ['linkDown'] })
  })
  it('tells recording and the place in the queue', () => {
    const asked = meeting({
      queue: [
        { venue: WUHU, at: 1 },
        { venue: HEFEI, at: 2 },
      ],
      recording: { state: 'on', since: 1, recording_id: 'r' },
    })
    expect(bannerOf(asked, FACTS)).toMatchObject({ queued: 2, recording: true, also: ['queued'] })
  })
  it('a dead microphone is named', () => expect(bannerOf(meeting(), { ...FACTS, micWorks: false }).key).toBe('noMicrophone'))
})

describe('the line of this room', () => {
  const cause = (code: string) => ({ cause: { code, zh: '上行丢包 12%，疑似本地网络', en: '', params: {} } })
  it('is said when somebody here can do something about it', () => {
    expect(lineCause(cause('loss_up'))?.zh).toBe('上行丢包 12%，疑似本地网络')
    expect(lineCause(cause('held'))?.code).toBe('held')
    for (const code of ['tcp', 'line_lost']) expect(lineCause(cause(code)), code).toBeNull()
    for (const quality of [undefined, {}, { cause: null }]) expect(lineCause(quality)).toBeNull()
  })
})

describe('small things', () => {
  it('auto answer: address before memory, default on', () => {
    expect(autoAnswer(null, '')).toBe(true)
    expect(autoAnswer('0', '')).toBe(false)
    expect(autoAnswer('0', '?auto=1')).toBe(true)
    expect(autoAnswer('1', '?auto=0')).toBe(false)
  })
  it('finds the entry script', () => {
    expect(entryScript('<script type="module" crossorigin src="/assets/index-Ab_3-x.js"></script>')).toBe('/assets/index-Ab_3-x.js')
    expect(entryScript('<p>502</p>')).toBeNull()
  })
})
