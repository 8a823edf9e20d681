// Two venue pages in real browsers against a running server, driven by the host over the API; prints what it saw.
//   node tools/live-meet.mjs http://127.0.0.1:8190 DEMO_ACCOUNTS_JSON OUT_DIR
import { mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { chromium } from 'playwright-core'

const [origin, accountsFile, out = '/tmp/live-meet'] = process.argv.slice(2)
mkdirSync(out, { recursive: true })
const raw = JSON.parse(readFileSync(accountsFile, 'utf8'))
const list = Array.isArray(raw) ? raw : (raw.accounts ?? Object.entries(raw).map(([username, v]) => ({ username, ...(typeof v === 'string' ? { password: v } : v) })))
const password = (name) => list.find((a) => a.username === name).password
const MAIN = '340000'

const signedIn = async (username) => {
  const r = await fetch(`${origin}/api/v1/sessions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ username, password: password(username) }) })
  return (await r.json()).token
}
const host = await signedIn('host')
const call = async (method, path, body) => {
  const r = await fetch(origin + path, { method, headers: { authorization: `Bearer ${host}`, 'content-type': 'application/json' }, body: body && JSON.stringify(body) })
  const text = await r.text()
  if (!r.ok) throw new Error(`${method} ${path}: ${r.status} ${text}`)
  return text ? JSON.parse(text) : null
}
const flags = ['--no-sandbox', '--disable-gpu', '--use-fake-device-for-media-stream=fps=30', '--use-fake-ui-for-media-stream', '--allow-loopback-in-peer-connection', '--disable-features=WebRtcHideLocalIpsWithMdns', '--autoplay-policy=no-user-gesture-required', '--auto-select-desktop-capture-source=Entire screen', '--auto-accept-this-tab-capture']
const browsers = []
async function venue(username, query = '') {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: flags })
  browsers.push(browser)
  const context = await browser.newContext({ viewport: { width: 1366, height: 768 }, locale: 'zh-CN', permissions: ['camera', 'microphone'] })
  const page = await context.newPage()
  page.on('console', (m) => { if (['error', 'warning'].includes(m.type()) || process.env.VERBOSE) console.log(`  [${username}] ${m.type()} ${m.text().slice(0, 300)}`) })
  page.on('pageerror', (e) => console.log(`  [${username}] PAGE ERROR ${e.stack?.slice(0, 600)}`))
  await page.goto(`${origin}/signin`)
  await page.getByTestId('signin-username').fill(username)
  await page.getByTestId('signin-password').fill(password(username))
  await page.getByTestId('signin-submit').click()
  await page.waitForSelector('[data-testid=venue-state][data-state=standby]', { timeout: 20000 })
  if (query) await page.goto(`${origin}/venue${query}`)
  return page
}
const state = (page, s, ms = 30000) => page.waitForSelector(`[data-testid=venue-state][data-state=${s}]`, { timeout: ms })
const video = (page) => page.evaluate(() => { const v = document.querySelector('[data-testid=stage-video]'); return v && { identity: v.dataset.identity, source: v.dataset.source, w: v.videoWidth, h: v.videoHeight, t: +v.currentTime.toFixed(2), ready: v.readyState } })
const playing = async (page, identity, ms = 15000) => {
  const begin = Date.now()
  await page.waitForFunction((id) => { const v = document.querySelector('[data-testid=stage-video]'); return v && v.dataset.identity === id && v.videoWidth > 0 && v.readyState >= 2 }, identity, { timeout: ms })
  return Date.now() - begin
}
const banner = (page) => page.locator('[data-testid=banner]').innerText().then((s) => s.replace(/\n+/g, ' | '))
const step = async (name, work) => {
  const begin = Date.now()
  try { const said = (await work()) ?? ''; console.log(`${name}: ok ${Date.now() - begin} ms`, said) } catch (e) { console.log(`${name}: FAILED ${e.message.split('\n').slice(0, 3).join(' / ')}`) }
}
const only = process.env.ONLY?.split(',')
export { call, MAIN, state, video, playing, banner, step, venue, browsers, out, origin, only }

const scenario = process.env.SCENARIO ?? './live-scenario.mjs'
try {
  const { run } = await import(scenario)
  await run({ call, MAIN, state, video, playing, banner, step, venue, out, origin, shot: (p, n) => p.screenshot({ path: join(out, `${n}.png`) }) })
} finally {
  for (const b of browsers) await b.close()
}
