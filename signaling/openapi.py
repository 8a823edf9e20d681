"""OpenAPI 3.1 at /api/openapi.json, collected from what each handler says about itself.

    @operation("Start a meeting", tag="meetings", body=NewMeeting, response=MeetingView, status=201,
               roles=("host",), errors={409: "The title is taken."})
    async def start_meeting(request: web.Request) -> web.Response: ...

The route table gives paths and methods; a test fails when a route under /api/v1 has no operation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import hdrs, web
from pydantic import TypeAdapter

from signaling.replies import json_response

F = TypeVar("F", bound=Callable[..., Any])
_ATTRIBUTE = "__lianxin_operation__"
_REF = "#/components/schemas/{model}"
PROBLEM = {
    "type": "object",
    "description": "RFC 9457 problem details.",
    "required": ["type", "title", "status", "code", "detail", "detail_en"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "Stable, for programs."},
        "detail": {"type": "string", "description": "For people, Chinese."},
        "detail_en": {"type": "string", "description": "For people, English."},
    },
}


@dataclass(frozen=True, slots=True)
class Operation:
    """``body`` and ``response``: a pydantic model, any type a TypeAdapter takes, or a JSON schema as a dict.

    ``response_type`` is the media type; anything but JSON is described as binary.  ``roles`` None: no
    sign-in needed; empty: any signed-in user.  ``query``: parameter name → JSON schema.
    """

    summary: str
    tag: str
    body: Any = None
    response: Any = None
    status: int = 200
    response_type: str = "application/json"
    roles: tuple[str, ...] | None = ()
    errors: Mapping[int, str] = field(default_factory=dict)
    query: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    description: str = ""


def operation(
    summary: str,
    *,
    tag: str,
    body: Any = None,
    response: Any = None,
    status: int = 200,
    response_type: str = "application/json",
    roles: Sequence[str] | None = (),
    errors: Mapping[int, str] | None = None,
    query: Mapping[str, Mapping[str, Any]] | None = None,
    description: str = "",
) -> Callable[[F], F]:
    """Describes the handler; changes nothing about how it runs."""
    described = Operation(
        summary=summary,
        tag=tag,
        body=body,
        response=response,
        status=status,
        response_type=response_type,
        roles=None if roles is None else tuple(roles),
        errors=dict(errors or {}),
        query=dict(query or {}),
        description=description,
    )

    def attach(handler: F) -> F:
        setattr(handler, _ATTRIBUTE, described)
        return handler

    return attach


def operation_of(handler: object) -> Operation | None:
    found = getattr(handler, _ATTRIBUTE, None)
    return found if isinstance(found, Operation) else None


def document(app: web.Application, version: str) -> dict[str, Any]:
    """The whole description of ``app``'s routes that carry an operation."""
    schemas: dict[str, Any] = {"Problem": PROBLEM}
    paths: dict[str, dict[str, Any]] = {}
    for route in app.router.routes():
        described = operation_of(route.handler)
        if described is None or route.resource is None or route.method == hdrs.METH_HEAD:
            continue
        path = re.sub(r"\{(\w+):[^}]*\}", r"{\1}", route.resource.canonical)
        paths.setdefault(path, {})[route.method.lower()] = _operation(described, path, route.method, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "连心 Lianxin",
            "version": version,
            "description": "HTTP interface of the control process. Live state travels over /ws.",
        },
        "servers": [{"url": "/"}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "cookie": {"type": "apiKey", "in": "cookie", "name": "lianxin_session"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def undescribed(app: web.Application, prefix: str = "/api/v1") -> list[str]:
    """Routes under ``prefix`` that no operation describes (for the test)."""
    return sorted(
        f"{route.method} {route.resource.canonical}"
        for route in app.router.routes()
        if route.resource is not None
        and route.resource.canonical.startswith(prefix)
        and route.method != hdrs.METH_HEAD
        and operation_of(route.handler) is None
    )


def _operation(described: Operation, path: str, method: str, schemas: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "summary": described.summary,
        "operationId": _operation_id(method, path),
        "tags": [described.tag],
        "responses": {str(described.status): _response(described, schemas)},
    }
    if described.description:
        result["description"] = described.description
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", path)
    ] + [{"name": name, "in": "query", "schema": dict(schema)} for name, schema in described.query.items()]
    if parameters:
        result["parameters"] = parameters
    if described.body is not None:
        result["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _schema(described.body, schemas, "validation")}},
        }
    errors = dict(described.errors)
    if described.body is not None:
        errors.setdefault(400, "The body can't be read or breaks a rule.")
    if described.roles is not None:
        result["security"] = [{"cookie": []}, {"bearer": []}]
        errors.setdefault(401, "Nobody is signed in.")
        if described.roles:
            errors.setdefault(403, f"Only for: {', '.join(described.roles)}.")
    for status, text in sorted(errors.items()):
        result["responses"][str(status)] = {
            "description": text,
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return result


def _response(described: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    if described.response_type != "application/json":
        return {
            "description": described.summary,
            "content": {described.response_type: {"schema": {"type": "string", "format": "binary"}}},
        }
    if described.response is None:
        return {"description": described.summary}
    return {
        "description": described.summary,
        "content": {"application/json": {"schema": _schema(described.response, schemas, "serialization")}},
    }


def _schema(source: Any, schemas: dict[str, Any], mode: Any) -> dict[str, Any]:
    if isinstance(source, Mapping):
        return dict(source)
    schema = TypeAdapter(source).json_schema(ref_template=_REF, mode=mode)
    for name, definition in schema.pop("$defs", {}).items():
        schemas.setdefault(name, definition)
    title = schema.get("title")
    if isinstance(title, str) and isinstance(source, type) and schema.get("type") == "object":
        schemas.setdefault(title, schema)
        return {"$ref": _REF.format(model=title)}
    return schema


def _operation_id(method: str, path: str) -> str:
    words = re.findall(r"\w+", path.removeprefix("/api/v1"))
    return "_".join([method.lower(), *words])


async def _openapi(request: web.Request) -> web.Response:
    from signaling.version import VERSION

    return json_response(document(request.app, VERSION))


def routes() -> list[web.RouteDef]:
    return [web.get("/api/openapi.json", _openapi)]
