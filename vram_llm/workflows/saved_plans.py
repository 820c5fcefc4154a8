"""Plans from files, and checks whether a plan can be loaded here now."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vram_llm.errors import BadPlan
from vram_llm.model import draft_compatibility
from vram_llm.model.file_identity import check_files
from vram_llm.model.header_reader import read_header
from vram_llm.model.location import HUB, is_remote
from vram_llm.model.metadata_overrides import with_overrides
from vram_llm.model.profile import ModelProfile, profile
from vram_llm.planner.types import CompanionKind, Plan
from vram_llm.workflows.argument_types import check_type
from vram_llm.workflows.detection import detect
from vram_llm.workflows.model_names import resolve

if TYPE_CHECKING:
    from vram_llm.planner.recheck import DeviceFit

_MAX_PLAN_BYTES = 16 * 2**20


def load_plan(path: str) -> "Plan":
    """Read a plan saved with `vram-llm plan --json`; `check` compares it with the machine. Raises BadPlan."""
    from vram_llm.planner.export.formats import from_json

    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_PLAN_BYTES + 1)
    except OSError as error:
        raise BadPlan(f"the plan {path} cannot be read: {error.strerror or error}") from error
    if data.startswith(b"GGUF"):
        raise BadPlan(f"{path} is a model, not a plan; leave --plan out, or plan it first")
    if len(data) > _MAX_PLAN_BYTES:
        raise BadPlan(f"{path} is larger than {_MAX_PLAN_BYTES:,} bytes; no plan is")
    return from_json(data, path)


def with_tunnels(plan: "Plan") -> "Plan":
    """`plan` with the tunnels to its workers over SSH open, and their present ends as its endpoints.

    Raises WorkerUnreachable.
    """
    from vram_llm.machine.ssh_tunnel import open_tunnel
    from vram_llm.machine.worker_spec import worker_over_ssh

    return dataclasses.replace(
        plan,
        devices=tuple(
            dataclasses.replace(device, endpoint=open_tunnel(worker_over_ssh(device.tunnel)).endpoint)
            if device.tunnel is not None and device.id in plan.used
            else device
            for device in plan.devices
        ),
    )


def check(
    plan: "Plan",
    *,
    gpus: Sequence[str] = (),
    rpc: Sequence[str] = (),
    ram: str | None = None,
    cpu: str | None = None,
    host_reserve_bytes: int,
) -> "tuple[DeviceFit, ...]":
    """The bytes that a saved plan needs on each device, and the bytes that are free there now.

    `gpus`, `rpc`, `ram` and `cpu` are as for `detect`. Raises DoesNotFit naming each device that is short,
    BadPlan if a device is gone or the model has changed.
    """
    from vram_llm.planner import recheck as checking

    check_type("plan", plan, Plan)
    checking.check_model(plan, profile_of(plan))
    check_files(plan.files)
    for companion in plan.companions:
        tensors = read_header(resolve(companion.path)).tensors
        checking.check_companion(companion, sum(tensor.n_bytes for tensor in tensors))
    return checking.check(plan, detect(gpus, rpc, ram=ram, cpu=cpu), host_reserve_bytes)


def profile_of(plan: "Plan") -> ModelProfile:
    """The profile of the plan's model as its file is now. Raises ModelNotFound, ModelFileError, BadPlan."""
    header = read_header(resolve(plan.model.path))
    return profile(with_overrides(header, plan.model.kv_overrides))


def check_loadable(plan: "Plan") -> None:
    check_type("plan", plan, Plan)
    kinds = {companion.kind for companion in plan.companions}
    if CompanionKind.MMPROJ in kinds and plan.context.pooling and not plan.context.pools_in_engine:
        raise BadPlan("this plan pools text alone and has a projector: plan again")
    paths = (plan.model.path, *(companion.path for companion in plan.companions))
    if away := [path for path in paths if is_remote(path)]:
        raise BadPlan(
            f"{away[0]} can be planned but not loaded from there; download it first"
            + (f": vram-llm pull {away[0]}" if away[0].startswith(HUB) else "")
        )
    check_files(plan.files)
    if absent := [device.name for device in plan.devices if device.what_if]:
        raise BadPlan(
            f"{absent[0]} is in the plan but not in this machine; plan without --gpu to load it here"
        )
    if plan.host is not None and plan.host.what_if:
        raise BadPlan(
            f"the plan is for another computer ({plan.host.name}); plan for this one to load the model here"
        )
    for companion in (companion for companion in plan.companions if companion.kind is CompanionKind.DRAFT):
        reason = draft_compatibility.refusal(_draft_facts(plan.model.path), _draft_facts(companion.path))
        if reason is not None:
            raise BadPlan(f"{companion.name} cannot draft for {plan.model.name}: {reason}")


def _draft_facts(path: str) -> draft_compatibility.DraftFacts:
    header = read_header(resolve(path))
    return draft_compatibility.facts_of(header, profile(header))
