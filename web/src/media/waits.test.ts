import { Track } from 'livekit-client'
import { createApp, h, nextTick } from 'vue'
import { describe, expect, it } from 'vitest'
import type { MediaSession } from './MediaSession'
import { Reception } from './receiving'
import VideoView from './VideoView.vue'

describe('a picture that the line cannot carry', () => {
  it('is what the server says of the stream, of remote and of no tracks', () => {
    const track = { streamState: Track.StreamState.Paused }
    const ann = { getTrackPublication: (source: Track.Source) => (source === Track.Source.Camera ? { track } : undefined) }
    const room = { localParticipant: { identity: 'me' }, remoteParticipants: new Map([['ann', ann]]) }
    const reception = new Reception(() => room as never)
    expect(reception.waits('ann', 'camera')).toBe(true)
    expect(reception.waits('ann', 'screen_share')).toBe(false)
    expect(reception.waits('bob', 'camera')).toBe(false)
    track.streamState = Track.StreamState.Active
    expect(reception.waits('ann', 'camera')).toBe(false)
  })

  it('stays dimmed on its tile and comes back by itself', async () => {
    let changed = (): void => undefined
    let waiting = false
    const track = { attach: () => undefined, detach: () => undefined }
    const session = {
      track: () => track,
      waits: () => waiting,
      show: () => () => undefined,
      subscribe: (listener: () => void) => {
        changed = listener
        return () => undefined
      },
    }
    const told: boolean[] = []
    const root = document.createElement('div')
    const app = createApp(() =>
      h(VideoView, { session: session as unknown as MediaSession, identity: 'ann', onWaits: (now: boolean) => told.push(now) }),
    )
    app.mount(root)
    const video = root.querySelector('video')!
    for (const now of [true, true, false]) {
      waiting = now
      changed()
      await nextTick()
      expect(video.classList.contains('video-view--waits')).toBe(now)
    }
    expect(told).toEqual([true, false])
    app.unmount()
  })
})
