"""Request id, API key and body size of every request; the last handler of every error."""

import hmac
import logging
import re
from collections.abc import Callable, Mapping
from hashlib import blake2s
from secrets import token_bytes
from uuid import uuid4

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vram_llm.errors import VramLLMError
from vram_llm.server.errors import BadKey, BodyTooLarge, error_response
from vram_llm.units import format_bytes

log = logging.getLogger(__name__)
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_OPEN = frozenset({"/", "/health", "/v1/health"})  # paths for probes, which need no key


class AuthAndLimitsMiddleware:
    """ASGI middleware around the whole app. Without `api_keys`, no key is required."""

    def __init__(
        self,
        app: ASGIApp,
        api_keys: tuple[str, ...],
        max_body_bytes: int,
        refusals: Mapping[str, Callable[[Exception], Response]],
    ) -> None:
        """`refusals` write an error, by path; other paths get OpenAI's error object."""
        self._refusals = refusals
        self._app = app
        self._secret = token_bytes(blake2s.MAX_KEY_SIZE)
        self._keys = tuple(self._digest(key.encode()) for key in api_keys)
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            self._check_key(scope, headers)
            self._check_length(headers)
            await self._app(scope, self._limited(receive), send_with_id)
        except ClientDisconnect:
            return
        except Exception as error:  # every other error becomes an error object
            if not isinstance(error, VramLLMError):
                log.exception("Request %s (%s %s) failed", request_id, scope["method"], scope["path"])
            if started:
                raise
            refuse = self._refusals.get(scope["path"].rstrip("/"), error_response)
            await refuse(error)(scope, receive, send_with_id)

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        if not self._keys or (scope["path"].rstrip("/") or "/") in _OPEN:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        key = (given.strip() if scheme.lower() == "bearer" else "").encode("latin-1")
        key = key or headers.get("x-api-key", "").strip().encode("latin-1")  # as Anthropic's clients send it
        if not key:
            raise BadKey("This server requires an API key; send it as 'Authorization: Bearer KEY'")
        # of all keys, and of digests with a secret: the time tells neither which key is near nor its length
        digest = self._digest(key)
        matches = [hmac.compare_digest(digest, known) for known in self._keys]
        if not any(matches):
            raise BadKey("The API key is not one of this server's")

    def _digest(self, key: bytes) -> bytes:
        return blake2s(key, key=self._secret).digest()

    def _check_length(self, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_body_bytes:
            raise self._too_large()

    def _limited(self, receive: Receive) -> Receive:
        n_bytes = 0

        async def limited() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > self._max_body_bytes:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(
            f"The body is larger than {format_bytes(self._max_body_bytes)}, the most taken here"
        )


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _SANE_ID.fullmatch(given) else f"req_{uuid4().hex}"
