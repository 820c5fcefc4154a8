"""Traces of requests, sent to a real receiver of OTLP over HTTP."""

import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.server.fake_engine import FakeEngine, fails
from tests.server.live import app_of, in_process
from vram_llm.errors import BadTraceSettings, MissingExtra
from vram_llm.server.traces import TracesMiddleware, traces_wanted

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HI = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
CHAT = "/v1/chat/completions"


class Receiver(HTTPServer):
    """Keeps what it receives: a collector at the usual path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[ExportTraceServiceRequest] = []

    @property
    def spans(self) -> dict[str, Span]:
        """All spans, by name."""
        return {
            span.name: span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        }


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
        self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A receiver that OTEL_EXPORTER_OTLP_ENDPOINT names."""
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        yield server
        server.shutdown()
        thread.join()


def attributes(span: Span) -> dict[str, Any]:
    """A span's attributes as Python values."""
    found = {}
    for pair in span.attributes:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        found[pair.key] = [item.string_value for item in value.values] if kind == "array_value" else value
    return found


async def send(engine: FakeEngine, *requests: tuple[str, dict[str, Any]], **headers: str) -> None:
    """Send requests to a server with traces, and end it."""
    wanted = traces_wanted(os.environ)
    assert wanted is not None
    app = app_of(engine)
    app.add_middleware(TracesMiddleware, traces=wanted)
    async with in_process(app) as client:
        for path, body in requests:
            await client.post(path, json=body, headers=headers)
    wanted.close()


async def test_the_spans_of_a_chat(engine: FakeEngine, receiver: Receiver) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine"}
    await send(engine, (CHAT, {**HI, "stream": True}), **headers)
    spans = receiver.spans
    assert spans.keys() == {"chat tiny", "queue", "prefill", "decode"}
    root = spans["chat tiny"]
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, PARENT)
    assert root.kind == Span.SPAN_KIND_SERVER
    inside = [spans[name] for name in ("queue", "prefill", "decode")]
    assert {span.parent_span_id for span in inside} == {root.span_id}
    times = [root.start_time_unix_nano, *(span.start_time_unix_nano for span in inside)]
    assert times == sorted(times)
    assert [span.end_time_unix_nano for span in inside[:2]] == times[2:]
    assert inside[2].end_time_unix_nano <= root.end_time_unix_nano
    found = attributes(root)
    assert {name: found[name] for name in found if name.startswith(("gen_ai.usage", "gen_ai.request"))} == {
        "gen_ai.request.model": "tiny",
        "gen_ai.request.choice.count": 1,
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.cache_read.input_tokens": 0,
    }
    assert found["gen_ai.response.finish_reasons"] == ["stop"]
    assert (found["vram_llm.request_id"], found["http.response.status_code"]) == ("mine", 200)
    (resource,) = (r.resource for r in receiver.requests[0].resource_spans)
    assert ("service.name", "vram-llm") in [(a.key, a.value.string_value) for a in resource.attributes]


async def test_failures_and_requests_without_the_engine(engine: FakeEngine, receiver: Receiver) -> None:
    engine.script = fails(error="the projector failed")
    await send(engine, (CHAT, HI), (CHAT, {**HI, "n": 0}), ("/tokenize", {"content": "a"}))
    assert receiver.spans["chat tiny"].status.code == Status.STATUS_CODE_ERROR
    assert receiver.spans["chat tiny"].status.message == "the projector failed"
    assert receiver.spans.keys() == {"chat tiny", "queue"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_SERVICE_NAME": "mine"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_without_traces(environ: dict[str, str]) -> None:
    assert traces_wanted(environ) is None


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "'zipkin'; vram-llm sends traces by 'otlp' only"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "'grpc'; vram-llm sends traces as 'http/protobuf' only",
        ),
    ],
)
def test_other_ways_of_sending(environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(BadTraceSettings, match=sentence):
        traces_wanted(environ)


def test_the_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(MissingExtra, match=r"pip install 'vram-llm\[otel\]'"):
        traces_wanted({"OTEL_TRACES_EXPORTER": "otlp"})
