// Many calls one after the other on one page: does anything pile up?
export async function run({ call, state, step, venue }) {
  const HEFEI = '340100'
  for (const m of (await call('GET', '/api/v1/meetings')).items) if (m.status === 'active') await call('POST', `/api/v1/meetings/${m.id}/commands`, { type: 'end' })
  const page = await venue('hefei')
  const cdp = await page.context().newCDPSession(page)
  await cdp.send('Performance.enable')
  const measure = async () => {
    await cdp.send('HeapProfiler.collectGarbage')
    const { metrics } = await cdp.send('Performance.getMetrics')
    const get = (n) => metrics.find((m) => m.name === n)?.value
    return `heap ${(get('JSHeapUsedSize') / 1e6).toFixed(1)} MB, nodes ${get('Nodes')}, listeners ${get('JSEventListeners')}`
  }
  const meeting = await call('POST', '/api/v1/meetings', { title: '长时间运行', venues: [HEFEI] })
  const command = (c) => call('POST', `/api/v1/meetings/${meeting.id}/commands`, c)
  const rounds = Number(process.env.ROUNDS ?? 12)
  for (let i = 0; i < rounds; i++) {
    await command({ type: 'call', venue: HEFEI })
    await state(page, 'in-meeting').catch(async (e) => { console.log(await page.locator('[data-testid=venue-state]').getAttribute('data-state'), JSON.stringify((await call('GET', `/api/v1/meetings/${meeting.id}`)).venues[HEFEI])); await page.screenshot({ path: '/tmp/g-live/stuck.png' }); throw e })
    await page.waitForTimeout(1200)
    await command({ type: 'hang_up', venue: HEFEI })
    await state(page, 'standby')
    if (i % 4 === 3 || i === 0) await step(`round ${i + 1}`, measure)
  }
  await command({ type: 'end' })
}
