"""kill -9 of the media worker, of the control process and of both: everything comes back by itself."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.province import PROGRAM, STAGE, Province
from tests.e2e.test_recording_of_a_meeting import download, finished, is_colour, pictures
from tests.fixtures.studio import CENTRE, HEFEI, HUAIBEI

pytestmark = [pytest.mark.timeout(420)]


async def everything_stands(province: Province) -> None:
    """Picture, sound and law as before: Hefei is broadcast, Huaibei is muted, the recording runs."""
    console, hefei, huaibei = (
        province.console,
        province.venues[HEFEI.venue],
        province.venues[HUAIBEI.venue],
    )
    assert console is not None
    await huaibei.shows(HEFEI, STAGE)
    await hefei.shows(CENTRE, STAGE)
    await console.shows(HEFEI, PROGRAM)
    await huaibei.hears(HEFEI)
    await console.hears_not(HUAIBEI)
    meeting = await province.meeting()
    assert meeting["broadcast"] == HEFEI.venue
    assert meeting["venues"][HUAIBEI.venue]["muted_by_chair"] is True
    assert meeting["recording"]["state"] == "on"


async def frames_move(province: Province) -> None:
    """Frozen pictures keep their colour, so ask for new frames as well."""
    for seat, selector in [(province.console, PROGRAM), *((s, STAGE) for s in province.venues.values())]:
        assert seat is not None
        before = await seat.page.evaluate("(s) => __senses.frames(s)", selector)

        async def moved(seat: Any = seat, selector: str = selector, before: int = before) -> bool:
            now = await seat.page.evaluate("(s) => __senses.frames(s)", selector)
            return bool(now > before + 5 or now < before)

        await seat.until(f"{selector} moves", moved)


async def test_kill_worker_control_and_both(
    process_server: Any, seats: Any, tmp_path: Path, record_property: Any
) -> None:
    server = process_server
    province = Province(server, seats)
    await province.open_console("恢复")
    await province.open_venue(HEFEI)
    await province.open_venue(HUAIBEI)
    await province.call_all()
    await province.press(HEFEI, "broadcast")
    await province.press(HUAIBEI, "mute")
    await province.command(type="start_recording")
    recording_id = (await province.meeting())["recording"]["recording_id"]
    await everything_stands(province)

    server.kill_workers()
    began = time.monotonic()
    await frames_move(province)
    await everything_stands(province)
    record_property("after_worker_s", time.monotonic() - began)

    await server.kill_control()
    await server.start()
    began = time.monotonic()
    await frames_move(province)
    await everything_stands(province)
    record_property("after_control_s", time.monotonic() - began)

    await server.kill_all()
    await server.start()
    began = time.monotonic()
    await frames_move(province)
    await everything_stands(province)
    record_property("after_both_s", time.monotonic() - began)

    await province.command(type="stop_recording")
    await province.disperse()
    entry = await finished(province, recording_id)
    program = await download(province, entry, tmp_path)
    times, colours = pictures(program)
    on_stage = times[is_colour(colours, HEFEI)]
    assert on_stage[0] < 5
    assert on_stage[-1] > times[-1] - 5  # it went on to the end, over three gaps
