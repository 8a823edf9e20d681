import { reactive } from 'vue'

export interface Toast {
  id: number
  kind: 'ok' | 'alarm'
  text: string
}

export const toasts = reactive<Toast[]>([])
const SHOWN_MS = 6_000
const MOST = 4
let serial = 0

/** A sentence in the corner for six seconds; at most four stand at once. */
export function toast(text: string, kind: Toast['kind'] = 'alarm'): void {
  const id = ++serial
  toasts.push({ id, kind, text })
  if (toasts.length > MOST) toasts.shift()
  setTimeout(() => dismiss(id), SHOWN_MS)
}

export function dismiss(id: number): void {
  const at = toasts.findIndex((one) => one.id === id)
  if (at >= 0) toasts.splice(at, 1)
}
