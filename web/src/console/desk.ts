/** The chair's desk: what is chosen, what was ordered and how it went. One per open meeting. */
import { computed, inject, onScopeDispose, provide, reactive, ref, watch, type InjectionKey } from 'vue'
import { say, t, type TextKey } from '../ui/i18n'
import type { Command, MeetingView, Quality } from '../protocol/types'
import type { Control } from '../stores/control'
import { attention } from './attention'
import { digest, happened, type Digest, type Entry } from './chronicle'
import { branches, wallPages } from './order'
import { actionsOf, onAir, type TileAction } from './tiles'

/** How long a refusal stands in its tile. */
const ERROR_MS = 6_000
const MOST_ENTRIES = 300

export type Desk = ReturnType<typeof createDesk>
const KEY: InjectionKey<Desk> = Symbol('desk')

export function useDesk(): Desk {
  const desk = inject(KEY)
  if (!desk) throw new Error('no desk above this component')
  return desk
}

export interface Outcome {
  at: number
  text: string
  ok: boolean
}

export function createDesk(control: Control, meeting: () => MeetingView, mayCommand: () => boolean) {
  const view = computed(meeting)
  const preview = ref<string | null>(null)
  const page = ref(0)
  const direct = ref(false)
  const onlyFaults = ref(false)
  const errors = reactive<Record<string, string>>({})
  const busy = reactive<Record<string, boolean>>({})
  const outcome = ref<Outcome | null>(null)
  const now = ref(control.now())
  const floorSince = ref<number | null>(null)
  const stored = `lianxin.log.${view.value.id}`
  const log = ref<Entry[]>(recall(stored))

  const ticking = setInterval(() => (now.value = control.now()), 500)
  const fading = new Map<string, ReturnType<typeof setTimeout>>()
  onScopeDispose(() => {
    clearInterval(ticking)
    for (const timer of fading.values()) clearTimeout(timer)
  })

  const quality = computed<Record<string, Quality>>(() => control.state.quality)
  const tree = computed(() => branches(Object.values(view.value.venues), view.value.main_venue))
  const pages = computed(() => wallPages(tree.value))
  const numbers = computed(() => new Map(tree.value.map((branch) => [branch.venue.id, branch.no])))
  const notices = computed(() => attention(view.value, quality.value))
  const faulty = computed(() => new Set(notices.value.map((notice) => notice.venue)))
  const connected = computed(() => Object.values(view.value.venues).filter((v) => v.status === 'connected').length)
  const live = computed(() => control.state.link === 'open')
  const air = computed(() => onAir(view.value))

  // The log is told from differences; a snapshot after a lost link is one difference like any other.
  let past: Digest = digest(view.value)
  watch(
    view,
    (after) => {
      const next = digest(after)
      const entries = happened(past, next, control.now())
      if (next.floor !== past.floor) floorSince.value = next.floor ? control.now() : null
      past = next
      if (entries.length) write(entries)
    },
    { deep: true, flush: 'post' }
  )
  watch(live, (open) => write([{ at: control.now(), key: open ? 'console.logBack' : 'console.logOffline', values: {}, kind: open ? 'plain' : 'alarm' }]))

  function write(entries: Entry[]): void {
    log.value = [...entries.reverse(), ...log.value].slice(0, MOST_ENTRIES)
    try {
      sessionStorage.setItem(stored, JSON.stringify(log.value))
    } catch {
      // no storage: the log lasts as long as the page
    }
  }

  const nameOf = (id: string | null) => (id && view.value.venues[id]?.short) || id || ''

  function tell(text: string, ok: boolean): void {
    outcome.value = { at: control.now(), text, ok }
  }

  /** Sends a command; a refusal becomes a sentence in the venue's tile for six seconds, and a line of the log. */
  async function run(command: Command, act: TextKey): Promise<boolean> {
    const venue = 'venue' in command ? (command.venue ?? null) : null
    const what = venue ? `${t(act)} ${nameOf(venue)}` : t(act)
    const mark = venue ?? command.type
    if (!mayCommand()) {
      tell(t('console.readOnly'), false)
      return false
    }
    busy[mark] = true
    try {
      await control.send(command)
      tell(t('console.done', { act: what }), true)
      if (venue) forgive(venue)
      return true
    } catch (error) {
      const why = say(error)
      if (venue) blame(venue, why)
      tell(`${what}：${why}`, false)
      write([{ at: control.now(), key: 'console.logFailed', values: { act: what, why }, kind: 'warn' }])
      return false
    } finally {
      delete busy[mark]
    }
  }

  function blame(venue: string, why: string): void {
    forgive(venue)
    errors[venue] = why
    fading.set(venue, setTimeout(() => forgive(venue), ERROR_MS))
  }

  function forgive(venue: string): void {
    clearTimeout(fading.get(venue))
    fading.delete(venue)
    delete errors[venue]
  }

  /** A venue was pointed at: into preview, or straight to air in direct mode. */
  function choose(venue: string): void {
    preview.value = venue
    const at = pages.value.findIndex((one) => one.ids.includes(venue))
    if (at >= 0) page.value = at
    if (direct.value) void act(venue, 'broadcast')
    else tell(t('console.toPreview', { venue: nameOf(venue) }), true)
  }

  function act(venue: string, action: TileAction): Promise<boolean> {
    switch (action) {
      case 'call':
        return run({ type: 'call', venue }, 'console.act_call')
      case 'hangup':
        return run({ type: 'hang_up', venue }, 'console.act_hangup')
      case 'broadcast':
        return view.value.stage === venue && view.value.mode === 'broadcast'
          ? run({ type: 'stop_broadcast' }, 'console.stopBroadcast')
          : run({ type: 'broadcast', venue }, 'console.act_broadcast')
      case 'floor':
        return run({ type: 'give_floor', venue }, 'console.giveFloor')
      case 'mute':
        return run({ type: 'mute', venue }, 'console.act_mute')
      case 'unmute':
        return run({ type: 'unmute', venue }, 'console.act_unmute')
    }
  }

  const take = () => (preview.value ? run({ type: 'broadcast', venue: preview.value }, 'console.act_broadcast') : Promise.resolve(false))
  const giveFloor = () => (preview.value ? act(preview.value, 'floor') : Promise.resolve(false))
  function stop(): Promise<boolean> {
    if (view.value.mode === 'floor') return run({ type: 'free_discussion' }, 'console.freeDiscussion')
    if (view.value.mode === 'broadcast') return run({ type: 'stop_broadcast' }, 'console.stopBroadcast')
    return Promise.resolve(false)
  }
  function grantFirst(): Promise<boolean> {
    const first = view.value.queue[0]
    return first ? act(first.venue, 'floor') : Promise.resolve(false)
  }
  const toggleRecording = () =>
    view.value.recording.state === 'on'
      ? run({ type: 'stop_recording' }, 'console.logRecordsNot')
      : run({ type: 'start_recording' }, 'console.logRecords')
  const toggleLock = () => (view.value.locked ? run({ type: 'unlock' }, 'console.logUnlocked') : run({ type: 'lock' }, 'console.logLocked'))
  const muteAll = () => run({ type: 'mute_all' }, 'console.keyMuteAll')
  const unmuteAll = () => run({ type: 'unmute' }, 'console.keyUnmuteAll')
  const callAll = () => run({ type: 'call' }, 'console.keyCallAll')
  const end = () => run({ type: 'end' }, 'console.endMeeting')

  function turn(by: number): void {
    page.value = Math.min(pages.value.length - 1, Math.max(0, page.value + by))
  }

  const can = (venue: string, action: TileAction) => live.value && mayCommand() && actionsOf(view.value, venue).includes(action)

  const desk = {
    control, view, preview, page, pages, direct, onlyFaults, errors, busy, outcome, now, floorSince, log,
    quality, tree, numbers, notices, faulty, connected, live, air, mayCommand,
    nameOf, choose, act, run, take, giveFloor, stop, grantFirst, toggleRecording, toggleLock, muteAll, unmuteAll, callAll, end, turn, can, tell
  }
  provide(KEY, desk)
  return desk
}

function recall(key: string): Entry[] {
  try {
    const kept: unknown = JSON.parse(sessionStorage.getItem(key) ?? '[]')
    return Array.isArray(kept) ? (kept as Entry[]).slice(0, MOST_ENTRIES) : []
  } catch {
    return []
  }
}
