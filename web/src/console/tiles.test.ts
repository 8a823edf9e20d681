import { describe, expect, it } from 'vitest'
import { meeting, venue } from './sample'
import { absenceOf, actionsOf, rowState, tileState } from './tiles'

const m = meeting([
  venue('a'),
  venue('imposed', { muted_by_chair: true }),
  venue('own', { muted_locally: true }),
  venue('dark', { camera: false }),
  venue('idle', { status: 'idle', online: false }),
  venue('standby', { status: 'idle' }),
  venue('calling', { status: 'calling' }),
  venue('lost', { status: 'left', reason: 'network_lost', online: false }),
  venue('hung', { status: 'left', reason: 'hung_up' })
])

describe('a tile', () => {
  it('frames: program is the stage, or the main venue while nothing is broadcast; preview is ours alone', () => {
    expect(tileState(m, 'main', 'a')).toMatchObject({ program: true, preview: false })
    expect(tileState(m, 'a', 'a')).toMatchObject({ program: false, preview: true })
    const on = { ...m, stage: 'a', broadcast: 'a', mode: 'broadcast' as const }
    expect(tileState(on, 'a', 'a')).toMatchObject({ program: true, preview: true })
    expect(tileState(on, 'main', null).program).toBe(false)
  })
  it('a meter exists only where the microphone is open', () => {
    expect(tileState(m, 'a', null).open).toBe(true)
    for (const id of ['imposed', 'own', 'idle', 'calling', 'lost']) expect(tileState(m, id, null).open, id).toBe(false)
  })
  it('marks: by the chair and by itself differ', () => {
    expect(tileState(m, 'imposed', null).marks).toEqual(['imposed'])
    expect(tileState(m, 'own', null).marks).toEqual(['own'])
    expect(tileState(m, 'main', null).marks).toEqual(['chair'])
    const both = meeting([venue('x', { muted_by_chair: true, muted_locally: true })])
    expect(tileState(both, 'x', null).marks).toEqual(['imposed', 'own'])
  })
  it('the chair’s mute stands also on a venue that is away', () => {
    const away = meeting([venue('x', { status: 'left', reason: 'network_lost', muted_by_chair: true })])
    expect(tileState(away, 'x', null).marks).toEqual(['imposed'])
  })
  it('while one has the floor, its tile says so and the others are not all marked', () => {
    const floor = { ...m, floor: 'a', stage: 'a', broadcast: 'a', mode: 'floor' as const, queue: [{ venue: 'own', at: 1 }] }
    expect(tileState(floor, 'a', null).marks).toEqual(['floor'])
    expect(tileState(floor, 'imposed', null).marks).toEqual([])
    expect(tileState(floor, 'own', null).marks).toEqual(['ask', 'own'])
  })
  it('loss is shown above 1 %, of the worse direction, and only of who is connected', () => {
    expect(tileState(m, 'a', null, { loss_up: 0.042, loss_down: 0.02 }).loss).toBe(0.042)
    expect(tileState(m, 'a', null, { loss_up: 0.01 }).loss).toBeNull()
    expect(tileState(m, 'hung', null, { loss_up: 0.5 }).loss).toBeNull()
  })
  it('a line that is too narrow says so before it says loss, here and in the tree', () => {
    const held = { held: 2, loss_down: 0.05, quality: 'poor' as const }
    expect(tileState(m, 'a', null, held)).toMatchObject({ narrow: 'console.lineHeld', loss: 0.05 })
    expect(tileState(m, 'a', null, { reasons: ['loss_up', 'narrow'] }).narrow).toBe('console.lineNarrow')
    expect(tileState(m, 'a', null, { estimate_kbps: 400, wanted_kbps: 1700 }).narrow).toBeNull() // the server judges
    expect(tileState(m, 'hung', null, held).narrow).toBeNull()
    expect(rowState(m, 'a', null, held)).toMatchObject({ glyph: 'warn', word: 'console.rowNarrow' })
  })
  it.each([
    ['a', null], ['dark', 'console.noPicture'], ['idle', 'console.notCalled'], ['standby', 'console.notCalled'],
    ['calling', 'console.calling'], ['lost', 'console.networkLost'], ['hung', 'console.hungUp']
  ])('%s: the reason of the silhouette is %s', (id, title) => {
    expect(absenceOf(m.venues[id]!)?.title ?? null).toBe(title)
  })
  it('only a lost network is an alarm', () => {
    expect(Object.values(m.venues).filter((v) => absenceOf(v)?.alarm).map((v) => v.id)).toEqual(['lost'])
  })
  it('survives a venue that is not there', () => {
    expect(tileState(m, 'nobody', null).marks).toEqual([])
    expect(actionsOf(m, 'nobody')).toEqual([])
  })
})

describe('a row of the tree says the most urgent truth', () => {
  it.each([
    ['a', 'on', 'console.rowOn'], ['imposed', 'disc', 'console.rowImposed'], ['own', 'ring', 'console.rowOwn'],
    ['idle', 'none', 'console.rowIdle'], ['standby', 'standby', 'console.rowStandby'], ['calling', 'calling', 'console.rowCalling'],
    ['lost', 'lost', 'console.rowLost'], ['hung', 'none', 'console.rowHungUp'], ['main', 'chair', 'console.rowChair']
  ])('%s: %s', (id, glyph, word) => expect(rowState(m, id, null)).toMatchObject({ glyph, word }))
  it('floor before request before loss before air before preview', () => {
    const all = { ...m, floor: 'a', stage: 'a', queue: [{ venue: 'a', at: 0 }] }
    expect(rowState(all, 'a', 'a', { loss_up: 1 }).glyph).toBe('floor')
    expect(rowState({ ...all, floor: null }, 'a', 'a', { loss_up: 1 }).glyph).toBe('hand')
    expect(rowState({ ...all, floor: null, queue: [] }, 'a', 'a', { loss_up: 1 }).glyph).toBe('warn')
    expect(rowState({ ...all, floor: null, queue: [] }, 'a', 'a').glyph).toBe('program')
    expect(rowState(m, 'a', 'a').glyph).toBe('preview')
  })
})

describe('acts', () => {
  it.each([
    ['a', ['broadcast', 'floor', 'mute', 'hangup']], ['imposed', ['broadcast', 'floor', 'unmute', 'hangup']],
    ['main', ['broadcast', 'mute']], ['idle', ['call']], ['calling', ['hangup']], ['lost', ['call']]
  ])('%s', (id, acts) => expect(actionsOf(m, id)).toEqual(acts))
})
