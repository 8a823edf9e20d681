/** Protocol order, the tree of venues, and the pages of the wall. Pure. */
import type { VenueEntry, VenueView } from '../protocol/types'

type Seat = Pick<VenueEntry, 'id' | 'name' | 'short' | 'pinyin' | 'parent' | 'tier' | 'order'>

export interface Branch<T extends Seat> {
  venue: T
  /** Protocol number on the first tier (main venue 0), null below it. */
  no: number | null
  below: T[]
}

const byOrder = (a: Seat, b: Seat) => a.order - b.order || a.id.localeCompare(b.id)

/** Main venue first, then the first tier in protocol order, each with what stands below it. */
export function branches<T extends Seat>(venues: Iterable<T>, main: string): Branch<T>[] {
  const all = [...venues].sort(byOrder)
  const present = new Set(all.map((v) => v.id))
  const isTop = (v: T) => v.id === main || v.parent === null || v.parent === main || v.tier <= 1 || !present.has(v.parent)
  const top = all.filter(isTop)
  const head = top.filter((v) => v.id === main)
  const rest = top.filter((v) => v.id !== main)
  return [...head, ...rest].map((venue, at) => ({
    venue,
    no: head.length ? at : at + 1,
    below: venue.id === main ? [] : all.filter((v) => !isTop(v) && v.parent === venue.id)
  }))
}

export function matches(venue: Seat, wanted: string): boolean {
  const text = wanted.trim().toLowerCase()
  if (!text) return true
  return venue.name.includes(text) || venue.short.includes(text) || venue.pinyin.toLowerCase().includes(text.replace(/\s+/g, ''))
}

export interface WallPage {
  /** Null: the first tier. Otherwise the first and last place among the counties, from 1. */
  range: [number, number] | null
  ids: string[]
}

/** Tiles of one page; two more cells of the 7 × 3 grid are for content and for turning pages. */
export const PAGE_TILES = 19

/**
 * The first page is the first tier; the counties follow in protocol order. Every venue has its fixed place, whether it is
 * connected or not, so that nothing moves when one comes or goes.
 */
export function wallPages(tree: Branch<VenueView>[]): WallPage[] {
  const first = tree.map((b) => b.venue.id)
  const below = tree.flatMap((b) => b.below.map((v) => v.id))
  const pages: WallPage[] = []
  for (let at = 0; at < Math.max(1, first.length); at += PAGE_TILES) pages.push({ range: null, ids: first.slice(at, at + PAGE_TILES) })
  for (let at = 0; at < below.length; at += PAGE_TILES) {
    const ids = below.slice(at, at + PAGE_TILES)
    pages.push({ range: [at + 1, at + ids.length], ids })
  }
  return pages
}

/** Columns of the wall: few venues get larger tiles, the full first tier stands 7 × 3. */
export function wallColumns(cells: number): number {
  if (cells <= 4) return 4
  if (cells <= 10) return 5
  if (cells <= 12) return 6
  return 7
}
