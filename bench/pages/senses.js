// What both pages are measured by: frames as they are presented, getStats, and the time of a join.
(() => {
  const connections = new Set();
  const Native = window.RTCPeerConnection;
  window.RTCPeerConnection = class extends Native {
    constructor(...args) {
      super(...args);
      connections.add(this);
    }
  };
  const NativeSocket = window.WebSocket;
  window.WebSocket = class extends NativeSocket {
    constructor(...args) {
      super(...args);
      this.addEventListener('open', () => (bench.opened ??= performance.now()), { once: true });
    }
  };
  const bench = (window.bench = {
    asked: null, // the page was told to join
    opened: null, // the WebSocket is open
    first: null, // the first frame is presented
    frames: [], // times of presented frames, ms
    watch(video) {
      const see = (now) => {
        bench.first ??= now;
        bench.frames.push(now);
        video.requestVideoFrameCallback(see);
      };
      video.requestVideoFrameCallback(see);
    },
    async stats() {
      const sum = { now: performance.now(), video: null, audio: null, sent: 0 };
      for (const pc of connections) {
        if (pc.connectionState === 'closed') continue;
        for (const s of (await pc.getStats()).values()) {
          if (s.type === 'outbound-rtp') sum.sent += s.bytesSent;
          if (s.type !== 'inbound-rtp') continue;
          if (s.kind === 'video' && (!sum.video || s.packetsReceived > sum.video.packets))
            sum.video = {
              packets: s.packetsReceived, lost: s.packetsLost, bytes: s.bytesReceived, frames: s.framesDecoded ?? 0,
              height: s.frameHeight ?? 0, freezes: s.freezeCount ?? 0, frozen: s.totalFreezesDuration ?? 0,
              nacks: s.nackCount, plis: s.pliCount,
            };
          if (s.kind === 'audio' && (!sum.audio || s.packetsReceived > sum.audio.packets))
            sum.audio = {
              packets: s.packetsReceived, lost: s.packetsLost, samples: s.totalSamplesReceived ?? 0,
              concealed: (s.concealedSamples ?? 0) - (s.silentConcealedSamples ?? 0), bytes: s.bytesReceived,
            };
        }
      }
      return sum;
    },
    connections,
  });
})();
