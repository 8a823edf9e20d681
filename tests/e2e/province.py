"""A small province for the tests: a real server, the chair's console and venues in real browsers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tests.fixtures.chromium import Seat
from tests.fixtures.studio import CENTRE, Look

STAGE = "[data-testid=stage-video]"
PROGRAM = "[data-testid=program-video]"

OpenSeat = Callable[..., Awaitable[Seat]]


class Province:
    """What a test says in the operators' words; every step waits until the pages agree."""

    def __init__(self, server: Any, open_seat: OpenSeat) -> None:
        self.server = server
        self.open_seat = open_seat
        self.console: Seat | None = None
        self.venues: dict[str, Seat] = {}
        self.meeting_id = ""

    async def sign_in(self, seat: Seat, username: str) -> None:
        page = seat.page
        await page.get_by_test_id("signin-username").fill(username)
        await page.get_by_test_id("signin-password").fill(self.server.accounts[username])
        await page.get_by_test_id("signin-submit").click()

    async def open_console(self, title: str = "全省工会系统视频会议") -> Seat:
        """The host signs in, makes a meeting and takes the main venue's seat."""
        seat = await self.open_seat(CENTRE, f"{self.server.url}/signin")
        self.console = seat
        await self.sign_in(seat, "host")
        await seat.page.get_by_test_id("meeting-title").fill(title)
        await seat.page.get_by_test_id("meeting-create").click()
        await seat.page.locator("[data-testid=console][data-state=connected]").wait_for(timeout=30_000)
        view = await self.api("GET", "/api/v1/meetings")
        self.meeting_id = next(m["id"] for m in view["items"] if m["title"] == title)
        return seat

    async def open_venue(self, look: Look) -> Seat:
        seat = await self.open_seat(look, f"{self.server.url}/signin")
        self.venues[look.venue] = seat
        await self.sign_in(seat, look.username)
        await self.state(seat, "standby")
        return seat

    async def state(self, seat: Seat, state: str, timeout_s: float = 40) -> None:
        """The venue page says where it stands."""
        await seat.page.locator(f"[data-testid=venue-state][data-state={state}]").wait_for(
            timeout=timeout_s * 1000
        )

    async def call_all(self) -> None:
        assert self.console is not None
        await self.console.page.get_by_test_id("call-all").click()
        for seat in self.venues.values():
            await self.state(seat, "in-meeting")

    async def press(self, look: Look, action: str) -> None:
        """One click on a tile of the wall: broadcast, floor, mute, unmute, call, hangup."""
        assert self.console is not None
        tile = self.console.page.get_by_test_id(f"tile-{look.venue}")
        await tile.hover()
        await self.console.page.get_by_test_id(f"tile-{look.venue}-{action}").click()

    async def api(self, method: str, path: str, body: Any = None) -> Any:
        """As the host's console does: same origin, same cookie."""
        assert self.console is not None
        return await call(self.console, method, path, body)

    async def command(self, **command: Any) -> Any:
        return await self.api("POST", f"/api/v1/meetings/{self.meeting_id}/commands", command)

    async def disperse(self) -> None:
        """The meeting ends and the venues switch their machines off; the console stays."""
        await self.command(type="end")
        for seat in self.venues.values():
            await seat.browser.close()
        self.venues.clear()

    async def meeting(self) -> Any:
        return await self.api("GET", f"/api/v1/meetings/{self.meeting_id}")


async def call(seat: Seat, method: str, path: str, body: Any = None) -> Any:
    answer = await seat.page.evaluate(
        """async ([method, path, body]) => {
             const response = await fetch(path, {
               method,
               headers: body === null ? {} : { 'content-type': 'application/json' },
               body: body === null ? undefined : JSON.stringify(body),
             });
             return { status: response.status, body: response.status === 204 ? null : await response.json() };
           }""",
        [method, path, body],
    )
    assert answer["status"] < 300, f"{method} {path}: {answer}"
    return answer["body"]
