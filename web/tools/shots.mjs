/**
 * Screenshots of the sign-in page and the console in every state, at 1366 × 768 and 1920 × 1080, some also with text at 200 %, to be
 * looked at; axe's serious findings, cut texts, page errors and requests to outside make it fail.
 * npm run shots [-- --out DIR] [--only NAME]; needs /usr/bin/chromium (or CHROMIUM=…).
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'
import { ENLARGED, findings, lostTexts, tooWide } from './inspect.mjs'
import { serve } from './mock-server.mjs'

const option = (name, other) => {
  const at = process.argv.indexOf(`--${name}`)
  return at < 0 ? other : process.argv[at + 1]
}
const out = option('out', join(tmpdir(), 'lianxin-shots'))
const only = option('only', '')
const web = fileURLToPath(new URL('..', import.meta.url))
const dist = mkdtempSync(join(tmpdir(), 'lianxin-web-'))
mkdirSync(out, { recursive: true })
execFileSync('npx', ['vite', 'build', '--mode', 'shots', '--logLevel', 'error'], { cwd: web, stdio: 'inherit', env: { ...process.env, SHOTS_DIST: dist } })

const server = await serve(dist)
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream', '--autoplay-policy=no-user-gesture-required']
})
const troubles = []

const HOUR = 3_600_000
const past = (n, title) => ({ id: `mt_${n}`, title, status: 'ended', created_at: Date.now() - n * 26 * HOUR })
const LIST = [{ id: 'mt_demo', title: '全省工会系统视频会议', status: 'active', created_at: Date.now() - HOUR }, past(1, '工会干部业务培训（第三期）'), past(2, '劳模工作座谈会'), past(4, '会前联调')]
const inMeeting = async (page) => {
  await page.goto(`${server.url}/console/mt_demo`)
  await page.locator('[data-testid=console][data-state=connected]').waitFor()
  await page.waitForTimeout(1500)
}
const pickHefei = async (page) => {
  await page.getByTestId('tile-340100').focus()
  await page.keyboard.press('Space')
  await page.waitForTimeout(700)
}

const SHOTS = {
  signin: { user: null, run: async (page) => { await page.goto(`${server.url}/signin`); await page.getByTestId('signin-submit').waitFor() } },
  'signin-error': {
    user: null,
    run: async (page) => {
      await page.goto(`${server.url}/signin`)
      await page.getByTestId('signin-username').fill('wuhu')
      await page.getByTestId('signin-password').fill('wrong')
      await page.getByTestId('signin-submit').click()
      await page.getByTestId('signin-error').waitFor()
    }
  },
  'signin-en': { user: null, locale: 'en', run: async (page) => { await page.goto(`${server.url}/signin`); await page.getByTestId('signin-submit').waitFor() } },
  'lobby-empty': { run: async (page) => { await page.goto(`${server.url}/console`); await page.getByTestId('picked-count').waitFor() } },
  lobby: {
    list: LIST,
    run: async (page) => {
      await page.goto(`${server.url}/console`)
      await page.getByTestId('picked-count').waitFor()
      await page.getByTestId('pick-first').click()
      await page.getByTestId('meeting-create').click()
      await page.locator('.picker .caret').nth(4).click()
    }
  },
  'console-empty': { scene: 'empty', run: inMeeting },
  'console-1': { scene: '1', run: async (page) => { await inMeeting(page); await pickHefei(page) } },
  'console-4': { scene: '4', run: inMeeting },
  'console-19': { scene: '19', run: async (page) => { await inMeeting(page); await pickHefei(page) } },
  'console-19-hover': { scene: '19', run: async (page) => { await inMeeting(page); await page.getByTestId('tile-340600').hover(); await page.getByTestId('tile-340600-broadcast').hover(); await page.waitForTimeout(300) } },
  'console-19-en': { scene: '19', locale: 'en', run: async (page) => { await inMeeting(page); await pickHefei(page) } },
  'console-drawer': { scene: '19', run: async (page) => { await inMeeting(page); if (page.viewportSize().width < 1500) await page.getByTestId('drawer').click(); await page.waitForTimeout(300) } },
  'console-mutes': { scene: 'mutes', run: inMeeting },
  'console-lines': { scene: 'lines', waits: ['340600', '340800', '340200'], run: async (page) => { await inMeeting(page); await pickHefei(page) } },
  'console-lines-en': { scene: 'lines', locale: 'en', waits: ['340600', '340800', '340100'], run: async (page) => { await inMeeting(page); await pickHefei(page) } },
  'console-content': { scene: 'content', run: inMeeting },
  'console-122': { scene: '122', run: async (page) => { await inMeeting(page); await page.locator('[data-testid=row-340200] .caret').click(); await page.waitForTimeout(300) } },
  'console-122-counties': { scene: '122', run: async (page) => { await inMeeting(page); await page.keyboard.press('PageDown'); await page.getByTestId('venue-search').fill('fei'); await page.waitForTimeout(900) } },
  'console-error': {
    scene: 'error',
    refuse: { code: 'no_picture', message: '该会场没有图像，无法广播。', message_en: 'This venue sends no picture and cannot be broadcast.' },
    run: async (page) => { await inMeeting(page); await page.getByTestId('tile-340700').hover(); await page.getByTestId('tile-340700-broadcast').click(); await page.mouse.move(5, 5); await page.waitForTimeout(400) }
  },
  'console-offline': { scene: 'offline', run: async (page) => { await inMeeting(page); server.state.silent = true; server.cut(); await page.locator('[data-testid=console][data-state=offline]').waitFor(); await page.waitForTimeout(300) } },
  'console-end': { scene: '19', run: async (page) => { await inMeeting(page); await page.getByTestId('end-meeting').click(); await page.waitForTimeout(300) } },
  'console-keys': { scene: '19', run: async (page) => { await inMeeting(page); await page.keyboard.press('?'); await page.waitForTimeout(300) } }
}

const SIZES = [[1366, 768], [1920, 1080]]
const ALSO_ENLARGED = ['signin', 'signin-error', 'signin-en', 'lobby-empty', 'lobby', 'console-19', 'console-19-en', 'console-122', 'console-drawer', 'console-error', 'console-offline', 'console-end', 'console-keys']
for (const [name, shot] of Object.entries(SHOTS)) {
  if (only && !name.includes(only)) continue
  for (const [width, height] of [...SIZES, ...(name.startsWith('signin') ? [[390, 844]] : []), ...(ALSO_ENLARGED.includes(name) ? ENLARGED : [])]) {
    Object.assign(server.state, { user: shot.user === null ? null : (shot.user ?? 'host'), scene: shot.scene ?? null, refuse: shot.refuse ?? null, silent: false, list: shot.list ?? [] })
    const context = await browser.newContext({ viewport: { width, height }, locale: 'zh-CN', permissions: ['camera', 'microphone'] })
    const page = await context.newPage()
    page.on('pageerror', (error) => troubles.push(`${name}: ${error}`))
    page.on('console', (message) => { if (message.type() === 'error' && !/401|WebSocket/.test(message.text())) troubles.push(`${name}: ${message.text()}`) })
    page.on('request', (request) => { if (!request.url().startsWith(server.url) && !/^(data|blob|ws):/.test(request.url())) troubles.push(`${name}: asked outside: ${request.url()}`) })
    if (shot.waits) await context.addInitScript((waits) => (globalThis.__waits = waits), shot.waits)
    if (shot.locale) await context.addInitScript((locale) => localStorage.setItem('lianxin.locale', locale), shot.locale)
    try {
      await shot.run(page)
    } catch (error) {
      troubles.push(`${name}: ${error.message.split('\n')[0]}`)
    }
    const enlarged = height < 600
    await page.screenshot({ path: join(out, `${name}-${width}.png`), fullPage: enlarged })
    const overflow = await tooWide(page)
    if (enlarged) for (const text of await lostTexts(page)) troubles.push(`${name}-${width}: cut: ${text}`)
    if (overflow > 0) troubles.push(`${name}-${width}: ${overflow} px too wide`)
    if (width === 1366) for (const found of await findings(page)) troubles.push(`${name}: axe ${found}`)
    await context.close()
  }
  console.log(name)
}
await browser.close()
server.close()
console.log(troubles.length ? troubles.join('\n') : `no trouble; pictures in ${out}`)
process.exitCode = troubles.length ? 1 : 0
