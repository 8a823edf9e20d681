// Screenshots of the venue, recordings and operations pages in every state, against a mock of /api and /ws.
//   node tools/shots-meet.mjs [OUT_DIR] [name-filter]
// Chromium is taken from CHROMIUM or /usr/bin/chromium. Nothing is asked of the network.
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import vue from '@vitejs/plugin-vue'
import { chromium } from 'playwright-core'
import { createServer } from 'vite'
import { WebSocketServer } from 'ws'
import { ENLARGED, findings, lostTexts, tooWide } from './inspect.mjs'
import { api, scenes, viewOf } from './mock/scenes.mjs'

const here = dirname(fileURLToPath(import.meta.url))
const out = resolve(process.argv[2] ?? join(tmpdir(), 'shots-meet'))
const only = process.argv[3] ?? ''
mkdirSync(out, { recursive: true })

let scene = scenes[0]
const sockets = new WebSocketServer({ noServer: true })

const mock = {
  name: 'mock',
  enforce: 'pre',
  resolveId(id) {
    if (/\/media\/MediaSession(\.ts)?$/.test(id)) return join(here, 'mock/session-stub.ts')
  },
  configureServer(server) {
    server.middlewares.use((request, response, next) => {
      const url = new URL(request.url, 'http://mock')
      if (!url.pathname.startsWith('/api/') && url.pathname !== '/healthz') return next()
      const answer = api(scene, request.method, url.pathname)
      if (answer === 'hang') return
      response.statusCode = answer.status ?? 200
      response.setHeader('content-type', answer.type ?? 'application/json')
      response.end(answer.raw ?? JSON.stringify(answer.body ?? {}))
    })
    server.httpServer.on('upgrade', (request, socket, head) => {
      if (!request.url.startsWith('/ws')) return
      if (scene.linkDown) return socket.destroy()
      sockets.handleUpgrade(request, socket, head, (ws) => {
        ws.send(JSON.stringify({ type: 'snapshot', rev: 1, now: scene.now ?? Date.now(), view: viewOf(scene) }))
        if (scene.quality) ws.send(JSON.stringify({ type: 'quality', venues: scene.quality }))
        ws.on('message', (text) => {
          const message = JSON.parse(text)
          if (message.type === 'ping') ws.send(JSON.stringify({ type: 'pong', now: scene.now ?? Date.now() }))
          if (message.type === 'command') ws.send(JSON.stringify({ type: 'result', id: message.id, ok: true }))
        })
      })
    })
  },
}

const server = await createServer({
  configFile: false, // the project's own would proxy /api and /ws
  root: join(here, '..'),
  logLevel: 'error',
  plugins: [vue(), mock],
  server: { port: 0, host: '127.0.0.1', hmr: false },
})
await server.listen()
const origin = `http://127.0.0.1:${server.httpServer.address().port}`
const profile = mkdtempSync(join(tmpdir(), 'shots-'))
let failures = 0
try {
  for (const one of scenes) {
    if (!one.name.includes(only)) continue
    scene = one
    const reading = /^\/(recordings|ops)/.test(one.path)
    for (const [width, height] of [...(one.sizes ?? [[1920, 1080], [1366, 768]]), ...(reading ? ENLARGED : [])]) {
      const enlarged = height < 600
      const flags = ['--no-sandbox', '--disable-gpu', '--use-fake-ui-for-media-stream', '--autoplay-policy=no-user-gesture-required']
      if (!one.noDevices) flags.push('--use-fake-device-for-media-stream=fps=30')
      const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: flags })
      const context = await browser.newContext({ viewport: { width, height }, locale: 'zh-CN', timezoneId: 'Asia/Shanghai', permissions: one.noDevices ? [] : ['camera', 'microphone'] })
      if (one.locale) await context.addInitScript((l) => localStorage.setItem('lianxin.locale', l), one.locale)
      const page = await context.newPage()
      page.on('pageerror', (error) => {
        failures += 1
        console.error(`${one.name}: ${error.message}`)
      })
      page.on('console', (m) => {
        if (m.type() === 'error' && !/WebSocket|Failed to load resource/.test(m.text())) console.error(`${one.name}: ${m.text()}`)
      })
      page.on('request', (r) => {
        if (!r.url().startsWith(origin) && !r.url().startsWith('data:') && !r.url().startsWith('blob:')) {
          failures += 1
          console.error(`${one.name}: external request ${r.url()}`)
        }
      })
      await page.goto(origin + one.path)
      if (one.wait) await page.waitForSelector(one.wait, { timeout: 8000 }).catch((e) => console.error(`${one.name}: ${e.message.split('\n')[0]}`))
      await page.waitForTimeout(one.settle ?? 1200)
      if (one.act) await one.act(page).catch((e) => console.error(`${one.name}: ${e.message.split('\n')[0]}`))
      await page.screenshot({ path: join(out, `${one.name}-${width}.png`), fullPage: enlarged || (one.fullPage ?? false) })
      const found = (await tooWide(page)) > 1 ? ['wider than the screen'] : []
      if (enlarged) found.push(...(await lostTexts(page)).map((text) => `cut: ${text}`))
      if (width === 1366) found.push(...(await findings(page)).map((line) => `axe ${line}`))
      for (const line of found) {
        failures += 1
        console.error(`${one.name} ${width}: ${line}`)
      }
      await browser.close()
      console.log(`${one.name}-${width}.png`)
    }
  }
} finally {
  rmSync(profile, { recursive: true, force: true })
  await server.close()
  sockets.close()
}
process.exit(failures ? 1 : 0)
