"""llama.cpp's layer-to-device rule, to the layer.

Source: `llama_model_base::load_tensors` in src/llama-model.cpp (llama-cpp-python 0.3.36). Arithmetic is
float32 as there, because the result of `upper_bound(splits, float(i) / act)` depends on the last bit.
"""

from collections.abc import Sequence
from ctypes import c_float

from vram_llm.errors import BadSplit
from vram_llm.planner.override_text import override_flags
from vram_llm.planner.overrides import Override
from vram_llm.planner.tensor_split import SplitMode, TensorSplit
from vram_llm.planner.types import HOST, Placement


def split_points(tensor_split: Sequence[float]) -> list[float]:
    """Cumulative shares of the devices, as llama.cpp normalises them. Raises BadSplit if all are 0."""
    points: list[float] = []
    total = 0.0
    for share in tensor_split:
        total = _float32(total + _float32(share))
        points.append(total)
    if not total > 0:
        raise BadSplit("every share of the tensor split is 0; give at least one device a share above 0")
    return [_float32(point / total) for point in points]


def device_of_layers(n_layers: int, n_gpu_layers: int, tensor_split: Sequence[float]) -> list[int]:
    """The device index of every layer and, last, of the output; -1 is the host.

    `n_layers` is the model's block count. A negative `n_gpu_layers` means all. With no devices
    everything is on the host.
    """
    if not tensor_split:
        return [-1] * (n_layers + 1)
    wanted = n_layers + 1 if n_gpu_layers < 0 else n_gpu_layers
    first = max(n_layers + 1 - wanted, 0)
    active = min(wanted, n_layers + 1)
    points = split_points(tensor_split)
    devices = []
    for layer in range(n_layers + 1):
        if layer < first:
            devices.append(-1)
            continue
        position = _float32((layer - first) / active)
        past = next((i for i, point in enumerate(points) if point > position), len(points))
        devices.append(past)
    if max(devices) >= len(points):
        raise BadSplit(
            f"llama.cpp would place a layer past the last device with the split {list(tensor_split)}; "
            "use whole layer counts"
        )
    return devices


def _float32(value: float) -> float:
    """The nearest float32; after one operation on two of them, it is the result of float32 arithmetic."""
    return c_float(value).value


def placement_of(
    ids: Sequence[str], assignment: Sequence[int], overrides: tuple[Override, ...] = ()
) -> Placement:
    """The Placement for an assignment as `device_of_layers` returns it; unused devices are dropped.

    A device that only overrides name is kept, with no layers.
    """
    *layers, output = assignment
    counts = [sum(1 for device in layers if device == i) for i in range(len(ids))]
    named = {override.device for override in overrides}
    used = [i for i in range(len(ids)) if counts[i] or output == i or ids[i] in named]
    cpu_layers = sum(1 for device in layers if device < 0)
    return Placement(
        device_order=tuple(ids[i] for i in used),
        layers_per_device=tuple(counts[i] for i in used),
        output_device=ids[output] if output >= 0 else HOST,
        cpu_layers=cpu_layers,
        tensor_split=tuple(counts[i] + (output == i) for i in used),
        n_gpu_layers=len(assignment) - cpu_layers if output >= 0 else 0,
        overrides=overrides,
    )


def placement_from_counts(ids: Sequence[str], counts: Sequence[int], n_layers: int) -> Placement:
    """The Placement that puts the last `sum(counts)` layers on `ids` in order, the output with the last.

    Whole counts are what llama.cpp reproduces exactly; two-decimal fractions are not.
    """
    cpu_layers = n_layers - sum(counts)
    assignment = [-1] * cpu_layers + [i for i, count in enumerate(counts) for _ in range(count)]
    last = max((i for i, count in enumerate(counts) if count), default=len(ids) - 1)
    return placement_of(ids, [*assignment, last if ids else -1])


def tensor_placement(ids: Sequence[str], shares: Sequence[int], n_layers: int) -> Placement:
    """The Placement in which each of `ids` has a share of every layer and of the output."""
    return Placement(
        device_order=tuple(ids),
        layers_per_device=(n_layers,) * len(ids),
        output_device=ids[0],
        cpu_layers=0,
        tensor_split=tuple(shares),
        n_gpu_layers=n_layers + 1,
        split_mode=SplitMode.TENSOR,
    )


def split_of(placement: Placement) -> TensorSplit | None:
    """The split by name that dictates a placement; None if nothing is on a device."""
    if not any(placement.tensor_split):
        return None
    return TensorSplit(tuple(map(float, placement.tensor_split)), placement.device_order)


def placement_flags(placement: Placement) -> tuple[str, ...]:
    """The options of `vram-llm plan` and `serve` that dictate a placement."""
    layers = ("--n-gpu-layers", str(placement.n_gpu_layers))
    split, overrides = split_of(placement), override_flags(placement.overrides)
    return (*layers, *(() if split is None else ("--tensor-split", str(split))), *overrides)
