"""A benchmark of a plan as llama-bench's markdown (tools/llama-bench/llama-bench.cpp, markdown_printer)."""

import statistics
from collections.abc import Iterator, Sequence

from vram_llm.machine.types import DeviceKind
from vram_llm.planner.measured_speed import MeasuredSpeed
from vram_llm.planner.types import Plan
from vram_llm.units import GIB, MIB

_BACKENDS = {
    DeviceKind.CUDA: "CUDA", DeviceKind.ROCM: "ROCm", DeviceKind.VULKAN: "Vulkan", DeviceKind.METAL: "MTL",
    DeviceKind.SYCL: "SYCL", DeviceKind.RPC: "RPC",
}  # fmt: skip
_WIDTHS = {
    "model": -30,
    "size": 10,
    "params": 10,
    "backend": -10,
    "ngl": 3,
    "threads": 7,
    "test": 15,
    "t/s": 20,
}


def llama_bench_lines(plan: Plan, n_parameters: int, results: Sequence[MeasuredSpeed]) -> Iterator[str]:
    """The table: the mean of each test's rounds, and their standard deviation."""
    fixed = {
        "model": f"{plan.model.name} {plan.model.quantization}",
        "size": _scaled(plan.model.total_bytes, (GIB, "GiB"), (MIB, "MiB")),
        "params": _scaled(n_parameters, (10**9, "B"), (10**6, "M")),
        "backend": _backend(plan),
    }
    if plan.used:
        fixed["ngl"] = str(plan.placement.n_gpu_layers)
    else:
        fixed["threads"] = str(plan.context.n_threads)
    columns = [*fixed, "test", "t/s"]
    yield _line({name: name for name in columns})
    rules = {name: "-" * (abs(_WIDTHS[name]) - 1) + ("-" if _WIDTHS[name] < 0 else ":") for name in columns}
    yield _line(rules)
    for result in results:
        rounds = result.rounds_tokens_per_s
        spread = statistics.stdev(rounds) if len(rounds) > 1 else 0.0
        yield _line({**fixed, "test": result.test, "t/s": f"{statistics.fmean(rounds):.2f} ± {spread:.2f}"})


def _backend(plan: Plan) -> str:
    kinds = dict.fromkeys(device.kind for device in plan.devices if device.id in plan.used)
    return ",".join(_BACKENDS.get(kind, kind.value) for kind in kinds) or "CPU"


def _scaled(value: int, large: tuple[int, str], small: tuple[int, str]) -> str:
    unit, name = large if value >= large[0] else small
    return f"{value / unit:.2f} {name}"


def _line(cells: dict[str, str]) -> str:
    padded = (
        f"{text:<{-width}}" if (width := _WIDTHS[name]) < 0 else f"{text:>{width}}"
        for name, text in cells.items()
    )
    return f"| {' | '.join(padded)} |"
