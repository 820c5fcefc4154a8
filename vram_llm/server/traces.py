"""OpenTelemetry traces of requests, switched on and configured by the usual OTEL_ variables.

A request's spans are made at its end, from its record, so that they cost a stream nothing. OpenTelemetry is
imported only if a variable asks for traces.
"""

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from vram_llm._version import __version__
from vram_llm.errors import BadTraceSettings, MissingExtra
from vram_llm.server.request_record import RequestRecord, current_request

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTER = "OTEL_TRACES_EXPORTER"
_FLUSH_S = 3.0  # at the end, for spans that are not yet sent
_OPERATIONS = {
    "chat/completions": "chat", "messages": "chat", "responses": "chat", "completions": "text_completion",
    "embeddings": "embeddings", "embedding": "embeddings", "rerank": "rerank", "reranking": "rerank",
}  # fmt: skip


class RequestTraces:
    """Makes and sends the spans of requests that have ended."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import trace
        from opentelemetry.propagate import extract

        self._api, self._extract = trace, extract
        self._provider = provider
        self._tracer = provider.get_tracer("vram_llm", __version__)

    def end_request(self, record: RequestRecord, headers: Mapping[str, str]) -> None:
        """Make the spans of a request that went to the engine, under the client's, named in `headers`."""
        if not record.n_sequences:
            return
        ended_at = record.ended_at or time.monotonic()
        offset_ns = time.time_ns() - time.monotonic_ns()
        attributes = attributes_of(record)
        root = self._tracer.start_span(
            f"{attributes['gen_ai.operation.name']} {record.model}",
            context=self._extract(headers),
            kind=self._api.SpanKind.SERVER,
            attributes=attributes,
            start_time=_ns(record.began_at, offset_ns),
        )
        inside = self._api.set_span_in_context(root)
        for name, start, end in phases(record, ended_at):
            span = self._tracer.start_span(name, context=inside, start_time=_ns(start, offset_ns))
            span.end(_ns(end, offset_ns))
        if record.error:
            root.set_status(self._api.StatusCode.ERROR, record.error)
        root.end(_ns(ended_at, offset_ns))

    def close(self) -> None:
        """Send the spans that are left, for up to _FLUSH_S, in case the collector is away."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_FLUSH_S)


class TracesMiddleware:
    """ASGI middleware around all others, which passes each request to `traces` at its end."""

    def __init__(self, app: ASGIApp, *, traces: RequestTraces) -> None:
        self._app = app
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        finally:
            if scope["type"] == "http" and (record := current_request.get()) is not None:
                self._traces.end_request(record, Headers(scope=scope))


def phases(record: RequestRecord, ended_at: float) -> list[tuple[str, float, float]]:
    """Name, begin and end of the parts of a request that it reached: queue, prefill, decode."""
    if record.submitted_at is None:
        return []
    if record.first_token_at is None:
        return [("queue", record.submitted_at, record.last_token_at or ended_at)]
    started_at = min(record.submitted_at + record.queue_s, record.first_token_at)
    return [
        ("queue", record.submitted_at, started_at),
        ("prefill", started_at, record.first_token_at),
        ("decode", record.first_token_at, record.last_token_at or ended_at),
    ]


def attributes_of(record: RequestRecord) -> dict[str, Any]:
    """OpenTelemetry's attributes for generative AI and for HTTP."""
    path = record.path.strip("/").removeprefix("v1/")
    known: dict[str, Any] = {
        "gen_ai.operation.name": _OPERATIONS.get(path, path),
        "gen_ai.provider.name": "vram-llm",
        "gen_ai.response.model": record.model,
        "gen_ai.request.model": record.model,
        "gen_ai.request.choice.count": record.n_sequences,
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
        "http.request.method": record.method,
        "url.path": record.path,
        "http.response.status_code": record.status,
        "vram_llm.request_id": record.id,
    }
    if record.finish_reasons:
        known["gen_ai.response.finish_reasons"] = sorted(record.finish_reasons)
    if record.first_token_at is not None:
        known["gen_ai.response.time_to_first_chunk"] = record.first_token_at - record.began_at
    return known


def traces_wanted(environ: Mapping[str, str]) -> RequestTraces | None:
    """The traces that the variables ask for; None if they ask for none.

    Raises MissingExtra if OpenTelemetry is not installed, BadTraceSettings for an exporter or a protocol
    other than OTLP over HTTP.
    """
    exporter = environ.get(_EXPORTER, "")
    endpoint = next((environ[name] for name in _ENDPOINTS if environ.get(name)), "")
    is_off = exporter == "none" or environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if is_off or not (exporter or endpoint):
        return None
    if exporter not in ("", "otlp"):
        raise BadTraceSettings(f"{_EXPORTER} is {exporter!r}; vram-llm sends traces by 'otlp' only")
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        raise BadTraceSettings(
            f"the OTLP protocol is {protocol!r}; vram-llm sends traces as 'http/protobuf' only, which a "
            "collector takes at port 4318"
        )
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise MissingExtra(
            "OTEL_ variables ask for traces, and OpenTelemetry is not installed: "
            "`pip install 'vram-llm[otel]'`, or OTEL_TRACES_EXPORTER=none"
        ) from None
    name = {} if "OTEL_SERVICE_NAME" in environ else {"service.name": "vram-llm"}
    resource = Resource.create({**name, "service.version": __version__})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return RequestTraces(provider)


def _ns(seconds: float, offset_ns: int) -> int:
    """Unix nanoseconds of a time of time.monotonic."""
    return int(seconds * 1e9) + offset_ns
