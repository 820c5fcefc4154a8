"""Draft models and projectors as candidates: the memory of each on a device, and models that take none."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from vram_llm.errors import ModelFileError
from vram_llm.machine.types import Device, Host, Machine
from vram_llm.model import rules
from vram_llm.model.profile import ModelProfile
from vram_llm.model.projector import Projector
from vram_llm.planner.companions import CompanionMemory, UnplacedCompanion
from vram_llm.planner.estimates import MemoryUse
from vram_llm.planner.llama_split import placement_from_counts
from vram_llm.planner.memory.analytic_meter import METHOD, AnalyticMeter
from vram_llm.planner.padding import padded
from vram_llm.planner.types import CompanionKind, Context, Meter

MeterOn = Callable[[Context, Sequence[Device]], Meter]  # for a draft model
ProjectorUse = Callable[[Device | None], tuple[int, int]]  # unpadded bytes on the device and on the host


def draft_context(context: Context) -> Context:
    """The context of a draft model for a model in `context`: equally many tokens per sequence.

    Source: common_base_params_to_speculative and common_speculative_init_result in common/speculative.cpp.
    """
    return replace(
        context, kv_type_k="f16", kv_type_v="f16", n_outputs_max=context.parallel, backend_sampling=False
    )


def draft(
    profile: ModelProfile, path: str, context: Context, machine: Machine, exact: MeterOn | None
) -> UnplacedCompanion:
    """A draft model for a model in `context`."""
    own = draft_context(context)

    def measure(device: Device | None) -> CompanionMemory:
        # other companions on the device are counted elsewhere
        devices = [] if device is None else [replace(device, companion_bytes=0)]
        host = replace(machine.host, companion_bytes=0)
        meter = exact(own, devices) if exact else AnalyticMeter(profile, own, devices, host, 0)
        ids = [planned_device.id for planned_device in devices]
        estimate = meter(placement_from_counts(ids, [profile.n_layers] * len(ids), profile.n_layers))
        on_device = estimate.devices[0].use if estimate.devices else MemoryUse()
        return CompanionMemory(estimate.method, on_device, estimate.host.use)

    return UnplacedCompanion(
        kind=CompanionKind.DRAFT,
        path=path,
        name=profile.name,
        total_bytes=profile.total_bytes,
        measure=measure,
        context=own,
        n_layers=profile.n_layers,
    )


def check_takes_projector(model: ModelProfile) -> None:
    """Raises ModelFileError if llama.cpp would abort at the first image or sound given to `model`."""
    if model.architecture in rules.IMAGES_NEED_MROPE and not model.rope.is_mrope:
        raise ModelFileError(
            f"{model.name} takes no images: llama.cpp ends at the first one, because the file has no "
            f"{model.architecture}.rope.dimension_sections. Leave --mmproj out, or take a newer conversion"
        )


def projector(file: Projector, host: Host, exact: ProjectorUse | None) -> UnplacedCompanion:
    """A multimodal projector. `exact` gives weights and compute as one figure."""

    def measure(device: Device | None) -> CompanionMemory:
        if exact:
            method, (on_device, on_host) = "dry run", exact(device)
        else:
            method, sizes = METHOD, (file.total_bytes + file.estimated_compute_bytes, 0)
            on_device, on_host = sizes if device is not None else sizes[::-1]
        if device is None:
            return CompanionMemory(method, MemoryUse(), held(on_host, host.alignment_bytes, 0))
        own = held(on_device, device.alignment_bytes, device.row_padding)
        return CompanionMemory(method, own, MemoryUse(compute_bytes=on_host))

    def held(unpadded: int, alignment: int, row_padding: int) -> MemoryUse:
        return MemoryUse(
            weights_bytes=padded(file.tensors, alignment, row_padding),
            compute_bytes=max(unpadded - file.total_bytes, 0),
        )

    return UnplacedCompanion(
        kind=CompanionKind.MMPROJ,
        path=file.path,
        name=file.name,
        total_bytes=file.total_bytes,
        measure=measure,
    )
