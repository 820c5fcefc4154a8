"""llama-server's own routes: POST /completion, /completions without /v1, and /infill."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import RootModel

from vram_llm.server.native.answer import native_answer
from vram_llm.server.native.fields import CompletionFields, InfillFields
from vram_llm.server.native.gap import gap_of
from vram_llm.server.native.prompts import NativePrompts, read_prompts
from vram_llm.server.openapi import generation_route
from vram_llm.server.read_body import read_fields
from vram_llm.server.routes import RequestRoute
from vram_llm.server.serving_context import ServingContext


class NativeCompletion(RootModel[dict[str, Any] | list[dict[str, Any]]]):
    """llama-server's object: `content`, `tokens`, `stop_type`, `timings` and more; a list of several choices.

    With `response_fields` it has only these.
    """


def native_router(serving: ServingContext) -> APIRouter:
    """The native routes, which have no prefix."""
    router = APIRouter(tags=["completions"], route_class=RequestRoute)
    completion = generation_route(
        "Continue a prompt, in llama-server's form", CompletionFields, NativeCompletion
    )

    @router.post("/completion", **completion)
    @router.post("/completions", **completion)
    async def complete(http: Request) -> Response:
        fields = await read_fields(CompletionFields, http)
        info = serving.generation_model(fields.model)
        return await native_answer(serving, info, fields, await read_prompts(fields.prompt, info, serving))

    @router.post(
        "/infill",
        **generation_route(
            "Fill a gap in a file, with llama-server's fields", InfillFields, NativeCompletion
        ),
    )
    async def infill(http: Request) -> Response:
        fields = await read_fields(InfillFields, http)
        info = serving.generation_model(fields.model)
        gap = gap_of(fields, info, suffix_first=serving.config.spm_infill)
        return await native_answer(serving, info, fields, NativePrompts([fields.prompt or ""], [()]), gap)

    return router
