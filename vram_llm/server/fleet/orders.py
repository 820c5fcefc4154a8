"""POST /models/load, /models/unload, /models/sleep and /models/reload: orders of the operator.

The first two are llama-server's (tools/server/README.md, router mode): they answer before the work is done.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from vram_llm.errors import RequestError, VramLLMError
from vram_llm.fleet.background import run_in_background
from vram_llm.fleet.snapshots import ModelState
from vram_llm.server.api_keys import current_key
from vram_llm.server.fleet.ports import ServedFleet
from vram_llm.server.fleet.reloading import Reloader
from vram_llm.server.fleet.routed_models import RoutedModels
from vram_llm.server.known_fields import Fields
from vram_llm.server.openapi import body_route, refusals
from vram_llm.server.read_body import read_fields

log = logging.getLogger("vram_llm.fleet")
_RUNNING = frozenset({ModelState.LOADING, ModelState.RESIDENT})
_UNLOADABLE = _RUNNING | {
    ModelState.QUEUED,  # an order to load that waits for memory can be taken back
    ModelState.UNLOADING,  # for another model's sake: without an order it would stay if nobody waits any more
}


class OrderFields(Fields):
    """POST /models/load and /models/unload: the name of a model."""

    model: str


class SleepFields(Fields):
    """POST /models/sleep: the name of a model; without it, all models."""

    model: str | None = None


class OrderReply(BaseModel):
    """The reply to an order, in llama-server's form."""

    success: Literal[True] = True


ORDER_BODIES = (OrderFields, SleepFields)


def orders_router(fleet: ServedFleet, models: RoutedModels, reloader: Reloader) -> APIRouter:
    """Routes of orders. With API keys they need the scope `admin`."""
    router, running = APIRouter(tags=["models"]), set[asyncio.Task[None]]()

    def begin(work: Coroutine[Any, Any, None], name: str) -> OrderReply:
        run_in_background(_done(work, name), running)
        return OrderReply()

    def meant(asked: str) -> str:
        return models.resolve(asked, current_key.get())[0].name

    @router.post("/models/load", **body_route("Load a model", OrderFields, OrderReply))
    async def load(http: Request) -> OrderReply:
        reloader.check_allowed()
        name = meant((await read_fields(OrderFields, http)).model)
        if fleet.snapshot(name).state in _RUNNING:
            raise RequestError(f"The model '{name}' is already running", "model")
        return begin(fleet.load(name), name)

    @router.post("/models/unload", **body_route("Unload a model", OrderFields, OrderReply))
    async def unload(http: Request) -> OrderReply:
        reloader.check_allowed()
        name = meant((await read_fields(OrderFields, http)).model)
        if fleet.snapshot(name).state not in _UNLOADABLE:
            raise RequestError(f"The model '{name}' is not running", "model")
        return begin(fleet.unload(name), name)

    @router.post(
        "/models/sleep", **body_route("Free the memory until a request comes", SleepFields, OrderReply)
    )
    async def sleep(http: Request) -> OrderReply:
        reloader.check_allowed()
        asked = (await read_fields(SleepFields, http)).model if _has_body(http) else None
        name = meant(asked) if asked else None
        return begin(fleet.sleep(name), name or "all models")

    @router.post("/models/reload", summary="Read the configuration again", responses=refusals(400, 401, 403))
    async def reload() -> OrderReply:
        reloader.check_allowed()
        await reloader.reload()
        return OrderReply()

    return router


def _has_body(http: Request) -> bool:
    return "transfer-encoding" in http.headers or http.headers.get("content-length", "0") != "0"


async def _done(work: Coroutine[Any, Any, None], name: str) -> None:
    """The work of an order. Its error is logged; the model's status has it too."""
    try:
        await work
    except VramLLMError as error:
        log.warning("an order for %s failed: %s", name, error)
