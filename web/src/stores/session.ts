import { reactive } from 'vue'
import { ServerError } from '../protocol/errors'
import { del, get, post } from '../protocol/http'
import type { User } from '../protocol/types'

export function homeOf(user: User): string {
  return { host: '/console', it: '/ops', venue: '/venue' }[user.role]
}

/** Who is signed in on this page. The cookie is the proof; nothing secret is kept in script. */
export const session = reactive({
  user: null as User | null,
  known: false,

  /** Asks the server once. An unreachable server throws nothing: nobody is signed in yet, and it is asked again. */
  async load(): Promise<User | null> {
    if (session.known) return session.user
    try {
      session.user = (await get<{ user: User }>('/api/v1/sessions/current')).user
      session.known = true
    } catch (error) {
      session.user = null
      session.known = error instanceof ServerError && error.status === 401
    }
    return session.user
  },

  async signIn(username: string, password: string): Promise<User> {
    const answer = await post<{ user: User }>('/api/v1/sessions', { username, password })
    session.user = answer.user
    session.known = true
    return answer.user
  },

  async signOut(): Promise<void> {
    await del('/api/v1/sessions/current').catch(() => undefined)
    session.forget()
  },

  forget(): void {
    session.user = null
    session.known = true
  },

  /** True if the server says that the session is over (not if it merely can't be reached). */
  async ended(): Promise<boolean> {
    try {
      await get('/api/v1/sessions/current')
      return false
    } catch (error) {
      return error instanceof ServerError && error.status === 401
    }
  }
})
