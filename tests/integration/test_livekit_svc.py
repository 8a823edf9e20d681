"""VP9 and AV1 of an unmodified livekit-client in Chromium: one stream of three spatial layers, forwarded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from livekit import rtc

from tests.integration.test_livekit_clients import (
    RED,
    SINGLE,
    Site,
    StartClient,
    Tab,
    open_tab,
    picture,
    site,
)

__all__ = ["open_tab", "site"]  # fixtures


@SINGLE
@pytest.mark.parametrize(("codec", "mime"), [("vp9", "video/VP9"), ("av1", "video/AV1")])
async def test_three_spatial_layers_in_one_stream(
    site: Site,
    open_tab: Callable[..., Awaitable[Tab]],
    codec: str,
    mime: str,
    single: bool,
) -> None:
    """The whole picture arrives and is decoded; a smaller one is its lower layers; and back again."""
    viewer = await open_tab(site, "viewer", single, publish=False)
    sender = await open_tab(site, "sender", not single, publish=False)
    await sender.page.evaluate("(a) => publishAs(...a)", [codec, 960, 540])
    await viewer.fact("track_subscribed", kind="video")
    await viewer.until(
        f"{{ const v = (await media()).video; return v?.codec === '{mime}' && v.width === 960; }}", 60
    )
    track = next(iter(site.server.media.rooms["r"].participants["sender"].tracks.values()))
    assert (track.info.mime_type, track.layers) == (mime, 3)
    assert track.rtp is not None
    assert len(track.rtp.encodings) == 1
    await viewer.page.evaluate("quality(0)")
    await viewer.until("{ const v = (await media()).video; return v && v.width === 240; }", 30)
    frames = await viewer.until("{ return (await media()).video?.frames; }")
    await viewer.until(f"{{ return (await media()).video?.frames > {frames} + 30; }}", 30)
    await viewer.page.evaluate("quality(2)")
    await viewer.until("{ const v = (await media()).video; return v && v.width === 960; }", 30)


@SINGLE
@pytest.mark.parametrize(
    ("codec", "mime"), [(rtc.VideoCodec.VP9, "video/VP9"), (rtc.VideoCodec.AV1, "video/AV1")]
)
async def test_python_clients_send_and_decode_it(
    site: Site, sdk_client: StartClient, codec: int, mime: str, single: bool
) -> None:
    ann = await sdk_client(site.url, site.token("ann"), single=single)
    bob = await sdk_client(site.url, site.token("bob"), single=not single)
    await bob.fact("connected")
    await ann.fact("connected")
    await ann.tell(do="video", colour=RED, codec=int(codec))
    seen = await picture(bob, "ann", RED)
    assert seen["width"] > 0
    (track,) = site.server.media.rooms["r"].participants["ann"].tracks.values()
    assert track.info.mime_type == mime
