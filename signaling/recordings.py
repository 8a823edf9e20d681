"""Recordings over HTTP: the list, one, its files with ranges, deletion.  For the host and the IT desk."""

from __future__ import annotations

from urllib.parse import quote

from aiohttp import hdrs, web
from pydantic import BaseModel

from core.errors import BadRequest, NotFound
from recording.catalog import Entry, RecordingFileRow
from signaling import keys
from signaling.openapi import operation
from signaling.sessions import require_user

_READERS = ("host", "it")


class FileView(BaseModel):
    """``offset_s``: how long after the recording's beginning the file begins."""

    id: str
    file_id: str
    kind: str
    venue_id: str | None
    venue_name: str | None
    source: str | None
    name: str
    mime: str
    size_bytes: int
    duration_s: float | None
    offset_s: float | None
    sha256: str | None
    url: str


class RecordingView(BaseModel):
    """Times in epoch milliseconds; ``progress`` 0..1 while the files are made."""

    id: str
    recording_id: str
    meeting_id: str
    title: str
    status: str
    started_at: int
    ended_at: int | None
    duration_s: float | None
    size_bytes: int | None
    error: str | None
    progress: float | None
    files: list[FileView]


class RecordingList(BaseModel):
    """``next``: the id to pass as ``after`` for older ones, null at the end."""

    items: list[RecordingView]
    next: str | None


def _view(request: web.Request, entry: Entry) -> RecordingView:
    row = entry.recording
    venues = request.app[keys.DIRECTORY].venues
    return RecordingView(
        id=row.recording_id,
        recording_id=row.recording_id,
        meeting_id=row.meeting_id,
        title=row.title,
        status=row.status,
        started_at=round(row.started_at * 1000),
        ended_at=None if row.ended_at is None else round(row.ended_at * 1000),
        duration_s=row.duration_s,
        size_bytes=row.size_bytes,
        error=row.error,
        progress=request.app[keys.RECORDINGS].progress(row.recording_id),
        files=[
            FileView(
                id=file.file_id,
                file_id=file.file_id,
                kind=file.kind,
                venue_id=file.venue_id,
                venue_name=venues[file.venue_id].name if file.venue_id and file.venue_id in venues else None,
                source=file.source,
                name=file.name,
                mime=file.mime,
                size_bytes=file.size_bytes,
                duration_s=file.duration_s,
                offset_s=file.offset_s,
                sha256=file.sha256,
                url=f"/api/v1/recordings/{row.recording_id}/files/{file.file_id}",
            )
            for file in entry.files
        ],
    )


def _not_found() -> NotFound:
    return NotFound("no_such_recording", "没有这个录像。", "There is no such recording.")


@operation(
    "All recordings, the newest first",
    tag="recordings",
    response=RecordingList,
    roles=_READERS,
    query={
        "limit": {"type": "integer", "minimum": 1, "maximum": 200, "default": 50},
        "after": {"type": "string", "description": "next of the page before"},
    },
)
async def list_recordings(request: web.Request) -> web.Response:
    await require_user(request, *_READERS)
    limit = request.query.get("limit", "50")
    if not (limit.isascii() and limit.isdigit() and len(limit) < 6):
        raise BadRequest("bad_limit", "参数 limit 不是数字。", "limit is not a number.")
    entries, more = await request.app[keys.RECORDINGS].catalog.page(int(limit), request.query.get("after"))
    listed = RecordingList(items=[_view(request, entry) for entry in entries], next=more)
    return web.json_response(text=listed.model_dump_json())


@operation(
    "One recording and its files",
    tag="recordings",
    response=RecordingView,
    roles=_READERS,
    errors={404: "There is no such recording."},
)
async def show_recording(request: web.Request) -> web.Response:
    await require_user(request, *_READERS)
    entry = await request.app[keys.RECORDINGS].catalog.entry(request.match_info["recording_id"])
    if entry is None:
        raise _not_found()
    return web.json_response(text=_view(request, entry).model_dump_json())


@operation(
    "A file of a recording; ranges are served (RFC 9110 §14)",
    tag="recordings",
    response_type="video/mp4",
    roles=_READERS,
    errors={404: "There is no such file."},
    query={"download": {"type": "string", "enum": ["1"], "description": "as an attachment"}},
)
async def read_file(request: web.Request) -> web.StreamResponse:
    user = await require_user(request, *_READERS)
    recording_id, file_id = request.match_info["recording_id"], request.match_info["file_id"]
    found = await request.app[keys.RECORDINGS].catalog.file(recording_id, file_id)
    if found is None:
        raise _not_found()
    row, path = found
    download = request.query.get("download") == "1"
    if download and request.headers.get(hdrs.RANGE, "bytes=0-").startswith("bytes=0-"):
        await request.app[keys.AUDIT].record(
            user.username, "recording.download", recording_id, {"file": row.name}
        )
    return web.FileResponse(
        path,
        headers={
            hdrs.CONTENT_TYPE: row.mime,
            hdrs.CONTENT_DISPOSITION: disposition(row, attachment=download),
            hdrs.CACHE_CONTROL: "private, no-cache",
        },
    )


@operation(
    "Delete a finished recording with all its files",
    tag="recordings",
    status=204,
    roles=("host",),
    errors={404: "There is no such recording.", 409: "It is still being recorded or made."},
)
async def delete_recording(request: web.Request) -> web.Response:
    user = await require_user(request, "host")
    recording_id = request.match_info["recording_id"]
    await request.app[keys.RECORDINGS].delete(recording_id)
    await request.app[keys.AUDIT].record(user.username, "recording.delete", recording_id, {})
    return web.Response(status=204)


def disposition(row: RecordingFileRow, *, attachment: bool) -> str:
    """RFC 6266: the name in UTF-8, and a plain one for clients that know no better."""
    name = "".join(c for c in row.name if c.isprintable() and c not in '/\\:*?"<>|').strip() or "recording"
    plain = f"{row.recording_id}-{row.path}".encode("ascii", "replace").decode().replace("?", "_")
    plain = "".join(c if c.isalnum() or c in "._-" else "_" for c in plain)
    kind = "attachment" if attachment else "inline"
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def routes() -> list[web.RouteDef]:
    return [
        web.get("/api/v1/recordings", list_recordings),
        web.get("/api/v1/recordings/{recording_id}", show_recording),
        web.get("/api/v1/recordings/{recording_id}/files/{file_id}", read_file),
        web.delete("/api/v1/recordings/{recording_id}", delete_recording),
    ]
