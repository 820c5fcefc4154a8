"""The models on this disk, each with its fit, context and speed here by the analytic meter."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vram_llm.errors import VramLLMError
from vram_llm.model.library import InstalledModel, everything
from vram_llm.model.name_match import short_names
from vram_llm.workflows.detection import analyze

if TYPE_CHECKING:
    from vram_llm.machine.types import Machine
    from vram_llm.model.profile import ModelProfile
    from vram_llm.planner.search.search import Candidate
    from vram_llm.planner.types import Workload

_STEP = 1024  # tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedModel:
    """A model on this disk. A field is null if it is unknown because the file cannot be read or planned."""

    name: str
    short_name: str  # the shortest name that identifies the model
    path: str
    bytes: int
    kept_by: str  # "Hugging Face", "Ollama", ...
    quantization: str | None = None
    fits: bool | None = None
    n_layers: int | None = None
    cpu_layers: int | None = None
    n_ctx: int | None = None  # the longest context with no more layers on the CPU
    tokens_per_s: float | None = None  # of one stream
    basis: str | None = None
    reason: str | None = None  # why the other fields are null


def listed_models(machine: "Machine", workload: "Workload") -> list[ListedModel]:
    """Every model on this disk, planned for `machine` with `workload`'s context."""
    models = everything()
    short = short_names([model.name for model in models])
    return [_listed(model, short[model.name], machine, workload) for model in models]


def _listed(model: InstalledModel, short_name: str, machine: "Machine", workload: "Workload") -> ListedModel:
    from vram_llm.planner.search.search import expected_speed, plan_placement

    row = ListedModel(
        name=model.name,
        short_name=short_name,
        path=str(model.path),
        bytes=model.size_bytes,
        kept_by=model.kept_by,
    )
    try:
        profile = analyze(str(model.path))
        row = replace(row, quantization=profile.quantization, n_layers=profile.n_layers)
        chosen = plan_placement(profile, machine, workload)
    except VramLLMError as error:
        return replace(row, reason=str(error))
    if not chosen.estimate.fits:
        return replace(row, fits=False)
    speed = expected_speed(profile, machine, workload, chosen)
    return replace(
        row,
        fits=True,
        cpu_layers=chosen.placement.cpu_layers,
        n_ctx=_longest_context(profile, machine, workload, chosen),
        tokens_per_s=None if speed is None else speed.tokens_per_s,
        basis=None if speed is None else speed.basis,
    )


def _longest_context(
    profile: "ModelProfile", machine: "Machine", workload: "Workload", chosen: "Candidate"
) -> int:
    """The longest context, up to the trained one, that needs no more layers on the host than `chosen`."""
    from vram_llm.planner.context import resolve_context
    from vram_llm.planner.search.min_memory_cut import Cutter
    from vram_llm.planner.search.search import analytic

    n_host = profile.n_layers + 1 - chosen.placement.n_gpu_layers

    def holds(n_ctx: int) -> bool:
        wanted = replace(workload, n_ctx=n_ctx)
        meter = analytic(profile, machine, wanted, resolve_context(profile, machine, wanted))
        if meter(chosen.placement).host.over_bytes > 0:
            return False
        return not machine.devices or Cutter(meter, profile.n_layers).fits(n_host)

    trained = max(profile.context_length, chosen.context.n_ctx)
    if holds(trained):
        return trained
    low, high = chosen.context.n_ctx // _STEP, trained // _STEP + 1  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle * _STEP) else (low, middle)
    return max(low * _STEP, chosen.context.n_ctx)
