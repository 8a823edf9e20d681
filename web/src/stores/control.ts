import { reactive } from 'vue'
import { ControlSocket, type LinkState } from '../protocol/socket'
import type { Command, Quality, View } from '../protocol/types'
import { session } from './session'

export interface ControlOptions {
  /** Consoles: the meeting to look at. */
  meeting?: string | null
  /** The session has ended: go to the sign-in page. */
  signedOut?: () => void
}

const LEVEL_LASTS_MS = 1_500

export type Control = ReturnType<typeof openControl>

/** One page's link to the control plane with what it last said, reactive. Close it when the page goes. */
export function openControl(options: ControlOptions = {}) {
  let watched = options.meeting ?? null
  let asking = false
  const heard = new Map<string, number>()

  const state = reactive({
    link: 'idle' as LinkState,
    /** Was there ever a snapshot; with link !== 'open' the picture is old but still shown. */
    met: false,
    view: null as View | null,
    levels: {} as Record<string, number>,
    quality: {} as Record<string, Quality>,
    offset_ms: 0
  })

  const address = () => {
    const scheme = location.protocol === 'https:' ? 'wss:' : 'ws:'
    const query = watched ? `?meeting=${encodeURIComponent(watched)}` : ''
    return `${scheme}//${location.host}/ws${query}`
  }

  const socket = new ControlSocket(address, {
    hold(view) {
      state.view = view
      state.met = true
      return state.view! // the reactive proxy: changes by path are seen
    },
    levels(venues) {
      // Only who changed is named, and a venue that falls silent may not be: old readings fade.
      const now = Date.now()
      for (const [id, dbov] of Object.entries(venues)) {
        state.levels[id] = dbov
        heard.set(id, now)
      }
      for (const [id, at] of heard) {
        if (now - at < LEVEL_LASTS_MS) continue
        heard.delete(id)
        delete state.levels[id]
      }
    },
    quality(venues) {
      Object.assign(state.quality, venues)
    },
    state(link) {
      state.link = link
      if (link !== 'open') state.levels = {}
    },
    offset(ms) {
      state.offset_ms = ms
    },
    failed() {
      if (asking) return
      asking = true
      void session.ended().then((ended) => {
        asking = false
        if (!ended) return
        session.forget()
        socket.close()
        options.signedOut?.()
      })
    }
  })
  socket.open()

  return {
    state,
    /** The server's clock, epoch milliseconds. */
    now: () => Date.now() + state.offset_ms,
    send(command: Command): Promise<void> {
      return socket.command(state.view?.meeting?.id ?? watched ?? '', command)
    },
    watch(meeting: string | null): void {
      watched = meeting
      socket.watch(meeting)
    },
    profile: (devices: { camera: boolean; microphone: boolean }) => socket.profile(devices),
    close: () => socket.close()
  }
}
