import { describe, expect, it } from 'vitest'
import { branches, matches, wallColumns, wallPages } from './order'
import { venue } from './sample'

const county = (id: string, parent: string, order: number) => venue(id, { parent, tier: 2, order })
const seats = [
  county('b2', 'b', 2), county('b1', 'b', 1), county('a1', 'a', 1),
  venue('b', { order: 2 }), venue('a', { order: 1 }), venue('main', { parent: null, tier: 0, order: 0 })
]

describe('the tree', () => {
  it('main venue 0, then protocol order, counties below their city', () => {
    const tree = branches(seats, 'main')
    expect(tree.map((one) => [one.venue.id, one.no, one.below.map((v) => v.id)])).toEqual([
      ['main', 0, []], ['a', 1, ['a1']], ['b', 2, ['b1', 'b2']]
    ])
  })
  it('a county whose city is not in the meeting is not lost', () => {
    expect(branches([seats[5]!, county('x', 'absent', 1)], 'main').map((one) => one.venue.id)).toEqual(['main', 'x'])
  })
  it('a city can be the main venue', () => {
    const tree = branches(seats, 'a')
    expect(tree[0]!.venue.id).toBe('a')
    expect(tree.flatMap((one) => [one.venue.id, ...one.below.map((v) => v.id)]).sort()).toEqual(['a', 'a1', 'b', 'b1', 'b2', 'main'])
  })
  it('is searched by name, short name and pinyin', () => {
    const wuhu = venue('340200', { name: '芜湖市总工会', short: '芜湖', pinyin: 'wuhu' })
    for (const text of ['芜湖', '总工会', 'wuh', 'WU HU', '  ']) expect(matches(wuhu, text), text).toBe(true)
    expect(matches(wuhu, 'hefei')).toBe(false)
  })
})

describe('the wall', () => {
  it('first tier first, then counties in protocol order; every venue has exactly one place', () => {
    const cities = Array.from({ length: 18 }, (_, n) => venue(`c${n}`, { order: n + 1 }))
    const counties = Array.from({ length: 103 }, (_, n) => county(`k${n}`, `c${n % 16}`, n))
    const tree = branches([venue('main', { parent: null, tier: 0, order: 0 }), ...cities, ...counties], 'main')
    const pages = wallPages(tree)
    expect(pages[0]).toMatchObject({ range: null })
    expect(pages[0]!.ids).toHaveLength(19)
    expect(pages.map((page) => page.ids.length)).toEqual([19, 19, 19, 19, 19, 19, 8])
    expect(pages.at(-1)!.range).toEqual([96, 103])
    expect(new Set(pages.flatMap((page) => page.ids)).size).toBe(122)
  })
  it('few venues get larger tiles', () => {
    expect([2, 4, 5, 10, 12, 13, 21].map(wallColumns)).toEqual([4, 4, 5, 5, 6, 7, 7])
  })
  it('has a page also when nobody is there', () => expect(wallPages([])).toEqual([{ range: null, ids: [] }]))
})
