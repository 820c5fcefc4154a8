"""GET /metrics, for Prometheus."""

from collections.abc import Callable

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as _TEXT
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from vram_llm.engine.engine_protocol import Engine
from vram_llm.server.metrics.device_status import devices_of, host_of
from vram_llm.server.metrics.families import FamilySink, MetricSink
from vram_llm.server.metrics.llama_server_families import add_llama_server_families
from vram_llm.server.metrics.own_families import add_own_families
from vram_llm.server.metrics.status import phase_of
from vram_llm.server.metrics.system_readings import SystemReading, SystemReadings
from vram_llm.server.metrics.text_format import TextSink
from vram_llm.server.metrics.vllm_families import add_vllm_families
from vram_llm.server.serving_context import ServingContext

OPENMETRICS = "application/openmetrics-text"


def add_families(sink: FamilySink, engine: Engine, reading: SystemReading) -> None:
    """All metrics of a server, as they are now."""
    activity, info = engine.activity, engine.info
    devices = devices_of(activity.plan, info, activity.pid, reading)
    host = host_of(activity.plan, info, reading)
    name = activity.plan.model.name if info is None else info.name
    add_vllm_families(sink, activity, name, info)
    add_llama_server_families(sink, activity)
    add_own_families(sink, activity, phase_of(engine), devices, host)


def encoded(add_all: Callable[[FamilySink], None], accepted: str) -> Response:
    """The families in the format that a client accepts, by prometheus_client."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_OnceCollector(add_all))
    encode, content_type = choose_encoder(accepted)
    return Response(encode(registry), headers={"content-type": content_type})


class _OnceCollector(Collector):
    def __init__(self, add_all: Callable[[FamilySink], None]) -> None:
        self._add_all = add_all

    def collect(self) -> list[Metric]:
        sink = MetricSink()
        self._add_all(sink)
        return sink.found


class ServerCollector(Collector):
    """The metrics in prometheus_client's objects, for a registry of its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.reading: SystemReading | None = None  # of this scrape

    def collect(self) -> list[Metric]:
        """The families; none before the first scrape, for which a reading is taken."""
        sink = MetricSink()
        if self.reading is not None:
            add_families(sink, self._engine, self.reading)
        return sink.found


def metrics_router(serving: ServingContext, readings: SystemReadings) -> APIRouter:
    """The route. It answers in every state of the engine."""
    router = APIRouter(tags=["metrics"])
    engine = serving.engine
    text, collector = TextSink(), ServerCollector(engine)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    begun = {"process-start-time-unix": str(int(serving.clock()))}  # llama-server's header

    @router.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}},
    )
    async def metrics(http: Request) -> Response:
        reading = await readings.latest(engine.activity.pid)
        accepted = http.headers.get("accept", "")
        if OPENMETRICS not in accepted:
            try:
                add_families(text, engine, reading)
            finally:
                body = text.take()
            return Response(body, headers={"content-type": _TEXT, **begun})
        collector.reading = reading
        encode, content_type = choose_encoder(accepted)
        return Response(encode(registry), headers={"content-type": content_type, **begun})

    return router
