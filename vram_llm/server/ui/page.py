"""The dashboard's page: files of this package, and headers that keep it to this server.

The page asks no other server for anything, and a browser would not let it: see CONTENT_SECURITY_POLICY.
"""

from hashlib import blake2s
from importlib.resources import files
from types import MappingProxyType

from fastapi import APIRouter, Request
from fastapi.responses import Response

from vram_llm.server.errors import UnknownRoute

CONTENT_SECURITY_POLICY = "; ".join((
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'",
    "img-src 'self' data: blob:", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
))  # fmt: skip
FOLDER = "/ui"  # the path of the page's own files
_TYPES = {
    "html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8", "svg": "image/svg+xml", "txt": "text/plain; charset=utf-8",
}  # fmt: skip
_HEADERS = MappingProxyType({
    "content-security-policy": CONTENT_SECURITY_POLICY, "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer", "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
})  # fmt: skip


class Page:
    """The files of the page, in memory."""

    def __init__(self) -> None:
        folder = files(__package__).joinpath("static")
        found = [(file.name, file) for file in folder.iterdir()]
        found += [(f"vendor/{file.name}", file) for file in folder.joinpath("vendor").iterdir()]
        self._files = {name: file.read_bytes() for name, file in found if file.is_file()}

    def reply(self, name: str, http: Request) -> Response:
        """The answer with a file, or status 304 if the client has the same bytes. Raises UnknownRoute."""
        body = self._files.get(name)
        media_type = _TYPES.get(name.rpartition(".")[2])
        if body is None or media_type is None:
            raise UnknownRoute(f"There is nothing at {FOLDER}/{name[:80]}")
        tag = f'"{blake2s(body, digest_size=8).hexdigest()}"'
        headers = {**_HEADERS, "etag": tag, "vary": "accept"}
        if http.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type=media_type)


def wants_page(http: Request) -> bool:
    """Whether a client takes HTML: browsers do, SDKs and probes do not."""
    return "text/html" in http.headers.get("accept", "").lower()


def page_router(page: Page) -> APIRouter:
    """The route for the page's files. They are the same for everybody, and need no key."""
    router = APIRouter()

    @router.get(FOLDER + "/{name:path}", include_in_schema=False)
    async def file(name: str, http: Request) -> Response:
        return page.reply(name, http)

    return router
