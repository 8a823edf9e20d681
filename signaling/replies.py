"""JSON answers that people can read too: Chinese stays Chinese."""

from __future__ import annotations

import json
from functools import partial

from aiohttp import web

json_response = partial(web.json_response, dumps=partial(json.dumps, ensure_ascii=False))
