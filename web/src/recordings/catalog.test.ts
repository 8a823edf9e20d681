import { describe, expect, it } from 'vitest'
import { dayText, lengthText, matches, sizeText, type Recording } from './catalog'

const row: Recording = {
  recording_id: 'r',
  meeting_id: 'm',
  title: '全省工会系统视频会议',
  status: 'ready',
  started_at: new Date(2016, 7, 5, 10).getTime(),
  ended_at: null,
  duration_s: 7111,
  size_bytes: 2_600_000_000,
  error: null,
}

describe('recordings', () => {
  it('writes lengths, sizes and dates', () => {
    expect(lengthText(7111)).toBe('1:58:31')
    expect(lengthText(null)).toBe('–')
    expect(sizeText(2_600_000_000)).toBe('2.6 GB')
    expect(sizeText(999)).toBe('999 B')
    expect(sizeText(812_000_000)).toBe('812 MB')
    expect(dayText(row.started_at)).toBe('2016-08-05')
  })
  it('filters by state and by all words', () => {
    expect(matches(row, 'all', '')).toBe(true)
    expect(matches(row, 'all', '工会 2016-08')).toBe(true)
    expect(matches(row, 'all', '工会 2017')).toBe(false)
    expect(matches(row, 'busy', '')).toBe(false)
    expect(matches({ ...row, status: 'processing' }, 'busy', '')).toBe(true)
    expect(matches({ ...row, status: 'failed' }, 'failed', '')).toBe(true)
  })
})
