"""The call page's files, read once at start: what is not among them does not exist, wherever a path points."""

from __future__ import annotations

import gzip
import mimetypes
from dataclasses import dataclass
from pathlib import Path

from aiohttp import hdrs, web

FOLDER = Path(__file__).parent / "page"  # where the web build puts it
MISSING = "The call page is not built. In a checkout, `make page` builds it; a released wheel has it.\n"

# The page talks to its user's homeserver, whichever that is, and shows avatars from there. WebRTC needs no entry.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob: https: http:",
        "media-src 'self' blob: mediastream:",
        "font-src 'self'",
        "connect-src 'self' https: http:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(self), display-capture=(self)",
    "Cross-Origin-Opener-Policy": "same-origin",
}
IMMUTABLE = "public, max-age=31536000, immutable"  # a file under assets/ has a hash of its content in its name
FRESH = "no-cache"


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    packed: bytes | None  # gzip, where that is smaller
    content_type: str
    cache_control: str


class Page:
    """The files below one folder, by their path in the address."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files = {
            path.relative_to(folder).as_posix(): _read(path, path.relative_to(folder).parts[0] == "assets")
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    async def serve(self, request: web.Request) -> web.Response:
        """One file; `/` is index.html."""
        file = self._files.get(request.match_info.get("path") or "index.html")
        if file is None:
            missing = "Not found.\n" if "index.html" in self._files else MISSING
            return web.Response(status=404, text=missing, headers=HEADERS)
        headers = {
            **HEADERS,
            hdrs.CONTENT_TYPE: file.content_type,
            hdrs.CACHE_CONTROL: file.cache_control,
            hdrs.VARY: hdrs.ACCEPT_ENCODING,
        }
        if file.packed is not None and "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
            return web.Response(body=file.packed, headers={**headers, hdrs.CONTENT_ENCODING: "gzip"})
        return web.Response(body=file.body, headers=headers)


def _read(path: Path, immutable: bool) -> _File:
    body = path.read_bytes()
    content_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    if content_type.startswith("text/"):
        content_type += "; charset=utf-8"
    packed = gzip.compress(body, 6, mtime=0)
    return _File(body, packed if len(packed) < len(body) else None, content_type, IMMUTABLE if immutable else FRESH)
