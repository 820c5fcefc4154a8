"""GET /metrics, for Prometheus."""

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from vram_llm.server.metrics.device_status import devices_of, host_of
from vram_llm.server.metrics.llama_server_families import llama_server_families
from vram_llm.server.metrics.own_families import own_families
from vram_llm.server.metrics.status import phase_of
from vram_llm.server.metrics.system_readings import SystemReading, SystemReadings
from vram_llm.server.metrics.vllm_families import vllm_families
from vram_llm.server.serving_context import ServingContext


class ServerCollector(Collector):
    """All metrics of a server, as they are when they are asked for."""

    def __init__(self, serving: ServingContext) -> None:
        self._serving = serving
        self.reading: SystemReading | None = None  # of this scrape

    def collect(self) -> list[Metric]:
        """The families; none before the first scrape, for which a reading is taken."""
        if self.reading is None:
            return []
        engine = self._serving.engine
        activity, info = engine.activity, engine.info
        devices = devices_of(activity.plan, info, activity.pid, self.reading)
        host = host_of(activity.plan, info, self.reading)
        name = activity.plan.model.name if info is None else info.name
        return [
            *vllm_families(activity, name, info),
            *llama_server_families(activity),
            *own_families(activity, phase_of(engine), devices, host),
        ]


def metrics_router(serving: ServingContext, readings: SystemReadings) -> APIRouter:
    """The route. It answers in every state of the engine."""
    router = APIRouter(tags=["metrics"])
    collector, registry = ServerCollector(serving), CollectorRegistry(auto_describe=False)
    registry.register(collector)

    @router.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}},
    )
    async def metrics(http: Request) -> Response:
        collector.reading = await readings.latest(serving.engine.activity.pid)
        encode, content_type = choose_encoder(http.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return router
