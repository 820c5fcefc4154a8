"""API key and body size of every request; the last handler of every error."""

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Protocol

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vram_llm.errors import VramLLMError
from vram_llm.server.api_keys import (
    STRANGER,
    ApiKey,
    Keyring,
    anybody_at,
    client_address,
    current_key,
    scope_of,
)
from vram_llm.server.errors import BadKey, BodyTooLarge, MissingScope, error_response
from vram_llm.server.read_body import BodyBudget, HeldBody
from vram_llm.server.request_record import note_error, record_of_request
from vram_llm.server.ui.page import FOLDER
from vram_llm.units import format_bytes

log = logging.getLogger(__name__)
_BODIES = 8  # of the largest size: bytes of all bodies that are not yet parsed
_PAGE = f"{FOLDER}/"  # begins paths of the dashboard's files, which hold no secret
OPEN_PATHS = frozenset({"/", "/health", "/v1/health"})  # paths for probes, which need no key


class RequestQueue(Protocol):
    """Requests of clients. An engine has one, see server.engine_protocol."""

    def seconds_until_done(self, n: int, client: str) -> float: ...


class AuthAndLimitsMiddleware:
    """ASGI middleware around the whole app. `current_key` is the key of the request."""

    def __init__(
        self,
        app: ASGIApp,
        queue: RequestQueue,
        keyring: Keyring,
        max_body_bytes: int,
        refusals: Mapping[str, Callable[[Exception], Response]],
    ) -> None:
        """`refusals` write an error, by path; other paths get OpenAI's error object."""
        self._refusals = refusals
        self._app = app
        self._queue = queue
        self._keyring = keyring
        self._max_body_bytes = max_body_bytes
        self._bodies = BodyBudget(_BODIES * max_body_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        record = record_of_request()
        try:
            key = await self._key(scope, headers)
            current_key.set(key)
            if key is not STRANGER:
                record.client = key.name
            self._check_length(headers)
            with self._counted(key, scope), self._bodies.body(key.name) as held:
                await self._app(scope, self._limited(receive, held), send)
        except ClientDisconnect:
            return
        except Exception as error:  # every other error becomes an error object
            note_error(error)
            if not isinstance(error, VramLLMError):
                log.exception(
                    "Request %s (%s %s) of %s failed", record.id, record.method, record.path, record.client
                )
            if record.status:
                raise
            refuse = self._refusals.get(scope["path"].rstrip("/"), error_response)
            await refuse(error)(scope, receive, send)

    async def _key(self, scope: Scope, headers: Headers) -> ApiKey:
        """The key of a request. Raises BadKey, MissingScope."""
        if not self._keyring.is_needed:
            return anybody_at(client_address(scope))
        path = scope["path"].rstrip("/") or "/"
        scheme, _, given = headers.get("authorization", "").partition(" ")
        text = given.strip() if scheme.lower() == "bearer" else ""
        text = text or headers.get("x-api-key", "").strip()  # as Anthropic's clients send it
        key = await self._keyring.find(text.encode("latin-1")) if text else None
        if path in OPEN_PATHS or path.startswith(_PAGE):
            return key or STRANGER
        if not text:
            raise BadKey("This server requires an API key; send it as 'Authorization: Bearer KEY'")
        if key is None:
            raise BadKey("The API key is not one of this server's")
        if not key.may_ask(path):
            raise MissingScope(f"The API key '{key.name}' lacks the scope '{scope_of(path)}'")
        return key

    def _counted(self, key: ApiKey, scope: Scope) -> AbstractContextManager[None]:
        """Counts a POST request for its key. Entering raises RateLimited."""
        if scope["method"] != "POST":
            return nullcontext()
        return key.usage.request(partial(self._queue.seconds_until_done, client=key.name))

    def _check_length(self, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_body_bytes:
            raise self._too_large()

    def _limited(self, receive: Receive, held: HeldBody) -> Receive:
        n_bytes = 0

        async def limited() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > self._max_body_bytes:
                raise self._too_large()
            held.add(len(message.get("body", b"")))
            return message

        return limited

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(
            f"The body is larger than {format_bytes(self._max_body_bytes)}, the most taken here"
        )
