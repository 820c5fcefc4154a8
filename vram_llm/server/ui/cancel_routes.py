"""DELETE /requests/{id}: end a request in flight."""

from fastapi import APIRouter
from pydantic import BaseModel

from vram_llm.server.api_keys import current_key
from vram_llm.server.config import ServerConfig
from vram_llm.server.errors import NoSuchRequest
from vram_llm.server.keys_file import KeyScope
from vram_llm.server.openapi import refusals
from vram_llm.server.serving_context import ServingContext


class CancelledRequest(BaseModel):
    """The reply to DELETE /requests/{id}."""

    id: str
    cancelled: bool = True


def cancel_router(serving: ServingContext) -> APIRouter:
    """The route that ends a request.

    A key ends its own requests, one with the scope `admin` every request; without keys everybody does so, but
    on a server that is open to other computers (--insecure) only those of one's own address.
    """
    router = APIRouter(tags=["dashboard"])

    @router.delete(
        "/requests/{request_id}", summary="End a request in flight", responses=refusals(401, 403, 404)
    )
    async def cancel(request_id: str) -> CancelledRequest:
        if not serving.engine.cancel(request_id, cancelling_client(serving.config)):
            raise NoSuchRequest(f"No request '{request_id[:80]}' is in flight, or it is another client's")
        return CancelledRequest(id=request_id)

    return router


def cancelling_client(config: ServerConfig) -> str | None:
    """The client whose requests this one may end; None: everybody's."""
    key = current_key.get()
    is_trusted = KeyScope.ADMIN in key.scopes if config.needs_key else not config.insecure
    return None if is_trusted else key.name
