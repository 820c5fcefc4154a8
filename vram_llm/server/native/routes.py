"""POST /completion, and POST /completions without /v1, as llama-server has them."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import RootModel

from vram_llm.server.native.answer import native_answer
from vram_llm.server.native.fields import CompletionFields
from vram_llm.server.native.prompts import read_prompts
from vram_llm.server.openapi import generation_route
from vram_llm.server.read_body import read_fields
from vram_llm.server.serving_context import ServingContext


class NativeCompletion(RootModel[dict[str, Any] | list[dict[str, Any]]]):
    """llama-server's object: `content`, `tokens`, `stop_type`, `timings` and more; a list of several choices.

    With `response_fields` it has only these.
    """


def native_router(serving: ServingContext) -> APIRouter:
    """The native routes, which have no prefix."""
    router = APIRouter(tags=["completions"])
    completion = generation_route(
        "Continue a prompt, in llama-server's form", CompletionFields, NativeCompletion
    )

    @router.post("/completion", **completion)
    @router.post("/completions", **completion)
    async def complete(http: Request) -> Response:
        fields = await read_fields(CompletionFields, http)
        info = serving.generation_model(fields.model)
        return await native_answer(serving, info, fields, await read_prompts(fields.prompt, info, serving))

    return router
