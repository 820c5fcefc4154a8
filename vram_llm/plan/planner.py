"""A Plan: the placement, what stands beside it, and what a reader should know of it."""

from vram_llm.errors import DoesNotFit
from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.plan import explain
from vram_llm.plan.alternatives import alternatives, split_by_free_memory, ways_out
from vram_llm.plan.search import Candidate, place, place_largest
from vram_llm.plan.types import PLAN_VERSION, MeterFor, Plan, PlannedDevice, PlannedModel, Workload


def make_plan(
    profile: ModelProfile, machine: Machine, workload: Workload, exact: MeterFor | None = None
) -> Plan:
    """The plan for running `profile` on `machine` as `workload` asks.

    `exact` makes the meter that confirms what the analytic one finds. Raises DoesNotFit with what would fit,
    BadSplit and BadPlan where the wish contradicts model or machine.
    """
    more: Candidate | None = None
    if workload.largest_ctx:
        chosen, more = place_largest(profile, machine, workload, exact)
    else:
        chosen = place(profile, machine, workload, exact)
    if not chosen.estimate.fits:
        ways = [explain.way_out(*way, workload) for way in ways_out(profile, machine, workload)]
        raise DoesNotFit(
            explain.refusal(profile, machine, chosen.estimate, chosen.context, workload.reserve_bytes, ways)
        )
    return Plan(
        version=PLAN_VERSION,
        model=PlannedModel(
            path=str(profile.shards[0].path),
            name=profile.name,
            architecture=profile.architecture,
            quantization=profile.quantization,
            n_layers=profile.n_layers,
            total_bytes=profile.total_bytes,
        ),
        devices=tuple(
            PlannedDevice(
                **{name: getattr(device, name) for name in device.__dataclass_fields__},
                reserve_bytes=workload.reserve_bytes,
            )
            for device in machine.devices
        ),
        context=chosen.context,
        placement=chosen.placement,
        estimate=chosen.estimate,
        fits=True,
        dictated=workload.tensor_split is not None or workload.n_gpu_layers is not None,
        by_free_memory=split_by_free_memory(profile, machine, workload, chosen, exact),
        alternatives=alternatives(profile, machine, workload, chosen),
        notes=explain.notes(profile, machine, chosen, more),
    )
