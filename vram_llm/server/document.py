"""The OpenAPI document. Bodies are parsed by `schemas.parse`, so FastAPI has to be told of them."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from vram_llm.server.replies import ErrorReply
from vram_llm.server.schemas import ChatCompletionRequest, CompletionRequest

_COMPONENT = "#/components/schemas/{model}"
_REFUSALS = {
    400: "The request is at fault",
    401: "No API key, or a wrong one",
    404: "No such model",
    413: "The body is too large",
    429: "The queue is full; Retry-After says when to ask again",
    500: "The engine or the server failed on this request",
    503: "Loading, restarting or stopping",
}


def generation_route(summary: str, body: type[BaseModel], reply: type[BaseModel]) -> dict[str, Any]:
    """Keyword arguments for a POST route that answers with `reply`, or with a stream of chunks."""
    schema = {"$ref": _COMPONENT.format(model=body.__name__)}
    stream = {"schema": {"type": "string", "description": "data: {chunk} lines, then data: [DONE]"}}
    return {
        "summary": summary,
        "openapi_extra": {
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}
        },
        "responses": {
            200: {"model": reply, "content": {"text/event-stream": stream}},
            **{status: {"model": ErrorReply, "description": why} for status, why in _REFUSALS.items()},
        },
    }


def document(app: FastAPI) -> dict[str, Any]:
    """The document of `app`, made once."""
    if app.openapi_schema is None:
        app.openapi_schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        _, bodies = models_json_schema(
            [(ChatCompletionRequest, "validation"), (CompletionRequest, "validation")],
            ref_template=_COMPONENT,
        )
        app.openapi_schema["components"]["schemas"].update(bodies["$defs"])
    return app.openapi_schema
