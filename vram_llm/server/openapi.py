"""The OpenAPI document. Bodies are parsed by `schemas.parse`, so FastAPI does not know them."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from vram_llm.server.replies import ErrorReply

_JSON = "application/json"
_COMPONENT = "#/components/schemas/{model}"
_REFUSALS = {
    400: "The request is invalid",
    401: "No API key, or a wrong one",
    403: "The host name is not allowed",
    404: "The model or object does not exist",
    405: "The method is not allowed",
    408: "The time for the request was over before its answer had begun",
    413: "The body is too large",
    429: "The queue is full; retry after the seconds in Retry-After",
    500: "The engine or the server failed on this request",
    501: "The model cannot do this, or the route is off",
    503: "Loading, restarting or stopping",
}


def generation_route(
    summary: str, body: type[BaseModel], reply: type[BaseModel], content_type: str = _JSON
) -> dict[str, Any]:
    """Keyword arguments for a POST route that answers with `reply`, or with a stream of chunks."""
    stream = {"schema": {"description": "Server-sent events: data: {chunk} lines, and data: [DONE]"}}
    route = body_route(summary, body, reply, content_type)
    route["responses"][200] = {"model": reply, "content": {"text/event-stream": stream}}
    return route


def body_route(
    summary: str, body: type[BaseModel], reply: type[BaseModel], content_type: str = _JSON
) -> dict[str, Any]:
    """Keyword arguments for a POST route that answers with `reply`."""
    schema = {"$ref": _COMPONENT.format(model=body.__name__)}
    content = {content_type: {"schema": schema}}
    return {
        "summary": summary,
        "openapi_extra": {"requestBody": {"required": True, "content": content}},
        "responses": {200: {"model": reply}, **refusals(*_REFUSALS)},
    }


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of a route's error statuses.

    They refer to the schema of ErrorReply by its name: with a "model", FastAPI builds a validator for each
    status of each route, which takes most of the time in which the application is made.
    """
    content = {"application/json": {"schema": {"$ref": _COMPONENT.format(model=ErrorReply.__name__)}}}
    return {status: {"description": _REFUSALS[status], "content": content} for status in statuses}


def document(app: FastAPI, bodies: tuple[type[BaseModel], ...]) -> dict[str, Any]:
    """The OpenAPI document of `app`, with the schemas of `bodies` and errors. Made once."""
    if app.openapi_schema is None:
        app.openapi_schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        _, schemas = models_json_schema(
            [*((body, "validation") for body in bodies), (ErrorReply, "serialization")],
            ref_template=_COMPONENT,
        )
        app.openapi_schema["components"]["schemas"].update(schemas["$defs"])
    return app.openapi_schema
