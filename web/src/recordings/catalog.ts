/** The recordings API and how its numbers are written. */
import { del, get } from '../protocol/http'

export type RecordingStatus = 'recording' | 'processing' | 'ready' | 'failed'

export interface Recording {
  recording_id: string
  meeting_id: string
  title: string
  status: RecordingStatus
  /** Epoch milliseconds. */
  started_at: number
  ended_at: number | null
  duration_s: number | null
  size_bytes: number | null
  error: string | null
  /** 0 to 1 while the programme is composed, null before and after. */
  progress?: number | null
}

export interface RecordingFile {
  file_id: string
  kind: 'program' | 'track'
  venue_id: string | null
  venue_name?: string | null
  source: string | null
  name: string
  mime: string
  size_bytes: number | null
  duration_s: number | null
}

export interface RecordingDetail extends Recording {
  files: RecordingFile[]
}

const PATH = '/api/v1/recordings'

export interface RecordingPage {
  items: Recording[]
  /** What to ask for next, null at the end. */
  next: string | null
}

export async function listRecordings(after: string | null = null): Promise<RecordingPage> {
  const query = after === null ? '' : `?after=${encodeURIComponent(after)}`
  const { items, next } = await get<{ items: Recording[]; next?: string | null }>(PATH + query)
  return { items: items.map(inMilliseconds).sort((a, b) => b.started_at - a.started_at), next: next ?? null }
}

export async function readRecording(id: string): Promise<RecordingDetail> {
  const detail = inMilliseconds(await get<RecordingDetail>(`${PATH}/${encodeURIComponent(id)}`))
  return { ...detail, files: detail.files ?? [] }
}

export function removeRecording(id: string): Promise<void> {
  return del<void>(`${PATH}/${encodeURIComponent(id)}`)
}

export function fileUrl(recording: string, file: string): string {
  return `${PATH}/${encodeURIComponent(recording)}/files/${encodeURIComponent(file)}`
}

/** The tables hold epoch seconds, pages count milliseconds: accept both. */
function inMilliseconds<T extends Recording>(row: T): T {
  const ms = (at: number): number => (at < 1e11 ? Math.round(at * 1000) : at)
  return { ...row, started_at: ms(row.started_at), ended_at: row.ended_at === null || row.ended_at === undefined ? null : ms(row.ended_at) }
}

export function sizeText(bytes: number | null): string {
  if (bytes === null) return '–'
  const units = ['B', 'KB', 'MB', 'GB', 'TB']
  let value = bytes
  let unit = 0
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000
    unit += 1
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`
}

export function lengthText(seconds: number | null): string {
  if (seconds === null || !Number.isFinite(seconds)) return '–'
  const whole = Math.max(0, Math.round(seconds))
  const pad = (n: number): string => String(n).padStart(2, '0')
  return `${Math.floor(whole / 3600)}:${pad(Math.floor(whole / 60) % 60)}:${pad(whole % 60)}`
}

export function dayText(ms: number): string {
  const d = new Date(ms)
  const pad = (n: number): string => String(n).padStart(2, '0')
  return `${d.getFullYear()}-${pad(d.getMonth() + 1)}-${pad(d.getDate())}`
}

export function hourText(ms: number): string {
  return new Date(ms).toTimeString().slice(0, 5)
}

export type Filter = 'all' | 'ready' | 'busy' | 'failed'

export function matches(row: Recording, filter: Filter, words: string): boolean {
  if (filter === 'ready' && row.status !== 'ready') return false
  if (filter === 'failed' && row.status !== 'failed') return false
  if (filter === 'busy' && row.status !== 'recording' && row.status !== 'processing') return false
  const text = `${row.title} ${dayText(row.started_at)}`.toLowerCase()
  return words
    .toLowerCase()
    .split(/\s+/)
    .every((word) => text.includes(word))
}
