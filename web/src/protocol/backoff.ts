/** Waiting time before the n-th attempt to reconnect (n from 0): 0.3, 0.6, 1.2 … 4 s, each ± 20 %. */
export function backoffMs(attempt: number, random: () => number = Math.random): number {
  const base = Math.min(4000, 300 * 2 ** Math.min(attempt, 10))
  return Math.round(base * (0.8 + 0.4 * random()))
}
