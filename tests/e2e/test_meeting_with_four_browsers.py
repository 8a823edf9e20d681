"""The first thing that must be true: four browsers, one meeting, told apart by pixels and spectrum."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.province import PROGRAM, STAGE, Province, call
from tests.fixtures.chromium import Seat
from tests.fixtures.studio import BOZHOU, CENTRE, HEFEI, HUAIBEI

pytestmark = [pytest.mark.timeout(300)]


async def mute_latency_ms(province: Province, listener: Seat) -> float:
    """From the click in the console to silence at the listener; both pages read the same machine's clock."""
    assert province.console is not None
    watch = listener.page.evaluate(
        """async ([hz]) => {
             const started = Date.now();
             let quiet = null;
             while (Date.now() - started < 8000) {
               const level = __senses.tones([hz])[0];
               if (level < -75) { quiet ??= Date.now(); if (Date.now() - quiet > 700) return quiet; }
               else quiet = null;
               await new Promise((resolve) => setTimeout(resolve, 10));
             }
             return null;
           }""",
        [HEFEI.tone_hz],
    )
    task = asyncio.ensure_future(watch)
    await province.press(HEFEI, "mute")
    quiet = await task
    pressed = await province.console.page.evaluate("window.__clickedAt")
    assert quiet is not None, "the tone went on for 8 s after the mute"
    return float(quiet - pressed)


async def test_called_broadcast_muted_reloaded(server: Any, seats: Any, record_property: Any) -> None:
    province = Province(server, seats)
    console = await province.open_console()
    hefei = await province.open_venue(HEFEI)
    huaibei = await province.open_venue(HUAIBEI)
    bozhou = await province.open_venue(BOZHOU)
    await province.call_all()
    branches = {HEFEI: hefei, HUAIBEI: huaibei, BOZHOU: bozhou}

    # Nothing is broadcast: the branches see the main venue, and everybody hears everybody else.
    for seat in branches.values():
        await seat.shows(CENTRE, STAGE)
        await seat.hears(CENTRE)
    for look in branches:
        await console.hears(look)

    await province.press(HEFEI, "broadcast")
    await console.shows(HEFEI, PROGRAM)
    await huaibei.shows(HEFEI, STAGE)
    await bozhou.shows(HEFEI, STAGE)
    await hefei.shows(CENTRE, STAGE)  # the speaker sees the main venue (mode A)
    for seat in (console, huaibei, bozhou):
        await seat.hears(HEFEI)

    # Another one: the picture follows.
    await province.press(BOZHOU, "broadcast")
    await console.shows(BOZHOU, PROGRAM)
    await hefei.shows(BOZHOU, STAGE)
    await huaibei.shows(BOZHOU, STAGE)

    # Mute silences within 300 ms; the best of three counts, since four browsers share two cores.
    latencies = []
    for _ in range(3):
        latencies.append(await mute_latency_ms(province, huaibei))
        await console.hears_not(HEFEI)
        await bozhou.hears_not(HEFEI)
        if min(latencies) <= 300:
            break
        await province.press(HEFEI, "unmute")
        await huaibei.hears(HEFEI)
    record_property("mute_latency_ms", latencies)
    assert min(latencies) <= 300, latencies

    # A reload of any page keeps all of it.
    for seat in branches.values():
        await seat.page.reload()
        await province.state(seat, "in-meeting")
    await console.page.reload()
    await console.page.locator("[data-testid=console][data-state=connected]").wait_for(timeout=30_000)
    await console.shows(BOZHOU, PROGRAM)
    await hefei.shows(BOZHOU, STAGE)
    await huaibei.shows(BOZHOU, STAGE)
    await bozhou.shows(CENTRE, STAGE)
    await huaibei.hears(BOZHOU)
    await huaibei.hears_not(HEFEI)
    meeting = await province.meeting()
    assert meeting["broadcast"] == BOZHOU.venue
    assert meeting["venues"][HEFEI.venue]["muted_by_chair"] is True

    # The muted venue's own page can't lift it, neither by its button nor by its own signalling.
    await hefei.page.mouse.move(200, 200)
    await hefei.page.get_by_test_id("mic-toggle").click()
    await hefei.page.get_by_test_id("mic-toggle").click()
    await huaibei.hears_not(HEFEI)

    await province.press(HEFEI, "unmute")
    await huaibei.hears(HEFEI)

    await province.command(type="end")
    for seat in branches.values():
        await province.state(seat, "standby")

    for seat in (console, *branches.values()):
        assert seat.console_errors == []
        hosts = {urlsplit(url).hostname for url in seat.requests if url.startswith(("http", "ws"))}
        assert hosts <= {urlsplit(server.url).hostname}, f"a page asked outside: {hosts}"


async def test_floor_queue_and_content(server: Any, seats: Any) -> None:
    province = Province(server, seats)
    console = await province.open_console("申请发言")
    hefei = await province.open_venue(HEFEI)
    huaibei = await province.open_venue(HUAIBEI)
    await province.call_all()

    for seat in (huaibei, hefei):
        await seat.page.mouse.move(300, 300)
        await seat.page.get_by_test_id("request-floor").click()
        await seat.page.get_by_test_id("withdraw-floor").wait_for()
    queue = (await province.meeting())["queue"]
    assert [entry["venue"] for entry in queue] == [HUAIBEI.venue, HEFEI.venue]

    await console.page.get_by_test_id(f"queue-{HUAIBEI.venue}-grant").click()
    await console.shows(HUAIBEI, PROGRAM)
    await hefei.shows(HUAIBEI, STAGE)
    await hefei.hears(HUAIBEI)
    await console.hears_not(HEFEI)  # all microphones except the speaker's and the chair's are closed
    meeting = await province.meeting()
    assert meeting["floor"] == HUAIBEI.venue
    assert [entry["venue"] for entry in meeting["queue"]] == [HEFEI.venue]

    await console.page.get_by_test_id("free-discussion").click()
    await hefei.shows(CENTRE, STAGE)
    await console.hears(HEFEI)

    # A venue may not do the chair's work.
    answer = await hefei.page.evaluate(
        """async (path) => (await fetch(path, {method: 'POST', headers: {'content-type': 'application/json'},
             body: JSON.stringify({type: 'mute_all'})})).status""",
        f"/api/v1/meetings/{province.meeting_id}/commands",
    )
    assert answer == 403
    me = await call(hefei, "GET", "/api/v1/sessions/current")
    assert me["user"]["venue_id"] == HEFEI.venue
