"""The models on this disk, each with its fit, context and speed here by the analytic meter."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vram_llm.errors import VramLLMError
from vram_llm.model.library import InstalledModel, everything
from vram_llm.model.name_match import short_names
from vram_llm.workflows.detection import analyze

if TYPE_CHECKING:
    from vram_llm.machine.types import Machine
    from vram_llm.planner.types import Workload


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
    cpu_expert_layers: int | None = None  # layers whose experts alone are on the host
    cpu_ffn_layers: int | None = None  # layers with feed-forward matrices alone on the host
    n_ctx: int | None = None  # the longest context with no more on the host
    tokens_per_s: float | None = None  # of one stream
    basis: str | None = None
    reason: str | None = None  # why the other fields are null


_OF_FIT = (
    "fits",
    "n_layers",
    "cpu_layers",
    "cpu_expert_layers",
    "cpu_ffn_layers",
    "n_ctx",
    "tokens_per_s",
    "basis",
)


def listed_models(machine: "Machine", workload: "Workload") -> list[ListedModel]:
    """Every model on this disk, planned for `machine` with `workload`'s context."""
    models = everything()
    short = short_names([model.name for model in models])
    return [_listed(model, short[model.name], machine, workload) for model in models]


def _listed(model: InstalledModel, short_name: str, machine: "Machine", workload: "Workload") -> ListedModel:
    from vram_llm.planner.quick_fit import quick_fit

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
        fit = quick_fit(profile, machine, workload)
    except VramLLMError as error:
        return replace(row, reason=str(error))
    known = {"fits": False} if not fit.fits else {name: getattr(fit, name) for name in _OF_FIT}
    return replace(row, **known)
