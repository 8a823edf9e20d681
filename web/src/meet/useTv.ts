/** What a television needs of its browser: size of the drawing, controls that come and go, a screen that stays on. */
import { onBeforeUnmount, onMounted, ref } from 'vue'

/** Factor from the 1920 × 1080 drawing to this screen. */
export function useScale() {
  const scale = ref(1)
  const measure = (): void => {
    const fit = Math.min(window.innerWidth / 1920, window.innerHeight / 1080)
    scale.value = Math.min(3, Math.max(0.5, fit))
  }
  measure()
  onMounted(() => window.addEventListener('resize', measure))
  onBeforeUnmount(() => window.removeEventListener('resize', measure))
  return scale
}

export const CONTROLS_MS = 4000

/** True for four seconds after any input; `hold` keeps it true (a panel is open). */
export function useAwake(hold: () => boolean) {
  const awake = ref(false)
  let timer: ReturnType<typeof setTimeout> | null = null
  const sleep = (): void => {
    timer = null
    if (hold()) wake()
    else awake.value = false
  }
  const wake = (): void => {
    awake.value = true
    if (timer !== null) clearTimeout(timer)
    timer = setTimeout(sleep, CONTROLS_MS)
  }
  const hide = (): void => {
    if (timer !== null) clearTimeout(timer)
    timer = null
    awake.value = false
  }
  const onMove = (event: PointerEvent): void => {
    // Chromium sends a move without movement when something appears under a resting pointer.
    if (event.movementX !== 0 || event.movementY !== 0 || event.pointerType !== 'mouse') wake()
  }
  // A finger on the picture only brings the controls: it must not press the button that appears under it.
  let swallow = false
  const onDown = (event: PointerEvent): void => {
    swallow = !awake.value && event.pointerType !== 'mouse'
    wake()
  }
  const onClick = (event: MouseEvent): void => {
    if (swallow) {
      event.preventDefault()
      event.stopPropagation()
    }
    swallow = false
  }
  onMounted(() => {
    window.addEventListener('pointermove', onMove)
    window.addEventListener('pointerdown', onDown, true)
    window.addEventListener('click', onClick, true)
  })
  onBeforeUnmount(() => {
    window.removeEventListener('pointermove', onMove)
    window.removeEventListener('pointerdown', onDown, true)
    window.removeEventListener('click', onClick, true)
    if (timer !== null) clearTimeout(timer)
  })
  return { awake, wake, hide }
}

/** Asks the browser not to switch the screen off, again whenever the page is shown. */
export function useWakeLock(): void {
  let lock: WakeLockSentinel | null = null
  const ask = async (): Promise<void> => {
    if (document.visibilityState !== 'visible' || !('wakeLock' in navigator)) return
    try {
      lock = await navigator.wakeLock.request('screen')
    } catch {
      lock = null // battery saver or policy: the room's power settings decide
    }
  }
  const onShow = (): void => void ask()
  onMounted(() => {
    void ask()
    document.addEventListener('visibilitychange', onShow)
  })
  onBeforeUnmount(() => {
    document.removeEventListener('visibilitychange', onShow)
    void lock?.release().catch(() => undefined)
  })
}

/** The clock of the wall, once a second, from the server's time. */
export function useClock(now: () => number) {
  const clock = ref(new Date(now()))
  const timer = setInterval(() => (clock.value = new Date(now())), 1000)
  onBeforeUnmount(() => clearInterval(timer))
  return clock
}

/** Moves the focus among the buttons of a row with the arrow keys of a remote control. */
export function moveFocus(row: HTMLElement | null, step: number): void {
  if (!row) return
  const buttons = [...row.querySelectorAll<HTMLElement>('button:not(:disabled), select, input')]
  if (!buttons.length) return
  const at = buttons.indexOf(document.activeElement as HTMLElement)
  const next = at < 0 ? 0 : (at + step + buttons.length) % buttons.length
  buttons[next]?.focus()
}
