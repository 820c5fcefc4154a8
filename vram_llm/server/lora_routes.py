"""llama-server's GET and POST /lora-adapters: the scales of requests that have no list of their own."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, RootModel

from vram_llm.engine.model_info import ModelInfo
from vram_llm.server.lora import LoraScale, LoraScales, planned, scales_of
from vram_llm.server.openapi import body_route, refusals
from vram_llm.server.read_body import read_fields
from vram_llm.server.serving_context import ServingContext


class LoraBody(RootModel[LoraScales]):
    """POST /lora-adapters: adapters and scales; those that it leaves out get scale 0."""


class LoraAdapter(BaseModel):
    """An adapter, with llama-server's fields."""

    id: int
    path: str
    scale: float
    task_name: str
    prompt_prefix: str


class LoraReply(BaseModel):
    """The reply to POST /lora-adapters."""

    success: bool = True


def lora_router(serving: ServingContext) -> APIRouter:
    """The routes. Scales last until the model is unloaded, also over restarts of the engine."""
    router = APIRouter(tags=["adapters"])

    @router.get("/lora-adapters", summary="LoRA adapters and their scales", responses=refusals(503))
    async def adapters() -> list[LoraAdapter]:
        return _adapters(serving.model(None))

    @router.post("/lora-adapters", **body_route("Set scales of LoRA adapters", LoraBody, LoraReply))
    async def set_scales(http: Request) -> LoraReply:
        scales: list[LoraScale] = (await read_fields(LoraBody, http)).root
        info = serving.generation_model(None)
        wanted = scales_of(info, scales)
        serving.engine.adapters = None if wanted == planned(info) else wanted
        return LoraReply()

    return router


def _adapters(info: ModelInfo) -> list[LoraAdapter]:
    used: dict[int, Any] = dict(planned(info) if info.adapters_used is None else info.adapters_used)
    return [
        LoraAdapter(
            id=i, path=each.path, scale=used.get(i, 0.0), task_name=each.task_name,
            prompt_prefix=each.prompt_prefix,
        )
        for i, each in enumerate(info.adapter_files)
    ]  # fmt: skip
