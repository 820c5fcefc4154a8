"""The plan of a fleet from the plans of its models."""

from collections.abc import Mapping, Sequence

from vram_llm.machine.types import Machine
from vram_llm.planner.fleet.check_spec import at_start
from vram_llm.planner.fleet.limits import MOST_SETS, FittingModels, Limits
from vram_llm.planner.fleet.load_time import load_time
from vram_llm.planner.fleet.place_options import request_figures
from vram_llm.planner.fleet.room import uses_of_plan
from vram_llm.planner.fleet.types import FLEET_VERSION, FleetPlan, FleetSpec, PackedModel, PlacedReplica
from vram_llm.planner.memory.analytic_meter import METHOD
from vram_llm.planner.types import HOST, Plan


def placed_replica(plan: Plan, machine: Machine) -> PlacedReplica:
    """One replica with its place. `machine` is the one that it was planned for."""
    is_pooled = plan.context.pooling is not None
    assert plan.speed is not None  # every plan of this version predicts it
    uses = uses_of_plan(plan)
    weights = {use.id: use.weights_bytes for use in plan.estimate.devices}
    for companion in plan.companions:
        for device_id, use in companion.uses.items():
            weights[device_id] = weights.get(device_id, 0) + use.weights_bytes
    file_bytes = plan.model.total_bytes + sum(companion.total_bytes for companion in plan.companions)
    load = load_time(machine, file_bytes, weights)
    _, throughput = request_figures(plan.speed, is_pooled=is_pooled)
    return PlacedReplica(
        devices=tuple(device_id for device_id in uses if device_id != HOST),
        uses=uses,
        tokens_per_s=None if is_pooled else plan.speed.tokens_per_s,
        throughput_tokens_per_s=throughput,
        load_s=load.seconds,
        load_basis=load.basis,
        plan=plan,
    )


def is_exact(replica: PlacedReplica) -> bool:
    """Whether llama.cpp's dry run measured the replica's bytes."""
    return replica.plan.estimate.method != METHOD


def fleet_plan_of(
    spec: FleetSpec,
    machine: Machine,
    limits: Limits,
    replicas: Mapping[str, Sequence[PlacedReplica]],
    why: Mapping[str, str],
    notes: Sequence[str] = (),
) -> FleetPlan:
    """The plan of a checked fleet with the replicas of each model and the reasons for them."""
    fitting = FittingModels(
        limits, {name: [replica.uses for replica in each] for name, each in replicas.items()}
    )
    sets = fitting.maximal_sets(spec.together)
    if len(sets) == MOST_SETS:
        notes = (*notes, f"{MOST_SETS} sets of models that fit together are used; there may be more")
    return FleetPlan(
        version=FLEET_VERSION,
        models=tuple(
            PackedModel(spec=model, replicas=tuple(replicas[model.name]), why=why[model.name])
            for model in spec.models
        ),
        devices=machine.devices,
        budgets=limits.budgets,
        resident_at_start=at_start(spec),
        sets=sets,
        apart=spec.apart,
        together=spec.together,
        one_program=limits.one_program,
        notes=tuple(notes),
    )
