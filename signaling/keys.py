"""What the application carries, under typed keys (aiohttp AppKey): each set once by ``signaling.app``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from core.audit import Audit
    from core.bus import Bus
    from core.clock import Clock
    from core.config import Config
    from core.database import Database
    from portal.accounts.service import Accounts
    from recording.catalog import Catalog
    from recording.sessions import RecordingSessions
    from rooms.directory import RoomDirectory
    from sfu.node import MediaNode
    from signaling.livekit.rooms import MediaRooms
    from signaling.livekit.token import ApiKeys
    from signaling.ws import Hub

CONFIG: web.AppKey[Config] = web.AppKey("config")
CLOCK: web.AppKey[Clock] = web.AppKey("clock")
DATABASE: web.AppKey[Database] = web.AppKey("database")
BUS: web.AppKey[Bus] = web.AppKey("bus")
AUDIT: web.AppKey[Audit] = web.AppKey("audit")
ACCOUNTS: web.AppKey[Accounts] = web.AppKey("accounts")
API_KEYS: web.AppKey[ApiKeys] = web.AppKey("api_keys")
NODE: web.AppKey[MediaNode] = web.AppKey("node")
MEDIA_ROOMS: web.AppKey[MediaRooms] = web.AppKey("media_rooms")
DIRECTORY: web.AppKey[RoomDirectory] = web.AppKey("directory")
HUB: web.AppKey[Hub] = web.AppKey("hub")
CATALOG: web.AppKey[Catalog] = web.AppKey("catalog")
RECORDINGS: web.AppKey[RecordingSessions] = web.AppKey("recordings")
STARTED_AT: web.AppKey[float] = web.AppKey("started_at")  # epoch seconds
