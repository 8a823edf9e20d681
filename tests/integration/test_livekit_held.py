"""A picture that the viewer's line can't carry, as an unmodified livekit-client hears of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sfu.messages import StreamStates
from tests.integration.test_livekit_clients import (
    RED,
    SINGLE,
    Site,
    StartClient,
    Tab,
    open_tab,
    site,
)

__all__ = ["open_tab", "site"]  # fixtures


@SINGLE
async def test_a_browser_hears_that_a_picture_waits_and_that_it_goes_on(
    site: Site, sdk_client: StartClient, open_tab: Callable[..., Awaitable[Tab]], single: bool
) -> None:
    ann = await sdk_client(site.url, site.token("ann"), single=single)
    await ann.fact("connected")
    await ann.tell(do="video", colour=RED)
    tab = await open_tab(site, "page", single, publish=False)
    await tab.fact("track_subscribed", kind="video")
    media = site.server.media
    viewer = media.rooms["r"].participants["page"]
    (subscription,) = viewer.reception.subscriptions.values()

    def emit(event: StreamStates) -> None:
        for listener in list(site.node.on_event):
            listener("w0", event)

    mine = viewer.downstream.transport_id
    emit(StreamStates(mine, held=(subscription.consumer_id,)))
    await tab.fact("stream_state", state="paused", identity="ann")
    emit(StreamStates(mine, freed=(subscription.consumer_id,)))
    await tab.fact("stream_state", state="active", sid=subscription.track.sid)
    # Back on a new WebSocket, it is told what stands still meanwhile.
    await tab.page.evaluate("facts.length = 0")
    site.cut("page")
    emit(StreamStates(mine, held=(subscription.consumer_id,)))
    await tab.fact("stream_state", state="paused", identity="ann")
