import { afterEach, describe, expect, it, vi } from 'vitest'
import { ServerError, Unreachable } from './errors'
import { get, post } from './http'

const answers = (status: number, body: string) => vi.stubGlobal('fetch', vi.fn(async () => new Response(body || null, { status })))
afterEach(() => vi.unstubAllGlobals())

describe('HTTP', () => {
  it('gives the JSON of a good answer', async () => {
    answers(200, '{"items": []}')
    await expect(get('/api/v1/meetings')).resolves.toEqual({ items: [] })
  })
  it('gives nothing for an empty answer', async () => {
    answers(204, '')
    await expect(post('/x')).resolves.toBeUndefined()
  })
  it('turns problem+json into a refusal with a sentence in both languages', async () => {
    answers(409, JSON.stringify({ type: 'about:blank', title: 'Conflict', status: 409, code: 'no_picture', detail: '没有图像', detail_en: 'no picture' }))
    await expect(get('/x')).rejects.toMatchObject({ status: 409, code: 'no_picture', zh: '没有图像', en: 'no picture' })
  })
  it.each(['<html>Bad gateway</html>', '', 'null', '[1]', '{"detail": {"no": "text"}}'])('makes a sentence of its own for %j', async (body) => {
    answers(502, body)
    const error = await get('/x').catch((one: unknown) => one)
    expect(error).toBeInstanceOf(ServerError)
    expect(error).toMatchObject({ status: 502, code: 'http_502' })
    expect((error as ServerError).zh).toContain('502')
  })
  it('tells an unreachable server from one that refuses', async () => {
    vi.stubGlobal('fetch', vi.fn(async () => { throw new TypeError('Failed to fetch') }))
    await expect(get('/x')).rejects.toBeInstanceOf(Unreachable)
  })
})
