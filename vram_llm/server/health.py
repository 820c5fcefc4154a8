"""GET /health: whether requests are taken now, as llama-server's users know it."""

from fastapi import APIRouter

from vram_llm.server.replies import ErrorReply, Health
from vram_llm.server.served import Served


def health_router(served: Served) -> APIRouter:
    """The route probes and proxies ask. It needs no key."""
    router = APIRouter(tags=["health"])

    @router.get("/health", summary="200 when ready, 503 before", responses={503: {"model": ErrorReply}})
    async def health() -> Health:
        served.check_ready()
        return Health()

    return router
