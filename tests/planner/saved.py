"""Plans as they are saved, made by hand: what goes where is the test's own choice."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from vram_llm.machine.types import Device, DeviceKind, Source
from vram_llm.planner.estimates import DeviceEstimate, Estimate, HostEstimate, MemoryUse
from vram_llm.planner.llama_split import placement_from_counts
from vram_llm.planner.types import PLAN_VERSION, Context, Plan, PlannedDevice, PlannedModel
from vram_llm.units import GIB

RESERVE = GIB
CONTEXT = Context(
    n_ctx=8192, parallel=8, kv_type_k="q8_0", kv_type_v="f16", n_batch=2048, n_ubatch=512, n_threads=4,
    use_mmap=True, pipeline_copies=True,
)  # fmt: skip


def local(index: int, gib: int = 24, name: str = "NVIDIA GeForce RTX 3090 Ti", **other: Any) -> Device:
    """A CUDA card in this machine."""
    identity = {"uuid": f"GPU-{index}", "pci_bus_id": f"0000:0{index}:00.0"}
    return Device(
        id=f"GPU{index}", name=name, kind=DeviceKind.CUDA, total_bytes=gib * GIB, free_bytes=gib * GIB,
        memory_source=Source.DRIVER, **(identity | other),
    )  # fmt: skip


def absent(index: int, gib: int = 24, name: str = "NVIDIA GeForce RTX 3090 Ti", **other: Any) -> Device:
    """A card that is planned for and not here."""
    card = local(index, gib, name, uuid=None, pci_bus_id=None, what_if=True)
    return dataclasses.replace(card, id=f"GPU{index}", **other)


def remote(number: int, endpoint: str, index: int = 0, gib: int = 8, **other: Any) -> Device:
    """A device of a worker."""
    given: dict[str, Any] = {"name": f"worker {endpoint}", "memory_source": Source.DRIVER} | other
    return Device(
        id=f"RPC{number}", kind=DeviceKind.RPC, total_bytes=64 * GIB, free_bytes=gib * GIB, endpoint=endpoint,
        endpoint_index=index, **given,
    )  # fmt: skip


def saved_plan(
    devices: Sequence[Device],
    counts: Sequence[int],
    *,
    n_layers: int | None = None,
    path: str = "/srv/models/big.gguf",
    device_gib: int = 4,
    context: Context = CONTEXT,
) -> Plan:
    """A plan with `counts` layers on `devices`; each in use holds `device_gib`, the host 2 GiB."""
    layers = sum(counts) if n_layers is None else n_layers
    placement = placement_from_counts([device.id for device in devices], counts, layers)
    uses = tuple(
        DeviceEstimate.of(each, MemoryUse(device_gib * GIB), overhead_bytes=0, budget_bytes=64 * GIB)
        for each in placement.device_order
    )
    host = HostEstimate.of(MemoryUse(2 * GIB), budget_bytes=64 * GIB)
    return Plan(
        version=PLAN_VERSION,
        model=PlannedModel(
            path=path, name="Big", architecture="llama", quantization="Q8_0", n_layers=layers,
            total_bytes=10 * GIB,
        ),
        devices=tuple(
            PlannedDevice(**{f: getattr(d, f) for f in d.__dataclass_fields__}, reserve_bytes=RESERVE)
            for d in devices
        ),
        context=context,
        placement=placement,
        estimate=Estimate(method="by hand", devices=uses, host=host),
        fits=True,
        by_free_memory=None,
    )  # fmt: skip
