/**
 * A stand-in for the server: the built pages, /api/v1 and /ws with a made-up meeting. For screenshots and for working on the
 * pages without a server; pictures come from the build mode "shots" (see fake-session.ts), never from here.
 */
import { createServer } from 'node:http'
import { readFile } from 'node:fs/promises'
import { readFileSync } from 'node:fs'
import { extname, join, normalize } from 'node:path'
import { fileURLToPath } from 'node:url'
import { WebSocketServer } from 'ws'

const TREE = JSON.parse(readFileSync(fileURLToPath(new URL('../../rooms/anhui-2016.json', import.meta.url)), 'utf8')).root
const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.json': 'application/json' }
const CSP = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self'; connect-src 'self' ws: wss:; media-src 'self' blob: mediastream:; base-uri 'none'; form-action 'self'"

export const USERS = {
  host: { user_id: 'u_host', username: 'host', name: '会议主持', role: 'host', venue_id: null },
  it: { user_id: 'u_it', username: 'it', name: '运维值班', role: 'it', venue_id: null },
  wuhu: { user_id: 'u_wuhu', username: 'wuhu', name: '芜湖市总工会', role: 'venue', venue_id: '340200' }
}

/** The union tree as GET /api/v1/venues gives it. */
export function venueList() {
  const out = []
  const walk = (node, parent, tier, order) => {
    out.push({ id: node.code, name: node.venue ?? node.name, short: node.short ?? '省总中心', pinyin: node.pinyin, parent, tier, order, online: true })
    ;(node.children ?? []).forEach((child, n) => walk(child, node.code, tier + 1, n + 1))
  }
  walk(TREE, null, 0, 0)
  return out
}

const base = (now) => ({
  id: 'mt_demo', title: '全省工会系统视频会议', status: 'active', main_venue: '340000', created_at: now - 2_530_000, locked: false,
  broadcast: null, floor: null, stage: null, mode: 'free', recording: { state: 'off', since: null, recording_id: null },
  content: null, queue: [], venues: {}
})

/** The states that screenshots are taken of. */
export function scene(name, now = Date.now()) {
  const all = venueList()
  const meeting = base(now)
  const seat = (v, over = {}) => ({
    ...v, status: 'connected', reason: null, online: true, muted_by_chair: false, muted_locally: false,
    camera: true, microphone: true, sharing: false, since: now - 600_000, ...over
  })
  const first = all.filter((v) => v.tier <= 1)
  const by = (short) => meeting.venues[all.find((v) => v.short === short).id]
  const quality = {}
  const levels = {}
  const listed = name === '1' ? [all[0], first[1]] : name === '4' ? first.slice(0, 4) : name === '122' ? all : first
  for (const v of listed) {
    meeting.venues[v.id] = seat(v, name === 'empty' && v.tier > 0 ? { status: 'idle', online: Number(v.id) % 3 !== 0, camera: false, microphone: false } : {})
    quality[v.id] = { loss_up: 0, loss_down: 0.002, rtt_ms: 18, width: 1280, height: 720, kbps_up: 2100, kbps_down: 1400, quality: 'excellent' }
  }
  if (name === '19' || name === '122' || name === 'offline' || name === 'error') {
    Object.assign(meeting, { floor: '340200', broadcast: '340200', stage: '340200', mode: 'floor', recording: { state: 'on', since: now - 2_515_000, recording_id: 'rc_1' } })
    meeting.queue = [['六安', 250], ['亳州', 115], ['黄山', 40]].map(([short, s]) => ({ venue: by(short).id, at: now - s * 1000 }))
    for (const v of Object.values(meeting.venues)) if (v.id !== '340200' && v.tier > 0) v.muted_by_chair = true
    Object.assign(by('淮南'), { muted_locally: true })
    Object.assign(by('池州'), { status: 'left', reason: 'network_lost', online: false, camera: false, microphone: false, since: now - 30_000 })
    Object.assign(by('宿松'), { status: 'idle', online: false, camera: false, microphone: false })
    Object.assign(by('铜陵'), { camera: false })
    Object.assign(by('宣城'), { status: 'calling', camera: false, microphone: false })
    Object.assign(quality[by('亳州').id], { loss_up: 0.042, width: 640, height: 360, quality: 'poor' })
    levels['340200'] = -18
    levels['340000'] = -44
  }
  if (name === 'lines') {
    const say = (short, over, code, zh, en) => Object.assign(quality[by(short).id], over, { reasons: [code], cause: { code, zh, en, params: {} } })
    Object.assign(meeting, { broadcast: '340200', stage: '340200', mode: 'broadcast' })
    say('亳州', { loss_up: 0.12, quality: 'poor', jitter_up_ms: 31 }, 'loss_up', '上行丢包 12%，疑似本地网络', '12% of packets sent are lost; probably the local network.')
    say('合肥', { held: 1, estimate_kbps: 420, wanted_kbps: 1700, quality: 'poor' }, 'held', '下行带宽不足（约 420 kbit/s），1 路画面已暂停', 'The line down carries only about 420 kbit/s; 1 picture(s) are paused.')
    say('六安', { estimate_kbps: 800, wanted_kbps: 1700, quality: 'good' }, 'narrow', '下行带宽不足（约 800 kbit/s），画面已降低', 'The line down carries only about 800 kbit/s; pictures are reduced.')
    say('黄山', { rtt_ms: 480, quality: 'good' }, 'delay', '延迟 480 ms，疑似线路拥塞', 'A round trip takes 480 ms; the line is probably congested.')
  }
  if (name === '122') {
    for (const v of Object.values(meeting.venues)) {
      if (v.tier < 2) continue
      const n = Number(v.id) % 7
      if (n === 0) Object.assign(v, { status: 'idle', online: false, camera: false, microphone: false })
      if (n === 3) Object.assign(v, { status: 'calling', camera: false, microphone: false })
    }
  }
  if (name === 'mutes') {
    for (const v of Object.values(meeting.venues)) if (v.tier > 0) v.muted_by_chair = true
    for (const short of ['合肥', '马鞍山', '六安']) by(short).muted_locally = true
    meeting.queue = [{ venue: by('六安').id, at: now - 40_000 }]
  }
  if (name === 'content') meeting.content = { venue: '340100' }
  if (name === '1' || name === '4') {
    Object.assign(meeting, { broadcast: '340100', stage: '340100', mode: 'broadcast' })
    levels['340100'] = -20
    levels['340000'] = -30
  }
  return { meeting, quality, levels }
}

/** Starts serving; `state` may be changed while it runs. */
export async function serve(root, { port = 0, state = {} } = {}) {
  Object.assign(state, { user: 'host', scene: null, refuse: null, silent: false, list: [], ...state })
  const reply = (response, status, body, type = 'application/json') => {
    response.writeHead(status, { 'content-type': status >= 400 ? 'application/problem+json' : type, 'content-security-policy': CSP, 'cache-control': 'no-store' })
    response.end(body === undefined ? '' : JSON.stringify(body))
  }
  const api = (request, response, path) => {
    const user = USERS[state.user]
    if (path === '/api/v1/sessions/current') return user ? reply(response, 200, { user }) : reply(response, 401, { code: 'signed_out', detail: '请先登录。', detail_en: 'Sign in first.' })
    if (path === '/api/v1/sessions') return reply(response, 401, { code: 'wrong_password', detail: '账号或密码不正确。', detail_en: 'The user name or password is wrong.' })
    if (path === '/api/v1/venues') return reply(response, 200, { items: venueList() })
    if (path === '/api/v1/meetings') return reply(response, 200, { items: state.list })
    if (path.endsWith('/media-token')) return reply(response, 200, { url: '', token: 'none', identity: '340000', occupies: '340000' })
    return reply(response, 404, { code: 'not_found', detail: '没有这个地址。', detail_en: 'No such address.' })
  }
  const server = createServer(async (request, response) => {
    const path = new URL(request.url, 'http://x').pathname
    if (path.startsWith('/api/')) return api(request, response, path)
    const file = normalize(join(root, path))
    const wanted = file.startsWith(root) && extname(path) ? file : join(root, 'index.html')
    try {
      const body = await readFile(wanted)
      response.writeHead(200, { 'content-type': TYPES[extname(wanted)] ?? 'application/octet-stream', 'content-security-policy': CSP })
      response.end(body)
    } catch {
      reply(response, 404, { code: 'not_found' })
    }
  })
  const sockets = new WebSocketServer({ noServer: true })
  server.on('upgrade', (request, socket, head) => {
    if (state.silent) return socket.destroy()
    sockets.handleUpgrade(request, socket, head, (ws) => sockets.emit('connection', ws, request))
  })
  sockets.on('connection', (ws) => {
    let rev = 0
    let current = state.scene ? scene(state.scene) : null
    const say = (message) => ws.readyState === 1 && ws.send(JSON.stringify(message))
    const snapshot = () => say({
      type: 'snapshot', rev: ++rev, now: Date.now(),
      view: { me: USERS[state.user], meetings: Object.fromEntries([...state.list, ...(current ? [current.meeting] : [])].map((m) => [m.id, { id: m.id, title: m.title, status: m.status, created_at: m.created_at }])), meeting: current?.meeting ?? null }
    })
    snapshot()
    const ticking = setInterval(() => {
      if (!current) return
      const wobble = Object.fromEntries(Object.entries(current.levels).map(([id, dbov]) => [id, dbov + Math.sin(Date.now() / 200) * 5]))
      say({ type: 'levels', venues: wobble })
      say({ type: 'quality', venues: current.quality })
    }, 300)
    ws.on('close', () => clearInterval(ticking))
    ws.on('message', (raw) => {
      const message = JSON.parse(raw)
      if (message.type === 'ping') say({ type: 'pong', now: Date.now() })
      if (message.type === 'resync') snapshot()
      if (message.type === 'watch') {
        current = message.meeting && state.scene ? scene(state.scene) : null
        snapshot()
      }
      if (message.type === 'command') say(state.refuse ? { type: 'result', id: message.id, ok: false, error: state.refuse } : { type: 'result', id: message.id, ok: true })
    })
  })
  await new Promise((resolve) => server.listen(port, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    state,
    /** Cuts every open link; with state.silent no new one is taken. */
    cut: () => sockets.clients.forEach((ws) => ws.terminate()),
    close: () => { sockets.clients.forEach((ws) => ws.terminate()); server.close() }
  }
}
