/** Times as operators read them. Pure. */

const two = (n: number) => String(n).padStart(2, '0')

/** Wall clock of an epoch in ms, e.g. 10:42:10. */
export function clock(ms: number): string {
  const d = new Date(ms)
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`
}

export function dateClock(ms: number): string {
  const d = new Date(ms)
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${two(d.getHours())}:${two(d.getMinutes())}`
}

/** Length of time as 00:42:10; never negative (clocks differ a little). */
export function span(ms: number): string {
  const s = Math.max(0, Math.floor(ms / 1000))
  return `${two(Math.floor(s / 3600))}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`
}

/** Short length as 03:12. */
export function shortSpan(ms: number): string {
  const s = Math.max(0, Math.floor(ms / 1000))
  return s >= 3600 ? span(ms) : `${two(Math.floor(s / 60))}:${two(s % 60)}`
}

export function bitrate(kbps: number | undefined): string {
  if (kbps === undefined) return '–'
  return kbps >= 1000 ? `${(kbps / 1000).toFixed(1)} Mbps` : `${Math.round(kbps)} kbps`
}
