/** How livekit-client is set up: picture layers, sound, and who decides when to come back. */
import { AudioPresets, VideoPreset, type RoomConnectOptions, type RoomOptions } from 'livekit-client'
import { InRoomRetry } from './rejoin'

const LAYER_180P = new VideoPreset(320, 180, 150_000, 15)
const LAYER_360P = new VideoPreset(640, 360, 500_000, 25)
const LAYER_720P = new VideoPreset(1280, 720, 1_700_000, 25)
const SCREEN_1080P = { maxBitrate: 2_500_000, maxFramerate: 15 }

export function roomOptions(speakerId: string | undefined): RoomOptions {
  return {
    // pixelDensity 1: the layers are 180/360/720 lines, a 4K screen gains nothing from asking for more.
    // A venue's television must go on when the browser thinks that nobody looks.
    adaptiveStream: { pixelDensity: 1, pauseVideoInBackground: false },
    dynacast: true,
    disconnectOnPageLeave: true,
    stopLocalTrackOnUnpublish: false, // tracks are clones of a Capture: `Publications` stops them
    reconnectPolicy: new InRoomRetry(),
    publishDefaults: {
      simulcast: true,
      videoCodec: 'vp8',
      backupCodec: false,
      videoEncoding: LAYER_720P.encoding,
      videoSimulcastLayers: [LAYER_180P, LAYER_360P],
      screenShareEncoding: SCREEN_1080P,
      audioPreset: AudioPresets.music,
      red: true,
      dtx: true,
    },
    ...(speakerId ? { audioOutput: { deviceId: speakerId } } : {}),
  }
}

/** A join is short: `Rejoin` repeats it, with a fresh token. */
export const CONNECT_OPTIONS: RoomConnectOptions = {
  autoSubscribe: true,
  maxRetries: 0,
  websocketTimeout: 6_000,
  peerConnectionTimeout: 10_000,
  rtcConfig: { iceServers: [] },
}
