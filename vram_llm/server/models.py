"""GET /v1/models: the served model under its names, in OpenAI's form and in Anthropic's."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal, Protocol

from fastapi import APIRouter, Request

from vram_llm.engine.model_info import ModelInfo
from vram_llm.errors import UnknownModel
from vram_llm.model.pooling import Pooling
from vram_llm.server.api_keys import current_key
from vram_llm.server.openapi import refusals
from vram_llm.server.replies import (
    AnthropicModel,
    AnthropicModelList,
    Modalities,
    ModelCapabilities,
    ModelCard,
    ModelFacts,
    ModelList,
)
from vram_llm.server.serving_context import ServingContext, adapters_by_name

ANTHROPIC = "anthropic-version"  # a header that Anthropic's clients send with every request


class Inputs(Protocol):
    """The kinds of input of a model, in addition to text."""

    @property
    def takes_images(self) -> bool: ...

    @property
    def takes_audio(self) -> bool: ...


def models_router(serving: ServingContext) -> APIRouter:
    """Routes that list the model under its name, its aliases and its adapters."""
    router = APIRouter(tags=["models"], responses=refusals(503))

    @router.get("/models", summary="List the models")
    async def list_models(http: Request) -> ModelList | AnthropicModelList:
        info = serving.loaded_model()
        every = dict.fromkeys((info.name, *serving.config.aliases, *adapters_by_name(info)))
        names = [name for name in every if current_key.get().may_use(name)]
        if ANTHROPIC in http.headers:
            return anthropic_list([anthropic_model(name, info.created, info.n_ctx) for name in names])
        return ModelList(
            data=[_card(info, name, serving.config.tags) for name in names],
            models=[model_capabilities(name, info.pooling, info) for name in names],
        )

    @router.get("/models/{model_id:path}", summary="One model", responses=refusals(404))
    async def one_model(http: Request, model_id: str) -> ModelCard | AnthropicModel:
        info = serving.loaded_model()
        meant = serving.named(info, model_id).name
        if not current_key.get().may_use(meant):
            raise UnknownModel(f"The model '{model_id}' does not exist here", "model")
        name = model_id if model_id in serving.names(info) else meant
        return (
            anthropic_model(name, info.created, info.n_ctx)
            if ANTHROPIC in http.headers
            else _card(info, name, serving.config.tags)
        )

    return router


def _card(info: ModelInfo, name: str, tags: Sequence[str]) -> ModelCard:
    return ModelCard(
        id=name,
        created=info.created,
        max_model_len=info.n_ctx,
        context_length=info.n_ctx,
        architecture=modalities(info.pooling, info),
        tags=list(tags),
        meta=model_facts(info),
    )


def model_facts(info: ModelInfo) -> ModelFacts:
    """The facts of a loaded model."""
    return ModelFacts(
        vocab_type=info.vocab_type,
        n_vocab=info.n_vocab,
        n_ctx=info.n_ctx,
        n_ctx_train=info.n_ctx_train,
        n_embd=info.n_embd,
        n_params=info.parameters,
        size=info.size_bytes,
    )


def modalities(pooling: Pooling | None, inputs: Inputs) -> Modalities:
    """The inputs and outputs of a model with this pooling."""
    media = [("image", inputs.takes_images), ("audio", inputs.takes_audio)]
    return Modalities(
        input_modalities=["text", *(name for name, is_taken in media if is_taken)],
        output_modalities=["text" if pooling is None else "embeddings"],
    )


def model_capabilities(name: str, pooling: Pooling | None, inputs: Inputs) -> ModelCapabilities:
    """The abilities of a model with this pooling."""
    does: Literal["completion", "embedding", "rerank"] = "completion"
    if pooling is not None:
        does = "rerank" if pooling is Pooling.RANK else "embedding"
    is_multimodal = inputs.takes_images or inputs.takes_audio
    return ModelCapabilities(
        name=name, model=name, capabilities=[does, "multimodal"] if is_multimodal else [does]
    )


def anthropic_model(name: str, created: int, n_ctx: int) -> AnthropicModel:
    """A model in Anthropic's list; `created` is in Unix seconds."""
    created_at = datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z")
    return AnthropicModel(id=name, display_name=name, created_at=created_at, max_input_tokens=n_ctx)


def anthropic_list(models: list[AnthropicModel]) -> AnthropicModelList:
    """Anthropic's list of models."""
    return AnthropicModelList(
        data=models,
        first_id=models[0].id if models else None,
        last_id=models[-1].id if models else None,
    )
