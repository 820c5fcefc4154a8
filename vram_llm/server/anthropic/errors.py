"""Errors in Anthropic's shape, which holds OpenAI's within it."""

from typing import Any

import msgspec
from starlette.responses import Response

from vram_llm.server.errors import answer_for, error_body, error_response

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def anthropic_body(error: Exception) -> dict[str, Any]:
    """{"type": "error", "error": {"message", "type", "param", "code"}}."""
    told = error_body(error)["error"]
    return {"type": "error", "error": {**told, "type": _TYPES.get(answer_for(error).status, "api_error")}}


def anthropic_response(error: Exception) -> Response:
    """The whole answer, with the headers any error has."""
    response = error_response(error)
    response.body = msgspec.json.encode(anthropic_body(error))
    response.headers["content-length"] = str(len(response.body))
    return response
