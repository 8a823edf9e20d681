"""Recordings on both databases: start, stop, job, catalogue, and what a killed server leaves behind."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from core.clock import SystemClock
from core.database import Database
from core.errors import Conflict, LianxinError, NotFound
from recording.catalog import FAILED, PROCESSING, READY, RECORDING, RecordingRow
from recording.sessions import RecordingSessions
from recording.timeline import read_timeline
from rooms.store import MeetingRow, VenueRow
from tests.fixtures.synthetic_meeting import Publisher, moving, tone

JOB = (sys.executable, "-m", "recording.jobs", "--width", "320", "--height", "180", "--preset", "ultrafast")
FAILING = (sys.executable, "-c", 'print(\'{"error": "out of luck"}\'); raise SystemExit(1)')


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    url = f"sqlite:///{tmp_path}/test.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    opened = Database(url)
    await opened.migrate()
    async with opened.session() as session:
        session.add(VenueRow(
            venue_id="340100", org_id="340100", parent_id=None, name="合肥市总工会", short="合肥",
            pinyin="hefei", order_no=1, tier=1,
        ))  # fmt: skip
    yield opened
    await opened.close()


def sessions(database: Database, folder: Path, job: tuple[str, ...] = JOB) -> RecordingSessions:
    return RecordingSessions(database, SystemClock(), folder, job=job)


async def finished(recorder: RecordingSessions, recording_id: str) -> RecordingRow:
    """Waits for the job's end."""
    done = asyncio.Event()
    recorder.on_finished.append(lambda found: done.set() if found == recording_id else None)
    entry = await recorder.catalog.entry(recording_id)
    assert entry is not None
    if entry.recording.status in (RECORDING, PROCESSING):
        async with asyncio.timeout(100):
            await done.wait()
    entry = await recorder.catalog.entry(recording_id)
    assert entry is not None
    return entry.recording


def record(recorder: RecordingSessions, recording_id: str, begin_ms: float, seconds: float = 1.0) -> None:
    """What a worker's taps would write."""
    publisher = Publisher("340100")
    for wire, source in (
        (publisher.camera(begin_ms, seconds, moving((200, 30, 30))), "camera"),
        (publisher.microphone(begin_ms, tone(seconds, 440)), "microphone"),
    ):
        made = wire.write(Path(recorder.tap_path(recording_id, "340100", source, "TR_a")).parent, ended=False)
        assert str(made).endswith(f"340100~{source}~TR_1.lxd")


async def test_from_start_to_files(database: Database, tmp_path: Path) -> None:
    recorder = sessions(database, tmp_path / "recordings")
    await recorder.start_up()
    try:
        recording_id = await recorder.start("mt_1", "全省会议")
        path = Path(recorder.tap_path(recording_id, "340100", "camera", "TR_x"))
        assert path.is_relative_to(tmp_path / "recordings" / recording_id)
        path.write_bytes(b"begun")
        assert recorder.tap_path(recording_id, "340100", "camera", "TR_x") != str(path)
        path.unlink()
        recorder.note(recording_id, {"type": "stage", "venue": "340100"})
        timeline = read_timeline(tmp_path / "recordings" / recording_id)
        assert timeline.started_ms is not None
        assert timeline.names["340100"] == "合肥市总工会"
        record(recorder, recording_id, timeline.started_ms)
        with pytest.raises(Conflict):
            await recorder.delete(recording_id)
        assert recorder.active_count == 1
        await recorder.stop(recording_id)
        await recorder.stop(recording_id)
        assert recorder.active_count == 0
        row = await finished(recorder, recording_id)
        assert (row.status, row.error) == (READY, None)
        entry = await recorder.catalog.entry(recording_id)
        assert entry is not None
        assert [(f.kind, f.venue_id, f.source) for f in entry.files] == [
            ("program", None, None), ("track", "340100", "camera"), ("track", "340100", "microphone"),
        ]  # fmt: skip
        assert row.size_bytes == sum(f.size_bytes for f in entry.files)
        assert all(len(f.sha256 or "") == 64 for f in entry.files)
        found = await recorder.catalog.file(recording_id, entry.files[0].file_id)
        assert found is not None
        assert found[1].stat().st_size == found[0].size_bytes
        await recorder.delete(recording_id)
        assert not (tmp_path / "recordings" / recording_id).exists()
        assert await recorder.catalog.entry(recording_id) is None
        with pytest.raises(NotFound):
            await recorder.delete(recording_id)
    finally:
        await recorder.close()


async def test_a_database_that_is_away_when_a_job_ends_does_not_stop_all_later_jobs(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recording.sessions._CATALOGUE_PATIENCE_S", 0.01)
    recorder = sessions(database, tmp_path / "recordings")
    await recorder.start_up()
    finish, attempts = recorder.catalog.finish, 0

    async def away_once(recording_id: str, result: dict[str, Any]) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise OperationalError("UPDATE recording", {}, Exception("database is locked"))
        await finish(recording_id, result)

    monkeypatch.setattr(recorder.catalog, "finish", away_once)
    try:
        recording_id = await recorder.start("mt_1", "全省会议")
        started = read_timeline(tmp_path / "recordings" / recording_id).started_ms
        assert started is not None
        record(recorder, recording_id, started)
        await recorder.stop(recording_id)
        assert (await finished(recorder, recording_id)).status == READY
        assert attempts == 2
    finally:
        await recorder.close()


async def test_after_a_kill_a_recording_is_finished_or_goes_on(database: Database, tmp_path: Path) -> None:
    """Nothing is closed, as with kill -9: what the meetings say decides."""
    folder = tmp_path / "recordings"
    killed = sessions(database, folder)
    folder.mkdir()
    goes_on = await killed.start("mt_1", "goes on")
    ended = await killed.start("mt_2", "ended meanwhile")
    started = read_timeline(folder / ended).started_ms
    assert started is not None
    record(killed, ended, started, 1.2)
    for recording_id in (goes_on, ended):
        with (folder / recording_id / "timeline.jsonl").open("ab") as file:
            file.write(b'{"at": 17, "type": "sta')
    after = sessions(database, folder)
    await after.start_up({goes_on})
    try:
        row = await finished(after, ended)
        assert row.status == READY
        assert row.duration_s == pytest.approx(1.2, abs=0.2)
        assert after.active_count == 1
        after.note(goes_on, {"at": 1e12, "type": "stage", "venue": "340100"})
        assert read_timeline(folder / goes_on).stages[-1] == (1e12, "340100")
        await after.stop(goes_on)
        assert (await finished(after, goes_on)).status == READY  # a slate, as nothing was tapped
    finally:
        await after.close()
        killed._close_timeline(goes_on)
        killed._close_timeline(ended)


async def test_the_meetings_stored_state_tells_what_goes_on(database: Database, tmp_path: Path) -> None:
    recorder = sessions(database, tmp_path / "recordings")
    (tmp_path / "recordings").mkdir()
    recording_id = await recorder.start("mt_1", "x")
    async with database.session() as session:
        for meeting, state in (("mt_1", room_state(recording_id)), ("mt_2", "{}"), ("mt_3", "no json")):
            session.add(MeetingRow(
                meeting_id=meeting, title="x", status="active", main_venue="340100", state=state, revision=1,
                created_at=1.0, ended_at=None,
            ))  # fmt: skip
    assert await recorder._wanted_by_meetings() == {recording_id}
    recorder._close_timeline(recording_id)


async def test_a_failed_job_says_why(database: Database, tmp_path: Path) -> None:
    recorder = sessions(database, tmp_path / "recordings", FAILING)
    await recorder.start_up()
    try:
        recording_id = await recorder.start("mt_1", "x")
        await recorder.stop(recording_id)
        row = await finished(recorder, recording_id)
        assert (row.status, row.error) == (FAILED, "out of luck")
    finally:
        await recorder.close()


async def test_the_list_comes_in_pages(database: Database, tmp_path: Path) -> None:
    recorder = sessions(database, tmp_path)
    for n in range(5):
        await recorder.catalog.add(
            RecordingRow(
                recording_id=f"rec_{n}",
                meeting_id="mt",
                title="x",
                status=READY,
                started_at=n // 2,
                directory="x",
            )
        )
    seen, after = [], None
    for _ in range(3):
        entries, after = await recorder.catalog.page(2, after)
        seen += [entry.recording.recording_id for entry in entries]
    assert seen == ["rec_4", "rec_3", "rec_2", "rec_1", "rec_0"]
    assert after is None
    assert await recorder.catalog.page(2, "rec_unknown") == ([], None)


async def test_no_room_no_recording(database: Database, tmp_path: Path) -> None:
    recorder = RecordingSessions(database, SystemClock(), tmp_path, min_free_bytes=1 << 62)
    with pytest.raises(LianxinError) as caught:
        await recorder.start("mt_1", "x")
    assert caught.value.code == "disk_full"
    assert recorder.active_count == 0


def test_paths_stay_inside(tmp_path: Path) -> None:
    recorder = RecordingSessions(None, SystemClock(), tmp_path)  # type: ignore[arg-type]
    path = Path(recorder.tap_path("rec_1", "../../etc", "ca/mera", "TR_~x"))
    assert path.parent == tmp_path / "rec_1" / "taps"
    assert path.name.count("~") == 2
    catalog = recorder.catalog
    assert catalog.within("rec_1", "program.mp4") == tmp_path / "rec_1" / "program.mp4"
    for folder, name in (
        ("rec_1", "../rec_2/a"),
        ("..", "a"),
        ("rec_1", "/etc/passwd"),
        ("", "a"),
        ("/etc", "a"),
    ):
        assert catalog.within(folder, name) is None


def room_state(recording_id: str) -> str:
    from rooms.model import Recording, Room, encode

    state = encode(
        Room(
            meeting_id="mt_1",
            title="x",
            main_venue="340100",
            created_at=1.0,
            seats={},
            recording=Recording(1.0, recording_id),
        )
    )
    json.loads(state)
    return state
