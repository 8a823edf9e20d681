"""Who may sign in, and who is signed in.  Other packages ask here and never touch the tables."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import structlog
from sqlalchemy import delete, select, update

from core import counters
from core.audit import Audit
from core.clock import Clock
from core.config import AuthConfig
from core.database import Database
from core.errors import BadRequest, Conflict, NotFound, TooMany, Unauthorized
from core.ids import new_id
from portal.accounts.models import LoginSessionRow, OrgRow, UserRow
from portal.accounts.passwords import MAX_PASSWORD_BYTES, Passwords

log = structlog.get_logger(__name__)

Role = Literal["host", "it", "venue"]
ROLES: tuple[str, ...] = get_args(Role)
_USERNAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
_SEEN_EVERY_S = 300.0
_STRANGERS = 10_000  # unknown names remembered, so that they lock like known ones


@dataclass(frozen=True, slots=True)
class User:
    user_id: str
    username: str
    name: str
    role: str
    venue_id: str | None


@dataclass(frozen=True, slots=True)
class Org:
    """``tile``: column and row on the schematic map, first tier only."""

    org_id: str
    parent_id: str | None
    name: str
    short: str
    pinyin: str
    order_no: int
    tier: int
    tile: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class SignedIn:
    """``expires_at`` in epoch seconds; use moves it on."""

    user: User
    token: str
    expires_at: float


@dataclass(slots=True)
class _Failures:
    count: int = 0
    locked_until: float = 0.0


class Accounts:
    def __init__(
        self,
        database: Database,
        clock: Clock,
        audit: Audit,
        rules: AuthConfig,
        passwords: Passwords | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._audit = audit
        self._rules = rules
        self._passwords = passwords or Passwords()
        self._strangers: OrderedDict[str, _Failures] = OrderedDict()
        self._signing_in: dict[str, tuple[asyncio.Lock, int]] = {}

    def close(self) -> None:
        self._passwords.close()

    # ------------------------------------------------------------------ signing in and out

    async def sign_in(self, username: str, password: str, address: str = "") -> SignedIn:
        """Raises Unauthorized ("wrong_password", for unknown names too) or TooMany ("locked").

        Attempts on one name run one after the other: a hundred at once can't all be checked before the
        first failure is counted.
        """
        name = username.strip().lower()[:64]
        lock, users = self._signing_in.get(name, (asyncio.Lock(), 0))
        self._signing_in[name] = (lock, users + 1)
        try:
            async with lock:
                return await self._sign_in(name, password, address)
        finally:
            lock, users = self._signing_in.pop(name)
            if users > 1:
                self._signing_in[name] = (lock, users - 1)

    async def _sign_in(self, username: str, password: str, address: str) -> SignedIn:
        row = None
        if _USERNAME.fullmatch(username):
            async with self._database.session(read_only=True) as session:
                row = await session.scalar(select(UserRow).where(UserRow.username == username))
        now = self._clock.now()
        locked_until = (
            row.locked_until if row is not None else self._strangers.get(username, _Failures()).locked_until
        )
        if locked_until is not None and locked_until > now:
            counters.refused("login_locked")
            raise self._locked(locked_until - now)
        if not await self._passwords.verify(row.password_hash if row is not None else None, password):
            counters.refused("login_wrong_password")
            await self._count_failure(username, row, address)
            raise Unauthorized(
                "wrong_password", "用户名或密码不正确。", "The user name or password is wrong."
            )
        assert row is not None  # verify is False without one
        return await self._open_session(row, password, address)

    async def _open_session(self, row: UserRow, password: str, address: str) -> SignedIn:
        token = secrets.token_urlsafe(32)
        now = self._clock.now()
        expires_at = now + self._lifetime_s(row.role)
        changes: dict[str, object] = {"failed_count": 0, "locked_until": None}
        if self._passwords.outdated(row.password_hash):
            changes["password_hash"] = await self._passwords.hash(password)
        async with self._database.session() as session:
            await session.execute(update(UserRow).where(UserRow.user_id == row.user_id).values(**changes))
            session.add(
                LoginSessionRow(
                    token_hash=_digest(token),
                    user_id=row.user_id,
                    created_at=now,
                    expires_at=expires_at,
                    seen_at=now,
                )
            )
            await session.execute(delete(LoginSessionRow).where(LoginSessionRow.expires_at <= now))
            await self._audit.record(
                row.username, "sign_in", row.user_id, {"address": address}, session=session
            )
        return SignedIn(_user(row), token, expires_at)

    async def _count_failure(self, username: str, row: UserRow | None, address: str) -> None:
        until = self._clock.now() + self._rules.lockout_minutes * 60
        if row is None:
            failures = self._strangers.pop(username, _Failures())
            failures.count += 1
            if failures.count >= self._rules.lockout_after:
                failures.count, failures.locked_until = 0, until
            self._strangers[username] = failures
            while len(self._strangers) > _STRANGERS:
                self._strangers.popitem(last=False)
            return
        locks = row.failed_count + 1 >= self._rules.lockout_after
        async with self._database.session() as session:
            await session.execute(
                update(UserRow)
                .where(UserRow.user_id == row.user_id)
                .values(
                    failed_count=0 if locks else UserRow.failed_count + 1,
                    locked_until=until if locks else UserRow.locked_until,
                )
            )
            if locks:
                log.warning("account locked after repeated failures", username=username, address=address)
                await self._audit.record(
                    username, "account_locked", row.user_id, {"address": address}, session=session
                )

    def _locked(self, seconds: float) -> TooMany:
        minutes = max(1, round(seconds / 60 + 0.49))
        return TooMany(
            "locked",
            f"登录失败次数过多，请 {minutes} 分钟后再试。",
            f"Too many failed attempts; try again in {minutes} min.",
            retry_after_s=max(1, int(seconds) + 1),
        )

    async def user_of(self, token: str) -> tuple[User, float] | None:
        """The signed-in user and when the session ends; None when the token is unknown or has expired."""
        if not _TOKEN.fullmatch(token):
            return None
        digest = _digest(token)
        now = self._clock.now()
        async with self._database.session(read_only=True) as session:
            found = (
                await session.execute(
                    select(LoginSessionRow, UserRow)
                    .join(UserRow, UserRow.user_id == LoginSessionRow.user_id)
                    .where(LoginSessionRow.token_hash == digest, LoginSessionRow.expires_at > now)
                )
            ).one_or_none()
        if found is None:
            return None
        login, row = found
        expires_at: float = login.expires_at
        if now - login.seen_at > _SEEN_EVERY_S:
            expires_at = now + self._lifetime_s(row.role)
            async with self._database.session() as session:
                await session.execute(
                    update(LoginSessionRow)
                    .where(LoginSessionRow.token_hash == digest)
                    .values(seen_at=now, expires_at=expires_at)
                )
        return _user(row), expires_at

    async def sign_out(self, token: str) -> None:
        async with self._database.session() as session:
            await session.execute(delete(LoginSessionRow).where(LoginSessionRow.token_hash == _digest(token)))

    def _lifetime_s(self, role: str) -> float:
        return (
            self._rules.venue_session_days * 86_400 if role == "venue" else self._rules.session_hours * 3600
        )

    # ------------------------------------------------------------------ users

    async def users(self) -> Sequence[User]:
        async with self._database.session(read_only=True) as session:
            return [_user(row) for row in await session.scalars(select(UserRow).order_by(UserRow.username))]

    async def add_user(
        self, username: str, name: str, role: Role, password: str, venue_id: str | None = None, *, by: str
    ) -> User:
        """Raises Conflict ("username_taken") or BadRequest."""
        username = username.strip().lower()
        self._check_user(username, role, venue_id, password)
        password_hash = await self._passwords.hash(password)
        row = UserRow(
            user_id=new_id("us_"),
            username=username,
            name=name[:128],
            password_hash=password_hash,
            role=role,
            venue_id=venue_id,
            failed_count=0,
            locked_until=None,
            created_at=self._clock.now(),
        )
        async with self._database.session() as session:
            if await session.scalar(select(UserRow.user_id).where(UserRow.username == username)):
                raise Conflict("username_taken", "用户名已被使用。", f"The user name {username} is taken.")
            session.add(row)
            await self._audit.record(by, "add_user", row.user_id, {"username": username}, session=session)
        return _user(row)

    async def set_password(self, username: str, password: str, *, by: str) -> None:
        """Ends all of the user's sessions and any lock.  Raises NotFound or BadRequest."""
        self._check_password(password)
        password_hash = await self._passwords.hash(password)
        async with self._database.session() as session:
            row = await session.scalar(select(UserRow).where(UserRow.username == username.strip().lower()))
            if row is None:
                raise NotFound("no_such_user", "没有这个用户。", f"There is no user {username}.")
            row.password_hash, row.failed_count, row.locked_until = password_hash, 0, None
            await session.execute(delete(LoginSessionRow).where(LoginSessionRow.user_id == row.user_id))
            await self._audit.record(by, "set_password", row.user_id, {}, session=session)

    def _check_user(self, username: str, role: str, venue_id: str | None, password: str) -> None:
        if not _USERNAME.fullmatch(username):
            raise BadRequest(
                "bad_username",
                "用户名只能包含小写字母、数字和 . _ -。",
                "A user name consists of a-z, 0-9 and . _ -.",
            )
        if role not in ROLES or (role == "venue") != (venue_id is not None):
            raise BadRequest("bad_role", "角色不正确。", "A venue account names its venue, others none.")
        self._check_password(password)

    def _check_password(self, password: str) -> None:
        least = self._rules.password_min_length
        if len(password) < least or len(password.encode("utf-8", "replace")) > MAX_PASSWORD_BYTES:
            raise BadRequest(
                "bad_password", f"密码至少 {least} 个字符。", f"A password has at least {least} characters."
            )

    # ------------------------------------------------------------------ organisations

    async def orgs(self) -> Sequence[Org]:
        """The whole tree, parents before children, siblings in their customary order."""
        async with self._database.session(read_only=True) as session:
            rows = await session.scalars(select(OrgRow).order_by(OrgRow.tier, OrgRow.order_no, OrgRow.org_id))
            return [_org(row) for row in rows]

    async def put_orgs(self, orgs: Iterable[Org]) -> int:
        """Adds those that are new, leaves the others as they are; parents must come first."""
        added = 0
        async with self._database.session() as session:
            known = set(await session.scalars(select(OrgRow.org_id)))
            for org in orgs:
                if org.org_id in known:
                    continue
                added += 1
                session.add(
                    OrgRow(
                        org_id=org.org_id,
                        parent_id=org.parent_id,
                        name=org.name,
                        short=org.short,
                        pinyin=org.pinyin,
                        order_no=org.order_no,
                        tier=org.tier,
                        tile_x=org.tile[0] if org.tile else None,
                        tile_y=org.tile[1] if org.tile else None,
                    )
                )
        return added


def _digest(token: str) -> str:
    # A plain hash is enough: the token itself is 256 random bits, there is nothing to guess.
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _user(row: UserRow) -> User:
    return User(row.user_id, row.username, row.name, row.role, row.venue_id)


def _org(row: OrgRow) -> Org:
    tile = (row.tile_x, row.tile_y) if row.tile_x is not None and row.tile_y is not None else None
    return Org(row.org_id, row.parent_id, row.name, row.short, row.pinyin, row.order_no, row.tier, tile)
