/** A page that stays open for months takes a new version by itself, when nobody is in a meeting. */
import { onBeforeUnmount, watch } from 'vue'
import { entryScript } from './rules'

const EVERY_MS = 5 * 60_000

export function useVersionWatch(idle: () => boolean): void {
  const own = entryScript(document.head.innerHTML + document.body.innerHTML)
  async function look(): Promise<void> {
    if (own === null || !idle()) return
    try {
      const answer = await fetch('/', { cache: 'no-store', signal: AbortSignal.timeout(5000) })
      if (!answer.ok) return
      const now = entryScript(await answer.text())
      if (now !== null && now !== own && idle()) location.reload()
    } catch {
      /* unreachable: the next look will tell */
    }
  }
  const timer = setInterval(() => void look(), EVERY_MS)
  // A link that opens anew often means a restarted, perhaps newer, server.
  watch(idle, (now) => {
    if (now) void look()
  })
  onBeforeUnmount(() => clearInterval(timer))
}
