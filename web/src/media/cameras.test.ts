import { describe, expect, it } from 'vitest'
import { cameraWish } from './receiving'

describe('which cameras a page asks for', () => {
  it('says nothing in a small meeting', () => {
    expect(cameraWish(19, false, undefined)).toBe(null)
    expect(cameraWish(19, true, undefined)).toBe(null)
  })

  it('asks for all before the server stops sending them unasked', () => {
    expect(cameraWish(20, false, undefined)).toBe(true)
    expect(cameraWish(25, true, undefined)).toBe(true)
  })

  it('keeps only what is shown beyond 25', () => {
    expect(cameraWish(26, false, true)).toBe(false)
    expect(cameraWish(26, true, true)).toBe(null)
    expect(cameraWish(122, true, undefined)).toBe(true)
    expect(cameraWish(122, false, false)).toBe(null)
  })

  it('takes all back when the meeting shrinks', () => {
    expect(cameraWish(25, false, false)).toBe(true)
    expect(cameraWish(3, false, false)).toBe(true)
  })
})
