import { describe, expect, it } from 'vitest'
import zh from './zh'
import en from './en'

const slots = (text: string) => [...text.matchAll(/\{(\w+)\}/g)].map((m) => m[1]).sort()

describe('both languages', () => {
  it('have the same areas', () => expect(Object.keys(en).sort()).toEqual(Object.keys(zh).sort()))
  for (const area of Object.keys(zh) as (keyof typeof zh)[]) {
    const chinese: Record<string, string> = zh[area]
    const english: Record<string, string> = en[area]
    it(`${area}: the same keys, none empty, the same slots`, () => {
      expect(Object.keys(english).sort()).toEqual(Object.keys(chinese).sort())
      for (const [key, text] of Object.entries(chinese)) {
        expect(text.trim(), key).not.toBe('')
        expect(english[key]?.trim(), key).not.toBe('')
        expect(slots(english[key] ?? ''), key).toEqual(slots(text))
      }
    })
  }
})
