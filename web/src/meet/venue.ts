/**
 * The venue page's engine: puts together what the room state asks (`rules`), the media session and this
 * computer's devices. Everything else on the page only shows what is here.
 */
import { computed, onScopeDispose, reactive, ref, shallowRef, triggerRef, watch } from 'vue'
import { Capture, type CaptureKind, type Fault } from '../media/capture'
import { chosenDevice, rememberedDevice } from '../media/devices'
import { MediaSession, OWN_MUTE } from '../media/MediaSession'
import { Ring, setSoundOutput } from '../media/sound'
import { ServerError, Unreachable } from '../protocol/errors'
import { get, post } from '../protocol/http'
import type { MediaToken, MeetingView, VenueEntry } from '../protocol/types'
import type { Control } from '../stores/control'
import { say } from '../ui/i18n'
import { toast } from '../ui/toast'
import { autoAnswer, bannerOf, hear, phaseOf, stageOf, wishOf, type Heard } from './rules'

const AUTO_KEY = 'lianxin.venue.auto'
const MEETING_KEY = 'lianxin.venue.meeting'
const LOCAL_KEY = 'lianxin.venue.local'
/** A seat that the room state still gives us although the server sent us away: ask again after this. */
const REMOVED_RETRY_MS = 1500

export type Venue = ReturnType<typeof useVenue>

function stored(key: string): string | null {
  try {
    return localStorage.getItem(key)
  } catch {
    return null
  }
}

function store(key: string, value: string | null): void {
  try {
    if (value === null) localStorage.removeItem(key)
    else localStorage.setItem(key, value)
  } catch {
    /* private mode: it holds until the page closes */
  }
}

/** A local mute holds through a reload, a restart and a rejoin of the same meeting; a new meeting begins open. */
function storedLocal(meeting: MeetingView, me: string): { mic: boolean; camera: boolean } {
  try {
    const kept: unknown = JSON.parse(stored(LOCAL_KEY) ?? 'null')
    if (kept && typeof kept === 'object' && 'meeting' in kept && kept.meeting === meeting.id) {
      const { mic, camera } = kept as { mic?: unknown; camera?: unknown }
      return { mic: mic !== false, camera: camera !== false }
    }
  } catch {
    /* unreadable: ask the server's memory */
  }
  return { mic: !meeting.venues[me]?.muted_locally, camera: true }
}

export function useVenue(control: Control, me: string) {
  const capture = new Capture()
  const ring = new Ring()
  const auto = ref(autoAnswer(stored(AUTO_KEY), location.search))
  const accepted = ref<string | null>(null)
  const micOn = ref(true)
  const cameraOn = ref(true)
  const faults = reactive<Record<CaptureKind, Fault | null>>({ camera: null, microphone: null })
  const cameraTrack = shallowRef<MediaStreamTrack | null>(null)
  const microphoneTrack = shallowRef<MediaStreamTrack | null>(null)
  const heard = ref<Heard>({ shown: null, rival: null, rival_since: 0 })
  /** The meeting that the network took from us, while the server does not list it as ours yet. */
  const recovered = shallowRef<MeetingView | null>(null)

  const session = new MediaSession({
    onChange: () => triggerRef(media),
    renew: () => mediaToken(),
    speakerId: rememberedDevice('speaker')?.id,
  })
  const media = shallowRef(session)

  const meeting = computed<MeetingView | null>(() => control.state.view?.meeting ?? recovered.value)
  const wish = computed(() => wishOf(meeting.value, me, { auto: auto.value, accepted: accepted.value }))
  // Names of venues that our view of the meeting does not list.
  const tree = shallowRef(new Map<string, VenueEntry>())
  async function readTree(): Promise<void> {
    const answer = await get<{ items: VenueEntry[] }>('/api/v1/venues').catch(() => null)
    if (answer) tree.value = new Map(answer.items.map((v) => [v.id, v]))
  }
  watch(
    () => control.state.link,
    (link) => {
      if (link === 'open' && tree.value.size === 0) void readTree()
    },
    { immediate: true },
  )
  const nameOf = (id: string): string => meeting.value?.venues[id]?.name ?? tree.value.get(id)?.name ?? id
  const shortOf = (id: string): string => meeting.value?.venues[id]?.short ?? tree.value.get(id)?.short ?? nameOf(id)

  const mediaState = computed(() => media.value.state)
  const phase = computed(() => phaseOf(wish.value, media.value.state, media.value.lostReason))
  const stage = computed(() => (meeting.value ? stageOf(meeting.value, me, heard.value.shown, media.value.cameras) : null))
  const banner = computed(() =>
    meeting.value
      ? bannerOf(meeting.value, {
          me,
          media: media.value.state,
          link: control.state.link,
          micOn: micOn.value,
          micWorks: faults.microphone === null,
          sharing: media.value.sharing,
        })
      : null,
  )
  /** What the join follows: a change of this string is a different meeting to be in, or none. */
  const target = computed(() => (wish.value === 'join' ? (meeting.value?.id ?? null) : null))

  async function mediaToken(): Promise<string> {
    const now = meeting.value
    if (!now) throw new Error('no meeting')
    if (now.venues[me]?.status === 'calling') {
      await control.send({ type: 'answer', accept: true }).catch(() => undefined) // the token's answer decides
    }
    try {
      return (await post<MediaToken>(`/api/v1/meetings/${encodeURIComponent(now.id)}/media-token`, OWN_MUTE)).token
    } catch (error) {
      // A clear no, and the room state does not list the meeting as ours: stop asking.
      const refused = error instanceof ServerError && error.status >= 400 && error.status < 500
      if (refused && !control.state.view?.meeting) {
        toast(say(error))
        accepted.value = null
        recovered.value = null
      }
      throw error
    }
  }

  watch(
    target,
    (id) => {
      if (id === null) {
        void session.close()
        heard.value = { shown: null, rival: null, rival_since: 0 }
        return
      }
      store(MEETING_KEY, id)
      const local = storedLocal(meeting.value!, me)
      micOn.value = local.mic
      cameraOn.value = local.camera
      void session
        .connect('', { publish: { camera: cameraOn.value, microphone: micOn.value, capture } })
        .catch(() => undefined) // it goes on trying; the state says so
    },
    { immediate: true },
  )

  // Sent away, but the room state keeps our seat (taken back by the chair within a moment): come again.
  let again: ReturnType<typeof setTimeout> | null = null
  watch(
    () => media.value.state === 'lost' && media.value.lostReason === 'removed' && target.value !== null,
    (stray) => {
      if (again !== null) clearTimeout(again)
      again = stray ? setTimeout(() => session.takeBack(), REMOVED_RETRY_MS) : null
    },
  )

  // What vanished from the view is held until the server has said why (below): a restart must not
  // throw this room back to standby and drop its media for a blink.
  watch(
    () => control.state.view?.meeting ?? null,
    (now, before) => {
      if (now !== null) recovered.value = null
      else if (before !== null) recovered.value = { ...before }
    },
    { flush: 'sync' },
  )

  // Network lost: the snapshot after it may not list the meeting as ours. Ask whether it still waits for us.
  watch(
    () => [control.state.link, control.state.view?.meeting?.id ?? null] as const,
    async ([link, id]) => {
      const last = recovered.value?.id ?? stored(MEETING_KEY)
      if (id !== null || link !== 'open' || last === null) return
      let view: MeetingView | null
      try {
        view = await get<MeetingView>(`/api/v1/meetings/${encodeURIComponent(last)}`)
      } catch (error) {
        if (error instanceof Unreachable) return // asked again when the link is back
        view = null
      }
      if (control.state.view?.meeting) return
      const mine = view !== null && wishOf(view, me, { auto: false, accepted: null }) === 'join'
      recovered.value = mine ? view : null
      if (!mine) store(MEETING_KEY, null)
    },
    { immediate: true },
  )

  watch(
    () => phase.value === 'calling',
    (ringing) => (ringing ? ring.start() : ring.stop()),
    { immediate: true },
  )
  // An acceptance holds for one call: hung up and called again, it rings again.
  watch(wish, (now, before) => {
    if (now === 'none' && before !== 'none') accepted.value = null
  })

  const listening = setInterval(() => {
    if (meeting.value?.main_venue === me) heard.value = hear(heard.value, session.activeSpeakers, me, Date.now())
  }, 250)

  // -- devices ---------------------------------------------------------------------------------------

  function readDevice(kind: CaptureKind): void {
    faults[kind] = capture.fault(kind)
    if (kind === 'camera') cameraTrack.value = capture.track('camera')
    else microphoneTrack.value = capture.track('microphone')
    control.profile({ camera: cameraTrack.value !== null, microphone: microphoneTrack.value !== null })
  }
  const stopDevices = capture.subscribe(readDevice)
  void capture.open('camera')
  void capture.open('microphone')
  void chosenDevice('speaker').then((id) => useSpeaker(id))

  function keepLocal(): void {
    const id = meeting.value?.id
    if (id) store(LOCAL_KEY, JSON.stringify({ meeting: id, mic: micOn.value, camera: cameraOn.value }))
  }

  async function useSpeaker(id: string | undefined): Promise<void> {
    await setSoundOutput(id)
    await session.setSpeaker(id)
  }

  onScopeDispose(() => {
    clearInterval(listening)
    if (again !== null) clearTimeout(again)
    ring.stop()
    stopDevices()
    void session.close()
    capture.close()
  })

  return {
    me,
    control,
    nameOf,
    shortOf,
    capture,
    session,
    media,
    mediaState,
    meeting,
    phase,
    stage,
    banner,
    faults,
    cameraTrack,
    microphoneTrack,
    micOn,
    cameraOn,
    auto,
    useSpeaker,
    setAuto(on: boolean): void {
      auto.value = on
      store(AUTO_KEY, on ? '1' : '0')
    },
    accept(): void {
      accepted.value = meeting.value?.id ?? null
    },
    /** 入会 on the standby page, for a meeting in which this venue is listed. */
    async enter(id: string): Promise<void> {
      recovered.value = await get<MeetingView>(`/api/v1/meetings/${encodeURIComponent(id)}`)
      accepted.value = id
    },
    async decline(): Promise<void> {
      await control.send({ type: 'answer', accept: false })
    },
    async leave(): Promise<void> {
      store(MEETING_KEY, null)
      accepted.value = null
      const id = meeting.value?.id
      if (control.state.view?.meeting) await control.send({ type: 'leave' })
      else if (id) await post(`/api/v1/meetings/${encodeURIComponent(id)}/commands`, { type: 'leave' })
      recovered.value = null
    },
    toggleMicrophone(): void {
      micOn.value = !micOn.value
      keepLocal()
      session.setMicrophone(micOn.value)
    },
    toggleCamera(): void {
      cameraOn.value = !cameraOn.value
      keepLocal()
      session.setCamera(cameraOn.value)
    },
    requestFloor: () => control.send({ type: 'request_floor' }),
    withdrawFloor: () => control.send({ type: 'withdraw_request' }),
    takeBack: () => session.takeBack(),
  }
}
