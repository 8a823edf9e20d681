"""Recordings from their start to their files: folder, time line, the job that makes them, the catalogue.

Nothing here touches media: the workers' taps write the dumps, ``recording.jobs`` reads them in a
process of its own.  The state is in the database and the folder, so a killed server goes on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from core import counters
from core.clock import Clock
from core.database import Database
from core.errors import Conflict, LianxinError, NotFound
from core.ids import new_id
from recording.catalog import FAILED, PROCESSING, READY, RECORDING, Catalog, RecordingRow
from recording.folder import TAPS, read_result
from recording.tap import free_name, tap_name
from recording.timeline import TIMELINE
from rooms.model import decode
from rooms.store import MeetingRow, VenueRow

log = structlog.get_logger(__name__)

JOB = (sys.executable, "-m", "recording.jobs")
_ATTEMPTS = 3  # a job may be killed (by the out-of-memory killer, by a restart); a failed one is not repeated
_CATALOGUE_PATIENCE_S = 5.0  # before the next attempt to enter what a job has made
_SILENT_S = 1800.0  # a job that says nothing for so long hangs
_LINE_BYTES = 16_384


class RecordingSessions:
    """``start_up`` recovers and begins to work off jobs; ``close`` leaves what is unfinished for later."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        directory: Path,
        *,
        min_free_bytes: int = 0,
        job: Sequence[str] = JOB,
    ) -> None:
        self.catalog = Catalog(database, directory)
        self._database = database
        self._clock = clock
        self._directory = directory
        self._min_free_bytes = min_free_bytes
        self._job = tuple(job)
        self._running: dict[str, float] = {}  # recording → started at
        self._recorded_s = 0.0
        self._descriptors: dict[str, int] = {}
        self._unsynced: set[int] = set()
        self._syncing: asyncio.Task[None] | None = None
        self._due: deque[str] = deque()
        self._more = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._progress: dict[str, float] = {}
        self._metrics = _Metrics(self)
        self.on_finished: list[Callable[[str], None]] = []

    # ------------------------------------------------------------ life

    async def start_up(self, still_recording: Collection[str] | None = None) -> None:
        await asyncio.to_thread(self._directory.mkdir, parents=True, exist_ok=True)
        counters.REGISTRY.register(self._metrics)
        await self.recover(still_recording)
        self._worker = asyncio.create_task(self._work(), name="recording jobs")

    async def close(self) -> None:
        if self._worker is None:
            return
        self._worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._worker
        self._worker = None
        if self._syncing is not None:
            await self._syncing
        for recording_id in list(self._descriptors):
            self._close_timeline(recording_id)
        counters.REGISTRY.unregister(self._metrics)

    async def recover(self, still_recording: Collection[str] | None = None) -> None:
        """Recordings of meetings that still record go on, the others are finished.

        ``still_recording``: recording ids; None asks the meetings' stored state.
        """
        known = await self._wanted_by_meetings() if still_recording is None else set(still_recording)
        for row in await self.catalog.with_status(RECORDING, PROCESSING):
            if row.status == PROCESSING:
                self._enqueue(row.recording_id)
            elif row.recording_id in known:
                self._running[row.recording_id] = row.started_at
                self.note(row.recording_id, {"type": "resumed"})
                log.info("a recording goes on", recording=row.recording_id)
            else:
                # No "stopped" note: the film ends with what has been recorded last.
                await self.catalog.change(row.recording_id, RECORDING, status=PROCESSING)
                self._enqueue(row.recording_id)
                log.info("a recording is finished after a restart", recording=row.recording_id)

    async def _wanted_by_meetings(self) -> set[str]:
        async with self._database.session(read_only=True) as session:
            states = (
                await session.scalars(select(MeetingRow.state).where(MeetingRow.status == "active"))
            ).all()
        wanted: set[str] = set()
        for state in states:
            try:
                recording = decode(state).recording
            except msgspec.MsgspecError:
                continue  # the directory says what is wrong with it
            if recording is not None and recording.recording_id:
                wanted.add(recording.recording_id)
        return wanted

    # ------------------------------------------------------------ recording

    async def start(self, meeting_id: str, title: str) -> str:
        """Opens a recording and returns its id.  Raises LianxinError (disk) or OSError."""
        now = self._clock.now()
        recording_id = new_id("rec_")
        folder = self._directory / recording_id
        await asyncio.to_thread(self._open_folder, folder)
        self._running[recording_id] = now
        try:
            self.note(
                recording_id, {"at": now * 1000, "type": "started", "title": title, "meeting": meeting_id}
            )
            names, main = await self._names(meeting_id)
            self.note(recording_id, {"at": now * 1000, "type": "names", "names": names})
            if main is not None:
                self.note(recording_id, {"at": now * 1000, "type": "main", "venue": main})
            await self.catalog.add(
                RecordingRow(
                    recording_id=recording_id,
                    meeting_id=meeting_id,
                    title=title[:200],
                    status=RECORDING,
                    started_at=now,
                    directory=recording_id,
                )
            )
        except BaseException:
            del self._running[recording_id]
            self._close_timeline(recording_id)
            raise
        log.info("recording started", recording=recording_id, meeting=meeting_id)
        return recording_id

    async def stop(self, recording_id: str) -> None:
        """Ends a recording and queues its job; without effect when it has ended."""
        started_at = self._running.pop(recording_id, None)
        now = self._clock.now()
        if started_at is not None:
            self._recorded_s += max(0.0, now - started_at)
            self.note(recording_id, {"at": now * 1000, "type": "stopped"})
        changed = await self.catalog.change(recording_id, RECORDING, status=PROCESSING, ended_at=now)
        self._close_timeline(recording_id)
        if changed:
            self._enqueue(recording_id)
            log.info("recording stopped", recording=recording_id)

    def tap_path(self, recording_id: str, venue_id: str, source: str, track_sid: str) -> str:
        """Where the next tap of this track writes: a new file each time the last one has been begun."""
        path = self._directory / recording_id / TAPS / tap_name(venue_id, source, track_sid)
        return str(free_name(path).absolute())

    def note(self, recording_id: str, event: dict[str, Any]) -> None:
        """Adds to the time line; "at" (ms since the epoch) is filled in.  Raises OSError.

        With the kernel when it returns (a killed process loses nothing), on the disk soon after.
        """
        line = json.dumps({"at": self._clock.now() * 1000, **event}, ensure_ascii=False, default=str) + "\n"
        descriptor = self._descriptors.get(recording_id)
        if descriptor is None:
            descriptor = self._open_timeline(recording_id)
        os.write(descriptor, line.encode())
        self._unsynced.add(descriptor)
        if self._syncing is None or self._syncing.done():
            self._syncing = asyncio.get_running_loop().create_task(self._sync(), name="time line sync")

    def progress(self, recording_id: str) -> float | None:
        """0..1 of the job that makes this recording's files; None when none has begun."""
        return self._progress.get(recording_id)

    async def delete(self, recording_id: str) -> None:
        """Raises NotFound, or Conflict while it is recorded or made."""
        entry = await self.catalog.entry(recording_id)
        if entry is None:
            raise NotFound("no_such_recording", "没有这个录像。", "There is no such recording.")
        if entry.recording.status in (RECORDING, PROCESSING):
            raise Conflict(
                "recording_busy",
                "录像尚未完成，不能删除。",
                "The recording isn't finished; it can't be deleted.",
            )
        folder = self.catalog.within(entry.recording.directory)
        await self.catalog.remove(recording_id)
        if folder is not None:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def recorded_seconds(self) -> float:
        """Of all recordings since the start, those that run included."""
        now = self._clock.now()
        return self._recorded_s + sum(max(0.0, now - at) for at in self._running.values())

    @property
    def active_count(self) -> int:
        return len(self._running)

    @property
    def queued_count(self) -> int:
        """Recordings whose files are being made or wait for it."""
        return len(self._due)

    def _open_folder(self, folder: Path) -> None:
        free = shutil.disk_usage(self._directory).free
        if free < self._min_free_bytes:
            raise LianxinError(
                "disk_full",
                507,
                "磁盘空间不足，无法开始录制。",
                f"Not enough room on the disk to record: {free >> 20} MiB free.",
            )
        (folder / TAPS).mkdir(parents=True)

    async def _names(self, meeting_id: str) -> tuple[dict[str, str], str | None]:
        async with self._database.session(read_only=True) as session:
            names = {row.venue_id: row.name for row in (await session.scalars(select(VenueRow))).all()}
            meeting = await session.get(MeetingRow, meeting_id)
        return names, meeting.main_venue if meeting is not None else None

    def _open_timeline(self, recording_id: str) -> int:
        path = self._directory / recording_id / TIMELINE
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = self._descriptors[recording_id] = os.open(path, flags, 0o640)
        if path.stat().st_size:
            os.write(descriptor, b"\n")  # a line may have been torn by a crash
        return descriptor

    def _close_timeline(self, recording_id: str) -> None:
        descriptor = self._descriptors.pop(recording_id, None)
        if descriptor is not None:
            self._unsynced.discard(descriptor)
            os.fsync(descriptor)
            os.close(descriptor)

    async def _sync(self) -> None:
        while self._unsynced:
            # A copy of its own, as the time line may be closed meanwhile.
            copies = [os.dup(descriptor) for descriptor in self._unsynced]
            self._unsynced.clear()
            await asyncio.to_thread(_sync_all, copies)

    # ------------------------------------------------------------ jobs

    def _enqueue(self, recording_id: str) -> None:
        if recording_id not in self._due:
            self._due.append(recording_id)
            self._more.set()

    async def _work(self) -> None:
        """Works off the jobs, one at a time."""
        while True:
            while not self._due:
                self._more.clear()
                await self._more.wait()
            recording_id = self._due[0]
            try:
                await self._make(recording_id)
            except (OSError, LianxinError) as error:
                log.error("a recording's files can't be made", recording=recording_id, reason=str(error))
                with contextlib.suppress(SQLAlchemyError):
                    await self.catalog.change(recording_id, PROCESSING, status=FAILED, error=str(error))
            except SQLAlchemyError as error:
                log.error("the catalogue can't be written", recording=recording_id, reason=_first_line(error))
                await self._clock.sleep(_CATALOGUE_PATIENCE_S)
                continue
            self._due.popleft()
            self._progress.pop(recording_id, None)
            for tell in self.on_finished:
                tell(recording_id)

    async def _make(self, recording_id: str) -> None:
        folder = self._directory / recording_id
        reason = ""
        made = await asyncio.to_thread(read_result, folder)
        if made is not None:  # only the catalogue does not know yet
            await self.catalog.finish(recording_id, made)
            return
        for attempt in range(_ATTEMPTS):
            status, reason = await self._run(recording_id, folder)
            result = await asyncio.to_thread(read_result, folder) if status == 0 else None
            if result is not None:
                await self.catalog.finish(recording_id, result)
                log.info("recording ready", recording=recording_id, duration_s=result["duration_s"])
                return
            if status >= 0:
                break
            log.warning(
                "a recording's job was killed", recording=recording_id, signal=-status, attempt=attempt
            )
            reason = reason or f"the job was ended by signal {-status}"
        await self.catalog.change(
            recording_id, PROCESSING, status=FAILED, error=reason or "the job left no result"
        )
        log.error("recording failed", recording=recording_id, reason=reason)

    async def _run(self, recording_id: str, folder: Path) -> tuple[int, str]:
        """Exit status of one job and the reason that it gave."""
        reason = ""
        with (folder / "job.log").open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *self._job,
                str(folder.absolute()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                limit=_LINE_BYTES,
            )
        assert process.stdout is not None
        try:
            while line := await self._line(process.stdout):
                told = _told(line)
                self._progress[recording_id] = told.get("progress", 0.0)
                reason = str(told.get("error", reason))
            return await process.wait(), reason
        except TimeoutError:
            return -9, "the job gave no sign of life"
        finally:
            if process.returncode is None:
                process.kill()
                await asyncio.shield(process.wait())

    async def _line(self, stream: asyncio.StreamReader) -> bytes:
        async with asyncio.timeout(_SILENT_S):
            try:
                return await stream.readline()
            except ValueError:  # longer than any of ours
                return b"{}\n"


def _told(line: bytes) -> dict[str, Any]:
    try:
        told = json.loads(line)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _first_line(error: SQLAlchemyError) -> str:
    return str(getattr(error, "orig", None) or error).partition("\n")[0]


def _sync_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        try:
            os.fsync(descriptor)
        except OSError as error:
            log.warning("a time line is not surely on the disk", reason=str(error))
        finally:
            os.close(descriptor)


class _Metrics(Collector):
    def __init__(self, sessions: RecordingSessions) -> None:
        self._sessions = sessions

    def collect(self) -> Iterator[Metric]:
        seconds = CounterMetricFamily("lianxin_recording_seconds", "Meeting time recorded since the start.")
        seconds.add_metric([], self._sessions.recorded_seconds())
        yield seconds
        gauge = GaugeMetricFamily("lianxin_recordings", "Recordings by state.", labels=["state"])
        gauge.add_metric(["recording"], self._sessions.active_count)
        gauge.add_metric(["processing"], self._sessions.queued_count)
        yield gauge


__all__ = ["FAILED", "PROCESSING", "READY", "RECORDING", "RecordingSessions"]
