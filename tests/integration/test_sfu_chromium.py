"""The system's Chromium against a worker, without any signalling server: ICE, DTLS, SCTP, ICE restart."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sfu.messages import (
    ConnectTransport,
    DataChannelOpened,
    DataReceived,
    Done,
    OpenDataChannel,
    OpenRouter,
    OpenTransport,
    RestartIce,
    SendData,
    TransportOpened,
    TransportState,
)
from sfu.node import MediaNode, NodeConfig
from sfu.params import DtlsFingerprint, IceParameters
from tests.fixtures.sfu_client import EventLog

OFFER = """
async () => {
  const pc = window.pc = new RTCPeerConnection();
  window.heard = [];
  const listen = (channel) => {
    window[channel.label] = channel;
    channel.binaryType = 'arraybuffer';
    channel.onmessage = (event) => heard.push([channel.label,
      typeof event.data === 'string' ? event.data : new TextDecoder().decode(event.data)]);
  };
  pc.ondatachannel = (event) => listen(event.channel);
  listen(pc.createDataChannel('mine'));
  await pc.setLocalDescription();
  return pc.localDescription.sdp;
}
"""
RESTART = """
async () => {
  await pc.setLocalDescription(await pc.createOffer({ iceRestart: true }));
  return pc.localDescription.sdp;
}
"""
ANSWER = "(sdp) => pc.setRemoteDescription({ type: 'answer', sdp })"


def connect_request(offer: str) -> ConnectTransport:
    def attribute(name: str) -> str:
        found = re.search(rf"^a={name}:(\S+(?: \S+)?)\r?$", offer, re.MULTILINE)
        assert found is not None
        return found.group(1)

    algorithm, value = attribute("fingerprint").split()
    return ConnectTransport(
        "t",
        IceParameters(attribute("ice-ufrag"), attribute("ice-pwd")),
        (DtlsFingerprint(algorithm, value),),
    )


def answer(opened: TransportOpened) -> str:
    """An answer with one data channel section, as signaling writes it."""
    lines = [
        "v=0",
        "o=- 1 2 IN IP4 0.0.0.0",
        "s=-",
        "t=0 0",
        "a=ice-lite",
        "a=group:BUNDLE 0",
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
        "c=IN IP4 0.0.0.0",
        "a=mid:0",
        "a=setup:passive",
        f"a=ice-ufrag:{opened.ice.ufrag}",
        f"a=ice-pwd:{opened.ice.pwd}",
        *(f"a=fingerprint:{f.algorithm} {f.value}" for f in opened.fingerprints),
        "a=sctp-port:5000",
        "a=max-message-size:262144",
        *(
            f"a=candidate:{c.foundation} {c.component} {c.protocol} {c.priority} {c.ip} {c.port} typ host"
            for c in opened.candidates
        ),
        "a=end-of-candidates",
    ]
    return "\r\n".join(lines) + "\r\n"


@pytest.mark.timeout(120)
async def test_chromium_connects_talks_and_restarts_ice(seats: Any, event_log: EventLog) -> None:
    node = MediaNode(NodeConfig(workers=1, udp_port=0, loopback=True))
    node.on_event.append(event_log.on_event)
    await node.start()
    try:
        worker_id = node.place()
        seat = await seats(None, "about:blank")
        page = seat.page
        await node.request(worker_id, OpenRouter("r"))
        opened = await node.request(worker_id, OpenTransport("r", "t"))
        assert isinstance(opened, TransportOpened)
        offer = await page.evaluate(OFFER)
        assert await node.request(worker_id, connect_request(offer)) == Done()
        await page.evaluate(ANSWER, answer(opened))
        await event_log.expect(TransportState("t", "connected"))
        await event_log.expect(DataChannelOpened("t", "mine"))
        await node.request(worker_id, OpenDataChannel("t", "ours"))
        await event_log.expect(DataChannelOpened("t", "ours"))

        await page.evaluate("() => mine.send('上'.repeat(20000))")
        await event_log.expect(DataReceived("t", "mine", ("上" * 20000).encode()))
        node.post(worker_id, SendData("t", "ours", "下".encode() * 20000))

        async def heard() -> bool:
            return await page.evaluate("() => heard") == [["ours", "下" * 20000]]

        await seat.until("hears the server", heard)

        offer = await page.evaluate(RESTART)
        restarted = await node.request(worker_id, RestartIce("t"))
        assert isinstance(restarted, TransportOpened)
        await node.request(worker_id, connect_request(offer))
        await page.evaluate(ANSWER, answer(restarted))
        await page.evaluate("() => mine.send('after the restart')")
        await event_log.expect(DataReceived("t", "mine", b"after the restart"))

        async def settled() -> bool:
            state = await page.evaluate("() => pc.iceConnectionState")
            return state in ("connected", "completed")

        await seat.until("ICE is connected again", settled)
        assert TransportState("t", "failed") not in event_log.events

        await page.evaluate("() => pc.close()")
        await event_log.expect(TransportState("t", "closed"))
    finally:
        await node.close()
