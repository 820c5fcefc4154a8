"""GET and POST /props: the server's facts and defaults, with llama-server's names."""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from vram_llm._version import __version__
from vram_llm.engine.model_info import ModelInfo
from vram_llm.server.config import ServerConfig
from vram_llm.server.errors import RouteIsOff
from vram_llm.server.known_fields import Fields
from vram_llm.server.native.prompts import MEDIA_MARKER
from vram_llm.server.native.settings import sampling_settings
from vram_llm.server.openapi import body_route, refusals
from vram_llm.server.read_body import read_fields
from vram_llm.server.replies import PRESENT
from vram_llm.server.sampling_defaults import default_sampling
from vram_llm.server.serving_context import ServingContext


class PropsFields(Fields):
    """POST /props: there are no properties that a client can change, in llama-server neither."""


class PropsChanged(BaseModel):
    """The reply to POST /props."""

    success: bool = True


class GenerationSettings(BaseModel):
    """The defaults of a request. `n_ctx` is the context of one request, in tokens."""

    params: dict[str, Any]
    n_ctx: int


class InputModalities(BaseModel):
    """Kinds of input in addition to text."""

    vision: bool
    video: bool = False
    audio: bool = False


class Props(BaseModel):
    """The reply to GET /props."""

    default_generation_settings: GenerationSettings
    total_slots: int
    model_alias: str
    model_ftype: str
    model_path: str
    modalities: InputModalities
    media_marker: str = MEDIA_MARKER
    endpoint_slots: bool
    endpoint_props: bool
    endpoint_metrics: bool = True
    ui: bool = True
    ui_settings: dict[str, Any] = {}
    cors_proxy_enabled: bool = False
    chat_template: str
    chat_template_tool_use: Annotated[str | None, PRESENT] = None
    bos_token: str
    eos_token: str
    build_info: str = f"vram-llm {__version__}"
    is_sleeping: bool = False


def props_router(serving: ServingContext) -> APIRouter:
    """The route for llama-server's clients: context, template and sampling."""
    router = APIRouter(tags=["models"])

    @router.get("/props", summary="Default settings", responses=refusals(503))
    async def props() -> Props:
        return props_of(serving.loaded_model(), serving.config)

    return router


def changing_props_router(config: ServerConfig) -> APIRouter:
    """The route that llama-server has with --props, where it changes nothing."""
    router = APIRouter(tags=["models"])

    @router.post("/props", **body_route("Change no setting", PropsFields, PropsChanged))
    async def change(http: Request) -> PropsChanged:
        if not config.endpoint_props:
            raise RouteIsOff("POST /props is off; start the server with --props")
        await read_fields(PropsFields, http)
        return PropsChanged()

    return router


def props_of(info: ModelInfo, config: ServerConfig, *, is_sleeping: bool = False) -> Props:
    """The facts and defaults of a model that was loaded."""
    return Props(
        default_generation_settings=GenerationSettings(params=_params(info, config), n_ctx=info.n_ctx),
        total_slots=info.parallel,
        model_alias=info.name,
        model_ftype=info.quantization,
        model_path=info.path,
        modalities=InputModalities(vision=info.takes_images, audio=info.takes_audio),
        chat_template=info.chat_template or "",
        chat_template_tool_use=info.tool_template,
        endpoint_props=config.endpoint_props,
        endpoint_slots=config.endpoint_slots,
        bos_token=info.bos_token,
        eos_token=info.eos_token,
        is_sleeping=is_sleeping,
    )


def _params(info: ModelInfo, config: ServerConfig) -> dict[str, Any]:
    sampling = sampling_settings(default_sampling(info, config))
    del sampling["logit_bias"]  # as llama-server
    budget, n_predict = config.reasoning_budget, -1 if config.n_predict is None else config.n_predict
    return {
        **sampling,
        "max_tokens": n_predict,
        "n_predict": n_predict,
        "n_keep": 0,
        "ignore_eos": False,
        "stream": False,
        "n_probs": 0,
        "reasoning_format": config.reasoning_format.value,
        "reasoning_budget_tokens": -1 if budget is None else budget,
    }
