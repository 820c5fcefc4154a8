"""GET /health: whether the engine accepts requests, as in llama-server. GET /: name, or the page."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from vram_llm._version import __version__
from vram_llm.server.errors import NotReady
from vram_llm.server.openapi import refusals
from vram_llm.server.replies import Health
from vram_llm.server.serving_context import ServingContext
from vram_llm.server.ui.page import Page, wants_page


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthFacts:
    """Whether a server accepts requests: `check_ready` raises the reason why it does not."""

    is_ready: Callable[[], bool]
    check_ready: Callable[[], None]
    warnings: Callable[[], Sequence[str]]


def health_router(serving: ServingContext, facts: HealthFacts) -> APIRouter:
    """The route for health probes and proxies. It needs no key; with one it says why it is not ready."""
    router = APIRouter(tags=["health"])

    @router.get(
        "/health",
        summary="200 when ready, 503 before",
        responses=refusals(503),
        response_model_exclude_none=True,
    )
    async def health() -> Health:
        if serving.is_asked_by_stranger and not facts.is_ready():
            raise NotReady("Not ready")
        facts.check_ready()
        warnings = () if serving.is_asked_by_stranger else facts.warnings()
        return Health(warnings=list(warnings) or None)

    return router


def root_router(serving: ServingContext, page: Page, facts: Callable[[], Mapping[str, object]]) -> APIRouter:
    """GET /: 200 as soon as the server listens. `facts` are its state and its model or models.

    Where keys are needed, strangers learn the name alone. Clients that take HTML get the dashboard.
    """
    router = APIRouter(tags=["health"])

    @router.get(
        "/",
        summary="Name, version and endpoints; HTML for browsers",
        response_model=dict[str, Any],
        responses={200: {"content": {"text/html": {}}}},
    )
    async def root(http: Request, reply: Response) -> Response | dict[str, Any]:
        if wants_page(http):
            return page.reply("index.html", http)
        reply.headers["vary"] = "accept"
        endpoints = {"openai": "/v1", "anthropic": "/v1/messages", "document": "/openapi.json"}
        if serving.is_asked_by_stranger:
            return {"name": "vram-llm", "endpoints": endpoints}
        return {"name": "vram-llm", "version": __version__, **facts(), "endpoints": endpoints}

    return router


def version_router() -> APIRouter:
    """GET /version."""
    router = APIRouter(tags=["health"])

    @router.get("/version", summary="Version, as in vLLM")
    async def version() -> dict[str, str]:
        return {"version": __version__}

    return router
