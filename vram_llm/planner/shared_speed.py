"""A measured plan as rows of a file of published speeds, which `python -m bench.corpus` reads.

A row has the machine, the model, the plan, the measured speeds of one stream or of several, and the predicted
ones. It names no file, no user and no computer.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from vram_llm.machine.card_generation import generation_of
from vram_llm.machine.types import DeviceKind
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.measured_speed import MeasuredSpeed
from vram_llm.planner.nearest_published import model_kind
from vram_llm.planner.types import HOST, Plan, PlannedDevice
from vram_llm.units import GIB

COLUMNS = (
    "source", "date", "llama_cpp_build", "driver", "os", "gpus", "host_cpu", "host_ram", "model", "quant",
    "architecture", "kind", "n_layers", "total_bytes", "active_bytes", "flash_attn", "split", "placement",
    "n_ctx", "depth", "streams", "pp_tokens", "pp_tok_s", "pp_predicted", "tg_tok_s", "tg_predicted",
    "gen_tokens", "n_ubatch", "kv_type", "backend", "generation", "n_cards", "basis", "zoo", "expressible",
    "notes",
)  # fmt: skip
_TEST = re.compile(r"(pp|tg)(\d+)(?: x(\d+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedFacts:
    """Facts of a row that neither the plan nor the measurement has: the date, versions and the system."""

    date: str
    vram_llm: str  # versions
    llama_cpp_python: str
    os: str


def shared_rows(
    plan: Plan, profile: ModelProfile, results: Sequence[MeasuredSpeed], facts: SharedFacts
) -> list[dict[str, str]]:
    """A row of one stream with its prompt, and one of several streams if they were measured."""
    usual = _usual(plan, profile, facts)
    rows: dict[int, dict[str, str]] = {}
    for result in results:
        match = _TEST.fullmatch(result.test)
        assert match is not None
        test, n_tokens, streams = match[1], match[2], int(match[3] or 1)
        row = rows.setdefault(streams, usual | {"streams": str(streams)})
        row["pp_tokens" if test == "pp" else "gen_tokens"] = n_tokens
        row[f"{test}_tok_s"] = f"{result.tokens_per_s:.4g}"
        if result.expected_tokens_per_s is not None:
            row[f"{test}_predicted"] = f"{result.expected_tokens_per_s:.4g}"
        if test == "tg" and result.basis is not None:
            row["basis"] = result.basis.value
    return [{name: row.get(name, "") for name in COLUMNS} for row in rows.values()]


def _usual(plan: Plan, profile: ModelProfile, facts: SharedFacts) -> dict[str, str]:
    """The columns that are alike in all rows of a plan."""
    used = [device for device in plan.devices if device.id in plan.used]
    drivers = dict.fromkeys(device.driver_version for device in used if device.driver_version)
    generations = dict.fromkeys(str(generation_of(device) or "") for device in used)
    counts = plan.placement.layers_per_device
    context, host = plan.context, plan.host
    kv_types = dict.fromkeys((context.kv_type_k, context.kv_type_v))
    return {
        "source": f"vram-llm {facts.vram_llm} bench model",
        "date": facts.date,
        "llama_cpp_build": f"llama-cpp-python {facts.llama_cpp_python}",
        "driver": " ".join(drivers),
        "os": facts.os,
        "gpus": _cards(used),
        "host_cpu": (host.cpu_name or f"{host.cores} cores") if host else "",
        "host_ram": f"{round(host.total_bytes / GIB)} GiB {host.memory_kind or ''}".strip() if host else "",
        "model": profile.name,
        "quant": profile.quantization,
        "architecture": profile.architecture,
        "kind": model_kind(profile),
        "n_layers": str(profile.n_layers),
        "total_bytes": str(profile.total_bytes),
        "active_bytes": str(profile.active_bytes_per_token),
        "flash_attn": context.flash_attn.value,
        "split": ",".join(map(str, counts)) if len(counts) > 1 else "",
        "placement": _placement(plan),
        "n_ctx": str(context.n_ctx),
        "depth": "0",
        "n_ubatch": str(context.n_ubatch),
        "kv_type": "/".join(kv_types),
        "backend": " ".join(dict.fromkeys(device.kind.value for device in used)) or "cpu",
        "generation": " + ".join(filter(None, generations)),
        "n_cards": str(len(used)),
        "expressible": "no, workers" if any(device.kind is DeviceKind.RPC for device in used) else "yes",
    }


def _cards(used: Sequence[PlannedDevice]) -> str:
    """The cards as in --gpu: "2x RTX 3090@24GiB"."""
    named = (f"{device.name}@{math.ceil(device.total_bytes / GIB)}GiB" for device in used)
    groups = [(name, len(list(group))) for name, group in groupby(named)]
    return " + ".join(f"{count}x {name}" if count > 1 else name for name, count in groups)


def _placement(plan: Plan) -> str:
    """The words that bench/corpus_rows.py reads."""
    placement = plan.placement
    if not placement.device_order:
        return "CPU only"
    words = [
        f"-ot {each.pattern}={'CPU' if each.device == HOST else each.device}" for each in placement.overrides
    ]
    if placement.n_gpu_layers <= plan.model.n_layers:
        words.insert(0, f"-ngl {placement.n_gpu_layers}")
    return " ".join(words) or "all on GPU"
