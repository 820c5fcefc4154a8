"""Rows of published measurements: the plan that each one asks for.

Columns as in the CSV files that `bench.corpus` reads: gpus ("2x RTX 3090"; empty for the processor alone),
host_cpu, host_ram, placement ("all on GPU", "--n-cpu-moe 27", "-cmoe", "-ngl 25", "-ot ffn of layers 13-93 =
CPU", "CPU only"), split, depth, streams, gen_tokens, n_ubatch, kv_type, flash_attn.
"""

import dataclasses
import re
from typing import NamedTuple

from vram_llm.errors import UnknownDevice
from vram_llm.machine.datasheet_speed import with_speeds
from vram_llm.machine.detect import what_if
from vram_llm.machine.types import Fact, Host, Machine, Source
from vram_llm.model.profile import ModelProfile
from vram_llm.model.tensors import LayerPart
from vram_llm.planner.llama_split import device_of_layers, placement_of
from vram_llm.planner.overrides import Override
from vram_llm.planner.types import HOST, Placement
from vram_llm.units import GIB

_PROCESSORS = {  # cores that compute, kind of memory, channels, millions of transfers per second
    "i9-10900X": (10, "DDR4", 4, 2933),
    "i9-14900K": (8, "DDR5", 2, 5600),
    "Ryzen 7 260": (8, "DDR5", 2, 5600),
    "7840HS": (8, "DDR5", 2, 5600),
    "HX 370": (12, "LPDDR5", 2, 7500),
    "7950X": (16, "DDR5", 2, 5200),
    "5950X": (16, "DDR4", 2, 3200),
    "Threadripper PRO": (24, "DDR5", 8, 4800),
    "EPYC 9355": (32, "DDR5", 12, 6000),
    "EPYC 7343": (16, "DDR4", 8, 3200),
    "M2 Max": (8, "LPDDR5", 8, 6400),
    "E5-2683 v4": (16, "DDR4", 4, 2400),
    "AmpereOne": (192, "DDR5", 8, 5200),
}
_UNKNOWN_CORES = 8


class Unasked(Exception):
    """No plan can be asked for a row; the reason."""


class Asked(NamedTuple):
    """A machine and a placement, and the same in words."""

    machine: Machine
    placement: Placement
    words: str


def is_on_cards_alone(row: dict[str, str]) -> bool:
    """Whether nothing is on the host."""
    return row["placement"] == "all on GPU"


def asked(row: dict[str, str], model: ModelProfile) -> Asked:
    """The plan of a row with layers or experts on the host. Raises Unasked."""
    check_askable(row)
    machine = machine_of(row)
    ids = [device.id for device in machine.devices]
    n_layers, (on_devices, overrides) = model.n_layers, _placed(row["placement"], model)
    shares = [float(share) for share in row["split"].split(",")] if row["split"] else [1.0] * len(ids)
    placement = placement_of(ids, device_of_layers(n_layers, on_devices, shares if ids else []), overrides)
    words = [f'--gpu "{row["gpus"]}"'] if ids else []
    words += [_host_in_words(machine.host), f"--n-gpu-layers {placement.n_gpu_layers}"]
    words += [f"-ot {override.pattern}={override.device}" for override in overrides]
    return Asked(machine, placement, " ".join(words))


def check_askable(row: dict[str, str]) -> None:
    """Raises Unasked with the reason why the planner cannot be asked for a row."""
    if row["placement"].startswith("RPC"):
        raise Unasked("a worker over a network of unknown latency")
    if "tensor" in row["expressible"]:
        raise Unasked("tensor split")
    if "not fit" in row["expressible"]:
        raise Unasked("does not fit; the driver spilled it to the host's memory")
    if "paging" in row["notes"]:
        raise Unasked("the file is as large as the host's memory: its pages are read from disk all the time")
    if row["gpus"].startswith("("):
        raise Unasked("the source does not name the card")


def machine_of(row: dict[str, str]) -> Machine:
    """The cards and the host of a row. Raises Unasked if a card is unknown."""
    try:
        machine = what_if(row["gpus"].split(" + ") if row["gpus"] else [])
    except UnknownDevice as error:
        raise Unasked(f"a card that is not in the catalog: {error}") from None
    return with_speeds(dataclasses.replace(machine, host=_host(row["host_cpu"], row["host_ram"])))


def _placed(placement: str, model: ModelProfile) -> tuple[int, tuple[Override, ...]]:
    """llama.cpp's number of layers on devices, -1 for all, and the overrides. Raises Unasked."""
    n_layers = model.n_layers
    if placement == "CPU only":
        return 0, ()
    if match := re.match(r"(?:-ngl|--n-gpu-layers) (\d+)(?: of (\d+))?", placement):
        more = int(match[2]) - (n_layers + 1) if match[2] else 0  # layers of the file that the shape lacks
        return max(int(match[1]) - more, 0), ()
    if match := re.match(r"(?:-ncmoe|--n-cpu-moe) (\d+)", placement):
        return -1, (Override.of(LayerPart.EXPERTS, range(min(int(match[1]), n_layers)), HOST),)
    if re.match(r"-cmoe|--cpu-moe|-ot exps=CPU", placement):
        return -1, (Override.of(LayerPart.EXPERTS, range(n_layers), HOST),)
    if match := re.match(r"-ot ffn of layers (\d+)-(\d+) = CPU", placement):
        numbers = "|".join(map(str, range(int(match[1]), int(match[2]) + 1)))
        return -1, (Override(pattern=rf"^blk\.(?:{numbers})\.ffn", device=HOST),)
    raise Unasked(f"a placement that this program does not read: {placement!r}")


def _host(cpu: str, ram: str) -> Host:
    cores, kind, channels, rate = next(
        (known for name, known in _PROCESSORS.items() if name in cpu), (_UNKNOWN_CORES, None, None, None)
    )
    if match := re.search(r"(\d+) cores", cpu):
        cores = int(match[1])
    if match := re.search(r"L?P?DDR\d", ram):
        kind = match[0]
    if match := re.search(r"DDR\d[Xx]?-(\d+)", ram):
        rate = int(match[1])
    if match := re.search(r"(\d+) ?ch", ram):
        channels = int(match[1])
    size = float(match[1]) if (match := re.match(r"(\d+) G", ram)) else 1024.0
    bandwidth = channels * rate * 8e6 if channels and rate and kind and "DDR" in ram else None
    if match := re.search(r"(\d+) GB/s", ram):
        bandwidth = float(match[1]) * 1e9
    return Host(
        name=cpu or "unknown", cpu_name=cpu or None, cores=cores, physical_cores=cores,
        total_bytes=int(size * GIB), available_bytes=int(size * GIB),
        bandwidth_bytes_per_s=Fact(bandwidth, Source.GIVEN) if bandwidth else None,
        memory_kind=f"{kind}-{rate} {channels}ch" if bandwidth else kind,
        what_if=True,
    )  # fmt: skip


def _host_in_words(host: Host) -> str:
    if host.bandwidth_bytes_per_s is None:
        return "host: unknown memory"
    return f"host: {host.cores} cores, {host.bandwidth_bytes_per_s.value / 1e9:.0f} GB/s ({host.memory_kind})"
