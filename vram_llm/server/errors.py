"""Errors as HTTP answers: one table of statuses, and OpenAI's error object."""

import math
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.responses import Response

from vram_llm.chat.render_pool import RenderProcessFailed
from vram_llm.chat.template import TemplateRanAway, TemplateRefusal
from vram_llm.engine.request import FinishReason, TokenEvent
from vram_llm.errors import (
    ContextExceeded,
    EngineDied,
    Overloaded,
    PoisonRequest,
    RequestCancelled,
    RequestError,
    RequestTimeout,
    UnknownModel,
    VramLLMError,
    WorkerUnreachable,
)


class UnknownParameter(RequestError):
    """A field that OpenAI's endpoint does not have and known clients do not send."""

    code = "unknown_parameter"


class NotSupported(RequestError):
    """A field that asks for a feature this server lacks."""

    code = "unsupported_parameter"


class MissingField(RequestError):
    """A required field is missing."""

    code = "missing_required_parameter"


class WrongModel(RequestError):
    """The model cannot do the requested task."""

    code = "model_not_supported"


class NoSuchResponse(RequestError):
    """A response that is not stored."""

    code = "response_not_found"


class NoSuchStream(RequestError):
    """A stream that is not kept."""

    code = "stream_not_found"


class StreamStopped(RequestError):
    """A stream was stopped before it had begun."""

    code = "stream_stopped"


class NoSuchRequest(RequestError):
    """A request that is not in flight."""

    code = "request_not_found"


class PreviousNotFound(RequestError):
    """The previous response is not stored."""

    code = "previous_response_not_found"


class RouteIsOff(RequestError):
    """A route that the server's options switch off."""

    code = "route_is_off"


class NoInfill(RequestError):
    """The model has no tokens for prompts with a gap."""

    code = "infill_not_supported"


class UnknownRoute(RequestError):
    """A path that does not exist."""

    code = "unknown_url"


class WrongMethod(RequestError):
    """The path does not accept this method."""

    code = "method_not_supported"


class BadKey(RequestError):
    """No API key, or a wrong one."""

    code = "invalid_api_key"


class MissingScope(RequestError):
    """The API key may not ask for this."""

    code = "missing_scope"


class ModelNotAllowed(RequestError):
    """The API key may not use the model."""

    code = "model_not_allowed"


class WrongHost(RequestError):
    """The Host header has a name that this server does not accept."""

    code = "host_not_allowed"


class BodyTooLarge(RequestError):
    """The body exceeds the size limit."""

    code = "request_too_large"


class HeadTooLarge(RequestError):
    """The URL and the headers exceed the size limit."""

    code = "headers_too_large"


class TooSlow(RequestError):
    """The client sends its request too slowly."""

    code = "request_too_slow"


class UnknownEncoding(RequestError):
    """The body has a compression that this server does not read."""

    code = "unsupported_content_encoding"


class RateLimited(Overloaded):
    """The API key has as much in flight, or has used as much within a minute, as it may."""

    retry_after_s: float


class NotReady(VramLLMError):
    """The engine is loading or restarting: try again."""


class Unavailable(VramLLMError):
    """The engine is stopping, or will not come back."""


class Interrupted(VramLLMError):
    """The engine ended the request before it was complete."""


class GenerationFailed(VramLLMError):
    """The engine failed on this request alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorKind:
    """The HTTP form of an error.

    `retry` None: the client's own rule for the status applies (OpenAI's SDK retries after 429 and 5xx).
    False: the client must not retry, since that would only add load.
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
    TemplateRanAway: ErrorKind(status=400, type=_INVALID),
    ContextExceeded: ErrorKind(status=400, type=_INVALID),
    PoisonRequest: ErrorKind(status=500, type="server_error", retry=False),
    RequestTimeout: ErrorKind(status=408, type="timeout_error", retry=False),
    UnknownParameter: ErrorKind(status=400, type=_INVALID),
    NotSupported: ErrorKind(status=400, type=_INVALID),
    MissingField: ErrorKind(status=400, type=_INVALID),
    BadKey: ErrorKind(status=401, type=_INVALID),
    MissingScope: ErrorKind(status=403, type=_INVALID),
    ModelNotAllowed: ErrorKind(status=403, type=_INVALID),
    WrongHost: ErrorKind(status=403, type=_INVALID),
    UnknownModel: ErrorKind(status=404, type=_INVALID),
    WrongModel: ErrorKind(status=400, type=_INVALID),
    NoSuchResponse: ErrorKind(status=404, type=_INVALID),
    NoSuchStream: ErrorKind(status=404, type=_INVALID),
    NoSuchRequest: ErrorKind(status=404, type=_INVALID),
    RequestCancelled: ErrorKind(status=499, type=_INVALID, retry=False),
    PreviousNotFound: ErrorKind(status=400, type=_INVALID),
    UnknownRoute: ErrorKind(status=404, type=_INVALID),
    WrongMethod: ErrorKind(status=405, type=_INVALID),
    BodyTooLarge: ErrorKind(status=413, type=_INVALID),
    HeadTooLarge: ErrorKind(status=431, type=_INVALID),
    TooSlow: ErrorKind(status=408, type="timeout_error", retry=False),
    StreamStopped: ErrorKind(status=400, type=_INVALID, retry=False),
    RouteIsOff: ErrorKind(status=501, type="not_supported_error", retry=False),
    NoInfill: ErrorKind(status=501, type="not_supported_error", retry=False),  # llama-server's
    UnknownEncoding: ErrorKind(status=415, type=_INVALID),
    Overloaded: ErrorKind(status=429, type="rate_limit_error", code="overloaded"),
    RateLimited: ErrorKind(status=429, type="rate_limit_error", code="rate_limit_exceeded"),  # OpenAI's code
    NotReady: ErrorKind(status=503, type="unavailable_error", code=503, retry_after_s=2),  # llama-server's
    EngineDied: ErrorKind(status=503, type="unavailable_error", code="engine_died", retry_after_s=2),
    WorkerUnreachable: ErrorKind(
        status=503, type="unavailable_error", code="worker_unreachable", retry_after_s=2
    ),
    RenderProcessFailed: ErrorKind(status=503, type="unavailable_error", code=503, retry_after_s=2),
    Interrupted: ErrorKind(status=503, type="unavailable_error", code="interrupted", retry_after_s=2),
    Unavailable: ErrorKind(status=503, type="unavailable_error", code=503, retry=False),
    GenerationFailed: ErrorKind(status=500, type="server_error", code="generation_failed", retry=False),
    VramLLMError: ErrorKind(status=500, type="server_error", retry=False),
    Exception: ErrorKind(status=500, type="server_error", code="internal_error", retry=False),
}


def error_kind(error: Exception) -> ErrorKind:
    """The table's row of the error's nearest class."""
    return next(ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS)


def error_body(error: Exception) -> dict[str, Any]:
    """{"error": {"message", "type", "param", "code"}}.

    A prompt that is too long adds its length. An internal error shows no details: the log has them, with the
    id of the answer's header x-request-id.
    """
    answer = error_kind(error)
    is_internal = not isinstance(error, VramLLMError)
    message = "The server failed on this request; its log says why" if is_internal else str(error)
    code = answer.code if answer.code is not None else getattr(error, "code", None)
    param = getattr(error, "param", None)
    body = {"message": message, "type": answer.type, "param": param, "code": code}
    if isinstance(error, ContextExceeded) and error.n_prompt_tokens is not None:  # llama-server's fields
        body |= {"n_prompt_tokens": error.n_prompt_tokens, "n_ctx": error.n_ctx}
    return {"error": body}


def error_response(error: Exception, headers: dict[str, str] | None = None) -> Response:
    """The HTTP answer, with Retry-After, retry-after-ms and x-should-retry where they apply."""
    answer = error_kind(error)
    response = Response(msgspec.json.encode(error_body(error)), answer.status, headers, "application/json")
    known_s = error.retry_after_s if isinstance(error, VramLLMError) else None
    retry_after_s = answer.retry_after_s if known_s is None else known_s
    if retry_after_s is not None:
        response.headers["retry-after"] = str(max(1, math.ceil(retry_after_s)))
    if known_s is not None:  # OpenAI's SDKs prefer it
        response.headers["retry-after-ms"] = str(math.ceil(1000 * known_s))
    if answer.retry is not None:
        response.headers["x-should-retry"] = str(answer.retry).lower()
    if answer.status == 401:
        response.headers["www-authenticate"] = "Bearer"
    return response


def error_of(event: TokenEvent) -> VramLLMError | None:
    """The error that ended a request; None if it succeeded or continues. Refusals are raised instead."""
    if event.finish_reason is FinishReason.CANCELLED:
        return Interrupted("The engine stopped this request before it was complete; send it again")
    if event.finish_reason is not FinishReason.ERROR:
        return None
    return GenerationFailed(event.error or "The engine failed on this request")
