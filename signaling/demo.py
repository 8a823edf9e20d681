"""``serve --demo``: the unions of Anhui in 2016, a host, an IT account, and one account per first-tier venue.

Passwords are random, made at the first start and kept in demo-accounts.json of the data folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from core.errors import Conflict
from portal.accounts.service import Accounts, Org, Role, User

FILE = "demo-accounts.json"
# Without letters and digits that look alike: people type these from a screen.
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
_ROLES = {"host": "会议主持", "it": "信息技术", "venue": "会场"}


def new_password() -> str:
    """Three groups of four (59 bits), easy to type."""
    return "-".join("".join(secrets.choice(_LETTERS) for _ in range(4)) for _ in range(3))


def accounts_of(orgs: Iterable[Any]) -> list[dict[str, Any]]:
    """The accounts that the demo wants, without passwords, in the order of the table."""
    wanted: list[dict[str, Any]] = [
        {"username": "host", "name": "省总主持人", "role": "host", "venue_id": None},
        {"username": "it", "name": "信息技术保障", "role": "it", "venue_id": None},
    ]
    for org in orgs:
        if org.tier == 0:
            wanted.append({"username": "hall", "name": org.venue, "role": "venue", "venue_id": org.org_id})
        elif org.tier == 1:
            wanted.append(
                {
                    "username": org.pinyin,
                    "name": f"{org.short}会场",
                    "role": "venue",
                    "venue_id": org.org_id,
                }
            )
    return wanted


async def seed(accounts: Accounts, data_dir: Path) -> list[dict[str, Any]]:
    """Adds what is missing; returns the accounts with their passwords, for ``table``.

    An account that exists without a known password (the file was removed) is shown without one.
    """
    from rooms.seed import load_tree

    tree = load_tree()
    await accounts.put_orgs(
        Org(
            org.org_id,
            org.parent_id,
            org.name,
            org.short,
            org.pinyin,
            org.order_no,
            org.tier,
            (org.tile_x, org.tile_y) if org.tile_x is not None and org.tile_y is not None else None,
        )
        for org in tree
    )
    existing = {user.username: user for user in await accounts.users()}
    kept = _read(data_dir / FILE)
    wanted = accounts_of(tree)
    # Written before the accounts are made: a crash in between must not leave passwords nobody knows.
    for account in wanted:
        account["password"] = kept.get(account["username"]) or (
            "" if account["username"] in existing else new_password()
        )
    if {a["username"]: a["password"] for a in wanted} != kept:
        _write(data_dir / FILE, wanted)
    await asyncio.gather(*(_add(accounts, a) for a in wanted if a["username"] not in existing))
    return wanted


async def _add(accounts: Accounts, account: Mapping[str, Any]) -> User | None:
    role: Role = account["role"]
    try:
        return await accounts.add_user(
            account["username"], account["name"], role, account["password"], account["venue_id"], by="demo"
        )
    except Conflict:  # another process was first
        return None


def table(accounts: Iterable[Mapping[str, Any]]) -> str:
    """For the terminal, columns aligned (a Chinese character is two wide)."""
    rows = [("用户名 user", "密码 password", "角色 role", "名称 name")]
    rows += [
        (a["username"], a["password"] or "(已更改 changed)", f"{_ROLES[a['role']]} {a['role']}", a["name"])
        for a in accounts
    ]
    widths = [max(_width(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  "
        + "  ".join(cell + " " * (widths[column] - _width(cell)) for column, cell in enumerate(row)).rstrip()
        for row in rows
    )


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _read(path: Path) -> dict[str, str]:
    try:
        stored = json.loads(path.read_text("utf-8"))
        return {str(a["username"]): str(a["password"]) for a in stored["accounts"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write(path: Path, accounts: list[dict[str, Any]]) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(
        os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
    ) as file:
        json.dump({"accounts": accounts}, file, ensure_ascii=False, indent=1)
    fresh.replace(path)
