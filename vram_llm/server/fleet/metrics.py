"""GET /metrics of a fleet: every family of one model with the label `model`, and the fleet's own."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as _TEXT

from vram_llm.engine.activity import EngineActivity
from vram_llm.fleet.snapshots import FleetModel, ModelState
from vram_llm.server.api_keys import current_key
from vram_llm.server.fleet.machine_status import RunningModel, fleet_devices, fleet_host, running_models
from vram_llm.server.fleet.ports import ServedFleet
from vram_llm.server.fleet.routed_models import RoutedModels
from vram_llm.server.metrics.device_status import devices_of, host_of
from vram_llm.server.metrics.exposition import OPENMETRICS, encoded
from vram_llm.server.metrics.families import Families, FamilySink, Labels, Observed, Samples
from vram_llm.server.metrics.llama_server_families import add_llama_server_families
from vram_llm.server.metrics.own_families import add_engine_families, add_machine_families
from vram_llm.server.metrics.status import phase_of
from vram_llm.server.metrics.system_readings import SystemReading, SystemReadings
from vram_llm.server.metrics.text_format import TextSink
from vram_llm.server.metrics.vllm_families import add_vllm_families

_LABEL = ("model",)
Kind = Literal["gauge", "counter"]


class FamiliesOfModels:
    """Takes the families of several models, with the label `model`, and passes each family on once.

    Prometheus's format has all samples of a family in one place.
    """

    def __init__(self) -> None:
        self.model = ""  # whose families are added
        self._samples: dict[tuple[Kind, str, str, Labels], Samples] = {}
        self._observed: dict[tuple[str, str, Labels], Observed] = {}

    def add(self, kind: Kind, name: str, text: str, names: Labels, samples: Samples) -> None:
        """See FamilySink."""
        found = self._samples.setdefault((kind, name, text, names), [])
        found += [((self.model, *values), value) for values, value in samples]

    def add_histogram(self, name: str, text: str, names: Labels, observed: Observed) -> None:
        """See FamilySink."""
        found = self._observed.setdefault((name, text, names), [])
        found += [((self.model, *values), counts) for values, counts in observed]

    def pass_on(self, sink: FamilySink) -> None:
        """Pass all families on."""
        for (kind, name, text, names), samples in self._samples.items():
            sink.add(kind, name, text, _LABEL + names, samples)
        for (name, text, names), observed in self._observed.items():
            sink.add_histogram(name, text, _LABEL + names, observed)


def fleet_metrics_router(fleet: ServedFleet, models: RoutedModels, readings: SystemReadings) -> APIRouter:
    """The route. Counts of a model go on over its loads. `?model=NAME`: that model's alone."""
    router = APIRouter(tags=["metrics"])
    text = TextSink()

    @router.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}},
    )
    async def metrics(http: Request, model: Annotated[str, Query()] = "") -> Response:
        reading = await readings.latest(None)
        wanted = models.resolve(model, current_key.get())[0].name if model else None
        running = [each for each in running_models(fleet, models) if wanted in (None, each.model.name)]
        snapshots = [each for each in fleet.snapshots() if wanted in (None, each.name)]

        def add_all(sink: FamilySink) -> None:
            add_fleet_families(sink, snapshots)
            add_families_of(sink, running, _histories(fleet, snapshots), reading)
            devices = fleet_devices(models.settings.plan.devices, running, reading)
            add_machine_families(sink, devices, fleet_host(running, reading))

        accepted = http.headers.get("accept", "")
        if OPENMETRICS in accepted:
            return encoded(add_all, accepted)
        try:
            add_all(text)
        finally:
            body = text.take()
        return Response(body, headers={"content-type": _TEXT})

    return router


def _histories(fleet: ServedFleet, snapshots: Sequence[FleetModel]) -> dict[str, EngineActivity]:
    """The counts of models that are not loaded now, by name."""
    idle = [each.name for each in snapshots if fleet.engine(each.name) is None]
    found = ((name, fleet.activity(name)) for name in idle)
    return {name: activity for name, activity in found if activity is not None}


def add_families_of(
    sink: FamilySink,
    running: Sequence[RunningModel],
    histories: Mapping[str, EngineActivity],
    reading: SystemReading,
) -> None:
    """The families of each engine, and the counts of models that are not loaded any more."""
    of_models = FamiliesOfModels()
    for each in running:
        of_models.model = each.model.name
        activity, info = each.activity, each.engine.info
        devices = [
            device
            for device in devices_of(activity.plan, info, activity.pid, reading)
            if device.id in activity.plan.used
        ]
        add_vllm_families(of_models, activity, each.model.name, info)
        add_llama_server_families(of_models, activity)
        host = host_of(activity.plan, info, reading)
        add_engine_families(of_models, activity, phase_of(each.engine), devices, host)
    for name, activity in histories.items():
        of_models.model = name
        add_vllm_families(of_models, activity, name, None)
        add_llama_server_families(of_models, activity)
    of_models.pass_on(sink)


def add_fleet_families(sink: FamilySink, snapshots: Sequence[FleetModel]) -> None:
    """The states of the models, their requests and their loads."""
    families = Families(sink, "vram_llm:", {})
    states = [
        ((each.name, state.value), float(each.state is state)) for each in snapshots for state in ModelState
    ]
    families.gauges("model_state", "1: the model's state.", (*_LABEL, "state"), states)
    planned = [
        ((each.name, device_id), n_bytes)
        for each in snapshots
        for device_id, n_bytes in each.bytes_by_device.items()
    ]
    families.gauges("model_planned_bytes", "Memory of the model by its plan.", (*_LABEL, "device"), planned)
    for name, help_text, field in (
        ("model_requests_waiting", "Requests that wait for the model to be loaded.", "waiting"),
        ("model_requests_in_flight", "Requests that hold the model.", "in_flight"),
        ("model_load_seconds", "Time of the last load; before it, as predicted.", "load_s"),
    ):
        families.gauges(name, help_text, _LABEL, [((each.name,), getattr(each, field)) for each in snapshots])
    loads = [((each.name,), float(each.n_loads)) for each in snapshots]
    families.counters("model_loads", "Loads of the model since the server's start.", _LABEL, loads)
