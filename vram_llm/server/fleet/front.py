"""Finds the model that a request is for, and lends its engine to the routes while they answer."""

import asyncio
from contextlib import AsyncExitStack
from time import monotonic
from urllib.parse import parse_qs

import msgspec
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from vram_llm.engine.engine_protocol import Engine
from vram_llm.errors import RequestError, RequestTimeout
from vram_llm.fleet.snapshots import ModelState
from vram_llm.server.api_keys import current_key
from vram_llm.server.fleet.context import LeasedModel, leased_model
from vram_llm.server.fleet.ports import ServedFleet
from vram_llm.server.fleet.query_switch import query_switch
from vram_llm.server.fleet.route_kinds import route_kind
from vram_llm.server.fleet.routed_models import RoutedModel, RoutedModels
from vram_llm.server.generation import while_connected
from vram_llm.server.multipart import form_parts, is_form
from vram_llm.server.normalize_request import receive_again
from vram_llm.server.read_body import LARGE_BYTES, check_values
from vram_llm.server.request_record import record_of_request
from vram_llm.server.schemas import parse
from vram_llm.server.worker_threads import BODIES, run_in

_BOM = b"\xef\xbb\xbf"


class FleetFrontMiddleware:
    """ASGI middleware inside all others. A request holds a lease of its model until its answer has ended.

    The body is read once, and passed on as one message. Raises RequestError, RequestTimeout,
    ClientDisconnect, and the errors of RoutedModels.find and Fleet.lease.
    """

    def __init__(self, app: ASGIApp, fleet: ServedFleet, models: RoutedModels) -> None:
        self._app = app
        self._fleet = fleet
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = route_kind(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if kind is None:
            await self._app(scope, receive, send)
            return
        query = parse_qs(scope["query_string"].decode("latin-1"))
        given = receive
        if scope["method"] == "GET":
            asked = query.get("model", [""])[0]
        else:
            body = await _body(receive)
            content_type = Headers(scope=scope).get("content-type", "")
            if (not body and scope["path"].startswith("/slots/")) or scope["path"] == "/lora-adapters":
                asked = query.get("model", [""])[0]
            elif is_form(content_type):
                asked = _model_of_form(body, content_type)
            elif len(body) >= LARGE_BYTES:
                asked = await run_in(BODIES, _model_of_large, body)
            else:
                asked = model_of(body)
            given = receive_again({"type": "http.request", "body": body, "more_body": False}, receive)
            del body  # the route that reads it frees it
        model = self._models.find(asked, kind, current_key.get())
        record_of_request().model = model.name
        if not query_switch("autoload", query.get("autoload", [""])[0], default=True):
            self._check_loaded(model)
        async with AsyncExitStack() as stack:
            engine = await self._leased(model, receive, stack)
            token = leased_model.set(LeasedModel(engine, model.config))
            try:
                await self._app(scope, given, send)
            finally:
                leased_model.reset(token)

    async def _leased(self, model: RoutedModel, receive: Receive, stack: AsyncExitStack) -> Engine:
        """The model's engine; `stack` gives it back. The wait ends with the client, or the request's time."""
        limit_s, began_at = model.config.request_timeout_s, record_of_request().began_at
        rest_s = max(began_at + limit_s - monotonic(), 0.0) if limit_s else None
        try:
            async with asyncio.timeout(rest_s):
                lease = self._fleet.lease(model.name)
                engine = await while_connected(receive, stack.enter_async_context(lease))
        except TimeoutError:
            raise RequestTimeout(
                f"The time for this request, {limit_s:g} s, was over before '{model.name}' was loaded"
            ) from None
        if engine is None:
            raise ClientDisconnect
        return engine

    def _check_loaded(self, model: RoutedModel) -> None:
        if self._fleet.snapshot(model.name).state is not ModelState.RESIDENT:
            raise RequestError(f"The model '{model.name}' is not loaded, and autoload is off", "model")


async def _body(receive: Receive) -> bytes:
    """A request's body. Raises BodyTooLarge, Overloaded, ClientDisconnect."""
    parts, is_whole = [], False
    while not is_whole:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        is_whole = not message.get("more_body", False)
    return b"".join(parts)  # one part is not copied


class _AnyModel(msgspec.Struct):
    model: str | None = None


class _ModelField(BaseModel, strict=True):
    model: str | None = None


def _model_of_form(body: bytes, content_type: str) -> str:
    """The field `model` of a form, or "". Raises RequestError."""
    return next((part.text() for part in form_parts(body, content_type) if part.name == "model"), "")


def _model_of_large(body: bytes) -> str:
    check_values(body)
    return model_of(body)


def model_of(body: bytes) -> str:
    """The field `model` of a body, or "". Raises RequestError in the words of the routes.

    msgspec skips the other fields without making objects of them.
    """
    try:
        return msgspec.json.decode(body.removeprefix(_BOM), type=_AnyModel).model or ""
    except (msgspec.DecodeError, RecursionError):
        return parse(_ModelField, body).model or ""
