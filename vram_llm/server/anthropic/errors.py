"""Errors in Anthropic's form, with OpenAI's fields in it."""

from typing import Any

import msgspec
from starlette.responses import Response

from vram_llm.errors import ContextExceeded
from vram_llm.server.errors import error_body, error_kind, error_response

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


# On these details Anthropic's SDKs send the whole conversation without a `thread` (their lib/threads).
_THREADLESS = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}


def anthropic_body(error: Exception) -> dict[str, Any]:
    """{"type": "error", "error": {"message", "type", "param", "code"}}, with "details" for a `thread`."""
    described = error_body(error)["error"]
    details = {"details": _THREADLESS} if described["param"] == "thread" else {}
    if isinstance(error, ContextExceeded):
        described["message"] = _too_long(error)
    kind = _TYPES.get(error_kind(error).status, "api_error")
    return {"type": "error", "error": {**described, **details, "type": kind}}


def _too_long(error: ContextExceeded) -> str:
    """Begins as Anthropic's message does: Claude Code reads the numbers and shortens its chat by them."""
    if error.n_prompt_tokens is None or error.n_ctx is None:
        return f"prompt is too long: {error}"
    return f"prompt is too long: {error.n_prompt_tokens} tokens > {error.n_ctx} maximum. {error}"


def anthropic_response(error: Exception) -> Response:
    """The HTTP answer, with the headers of any error."""
    response = error_response(error)
    response.body = msgspec.json.encode(anthropic_body(error))
    response.headers["content-length"] = str(len(response.body))
    return response
