// Kills and restarts things under two venue pages. SERVER_PID: the control process; RESTART: a shell command that starts it again and prints its pid.
import { execSync } from 'node:child_process'
export async function run({ call, MAIN, state, video, playing, banner, step, venue, shot }) {
  const HEFEI = '340100', WUHU = '340200'
  for (const m of (await call('GET', '/api/v1/meetings')).items) if (m.status === 'active') await call('POST', `/api/v1/meetings/${m.id}/commands`, { type: 'end' })
  const wuhu = await venue('wuhu')
  const hefei = await venue('hefei')
  const meeting = await call('POST', '/api/v1/meetings', { title: '全省工会系统视频会议', venues: [HEFEI, WUHU] })
  const command = (c) => call('POST', `/api/v1/meetings/${meeting.id}/commands`, c)
  const view = async () => { const m = await call('GET', `/api/v1/meetings/${meeting.id}`); return JSON.stringify(Object.values(m.venues).map((v) => `${v.id}:${v.status}/${v.reason ?? ''}${v.muted_by_chair ? ' chairmute' : ''}${v.muted_locally ? ' localmute' : ''}`)) }
  const moves = async (page, ms = 20000) => { const t0 = (await video(page))?.t; await page.waitForFunction((t) => { const v = document.querySelector('[data-testid=stage-video]'); return v && v.readyState >= 2 && v.currentTime !== t && v.currentTime > 0 }, t0, { timeout: ms }) }
  await command({ type: 'call' })
  await step('both in', async () => { await state(hefei, 'in-meeting'); await state(wuhu, 'in-meeting') })
  await step('broadcast wuhu', async () => { for (let i = 0; ; i++) try { await command({ type: 'broadcast', venue: WUHU }); break } catch (e) { if (i > 20) throw e; await hefei.waitForTimeout(300) } return playing(hefei, WUHU) })
  await command({ type: 'mute', venue: HEFEI })
  await hefei.getByTestId('mic-toggle').click()
  await hefei.waitForTimeout(500)
  await step('before', () => view())

  await step('second computer', async () => {
    const other = await venue('hefei')
    await state(other, 'in-meeting'); await state(hefei, 'replaced'); await shot(hefei, 'replaced')
    await hefei.getByTestId('take-back').click(); await state(hefei, 'in-meeting'); await state(other, 'replaced'); await other.close()
  })
  await step('after take back', () => view())
  await step('banner', () => banner(hefei))

  let pid = Number(process.env.SERVER_PID)
  const restart = () => { pid = Number(execSync(process.env.RESTART, { encoding: 'utf8' }).trim()) }
  await step('kill -9 control', async () => {
    process.kill(pid, 'SIGKILL')
    await hefei.waitForTimeout(1500)
    restart()
    const begin = Date.now()
    await fetch('http://x').catch(() => 0)
    for (;;) { try { const r = await fetch(process.env.ORIGIN + '/healthz'); if (r.ok) break } catch { await hefei.waitForTimeout(100) } }
    const up = Date.now()
    await state(hefei, 'in-meeting', 40000); await state(wuhu, 'in-meeting', 40000); await playing(hefei, WUHU, 30000); await moves(hefei)
    return `server up after ${up - begin} ms, pages back ${Date.now() - up} ms later`
  })
  await step('states', () => view())
  await step('banner', () => banner(hefei))
  await shot(hefei, 'after-kill')
  await step('kill -9 worker', async () => {
    const workers = execSync(`pgrep -P ${pid} || true`, { encoding: 'utf8' }).trim().split('\n').filter(Boolean)
    for (const w of workers) { const c = execSync(`tr '\\0' ' ' < /proc/${w}/cmdline`, { encoding: 'utf8' }); if (c.includes('worker_main')) { process.kill(Number(w), 'SIGKILL'); break } }
    const begin = Date.now()
    await hefei.waitForTimeout(1500)
    await state(hefei, 'in-meeting', 40000); await playing(hefei, WUHU, 30000); await moves(hefei)
    return `${workers.length} children; moving after ${Date.now() - begin} ms`
  })
  await step('states', () => view())
  await step('local mute still', () => banner(hefei))
  await step('share screen', async () => { await wuhu.getByTestId('share-screen').click(); await hefei.waitForFunction(() => document.querySelector('[data-testid=stage-video]')?.dataset.source === 'screen_share' && document.querySelector('[data-testid=stage-video]').videoWidth > 0, null, { timeout: 15000 }); await hefei.waitForTimeout(1000); await shot(hefei, 'content'); await shot(wuhu, 'sharing'); return JSON.stringify(await video(hefei)) })
  await step('stop sharing', async () => { await wuhu.getByTestId('share-screen').click(); return playing(hefei, WUHU) })
  await step('camera off', async () => { await wuhu.getByTestId('camera-toggle').click(); await hefei.waitForTimeout(1500); await shot(hefei, 'camera-off'); await wuhu.getByTestId('camera-toggle').click(); return playing(hefei, WUHU) })
  await step('leave', async () => { const t = [Date.now()]; await hefei.getByTestId('leave').click(); t.push(Date.now()); await hefei.getByTestId('leave-confirm').click(); t.push(Date.now()); await state(hefei, 'standby'); t.push(Date.now()); return t.map((x, i) => i && x - t[i - 1]).join(' ') })
  await step('end', async () => { await command({ type: 'end' }); await state(wuhu, 'standby') })
}
