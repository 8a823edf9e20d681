/** The console's own place in the media room: it occupies the main venue, or only watches. */
import { onScopeDispose, ref, shallowRef } from 'vue'
import { Capture, type CaptureKind, type Fault } from '../media/capture'
import { MediaSession, OWN_MUTE } from '../media/MediaSession'
import { post } from '../protocol/http'
import type { MediaToken } from '../protocol/types'
import { say } from '../ui/i18n'

export type Seat = ReturnType<typeof takeSeat>

export function takeSeat(meeting: string, observe: boolean) {
  /** Grows with every change of the session; reading it makes a template follow the session. */
  const version = ref(0)
  const occupies = ref<string | null>(null)
  const identity = ref('')
  const failure = ref('')
  const faults = ref<Partial<Record<CaptureKind, Fault>>>({})

  /** Kept for as long as the console is open, so that a rejoin never finds the camera busy. */
  const capture = new Capture()
  capture.subscribe((kind) => {
    const problem = capture.fault(kind)
    if (problem) faults.value[kind] = problem
    else delete faults.value[kind]
  })

  const fetchToken = async (): Promise<MediaToken> => {
    const got = await post<MediaToken>(`/api/v1/meetings/${encodeURIComponent(meeting)}/media-token`, { ...OWN_MUTE, observe })
    occupies.value = got.occupies
    identity.value = got.identity
    return got
  }

  const session = shallowRef(
    new MediaSession({
      onChange: () => (version.value += 1),
      renew: async () => (await fetchToken()).token
    })
  )
  let closed = false
  let askedAgain = false
  let retry: ReturnType<typeof setTimeout> | null = null

  async function open(): Promise<void> {
    if (retry) clearTimeout(retry)
    let got: MediaToken
    try {
      got = await fetchToken()
      failure.value = ''
    } catch (error) {
      failure.value = say(error)
      if (!closed) retry = setTimeout(() => void open(), 3_000)
      return
    }
    if (closed) return
    // A reload may find the seat still held by the page that was just here: ask once more, then leave it to the person.
    if (!got.occupies && !observe && !askedAgain) {
      askedAgain = true
      retry = setTimeout(() => void open(), 4_000)
    }
    if (got.occupies) {
      void capture.open('camera')
      void capture.open('microphone')
    }
    const publish = got.occupies ? { camera: true, microphone: true, capture } : null
    // A first join that fails goes on by itself; onChange tells.
    await session.value.connect(got.token, { publish }).catch(() => undefined)
  }

  function close(): void {
    closed = true
    if (retry) clearTimeout(retry)
    void session.value.close()
    capture.close()
  }
  onScopeDispose(close)
  void open()

  return { session, version, occupies, identity, failure, faults, capture, mayOccupy: !observe, takeSeat: open, close }
}
