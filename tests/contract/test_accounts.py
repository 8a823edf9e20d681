"""Accounts on both databases: signing in, lockout, sessions, organisations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from sqlalchemy import select

from core.audit import Audit
from core.clock import FakeClock
from core.config import AuthConfig
from core.database import Database
from core.errors import BadRequest, Conflict, LianxinError, NotFound, TooMany, Unauthorized
from portal.accounts.models import LoginSessionRow, UserRow
from portal.accounts.passwords import Passwords
from portal.accounts.service import Accounts, Org

PASSWORD = "correct horse battery"
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
RULES = AuthConfig(lockout_after=3, lockout_minutes=5, session_hours=12, venue_session_days=100)


class Desk:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = FakeClock()
        self.audit = Audit(database, self.clock)
        self.passwords = Passwords(CHEAP)
        self.accounts = Accounts(database, self.clock, self.audit, RULES, self.passwords)

    async def refused(self, username: str, password: str) -> LianxinError:
        with pytest.raises(LianxinError) as caught:
            await self.accounts.sign_in(username, password, "10.0.0.1")
        return caught.value


@pytest.fixture(params=["sqlite", "postgresql"])
async def desk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Desk]:
    url = f"sqlite:///{tmp_path}/test.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    database = Database(url)
    await database.migrate()
    made = Desk(database)
    await made.accounts.add_user("host", "主持人", "host", PASSWORD, by="test")
    await made.accounts.add_user("hefei", "合肥", "venue", PASSWORD, "340100", by="test")
    yield made
    made.accounts.close()
    await database.close()


async def test_sign_in_and_out(desk: Desk) -> None:
    signed = await desk.accounts.sign_in(" HOST ", PASSWORD)
    assert (signed.user.username, signed.user.role, signed.user.venue_id) == ("host", "host", None)
    assert await desk.accounts.user_of(signed.token) == (signed.user, signed.expires_at)
    await desk.accounts.sign_out(signed.token)
    assert await desk.accounts.user_of(signed.token) is None


async def test_neither_password_nor_token_is_stored(desk: Desk) -> None:
    signed = await desk.accounts.sign_in("host", PASSWORD)
    async with desk.database.session(read_only=True) as session:
        stored = (await session.scalars(select(LoginSessionRow.token_hash))).all()
        hashes = (await session.scalars(select(UserRow.password_hash))).all()
    assert signed.token not in stored
    assert all(h.startswith("$argon2id$") and PASSWORD not in h for h in hashes)


@pytest.mark.parametrize("token", ["", "x", "x" * 43, "x" * 10_000, "连心" * 20, "\0" * 43, "' OR 1=1 --"])
async def test_invented_tokens_are_nobodys(desk: Desk, token: str) -> None:
    assert await desk.accounts.user_of(token) is None


async def test_wrong_password_and_unknown_user_look_the_same(desk: Desk) -> None:
    checked: list[str | None] = []
    verify = desk.passwords._check

    def watch(stored: str, password: str) -> bool:
        checked.append(stored.split("$")[3])  # the parameters that make the time
        return verify(stored, password)

    desk.passwords._check = watch  # type: ignore[method-assign]
    known, unknown = await desk.refused("host", "wrong"), await desk.refused("nobody", "wrong")
    assert (known.code, known.status, known.message) == (unknown.code, unknown.status, unknown.message)
    assert len(checked) == 2
    assert checked[0] == checked[1]


async def test_the_decoys_password_opens_nothing(desk: Desk) -> None:
    assert isinstance(await desk.refused("nobody", "decoy"), Unauthorized)


async def test_repeated_failures_lock_for_a_while(desk: Desk) -> None:
    codes = [(await desk.refused("host", "wrong")).code for _ in range(4)]
    assert codes == ["wrong_password"] * 3 + ["locked"]
    locked = await desk.refused("host", PASSWORD)
    assert isinstance(locked, TooMany)
    assert locked.extra["retry_after_s"] == 301
    desk.clock.advance(301)
    assert (await desk.accounts.sign_in("host", PASSWORD)).user.username == "host"
    assert [e.subject for e in await desk.audit.list(action="account_locked")] != []


async def test_unknown_names_lock_like_known_ones(desk: Desk) -> None:
    codes = [(await desk.refused("nobody", "wrong")).code for _ in range(4)]
    assert codes == ["wrong_password"] * 3 + ["locked"]


async def test_success_forgets_earlier_failures(desk: Desk) -> None:
    for _ in range(3):
        for _ in range(2):
            await desk.refused("host", "wrong")
        await desk.accounts.sign_in("host", PASSWORD)


async def test_many_guesses_at_once_get_no_more_tries(desk: Desk) -> None:
    results = await asyncio.gather(*(desk.refused("host", f"guess {n}") for n in range(20)))
    assert [r.code for r in results].count("wrong_password") == 3


async def test_a_lock_does_not_end_open_sessions(desk: Desk) -> None:
    signed = await desk.accounts.sign_in("hefei", PASSWORD)
    for _ in range(4):
        await desk.refused("hefei", "wrong")
    assert await desk.accounts.user_of(signed.token) is not None


async def test_sessions_end_when_unused_and_use_prolongs_them(desk: Desk) -> None:
    signed = await desk.accounts.sign_in("host", PASSWORD)
    for _ in range(5):
        desk.clock.advance(6 * 3600)
        assert await desk.accounts.user_of(signed.token) is not None
    desk.clock.advance(12 * 3600 + 1)
    assert await desk.accounts.user_of(signed.token) is None


async def test_venue_pages_stay_signed_in_for_long(desk: Desk) -> None:
    signed = await desk.accounts.sign_in("hefei", PASSWORD)
    desk.clock.advance(99 * 86_400)
    assert await desk.accounts.user_of(signed.token) is not None


async def test_expired_sessions_are_removed_at_the_next_sign_in(desk: Desk) -> None:
    await desk.accounts.sign_in("host", PASSWORD)
    desk.clock.advance(13 * 3600)
    await desk.accounts.sign_in("host", PASSWORD)
    async with desk.database.session(read_only=True) as session:
        assert len((await session.scalars(select(LoginSessionRow))).all()) == 1


async def test_a_new_password_ends_sessions_and_locks(desk: Desk) -> None:
    signed = await desk.accounts.sign_in("host", PASSWORD)
    for _ in range(4):
        await desk.refused("host", "wrong")
    await desk.accounts.set_password("host", "another password", by="it")
    assert await desk.accounts.user_of(signed.token) is None
    await desk.accounts.sign_in("host", "another password")
    with pytest.raises(NotFound):
        await desk.accounts.set_password("nobody", "another password", by="it")


async def test_weaker_hashes_are_renewed_at_sign_in(desk: Desk) -> None:
    stronger = Passwords(PasswordHasher(time_cost=2, memory_cost=16, parallelism=1))
    later = Accounts(desk.database, desk.clock, desk.audit, RULES, stronger)
    await later.sign_in("host", PASSWORD)
    async with desk.database.session(read_only=True) as session:
        stored = await session.scalar(select(UserRow.password_hash).where(UserRow.username == "host"))
    assert stored is not None
    assert "m=16,t=2" in stored
    await later.sign_in("host", PASSWORD)
    later.close()


@pytest.mark.parametrize(
    ("username", "role", "venue", "password", "code"),
    [
        ("Übung", "host", None, PASSWORD, "bad_username"),
        ("", "host", None, PASSWORD, "bad_username"),
        ("a" * 65, "host", None, PASSWORD, "bad_username"),
        ("x", "king", None, PASSWORD, "bad_role"),
        ("x", "venue", None, PASSWORD, "bad_role"),
        ("x", "host", "340100", PASSWORD, "bad_role"),
        ("x", "host", None, "short", "bad_password"),
        ("x", "host", None, "长" * 400, "bad_password"),
    ],
)
async def test_what_an_account_may_not_be(
    desk: Desk, username: str, role: str, venue: str | None, password: str, code: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        await desk.accounts.add_user(username, "x", role, password, venue, by="test")  # type: ignore[arg-type]
    assert caught.value.code == code


async def test_user_names_are_unique(desk: Desk) -> None:
    with pytest.raises(Conflict):
        await desk.accounts.add_user("HOST", "x", "host", PASSWORD, by="test")


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 100_000, "' OR '1'='1", "\x1b[31m"])
async def test_odd_texts_are_just_wrong(desk: Desk, text: str) -> None:
    assert (await desk.refused("host", text)).code == "wrong_password"
    assert (await desk.refused(text, PASSWORD)).code == "wrong_password"


async def test_organisations_in_order_and_once(desk: Desk) -> None:
    tree = [
        Org("340000", None, "安徽省总工会", "省总", "anhui", 0, 0),
        Org("340200", "340000", "芜湖市总工会", "芜湖", "wuhu", 2, 1, (3, 4)),
        Org("340100", "340000", "合肥市总工会", "合肥", "hefei", 1, 1, (2, 2)),
    ]
    assert await desk.accounts.put_orgs(tree) == 3
    assert await desk.accounts.put_orgs(tree) == 0
    assert [(o.org_id, o.tile) for o in await desk.accounts.orgs()] == [
        ("340000", None),
        ("340100", (2, 2)),
        ("340200", (3, 4)),
    ]
