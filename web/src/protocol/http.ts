import { ServerError, Unreachable } from './errors'

const TIMEOUT_MS = 10_000

/** JSON over HTTP with the session cookie. Throws ServerError (problem+json, RFC 9457) or Unreachable. */
export async function request<T>(method: string, path: string, body?: unknown): Promise<T> {
  let response: Response
  try {
    response = await fetch(path, {
      method,
      credentials: 'same-origin',
      headers: body === undefined ? {} : { 'content-type': 'application/json' },
      body: body === undefined ? null : JSON.stringify(body),
      signal: AbortSignal.timeout(TIMEOUT_MS)
    })
  } catch {
    throw new Unreachable()
  }
  const text = await response.text().catch(() => '')
  if (!response.ok) throw problem(response.status, text)
  return (text ? JSON.parse(text) : undefined) as T
}

function problem(status: number, text: string): ServerError {
  let parsed: Record<string, unknown> = {}
  try {
    const value: unknown = JSON.parse(text)
    if (value && typeof value === 'object') parsed = value as Record<string, unknown>
  } catch {
    // a proxy's HTML page: the status says enough
  }
  const say = (key: string) => (typeof parsed[key] === 'string' ? (parsed[key] as string) : '')
  return new ServerError(
    status,
    say('code') || `http_${status}`,
    say('detail') || say('title') || `服务器答复 ${status}`,
    say('detail_en') || say('title') || `The server answered ${status}`
  )
}

export const get = <T>(path: string) => request<T>('GET', path)
export const post = <T>(path: string, body: unknown = {}) => request<T>('POST', path, body)
export const del = <T>(path: string) => request<T>('DELETE', path)
