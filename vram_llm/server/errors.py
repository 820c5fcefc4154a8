"""Every error as an HTTP answer: one table, one shape, OpenAI's."""

import math
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.responses import Response

from vram_llm.chat.template import TemplateRefusal
from vram_llm.engine.request import FinishReason, TokenEvent
from vram_llm.errors import ContextExceeded, EngineDied, Overloaded, RequestError, VramLLMError


class UnknownParameter(RequestError):
    """A field OpenAI's endpoint does not have, nor any we know clients to send."""

    code = "unknown_parameter"


class NotSupported(RequestError):
    """A field that asks for what this server cannot do yet."""

    code = "unsupported_parameter"


class MissingField(RequestError):
    """A field that must be there."""

    code = "missing_required_parameter"


class UnknownModel(RequestError):
    """A model this server does not serve."""

    code = "model_not_found"


class WrongModel(RequestError):
    """A model that does not do what is asked of it."""

    code = "model_not_supported"


class NoSuchResponse(RequestError):
    """A response that is not kept here."""

    code = "response_not_found"


class PreviousNotFound(RequestError):
    """A response to build upon that is not kept here."""

    code = "previous_response_not_found"


class UnknownRoute(RequestError):
    """An address that is not there."""

    code = "unknown_url"


class WrongMethod(RequestError):
    """An address that takes another method."""

    code = "method_not_supported"


class BadKey(RequestError):
    """No API key, or a wrong one."""

    code = "invalid_api_key"


class WrongHost(RequestError):
    """A Host header with a name that is not this server's."""

    code = "host_not_allowed"


class BodyTooLarge(RequestError):
    """More bytes than a request may have."""

    code = "request_too_large"


class UnknownEncoding(RequestError):
    """A body that is compressed in a way that is not read here."""

    code = "unsupported_content_encoding"


class NotReady(VramLLMError):
    """The engine is loading or restarting: ask again."""


class Unavailable(VramLLMError):
    """The engine is stopping, or will not come back."""


class Interrupted(VramLLMError):
    """The engine ended the request before it was complete."""


class GenerationFailed(VramLLMError):
    """The engine failed on this request alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorKind:
    """How an error is written over HTTP.

    `retry` of None leaves it to the client's own rule for the status (OpenAI's SDK tries again after 429
    and 5xx); False tells it not to, where that would only add load.
    """

    status: int
    type: str
    code: str | int | None = None  # None: the exception's own, if it has one
    retry: bool | None = None
    retry_after_s: int | None = None


_INVALID = "invalid_request_error"
ANSWERS: dict[type[Exception], ErrorKind] = {
    RequestError: ErrorKind(status=400, type=_INVALID),
    TemplateRefusal: ErrorKind(status=400, type=_INVALID),
    ContextExceeded: ErrorKind(status=400, type=_INVALID),
    UnknownParameter: ErrorKind(status=400, type=_INVALID),
    NotSupported: ErrorKind(status=400, type=_INVALID),
    MissingField: ErrorKind(status=400, type=_INVALID),
    BadKey: ErrorKind(status=401, type=_INVALID),
    WrongHost: ErrorKind(status=403, type=_INVALID),
    UnknownModel: ErrorKind(status=404, type=_INVALID),
    WrongModel: ErrorKind(status=400, type=_INVALID),
    NoSuchResponse: ErrorKind(status=404, type=_INVALID),
    PreviousNotFound: ErrorKind(status=400, type=_INVALID),
    UnknownRoute: ErrorKind(status=404, type=_INVALID),
    WrongMethod: ErrorKind(status=405, type=_INVALID),
    BodyTooLarge: ErrorKind(status=413, type=_INVALID),
    UnknownEncoding: ErrorKind(status=415, type=_INVALID),
    Overloaded: ErrorKind(status=429, type="rate_limit_error", code="overloaded"),
    NotReady: ErrorKind(status=503, type="unavailable_error", code=503, retry_after_s=2),  # llama-server's
    EngineDied: ErrorKind(status=503, type="unavailable_error", code="engine_died", retry_after_s=2),
    Interrupted: ErrorKind(status=503, type="unavailable_error", code="interrupted", retry_after_s=2),
    Unavailable: ErrorKind(status=503, type="unavailable_error", code=503, retry=False),
    GenerationFailed: ErrorKind(status=500, type="server_error", code="generation_failed", retry=False),
    VramLLMError: ErrorKind(status=500, type="server_error", retry=False),
    Exception: ErrorKind(status=500, type="server_error", code="internal_error", retry=False),
}


def answer_for(error: Exception) -> ErrorKind:
    """The row of the nearest class in the table."""
    return next(ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS)


def error_body(error: Exception) -> dict[str, Any]:
    """{"error": {"message", "type", "param", "code"}}, and how long a prompt is that does not fit.

    A fault of ours is written without details.
    """
    answer = answer_for(error)
    ours = not isinstance(error, VramLLMError)
    message = "The server failed on this request; its log says why" if ours else str(error)
    code = answer.code if answer.code is not None else getattr(error, "code", None)
    param = getattr(error, "param", None)
    body = {"message": message, "type": answer.type, "param": param, "code": code}
    if isinstance(error, ContextExceeded) and error.n_prompt_tokens is not None:  # as llama-server has them
        body |= {"n_prompt_tokens": error.n_prompt_tokens, "n_ctx": error.n_ctx}
    return {"error": body}


def error_response(error: Exception, headers: dict[str, str] | None = None) -> Response:
    """The whole answer, with Retry-After and x-should-retry where they help."""
    answer = answer_for(error)
    response = Response(msgspec.json.encode(error_body(error)), answer.status, headers, "application/json")
    retry_after_s = error.retry_after_s if isinstance(error, Overloaded) else answer.retry_after_s
    if retry_after_s is not None:
        response.headers["retry-after"] = str(max(1, math.ceil(retry_after_s)))
    if answer.retry is not None:
        response.headers["x-should-retry"] = str(answer.retry).lower()
    if answer.status == 401:
        response.headers["www-authenticate"] = "Bearer"
    return response


def error_of(event: TokenEvent) -> VramLLMError | None:
    """The error that ended a request, or None where it ended well or goes on. Refusals are raised instead."""
    if event.finish_reason is FinishReason.CANCELLED:
        return Interrupted("The engine stopped this request before it was complete; send it again")
    if event.finish_reason is not FinishReason.ERROR:
        return None
    return GenerationFailed(event.error or "The engine failed on this request")
