"""Composition root of the control process: who is made of whom, in which order, and closed in reverse."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog
from aiohttp import web

from core import counters
from core.audit import Audit
from core.bus import open_bus
from core.clock import Clock, SystemClock
from core.config import LOOPBACK, Config
from core.database import Database
from portal.accounts.service import Accounts
from rooms.store import RoomStore
from sfu.node import MediaNode, NodeConfig
from signaling import health, keys, metrics, openapi, sessions, static
from signaling.http import LIMITS, MIDDLEWARES, AddressLimits, secure_headers, within
from signaling.livekit.token import ApiKeys

log = structlog.get_logger(__name__)

DEMO: web.AppKey[bool] = web.AppKey("demo", bool)
DEMO_ACCOUNTS: web.AppKey[list[dict[str, object]]] = web.AppKey("demo_accounts", list)


def make_app(config: Config, *, demo: bool = False, clock: Clock | None = None) -> web.Application:
    """Everything is opened at start-up, in the order below, and closed in the reverse order."""
    app = web.Application(middlewares=MIDDLEWARES, client_max_size=config.limits.body_bytes)
    app[keys.CONFIG] = config
    app[keys.CLOCK] = clock or SystemClock()
    app[DEMO] = demo
    app[LIMITS] = AddressLimits(config.limits, app[keys.CLOCK].monotonic)
    app.on_response_prepare.append(secure_headers)
    app.cleanup_ctx.extend([_ground, _accounts, _media])
    app.add_routes(sessions.routes())
    app.add_routes(health.routes())
    app.add_routes(openapi.routes())
    app[static.DIST] = static.web_directory(config.server.web_directory)
    app.add_routes(static.routes())  # last: it takes every path that is left
    return app


async def _ground(app: web.Application) -> AsyncIterator[None]:
    config = app[keys.CONFIG]
    app[keys.STARTED_AT] = app[keys.CLOCK].now()
    app[keys.API_KEYS] = ApiKeys.load_or_create(config.data_dir / "keys.json")
    database = Database(config.database_url)
    bus = open_bus(config.bus.url)
    app[keys.DATABASE] = database
    app[keys.BUS] = bus
    app[keys.AUDIT] = Audit(database, app[keys.CLOCK])
    loop_watch = asyncio.create_task(metrics.watch_loop(), name="loop delay")
    try:
        await database.migrate()
        await bus.ping()
        yield
    finally:
        loop_watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loop_watch
        await bus.close()
        await database.close()


async def _accounts(app: web.Application) -> AsyncIterator[None]:
    config = app[keys.CONFIG]
    accounts = Accounts(app[keys.DATABASE], app[keys.CLOCK], app[keys.AUDIT], config.auth)
    app[keys.ACCOUNTS] = accounts
    try:
        if app[DEMO]:
            from rooms.seed import seed_venues
            from signaling import demo

            app[DEMO_ACCOUNTS] = await demo.seed(accounts, config.data_dir)
            await RoomStore(app[keys.DATABASE], app[keys.AUDIT]).add_venues(seed_venues())
        yield
    finally:
        accounts.close()


async def _media(app: web.Application) -> AsyncIterator[None]:
    config = app[keys.CONFIG]
    node = MediaNode(
        NodeConfig(
            workers=config.media.workers,
            udp_port=config.media.udp_port,
            addresses=config.media.addresses,
            loopback=within(config.server.host, LOOPBACK),
        )
    )
    ledger = metrics.WorkerLedger()
    node.on_event.append(ledger.on_event)
    node.on_worker_lost.append(ledger.on_lost)
    node.on_worker_up.append(ledger.on_up)
    app[keys.NODE] = node
    app[health.LEDGER] = ledger
    collectors = [metrics.WorkerCollector(ledger, lambda: node.worker_ids), _gauges(app)]
    for collector in collectors:
        counters.REGISTRY.register(collector)
    try:
        await node.start()
        yield
    finally:
        for collector in collectors:
            counters.REGISTRY.unregister(collector)
        await node.close()


def _gauges(app: web.Application) -> metrics.Gauges:
    gauges = metrics.Gauges()
    gauges.add("lianxin_meetings", "Active meetings.", lambda: health.people(app)[0])
    gauges.add("lianxin_participants", "Participants of all LiveKit rooms.", lambda: health.people(app)[1])
    gauges.add(
        "lianxin_start_time_seconds",
        "When the control process started, epoch seconds.",
        lambda: app[keys.STARTED_AT],
    )
    gauges.add(
        "lianxin_control_cpu_seconds_total", "CPU time of the control process.", metrics.control_cpu_seconds
    )
    gauges.add(
        "lianxin_control_memory_bytes", "Resident memory of the control process.", metrics.resident_bytes
    )
    return gauges
