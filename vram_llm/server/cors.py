"""Which web pages may use the server from a browser (CORS, the Fetch standard)."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp

from vram_llm.machine.worker_spec import is_loopback

EVERYBODY, THIS_COMPUTER = "*", "localhost"  # special origins: every page; this computer's, any port
METHODS = ("GET", "POST", "DELETE", "OPTIONS")  # HEAD needs no permission
_EXPOSED = ("x-request-id", "retry-after", "x-should-retry")


class Cors(CORSMiddleware):
    """ASGI middleware. `origins` are origins, or the two special ones above.

    The answer to an allowed page names its origin, never "*". Credentials are not allowed: the page sets the
    API key in a header. The answer to another page does not name its origin, so the browser hides it from the
    page.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=[origin for origin in origins if origin not in (EVERYBODY, THIS_COMPUTER)],
            allow_origin_regex=".*" if EVERYBODY in origins else None,
            allow_methods=METHODS,
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )
        self._this_computer = THIS_COMPUTER in origins

    def is_allowed_origin(self, origin: str) -> bool:
        """Whether a page of that origin may use the server."""
        return super().is_allowed_origin(origin) or (self._this_computer and _is_local(origin))

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a browser's preflight request."""
        answer = super().preflight_response(request_headers)
        if self.is_allowed_origin(request_headers["origin"]):
            return answer
        return PlainTextResponse("Other web pages may not use this server", headers={"vary": "Origin"})


def _is_local(origin: str) -> bool:
    try:
        return is_loopback(urlsplit(origin).hostname or "")
    except ValueError:
        return False
