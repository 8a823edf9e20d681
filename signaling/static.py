"""The pages: files of web/dist, index.html for every address of the single-page application."""

from __future__ import annotations

from pathlib import Path

from aiohttp import hdrs, web

from signaling.openapi import operation

# Our own table: the system's differs between machines, and nosniff refuses JavaScript called text/plain.
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".wasm": "application/wasm",
    ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg",
    ".wav": "audio/wav",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
}

DIST: web.AppKey[Path] = web.AppKey("dist", Path)
_RESERVED = ("api", "rtc", "twirp", "ws", "metrics", "healthz", "readyz")
_NOT_BUILT = """<!doctype html><html lang="zh-CN"><meta charset="utf-8"><title>连心</title>
<p>页面尚未构建：请运行 <code>make setup</code>。</p>
<p lang="en">The pages have not been built: run <code>make setup</code>.</p></html>"""


def web_directory(configured: Path | None) -> Path:
    """``configured``, or web/dist beside the packages (a checkout or an installed bundle)."""
    return (configured or Path(__file__).resolve().parent.parent / "web" / "dist").resolve()


@operation("A page or one of its files", tag="pages", roles=None, response_type="text/html")
async def page(request: web.Request) -> web.StreamResponse:
    root = request.app[DIST]
    relative = request.match_info["path"]
    first = relative.partition("/")[0]
    if first in _RESERVED or "\0" in relative:
        raise web.HTTPNotFound
    found = _file(root, relative)
    if found is None:
        if "." in relative.rpartition("/")[2] or first == "assets":
            raise web.HTTPNotFound
        found = root / "index.html"
        if not found.is_file():
            return web.Response(
                status=503,
                text=_NOT_BUILT,
                content_type="text/html",
                headers={hdrs.CACHE_CONTROL: "no-store"},
            )
    # FileResponse answers ranges and If-Modified-Since, and sends a .br or .gz that lies beside the file.
    response = web.FileResponse(found)
    response.headers[hdrs.CONTENT_TYPE] = _TYPES.get(found.suffix, "application/octet-stream")
    # Files under assets/ carry a hash of their content in their names.
    forever = found.parent == root / "assets"
    response.headers[hdrs.CACHE_CONTROL] = "public, max-age=31536000, immutable" if forever else "no-cache"
    return response


def _file(root: Path, relative: str) -> Path | None:
    """The file at ``relative`` if it is one inside ``root``, whatever dots and links say."""
    if not relative:
        return None
    try:
        candidate = (root / relative).resolve()
        inside = candidate.is_relative_to(root) and candidate.is_file()
    except (OSError, ValueError):
        return None
    return candidate if inside else None


def routes() -> list[web.RouteDef]:
    return [web.get("/{path:.*}", page)]
