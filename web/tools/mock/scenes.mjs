// What the mock server answers in each scene of shots-meet.mjs.
const MAIN = '340000'
const OWN = '341500'
const NAMES = {
  340000: ['省总中心会议室', '省总'],
  340100: ['合肥市总工会', '合肥'],
  340200: ['芜湖市总工会', '芜湖'],
  341600: ['亳州市总工会', '亳州'],
  341700: ['池州市总工会', '池州'],
  341500: ['六安市总工会', '六安'],
  341822: ['广德县总工会', '广德县'],
  340826: ['宿松县总工会', '宿松县'],
}
const HOUR = 3_600_000

function venue(id, more = {}) {
  const [name, short] = NAMES[id]
  return {
    id, name, short, pinyin: '', parent: id === MAIN ? null : MAIN, tier: id === MAIN ? 0 : 1, order: Object.keys(NAMES).indexOf(id),
    status: 'connected', reason: null, online: true, muted_by_chair: false, muted_locally: false,
    camera: true, microphone: true, sharing: false, since: Date.now() - 42 * 60_000, ...more,
  }
}
function meeting(more = {}, own = {}) {
  return {
    id: 'mt_1', title: '全省工会系统视频会议', status: 'active', main_venue: MAIN, created_at: Date.now() - 42 * 60_000, locked: false,
    broadcast: null, floor: null, stage: null, mode: 'free', recording: { state: 'off', since: null, recording_id: null },
    content: null, queue: [], ...more,
    venues: { 340000: venue(MAIN), 340200: venue('340200'), 341500: venue(OWN, own) },
  }
}
const RECORDING = { recording: { state: 'on', since: Date.now() - 1000, recording_id: 'rec_1' } }
const WUHU_SPEAKS = { floor: '340200', stage: '340200', mode: 'floor' }

const RECORDINGS = [
  ['rec_5', '高温慰问工作部署会', 'recording', 0.7, null, null],
  ['rec_4', '全省工会系统视频会议', 'processing', 3, 7111, 2_700_000_000],
  ['rec_3', '困难职工帮扶工作调度会', 'ready', 27, 3432, 1_140_000_000],
  ['rec_2', '会员数据库填报培训', 'ready', 75, 5560, 1_902_000_000],
  ['rec_1', '防汛救灾工作视频调度会', 'failed', 200, 2330, null],
].map(([recording_id, title, status, ago, duration_s, size_bytes]) => ({
  recording_id, title, status, meeting_id: 'mt_1', duration_s, size_bytes,
  started_at: Date.now() - ago * HOUR, ended_at: duration_s ? Date.now() - ago * HOUR + duration_s * 1000 : null,
  error: status === 'failed' ? '磁盘已满，节目文件没有写完' : null,
}))
const FILES = [
  { file_id: 'f0', kind: 'program', venue_id: null, source: null, name: '节目.mp4', path: 'program.mp4', mime: 'video/mp4', size_bytes: 812_000_000, duration_s: 3432 },
  ...['340000', '340100', '340200'].flatMap((id, i) => [
    { file_id: `c${i}`, kind: 'track', venue_id: id, source: 'camera', name: `${NAMES[id][1]} 摄像头.mkv`, path: '', mime: 'video/x-matroska', size_bytes: 96_000_000 + i * 7_000_000, duration_s: 3432 - i * 50 },
    { file_id: `m${i}`, kind: 'track', venue_id: id, source: 'microphone', name: `${NAMES[id][1]} 话筒.ogg`, path: '', mime: 'audio/ogg', size_bytes: 14_000_000, duration_s: 3432 - i * 50 },
  ]),
]

const STATUS = {
  version: '0.1.0', started_at: Date.now() - 9 * HOUR,
  workers: [
    { id: 'w1', alive: true, cpu_percent: 34, transports: 36, rooms: 1, loop_delay_ms: 1.2, restarts: 0 },
    { id: 'w2', alive: true, cpu_percent: 81, transports: 21, rooms: 1, loop_delay_ms: 38, restarts: 1 },
  ],
  meetings: 1, participants: 19, ws_clients: 24, recordings: { active: 1, queued: 0 },
  disk: { free_bytes: 61e9, total_bytes: 480e9 }, database: 'ok', bus: 'ok',
  alerts: [{ code: 'disk_low', message: '录像磁盘剩余不足 15%，请清理旧录像或加盘', message_en: 'Less than 15 % of the recording disk is left: delete old recordings or add a disk' }],
}
function opsMeeting() {
  return {
    ...meeting({ ...RECORDING, ...WUHU_SPEAKS }),
    venues: Object.fromEntries([
      venue(MAIN), venue('340100'), venue('340200'), venue('341600'),
      venue('341700', { status: 'left', reason: 'network_lost', online: false, camera: false, microphone: false }),
      venue(OWN, { muted_by_chair: true }), venue('341822', { muted_locally: true, camera: false }),
      venue('340826', { status: 'idle', online: false, camera: false, microphone: false }),
    ].map((v) => [v.id, v])),
  }
}
const QUALITY = Object.fromEntries(
  [[MAIN, 0, 1], ['340100', 0.002, 7], ['340200', 0, 5], ['341600', 0.042, 31], [OWN, 0.012, 9], ['341822', 0.001, 8]].map(([id, loss, rtt]) => [
    id, { loss_up: loss, loss_down: loss / 3, rtt_ms: rtt, width: 1280, height: 720, kbps_up: 2100 - loss * 30000, kbps_down: 1800, quality: loss > 0.03 ? 'poor' : loss > 0.01 ? 'good' : 'excellent' },
  ]),
)
const said = (code, zh, en, params = {}) => ({ reasons: [code], cause: { code, zh, en, params } })
Object.assign(QUALITY['341600'], { jitter_up_ms: 22, ...said('loss_up', '上行丢包 4%，疑似本地网络', '4% of packets sent are lost; probably the local network.') })
Object.assign(QUALITY['340100'], { over_tcp: true, jitter_up_ms: 6, estimate_kbps: 3100, wanted_kbps: 1900, ...said('tcp', '走 TCP 备用通道，UDP 可能被防火墙拦截', 'Media go over TCP; a firewall probably blocks UDP.') })
Object.assign(QUALITY[OWN], { held: 1, estimate_kbps: 420, wanted_kbps: 1700, jitter_up_ms: 14, quality: 'poor', ...said('held', '下行带宽不足（约 420 kbit/s），1 路画面已暂停', 'The line down carries only about 420 kbit/s; 1 picture(s) are paused.') })
const NARROW = { [OWN]: QUALITY[OWN] }
const LOSSY = { [OWN]: { loss_up: 0.12, rtt_ms: 40, quality: 'poor', ...said('loss_up', '上行丢包 12%，疑似本地网络', '12% of packets sent are lost; probably the local network.') } }

const controls = async (page) => {
  await page.keyboard.press('ArrowRight')
  await page.waitForTimeout(300)
}
const v = (name, more) => ({ name, path: '/venue', wait: '[data-testid=venue-state]', role: 'venue', ...more })
export const scenes = [
  v('standby', { meeting: null }),
  v('standby-empty', { meeting: null, noMeetings: true }),
  v('standby-faults', { meeting: null, noDevices: true, linkDown: false }),
  v('standby-offline', { linkDown: true, settle: 2500 }),
  v('standby-en', { meeting: null, locale: 'en' }),
  v('calling', { path: '/venue?auto=0', meeting: meeting({}, { status: 'calling' }) }),
  v('joining', { path: '/venue?media=connecting', meeting: meeting() }),
  v('replaced', { path: '/venue?media=lost', meeting: meeting() }),
  v('meeting-main', { meeting: meeting(RECORDING) }),
  v('meeting-queued', { meeting: meeting({ ...RECORDING, ...WUHU_SPEAKS, queue: [{ venue: '340100', at: 1 }, { venue: OWN, at: 2 }] }) }),
  v('meeting-muted-controls', { meeting: meeting({ ...RECORDING, ...WUHU_SPEAKS }, { muted_by_chair: true }), act: controls }),
  v('meeting-local-mute', { meeting: meeting({}, { muted_locally: true }), act: controls }),
  v('meeting-floor', { meeting: meeting({ ...RECORDING, floor: OWN, stage: OWN, mode: 'floor' }) }),
  v('meeting-on-air', { meeting: meeting({ broadcast: OWN, stage: OWN, mode: 'broadcast' }) }),
  v('meeting-content', { meeting: meeting({ ...WUHU_SPEAKS, content: { venue: '340200' } }) }),
  v('meeting-narrow', { path: '/venue?waits=1', meeting: meeting({ ...RECORDING, ...WUHU_SPEAKS }), quality: NARROW }),
  v('meeting-narrow-content', { path: '/venue?waits=1', meeting: meeting({ ...WUHU_SPEAKS, content: { venue: '340200' } }), quality: NARROW }),
  v('meeting-narrow-en', { path: '/venue?waits=1', meeting: meeting({ ...RECORDING, ...WUHU_SPEAKS }), quality: NARROW, locale: 'en' }),
  v('meeting-lossy', { meeting: meeting({ broadcast: OWN, stage: OWN, mode: 'broadcast' }), quality: LOSSY }),
  v('meeting-waiting', { path: '/venue?dark=1', meeting: { ...meeting(), venues: { ...meeting().venues, 340000: venue(MAIN, { status: 'idle', camera: false }) } } }),
  v('meeting-reconnecting', { path: '/venue?media=reconnecting', meeting: meeting(RECORDING) }),
  v('meeting-blocked', { path: '/venue?blocked=1', meeting: meeting() }),
  v('meeting-devices', { meeting: meeting(), act: async (page) => { await controls(page); await page.click('[data-testid=devices]'); await page.waitForTimeout(400) } }),
  v('meeting-leave', { meeting: meeting(), act: async (page) => { await controls(page); await page.click('[data-testid=leave]'); await page.waitForTimeout(400) } }),
  v('meeting-en', { meeting: meeting({ ...RECORDING, ...WUHU_SPEAKS }, { muted_by_chair: true }), locale: 'en', act: controls }),
  ...['recordings', 'recordings-empty', 'recordings-error', 'recordings-loading', 'recordings-failed', 'recordings-open', 'recordings-en'].map((name) => ({
    name, role: 'host', path: { 'recordings-failed': '/recordings?id=rec_1', 'recordings-open': '/recordings?id=rec_3' }[name] ?? '/recordings', wait: '[data-testid=recordings]',
    locale: name.endsWith('-en') ? 'en' : undefined,
    recordings: name === 'recordings-empty' ? [] : name === 'recordings-error' ? 'error' : name === 'recordings-loading' ? 'hang' : RECORDINGS,
    sizes: [[1920, 1080], [1366, 768], [390, 844]],
  })),
  { name: 'ops', role: 'it', path: '/ops', wait: '[data-testid=ops]', meeting: opsMeeting(), quality: QUALITY, status: STATUS },
  { name: 'ops-en', role: 'it', path: '/ops', wait: '[data-testid=ops]', meeting: opsMeeting(), quality: QUALITY, status: STATUS, locale: 'en' },
  { name: 'ops-idle', role: 'it', path: '/ops', wait: '[data-testid=ops]', meeting: null, noMeetings: true, status: { ...STATUS, alerts: [], meetings: 0, participants: 0, recordings: { active: 0, queued: 0 }, disk: { free_bytes: 400e9, total_bytes: 480e9 } } },
  { name: 'ops-down', role: 'it', path: '/ops', wait: '[data-testid=ops]', meeting: null, linkDown: true, status: 'error' },
]

function user(scene) {
  return scene.role === 'venue'
    ? { user_id: 'u1', username: 'la341500', name: '六安市总工会', role: 'venue', venue_id: OWN }
    : { user_id: 'u2', username: scene.role, name: scene.role === 'it' ? '运行维护 ops01' : '主席', role: scene.role, venue_id: MAIN }
}
export function viewOf(scene) {
  const past = { id: 'mt_0', title: '困难职工帮扶工作调度会', status: 'ended', created_at: Date.now() - 2 * HOUR }
  const running = { id: 'mt_1', title: '全省工会系统视频会议', status: 'active', created_at: Date.now() - 42 * 60_000 }
  return {
    me: user(scene),
    meetings: scene.noMeetings ? {} : { mt_0: past, mt_1: running },
    meeting: scene.meeting ?? null,
  }
}
export function api(scene, method, path) {
  if (path === '/healthz') return { body: { ok: true } }
  if (path === '/api/v1/sessions/current') return { body: { user: user(scene) } }
  if (path === '/api/v1/venues') return { body: { items: Object.keys(NAMES).map((id) => venue(id)) } }
  if (path === '/api/v1/meetings') return { body: { items: Object.values(viewOf(scene).meetings) } }
  if (path === '/api/v1/status') return scene.status === 'error' ? { status: 503, body: {} } : { body: scene.status }
  if (path.endsWith('/media-token')) return { body: { url: '', token: 'x', identity: OWN, occupies: OWN } }
  if (path === '/api/v1/recordings') {
    if (scene.recordings === 'hang') return 'hang'
    if (scene.recordings === 'error') return { status: 503, body: { code: 'catalogue_down', detail: '录像目录暂时打不开，请稍后再试', detail_en: 'The catalogue cannot be read now' } }
    return { body: { items: scene.recordings } }
  }
  const one = /^\/api\/v1\/recordings\/(\w+)$/.exec(path)
  if (one) {
    const found = RECORDINGS.find((r) => r.recording_id === one[1])
    return found ? { body: { ...found, files: found.status === 'ready' ? FILES : [] } } : { status: 404, body: {} }
  }
  return { status: 404, body: { code: 'not_found', detail: '没有', detail_en: 'none' } }
}
