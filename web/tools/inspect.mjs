/** What is asked of a rendered page beside its picture. Evaluated, not inserted: the pages' policy allows no foreign script. */
import { createRequire } from 'node:module'
import { readFileSync } from 'node:fs'

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

/** Windows of 1366 × 768 and 1920 × 1080 whose text is enlarged to 200 %. */
export const ENLARGED = [[683, 384], [960, 540]]

/** Serious and critical findings of axe, one line each. */
export async function findings(page) {
  await page.evaluate(AXE)
  return page.evaluate(async () => {
    const { violations } = await window.axe.run(document, { resultTypes: ['violations'] })
    return violations.filter((one) => one.impact === 'serious' || one.impact === 'critical').map((one) => `${one.id}: ${one.nodes.length} × ${one.nodes[0].target.join(' ')} ${one.nodes[0].any[0]?.message ?? ''}`)
  })
}

/** Pixels by which the page is wider than its window. */
export const tooWide = (page) => page.evaluate(() => document.documentElement.scrollWidth - innerWidth)

/** Texts that cannot be read whole, because a box that does not scroll cuts them or they lie beyond the page. A title makes up for it. */
export const lostTexts = (page) =>
  page.evaluate(() => {
    const lost = new Set()
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    const root = document.documentElement
    const limit = { left: -1, top: -scrollY - 1, right: root.scrollWidth + 1, bottom: root.scrollHeight - scrollY + 1 }
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const text = node.data.trim()
      const element = node.parentElement
      if (!text || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true }) || element.closest('.sr-only, option, [aria-hidden=true], [title]')) continue
      const range = document.createRange()
      range.selectNodeContents(node)
      const box = range.getBoundingClientRect()
      if (!box.width) continue
      let cut = false
      let scrolls = false
      for (let up = element; up && up !== document.body && !cut && !scrolls; up = up.parentElement) {
        const style = getComputedStyle(up)
        const frame = up.getBoundingClientRect()
        if (/auto|scroll/.test(style.overflowX + style.overflowY)) scrolls = true
        else if (/hidden|clip/.test(style.overflowX + style.overflowY)) cut = box.left < frame.left - 2 || box.right > frame.right + 2 || box.top < frame.top - 3 || box.bottom > frame.bottom + 3
        if (style.position === 'fixed') break
      }
      const beyond = box.left < limit.left || box.right > limit.right || box.top < limit.top || box.bottom > limit.bottom
      if (cut || (beyond && !scrolls)) lost.add(`${element.className || element.tagName.toLowerCase()} “${text.slice(0, 24)}”`)
    }
    return [...lost]
  })
