"""GET /health: whether the engine accepts requests, as in llama-server. GET /: name, or the page."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from vram_llm._version import __version__
from vram_llm.engine.model_info import EngineState
from vram_llm.server.errors import NotReady
from vram_llm.server.openapi import refusals
from vram_llm.server.replies import Health
from vram_llm.server.serving_context import ServingContext
from vram_llm.server.ui.page import Page, wants_page


def health_router(serving: ServingContext) -> APIRouter:
    """The route for health probes and proxies. It needs no key; with one it says why it is not ready."""
    router = APIRouter(tags=["health"])

    @router.get(
        "/health",
        summary="200 when ready, 503 before",
        responses=refusals(503),
        response_model_exclude_none=True,
    )
    async def health() -> Health:
        if serving.is_asked_by_stranger and serving.engine.state is not EngineState.READY:
            raise NotReady("Not ready")
        serving.check_ready()
        warnings = () if serving.is_asked_by_stranger else serving.engine.warnings
        return Health(warnings=list(warnings) or None)

    return router


def root_router(serving: ServingContext, page: Page) -> APIRouter:
    """GET /: 200 as soon as the server listens. Where keys are needed, strangers learn the name alone.

    Clients that take HTML get the dashboard.
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
        info = serving.engine.info
        return {
            "name": "vram-llm",
            "version": __version__,
            "status": serving.engine.state.value,
            "model": None if info is None else info.name,
            "endpoints": endpoints,
        }

    return router


def version_router() -> APIRouter:
    """GET /version."""
    router = APIRouter(tags=["health"])

    @router.get("/version", summary="Version, as in vLLM")
    async def version() -> dict[str, str]:
        return {"version": __version__}

    return router
