"""Composition root of the control process: who is made of whom, in which order, and closed in reverse."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from aiohttp import web

from core import counters
from core.audit import Audit
from core.bus import open_bus
from core.clock import Clock, SystemClock
from core.config import LOOPBACK, Config
from core.database import Database
from portal.accounts.service import Accounts
from recording.sessions import RecordingSessions
from rooms.directory import RoomDirectory
from rooms.model import AfterFloor, Rules
from rooms.store import RoomStore
from sfu.node import MediaNode, NodeConfig
from signaling import health, keys, meetings, metrics, openapi, recordings, sessions, static, ws
from signaling.http import LIMITS, MIDDLEWARES, AddressLimits, secure_headers, within
from signaling.livekit.limits import Limits
from signaling.livekit.rooms import MediaRooms
from signaling.livekit.token import ApiKeys
from signaling.reconcile import Reconciler

DEMO_ACCOUNTS: web.AppKey[list[dict[str, str]]] = web.AppKey("demo_accounts")
NODE_STARTING: web.AppKey[asyncio.Task[None]] = web.AppKey("node_starting")
Part = Callable[[web.Application], AbstractAsyncContextManager[None]]


def make_app(config: Config, *, demo: bool = False, clock: Clock | None = None) -> web.Application:
    """Makes every part; opening them happens at start-up, in the order of ``cleanup_ctx``.

    The data folder must exist.  Raises ConfigError.
    """
    app = web.Application(middlewares=MIDDLEWARES, client_max_size=config.limits.body_bytes)
    clock = clock or SystemClock()
    app[keys.CONFIG] = config
    app[keys.CLOCK] = clock
    app[keys.STARTED_AT] = clock.now()
    app[LIMITS] = AddressLimits(config.limits, clock.monotonic)
    app.on_response_prepare.append(secure_headers)

    database = app[keys.DATABASE] = Database(config.database_url)
    audit = app[keys.AUDIT] = Audit(database, clock)
    app[keys.BUS] = open_bus(config.bus.url)
    app[keys.ACCOUNTS] = Accounts(database, clock, audit, config.auth)
    app[keys.API_KEYS] = ApiKeys.load_or_create(config.data_dir / "keys.json")

    node = app[keys.NODE] = _node(config)
    app[health.LEDGER] = _ledger(node)
    store = RoomStore(database, audit)
    directory = app[keys.DIRECTORY] = RoomDirectory(store, clock, _rules(config))
    recorder = app[keys.RECORDINGS] = RecordingSessions(
        database, clock, config.recording_directory, min_free_bytes=config.recording.min_free_bytes
    )
    app[keys.CATALOG] = recorder.catalog
    hub = app[keys.HUB] = ws.Hub(directory, clock)
    reconciler = Reconciler(directory, clock, recorder, hub, config.meetings.open_microphones)
    rooms = app[keys.MEDIA_ROOMS] = MediaRooms(
        node, clock, app[keys.API_KEYS], reconciler, reconciler, _limits(config)
    )
    reconciler.attach(rooms)

    app[DEMO_ACCOUNTS] = []
    parts: list[Part] = [_measurements, _node_running, _database, _bus, _accounts]
    if demo:
        parts.append(_demo_of(store))
    parts += [_node_ready, _recorder_running, _media_of(reconciler), _hub_running]
    app.cleanup_ctx.extend(parts)
    app.on_shutdown.append(_hang_up)

    for module in (sessions, meetings, recordings, health, openapi, ws):
        app.add_routes(module.routes())
    app.add_routes(rooms.routes())
    app[static.DIST] = static.web_directory(config.server.web_directory)
    app.add_routes(static.routes())  # last: it takes every path that is left
    return app


def _node(config: Config) -> MediaNode:
    from recording.tap import open_tap

    return MediaNode(
        NodeConfig(
            workers=config.media.workers,
            udp_port=config.media.udp_port,
            tcp_port=config.media_tcp_port,
            native=config.media.native,
            addresses=config.media.addresses,
            loopback=config.server.host == "localhost" or within(config.server.host, LOOPBACK),
        ),
        open_tap,
    )


def _rules(config: Config) -> Rules:
    chosen = config.meetings
    return Rules(
        ring_s=chosen.ring_s, redials=chosen.redials, after_floor=AfterFloor(chosen.after_floor)
    )  # fmt: skip


def _ledger(node: MediaNode) -> metrics.WorkerLedger:
    ledger = metrics.WorkerLedger()
    node.on_event.append(ledger.on_event)
    node.on_worker_lost.append(ledger.on_lost)
    node.on_worker_up.append(ledger.on_up)
    return ledger


def _limits(config: Config) -> Limits:
    limits = config.limits
    return Limits(
        message_bytes=limits.livekit_message_bytes,
        rooms=limits.rooms,
        participants_per_room=limits.participants_per_room,
        tracks_per_participant=limits.tracks_per_participant,
    )


async def _hang_up(app: web.Application) -> None:
    """Long connections end before aiohttp waits for their handlers."""
    await app[keys.MEDIA_ROOMS].stop()
    await app[keys.HUB].close()


# ---------------------------------------------------------------- parts, in the order of their opening


@asynccontextmanager
async def _measurements(app: web.Application) -> AsyncIterator[None]:
    node = app[keys.NODE]
    collectors = [
        metrics.WorkerCollector(app[health.LEDGER], lambda: node.worker_ids),
        metrics.LineCollector(lambda: health.lines(app)),
        _gauges(app),
    ]
    for collector in collectors:
        counters.REGISTRY.register(collector)
    watch = asyncio.create_task(metrics.watch_loop(), name="loop delay")
    try:
        yield
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
        for collector in collectors:
            counters.REGISTRY.unregister(collector)


def _gauges(app: web.Application) -> metrics.Gauges:
    gauges = metrics.Gauges()
    gauges.add("lianxin_meetings", "Active meetings.", lambda: len(app[keys.DIRECTORY].active))
    gauges.add(
        "lianxin_participants", "Participants of all LiveKit rooms.", lambda: health.participant_count(app)
    )
    gauges.add("lianxin_rooms", "LiveKit rooms, meetings' rooms included.", lambda: health.room_count(app))
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


@asynccontextmanager
async def _database(app: web.Application) -> AsyncIterator[None]:
    try:
        await app[keys.DATABASE].migrate()
        yield
    finally:
        await app[keys.DATABASE].close()


@asynccontextmanager
async def _bus(app: web.Application) -> AsyncIterator[None]:
    try:
        await app[keys.BUS].ping()
        yield
    finally:
        await app[keys.BUS].close()


@asynccontextmanager
async def _accounts(app: web.Application) -> AsyncIterator[None]:
    try:
        yield
    finally:
        app[keys.ACCOUNTS].close()


def _demo_of(store: RoomStore) -> Part:
    @asynccontextmanager
    async def seeded(app: web.Application) -> AsyncIterator[None]:
        from rooms.seed import seed_venues
        from signaling import demo

        accounts = await demo.seed(app[keys.ACCOUNTS], app[keys.CONFIG].data_dir)
        app[DEMO_ACCOUNTS].extend(accounts)
        await store.add_venues(seed_venues())
        yield

    return seeded


@asynccontextmanager
async def _node_running(app: web.Application) -> AsyncIterator[None]:
    """Worker processes take half a second to come up: they do while the database is opened."""
    node = app[keys.NODE]
    starting = app[NODE_STARTING] = asyncio.create_task(node.start(), name="media node")
    try:
        yield
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await node.close()


@asynccontextmanager
async def _node_ready(app: web.Application) -> AsyncIterator[None]:
    await app[NODE_STARTING]
    yield


@asynccontextmanager
async def _recorder_running(app: web.Application) -> AsyncIterator[None]:
    recorder = app[keys.RECORDINGS]
    await recorder.start_up()
    try:
        yield
    finally:
        await recorder.close()


def _media_of(reconciler: Reconciler) -> Part:
    @asynccontextmanager
    async def media_running(app: web.Application) -> AsyncIterator[None]:
        rooms, directory = app[keys.MEDIA_ROOMS], app[keys.DIRECTORY]
        await rooms.start()
        await directory.start()
        try:
            yield
        finally:
            await rooms.stop()
            await directory.close()
            await reconciler.close()

    return media_running


@asynccontextmanager
async def _hub_running(app: web.Application) -> AsyncIterator[None]:
    hub = app[keys.HUB]
    await hub.start(app[keys.ACCOUNTS].user_of)
    try:
        yield
    finally:
        await hub.close()
