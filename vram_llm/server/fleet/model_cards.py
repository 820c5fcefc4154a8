"""GET /v1/models and /models of a fleet: every model with its state, its memory and its context."""

from collections.abc import Mapping
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from vram_llm.errors import UnknownModel
from vram_llm.fleet.snapshots import FleetModel, ModelState
from vram_llm.server.api_keys import current_key
from vram_llm.server.fleet.ports import ServedFleet
from vram_llm.server.fleet.query_switch import query_switch
from vram_llm.server.fleet.reloading import Reloader
from vram_llm.server.fleet.routed_models import RoutedModel, RoutedModels
from vram_llm.server.models import (
    ANTHROPIC,
    anthropic_list,
    anthropic_model,
    modalities,
    model_capabilities,
    model_facts,
)
from vram_llm.server.openapi import refusals
from vram_llm.server.replies import (
    PRESENT,
    AnthropicModel,
    AnthropicModelList,
    Modalities,
    ModelCapabilities,
    ModelFacts,
)

RouterStatus = Literal["unloaded", "loading", "loaded", "sleeping"]
_ROUTER_STATUS: Mapping[ModelState, RouterStatus] = {
    ModelState.LOADING: "loading",
    ModelState.RESIDENT: "loaded",
    ModelState.UNLOADING: "loaded",  # until its memory is free
    ModelState.SLEEPING: "sleeping",
}
"""llama-server's words for states (tools/server/README.md, router mode); others are "unloaded"."""


class CardStatus(BaseModel):
    """The state of a model: `value` in llama-server's words, `state` in the fleet's."""

    value: RouterStatus
    state: ModelState
    detail: Annotated[str | None, PRESENT] = None
    failed: Annotated[bool | None, PRESENT] = None


class FleetModelCard(BaseModel):
    """A model of the fleet. `meta` is known after its first load; bytes are planned, for all replicas.

    `device_bytes` is by device id, with "host"; while the model is unloaded it is the memory it would take.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["vram-llm"] = "vram-llm"
    aliases: list[str]
    path: str
    status: CardStatus
    max_model_len: int
    context_length: int
    architecture: Modalities
    tags: list[str]
    device_bytes: dict[str, int]
    replicas: int
    waiting: int
    in_flight: int
    meta: Annotated[ModelFacts | None, PRESENT] = None


class FleetModelList(BaseModel):
    """The reply to GET /v1/models of a fleet."""

    object: Literal["list"] = "list"
    data: list[FleetModelCard]
    models: list[ModelCapabilities]


def fleet_models_router(
    fleet: ServedFleet, models: RoutedModels, created: int, reloader: Reloader
) -> APIRouter:
    """Routes that list the models under their names, aliases and adapters. `created` is in Unix seconds."""
    router = APIRouter(tags=["models"], responses=refusals(503))

    @router.get("/models", summary="List the models")
    async def list_models(http: Request) -> FleetModelList | AnthropicModelList:
        if query_switch("reload", http.query_params.get("reload", ""), default=False):
            reloader.check_allowed()
            await reloader.reload()
        key = current_key.get()
        shown = [(model, name) for model in models for name in model.shown_names if key.may_use(name)]
        if ANTHROPIC in http.headers:
            return anthropic_list([_of_anthropic(model, name, created) for model, name in shown])
        return FleetModelList(
            data=[_card(model, name, fleet.snapshot(model.name), created) for model, name in shown],
            models=[model_capabilities(name, model.pooling, model) for model, name in shown],
        )

    @router.get("/models/{model_id:path}", summary="One model", responses=refusals(404))
    async def one_model(http: Request, model_id: str) -> FleetModelCard | AnthropicModel:
        key = current_key.get()
        model, name = models.resolve(model_id, key)
        if not key.may_use(name):
            raise UnknownModel(f"The model '{model_id[:200]}' does not exist here", "model")
        if ANTHROPIC in http.headers:
            return _of_anthropic(model, name, created)
        return _card(model, name, fleet.snapshot(model.name), created)

    return router


def router_status(state: ModelState) -> RouterStatus:
    """The state in llama-server's words."""
    return _ROUTER_STATUS.get(state, "unloaded")


def _card(model: RoutedModel, name: str, now: FleetModel, created: int) -> FleetModelCard:
    n_ctx, info = model.plan.context.n_ctx_seq, model.info
    return FleetModelCard(
        id=name,
        created=created if info is None else info.created,
        aliases=list(model.spec.aliases),
        path=model.plan.model.path,
        status=CardStatus(
            value=router_status(now.state),
            state=now.state,
            detail=now.detail or None,
            failed=True if now.state is ModelState.FAILED else None,
        ),
        max_model_len=n_ctx if info is None else info.n_ctx,
        context_length=n_ctx if info is None else info.n_ctx,
        architecture=modalities(model.pooling, model),
        tags=list(model.config.tags),
        device_bytes=dict(now.bytes_by_device),
        replicas=model.n_replicas,
        waiting=now.waiting,
        in_flight=now.in_flight,
        meta=None if info is None else model_facts(info),
    )


def _of_anthropic(model: RoutedModel, name: str, created: int) -> AnthropicModel:
    info = model.info
    if info is None:
        return anthropic_model(name, created, model.plan.context.n_ctx_seq)
    return anthropic_model(name, info.created, info.n_ctx)
