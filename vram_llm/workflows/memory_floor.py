"""The least memory in which a model runs on a machine."""

import dataclasses
from contextlib import nullcontext
from typing import TYPE_CHECKING

from vram_llm.errors import BadPlan, EngineDied, NotBuilt
from vram_llm.model.header_reader import read_header
from vram_llm.model.metadata_overrides import with_overrides
from vram_llm.model.profile import profile
from vram_llm.planner.mtp import has_draft
from vram_llm.planner.rope import with_rope
from vram_llm.workflows import planning
from vram_llm.workflows.argument_types import check_field_types, check_type
from vram_llm.workflows.model_names import resolve

if TYPE_CHECKING:
    from vram_llm.llama.dryrun.client import DryRun
    from vram_llm.machine.types import Machine
    from vram_llm.planner.floor import MemoryFloor
    from vram_llm.planner.types import Context, Meter, Workload


def memory_floor(
    model: str, machine: "Machine", workload: "Workload | None" = None, dry: "DryRun | None" = None
) -> "MemoryFloor":
    """The saving and the cost of each step from all on the cards to the host alone (planner/floor.py).

    The steps are placed by llama.cpp's dry run, if it can be asked. A `workload` of None means all defaults.
    Raises the errors of `analyze`, ModelRefused, and BadPlan if the workload dictates a placement or has
    adapters, a projector or a draft model.
    """
    from vram_llm.machine.types import Machine
    from vram_llm.planner import floor
    from vram_llm.planner.types import Workload

    workload = Workload() if workload is None else workload
    check_type("model", model, str)
    check_type("machine", machine, Machine)
    check_type("workload", workload, Workload)
    check_field_types(workload)
    if workload.loras or workload.control_vectors or workload.mmproj or has_draft(workload):
        raise BadPlan(
            "the memory floor is of the model alone: leave adapters, control vectors, projector and draft "
            "model out"
        )
    header = with_overrides(read_header(resolve(model)), workload.kv_overrides)
    own = with_rope(profile(header), workload.rope)
    with nullcontext(dry) if dry is not None else planning.dry_run() as asked:

        def exact(context: "Context") -> "Meter":
            return asked.meter(header, context, machine.devices, machine.host, workload.reserve_bytes)

        try:
            return floor.memory_floor(own, machine, workload, exact)
        except (NotBuilt, EngineDied) as error:
            found = floor.memory_floor(own, machine, workload)
            return dataclasses.replace(found, notes=(f"no dry run: {error}",))
