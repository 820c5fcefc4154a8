"""Places, models and plans of fleets, made by hand."""

from collections.abc import Mapping, Sequence

from tests.planner.saved import local, saved_plan
from vram_llm.machine.types import Source
from vram_llm.planner.fleet.limits import FittingModels, Limits
from vram_llm.planner.fleet.place_options import PlaceOption
from vram_llm.planner.fleet.types import FLEET_VERSION, FleetModelSpec, FleetPlan, PackedModel, PlacedReplica
from vram_llm.planner.types import HOST


def place(
    uses: Mapping[str, int],
    *,
    request_s: float = 1.0,
    load_s: float = 1.0,
    throughput: float | None = None,
    busy: Mapping[str, float] | None = None,
) -> PlaceOption:
    """A place that takes `uses`; its devices share a request's time equally unless `busy` says otherwise."""
    devices = tuple(device_id for device_id in uses if device_id != HOST)
    return PlaceOption(
        devices=devices,
        uses=uses,
        request_s=request_s,
        tokens_per_s=100 / request_s,
        throughput_tokens_per_s=throughput or 100 / request_s,
        busy=busy or {device_id: 1 / len(devices) for device_id in devices},
        load_s=load_s,
        load_basis=Source.ASSUMED,
    )


def fleet_plan(
    uses: Mapping[str, Mapping[str, int]],
    budgets: Mapping[str, int],
    *,
    load_s: Mapping[str, float] | None = None,
    priorities: Mapping[str, int] | None = None,
    together: Sequence[frozenset[str]] = (),
    apart: Sequence[frozenset[str]] = (),
    one_program: Sequence[frozenset[str]] = (),
) -> FleetPlan:
    """A fleet's plan in which each model takes `uses`; one second to load and priority 0 by default."""
    models = tuple(
        PackedModel(
            spec=FleetModelSpec(
                name=name, source=f"/srv/{name}.gguf", priority=(priorities or {}).get(name, 0)
            ),
            replicas=(
                PlacedReplica(
                    devices=tuple(device_id for device_id in own if device_id != HOST),
                    uses=own,
                    tokens_per_s=None,
                    throughput_tokens_per_s=None,
                    load_s=(load_s or {}).get(name, 1.0),
                    load_basis=Source.ASSUMED,
                    plan=saved_plan([local(0)], [4]),
                ),
            ),
            why="",
        )
        for name, own in uses.items()
    )
    limits = Limits(budgets=budgets, one_program=tuple(one_program), apart=tuple(apart))
    fitting = FittingModels(limits, {name: [own] for name, own in uses.items()})
    return FleetPlan(
        version=FLEET_VERSION,
        models=models,
        devices=(local(0),),
        budgets=budgets,
        resident_at_start=(),
        sets=fitting.maximal_sets(together),
        apart=tuple(apart),
        together=tuple(together),
        one_program=tuple(one_program),
    )
