"""Demo tree: the unions of Anhui in 2016 (the centre, 16 cities, 2 direct counties, 103 counties)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from rooms.model import Venue

ROOT = "340000"


@dataclass(frozen=True, slots=True)
class SeedOrg:
    """One union.  ``order_no`` counts depth first, so sorting by it alone gives the protocol order.

    ``tier``: 0 centre, 1 city or county under the province, 2 county or district.  ``tile_x``/``tile_y``:
    column and row of the schematic tile map, only on the first tier.
    """

    org_id: str
    parent_id: str | None
    name: str
    short: str
    pinyin: str
    order_no: int
    tier: int
    venue: str
    tile_x: int | None = None
    tile_y: int | None = None


def load_tree() -> list[SeedOrg]:
    """All 122, parents before children."""
    text = files("rooms").joinpath("anhui-2016.json").read_text(encoding="utf-8")
    orgs: list[SeedOrg] = []
    _walk(json.loads(text)["root"], None, 0, orgs)
    return orgs


def _walk(node: dict[str, Any], parent: str | None, tier: int, orgs: list[SeedOrg]) -> None:
    tile = node.get("tile") or (None, None)
    orgs.append(
        SeedOrg(
            org_id=node["code"],
            parent_id=parent,
            name=node["name"],
            short=node.get("short") or "省总",
            pinyin=node["pinyin"],
            order_no=len(orgs),
            tier=tier,
            venue=node.get("venue") or node["name"],
            tile_x=tile[0],
            tile_y=tile[1],
        )
    )
    for child in node.get("children", ()):
        _walk(child, node["code"], tier + 1, orgs)


def seed_venues() -> list[Venue]:
    """One venue per union, under the same code."""
    return [
        Venue(
            venue_id=org.org_id,
            name=org.venue,
            short=org.short,
            pinyin=org.pinyin,
            parent_id=org.parent_id,
            tier=org.tier,
            order_no=org.order_no,
            org_id=org.org_id,
        )
        for org in load_tree()
    ]
