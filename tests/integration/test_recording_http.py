"""Recordings over HTTP: who may, ranges, names, and no way out of the folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from core.audit import Audit
from core.clock import SystemClock
from core.database import Database
from portal.accounts.service import User
from recording.catalog import PROCESSING, READY, RecordingFileRow, RecordingRow
from recording.sessions import RecordingSessions
from signaling import keys, recordings
from signaling.http import problems
from signaling.openapi import undescribed

USERS = {
    role: User(role, role, role, role, "340100" if role == "venue" else None)
    for role in ("host", "it", "venue")
}
BODY = bytes(range(256)) * 40
Client = TestClient[web.Request, web.Application]


class Accounts:
    async def user_of(self, token: str) -> tuple[User, float] | None:
        return (USERS[token], 1e12) if token in USERS else None


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    database = Database(f"sqlite:///{tmp_path}/test.db")
    await database.migrate()
    folder = tmp_path / "recordings"
    (folder / "rec_1").mkdir(parents=True)
    (folder / "rec_1" / "program.mp4").write_bytes(BODY)
    (folder / "secret").write_bytes(b"secret")
    app: Any = web.Application(middlewares=[problems])
    app[keys.ACCOUNTS] = Accounts()
    app[keys.AUDIT] = Audit(database, SystemClock())
    app[keys.DIRECTORY] = SimpleNamespace(venues={"340100": SimpleNamespace(name="合肥市总工会")})
    recorder = app[keys.RECORDINGS] = RecordingSessions(database, SystemClock(), folder)
    app.add_routes(recordings.routes())
    assert undescribed(app) == []
    for number, status in enumerate((READY, PROCESSING), 1):
        await recorder.catalog.add(RecordingRow(
            recording_id=f"rec_{number}", meeting_id="mt_1", title="全省会议", status=status,
            started_at=1000.5 + number, directory=f"rec_{number}",
        ))  # fmt: skip
    async with database.session() as session:
        for file_id, path, kind in (("rf_1", "program.mp4", "program"), ("rf_2", "../secret", "track")):
            session.add(RecordingFileRow(
                file_id=file_id, recording_id="rec_1", kind=kind, venue_id="340100", source=None,
                name="全省会议.mp4", path=path, mime="video/mp4", size_bytes=len(BODY), duration_s=1.0,
            ))  # fmt: skip
    async with TestClient(TestServer(app)) as opened:
        yield opened
    await database.close()


def as_(role: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {role}"}


async def test_the_list_for_those_who_may(client: Client) -> None:
    for role, status in (("host", 200), ("it", 200), ("venue", 403), ("nobody", 401)):
        for path in ("", "/rec_1", "/rec_1/files/rf_1"):
            async with client.get(f"/api/v1/recordings{path}", headers=as_(role)) as answer:
                assert answer.status == status, (role, path)
    async with client.get("/api/v1/recordings", headers=as_("host")) as answer:
        listed = await answer.json()
    assert [item["id"] for item in listed["items"]] == ["rec_2", "rec_1"]
    assert listed["next"] is None
    item = listed["items"][1]
    assert (item["started_at"], item["status"], item["progress"]) == (1_001_500, "ready", None)
    assert item["files"][0]["venue_name"] == "合肥市总工会"
    assert item["files"][0]["url"] == "/api/v1/recordings/rec_1/files/rf_1"
    async with client.get("/api/v1/recordings?limit=1", headers=as_("host")) as answer:
        assert (await answer.json())["next"] == "rec_2"
    async with client.get("/api/v1/recordings?limit=x", headers=as_("host")) as answer:
        assert answer.status == 400


async def test_ranges_and_names(client: Client) -> None:
    url = "/api/v1/recordings/rec_1/files/rf_1"
    async with client.get(url, headers=as_("host")) as answer:
        assert await answer.read() == BODY
        assert answer.headers["Content-Type"] == "video/mp4"
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert answer.headers["Content-Disposition"].startswith("inline")
    async with client.get(url, headers=as_("host") | {"Range": "bytes=100-199"}) as answer:
        assert answer.status == 206
        assert await answer.read() == BODY[100:200]
        assert answer.headers["Content-Range"] == f"bytes 100-199/{len(BODY)}"
    async with client.get(url, headers=as_("host") | {"Range": "bytes=999999-"}) as answer:
        assert answer.status == 416
    async with client.get(url + "?download=1", headers=as_("host") | {"Range": "lines=1-2"}) as answer:
        assert answer.status in (200, 416)
    async with client.get(url + "?download=1", headers=as_("it")) as answer:
        assert answer.headers["Content-Disposition"] == (
            'attachment; filename="rec_1-program.mp4"; '
            "filename*=UTF-8''%E5%85%A8%E7%9C%81%E4%BC%9A%E8%AE%AE.mp4"
        )


async def test_no_way_out_of_the_folder(client: Client) -> None:
    for path in (
        "rec_1/files/rf_2", "rec_2/files/rf_1", "rec_1/files/..%2F..%2Fsecret", "..%2F..%2Fetc/files/rf_1",
        "x",
    ):  # fmt: skip
        async with client.get(f"/api/v1/recordings/{path}", headers=as_("host")) as answer:
            assert answer.status == 404, path


async def test_only_the_host_deletes_and_only_what_is_finished(client: Client) -> None:
    url = "/api/v1/recordings/rec_1"
    for role, status in (("it", 403), ("venue", 403), ("host", 204), ("host", 404)):
        async with client.delete(url, headers=as_(role)) as answer:
            assert answer.status == status
    async with client.delete("/api/v1/recordings/rec_2", headers=as_("host")) as answer:
        assert answer.status == 409
