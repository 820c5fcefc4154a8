"""GET /v1/models: what can be asked for."""

from fastapi import APIRouter

from vram_llm.server.errors import UnknownModel
from vram_llm.server.replies import ErrorReply, ModelCard, ModelList
from vram_llm.server.served import Served, adapted


def models_router(served: Served) -> APIRouter:
    """Routes that list the model under its name, its aliases and its adapters."""
    router = APIRouter(tags=["models"], responses={503: {"model": ErrorReply}})

    @router.get("/models", summary="List the models")
    async def list_models() -> ModelList:
        info = served.known()
        names = dict.fromkeys((info.name, *served.config.aliases, *adapted(info)))
        return ModelList(data=[ModelCard(id=name, created=info.created) for name in names])

    @router.get("/models/{model_id:path}", summary="One model", responses={404: {"model": ErrorReply}})
    async def one_model(model_id: str) -> ModelCard:
        info = served.known()
        if model_id not in (*served.names(info), *adapted(info)):
            raise UnknownModel(f"The model '{model_id}' does not exist here; this server has '{info.name}'")
        return ModelCard(id=model_id, created=info.created)

    return router
