import { describe, expect, it } from 'vitest'
import type { Role, User } from './protocol/types'
import { admit, router } from './router'

const user = (role: Role): User => ({ user_id: 'us_1', username: role, name: role, role, venue_id: role === 'venue' ? '340100' : null })
const ask = (path: string, role: Role | null) => admit(router.resolve(path), role && user(role))

describe('who gets which page', () => {
  it.each([
    ['host', '/console', true], ['host', '/recordings', true], ['host', '/ops', true], ['host', '/venue', '/console'],
    ['it', '/ops', true], ['it', '/recordings', true], ['it', '/console/mt_1', true], ['it', '/venue', '/ops'],
    ['venue', '/venue', true], ['venue', '/recordings?id=rec_1', '/venue'], ['venue', '/ops', '/venue'], ['venue', '/console', '/venue'],
    ['venue', '/signin', '/venue'], ['it', '/', '/ops']
  ] as const)('%s at %s: %s', (role, path, answer) => expect(ask(path, role)).toBe(answer))
  it('without a session: sign in, then go on', () => {
    expect(ask('/recordings?id=rec_1', null)).toEqual({ path: '/signin', query: { next: '/recordings?id=rec_1' } })
    expect(ask('/', null)).toEqual({ path: '/signin', query: {} })
    expect(ask('/signin', null)).toBe(true)
  })
})
