"""For operators: /healthz (it lives), /readyz (it can serve), /metrics, /api/v1/status (the ops page)."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from typing import Any

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0
from pydantic import BaseModel

from core import counters
from core.errors import Forbidden, LianxinError
from signaling import keys
from signaling.http import client_address, within
from signaling.livekit.lines import Judgement
from signaling.metrics import WorkerLedger
from signaling.openapi import operation
from signaling.replies import json_response
from signaling.sessions import require_user

LEDGER: web.AppKey[WorkerLedger] = web.AppKey("ledger", WorkerLedger)
_BUSY_PERCENT = 90.0
_SLOW_LOOP_MS = 200.0


class WorkerView(BaseModel):
    """``cpu_percent`` of one core; ``loop_delay_ms``: the longest of the last second."""

    id: str
    alive: bool
    cpu_percent: float
    transports: int
    rooms: int
    loop_delay_ms: float
    restarts: int


class RecordingsView(BaseModel):
    active: int
    queued: int


class DiskView(BaseModel):
    free_bytes: int
    total_bytes: int


class AlertView(BaseModel):
    code: str
    message: str
    message_en: str


class StatusView(BaseModel):
    """``started_at`` in epoch milliseconds."""

    version: str
    started_at: int
    workers: list[WorkerView]
    meetings: int
    participants: int
    ws_clients: int
    recordings: RecordingsView
    disk: DiskView
    database: str
    bus: str
    alerts: list[AlertView]


@operation("Is the process alive", tag="health", roles=None, response_type="text/plain")
async def healthz(request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


@operation(
    "Can it serve",
    tag="health",
    roles=None,
    response={"type": "object", "properties": {"status": {"type": "string"}, "checks": {"type": "object"}}},
    description="503 until everything answers. The single checks are shown to server.metrics_allow only.",
)
async def readyz(request: web.Request) -> web.Response:
    checks = await _checks(request.app)
    ready = all(text == "ok" for text in checks.values())
    body: dict[str, Any] = {"status": "ready" if ready else "not ready"}
    if _may_look(request):
        body["checks"] = checks
    return json_response(body, status=200 if ready else 503, headers={"Cache-Control": "no-store"})


async def _checks(app: web.Application) -> dict[str, str]:
    checks = {}
    for name, ping in (("database", app[keys.DATABASE].ping), ("bus", app[keys.BUS].ping)):
        try:
            await asyncio.wait_for(ping(), 5)
            checks[name] = "ok"
        except (LianxinError, TimeoutError) as error:
            checks[name] = str(error) or "no answer within 5 s"
    checks["media"] = "ok" if app[keys.NODE].worker_ids else "no media worker is alive"
    return checks


@operation("Metrics for Prometheus", tag="health", roles=None, response_type="text/plain")
async def metrics(request: web.Request) -> web.Response:
    if not _may_look(request):
        counters.refused("metrics_address")
        raise Forbidden(
            "metrics_address",
            "该地址无权读取指标。",
            "This address may not read metrics (server.metrics_allow).",
        )
    body = generate_latest(counters.REGISTRY)
    response = web.Response(body=body)
    response.headers["Content-Type"] = CONTENT_TYPE_PLAIN_1_0_0
    return response


def _may_look(request: web.Request) -> bool:
    return within(client_address(request), request.app[keys.CONFIG].server.metrics_allow)


@operation("State of the machine, for the ops page", tag="status", response=StatusView, roles=("host", "it"))
async def status(request: web.Request) -> web.Response:
    await require_user(request, "host", "it")
    return json_response((await view(request.app)).model_dump())


async def view(app: web.Application) -> StatusView:
    from signaling.version import VERSION

    workers = worker_views(app)
    disk = _disk(app)
    recorder = app[keys.RECORDINGS]
    return StatusView(
        version=VERSION,
        started_at=int(app[keys.STARTED_AT] * 1000),
        workers=workers,
        meetings=len(app[keys.DIRECTORY].active),
        participants=participant_count(app),
        ws_clients=counters.ws_clients(),
        recordings=RecordingsView(active=recorder.active_count, queued=recorder.queued_count),
        disk=disk,
        database=app[keys.DATABASE].kind,
        bus=app[keys.BUS].kind,
        alerts=await _alerts(app, workers, disk),
    )


def participant_count(app: web.Application) -> int:
    """Participants of all LiveKit rooms, hidden ones included."""
    return sum(len(room.participants) for room in app[keys.MEDIA_ROOMS].rooms.values())


def lines(app: web.Application) -> Iterator[Judgement]:
    """Of all participants of all LiveKit rooms."""
    for room in app[keys.MEDIA_ROOMS].rooms.values():
        for participant in room.participants.values():
            yield participant.line


def room_count(app: web.Application) -> int:
    return len(app[keys.MEDIA_ROOMS].rooms)


def worker_views(app: web.Application) -> list[WorkerView]:
    ledger = app[LEDGER]
    alive = set(app[keys.NODE].worker_ids)
    return [
        WorkerView(
            id=worker_id,
            alive=worker_id in alive,
            cpu_percent=ledger.cpu_percent(worker_id),
            transports=int(ledger.value(worker_id, "lianxin_worker_transports")),
            rooms=int(ledger.value(worker_id, "lianxin_worker_routers")),
            loop_delay_ms=round(1000 * ledger.value(worker_id, "lianxin_worker_event_loop_delay_seconds"), 1),
            restarts=ledger.restarts.get(worker_id, 0),
        )
        for worker_id in sorted(alive | set(ledger.restarts) | ledger.known())
    ]


def _disk(app: web.Application) -> DiskView:
    usage = shutil.disk_usage(app[keys.CONFIG].data_dir)
    return DiskView(free_bytes=usage.free, total_bytes=usage.total)


async def _alerts(app: web.Application, workers: list[WorkerView], disk: DiskView) -> list[AlertView]:
    found: list[AlertView] = []

    def alert(code: str, message: str, message_en: str) -> None:
        found.append(AlertView(code=code, message=message, message_en=message_en))

    for name, text in (await _checks(app)).items():
        if text != "ok":
            names = {"database": "数据库", "bus": "消息总线", "media": "媒体服务"}
            alert(f"{name}_down", f"{names[name]}没有响应。", f"{name}: {text}")
    for worker in workers:
        if not worker.alive:
            alert(
                "worker_down",
                f"媒体进程 {worker.id} 正在重新启动。",
                f"Media worker {worker.id} is being started again.",
            )
        elif worker.cpu_percent >= _BUSY_PERCENT:
            alert(
                "worker_busy",
                f"媒体进程 {worker.id} 的 CPU 占用为 {worker.cpu_percent:.0f}%。",
                f"Media worker {worker.id} uses {worker.cpu_percent:.0f}% of its core.",
            )
        elif worker.loop_delay_ms >= _SLOW_LOOP_MS:
            alert(
                "worker_slow",
                f"媒体进程 {worker.id} 响应迟缓（{worker.loop_delay_ms:.0f} ms）。",
                f"Media worker {worker.id} is late by {worker.loop_delay_ms:.0f} ms.",
            )
    if disk.free_bytes < app[keys.CONFIG].recording.min_free_bytes:
        gib = disk.free_bytes / 1024**3
        alert("disk_low", f"磁盘仅剩 {gib:.1f} GiB。", f"Only {gib:.1f} GiB of disk are left.")
    return found


def routes() -> list[web.RouteDef]:
    return [
        web.get("/healthz", healthz),
        web.get("/readyz", readyz),
        web.get("/metrics", metrics),
        web.get("/api/v1/status", status),
    ]
