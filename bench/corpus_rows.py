"""Rows of published measurements: the plan that each one asks for.

Columns as in the CSV files that `bench.corpus` reads: gpus ("2x RTX 3090"; empty for the processor alone),
host_cpu, host_ram, placement ("all on GPU", "--n-cpu-moe 27", "-cmoe", "-ngl 25", "-ot ffn of layers 13-93 =
CPU", "CPU only"), split, depth, streams, gen_tokens, n_ubatch, kv_type, flash_attn. `expressible` names a
"tensor" split; its shares count in CUDA's order, the fastest card first. `sums` says how its cards add up.
"""

import re
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

from vram_llm.errors import BadHost, UnknownDevice
from vram_llm.machine import processors
from vram_llm.machine.detect import what_if
from vram_llm.machine.types import CardPair, Host, Machine, SumFacts
from vram_llm.machine.what_if_host import HostDescription
from vram_llm.model.profile import ModelProfile
from vram_llm.model.tensors import LayerPart
from vram_llm.planner.llama_split import device_of_layers, placement_of
from vram_llm.planner.overrides import Override
from vram_llm.planner.types import HOST, Placement
from vram_llm.units import GIB

_UNKNOWN_HOST = Host(
    name="unknown", cores=8, total_bytes=1024 * GIB, available_bytes=1024 * GIB, what_if=True
)
_TOLD_BACKENDS = ("rocm", "vulkan")  # CUDA and Metal follow from the card
_UNKNOWN_SIZE = "1024GiB"  # of a memory of known kind


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


def shares_tensors(row: dict[str, str]) -> bool:
    """Whether its devices share every layer."""
    return "tensor" in row["expressible"]


def sums_of(row: dict[str, str], machine: Machine) -> Machine:
    """`machine`, whose cards add up as a row says: "own", "NCCL", "NCCL, peer access", or unknown."""
    told = row.get("sums") or ""
    cards = tuple(replace(card, uuid=f"card {i}") for i, card in enumerate(machine.devices))
    pairs = (
        CardPair(uuids=frozenset((one.uuid, other.uuid)), has_peer_access="peer" in told, has_nvlink=False)
        for one, other in combinations(cards, 2)
        if one.uuid and other.uuid
    )
    facts = SumFacts(pairs=tuple(pairs), uses_nccl="NCCL" in told) if told else SumFacts()
    return replace(machine, devices=cards, sums=facts)


def asked(row: dict[str, str], model: ModelProfile) -> Asked:
    """The plan of a row with layers or experts on the host. Raises Unasked."""
    check_askable(row)
    machine = machine_of(row)
    ids = [device.id for device in machine.devices]
    n_layers, (on_devices, overrides) = model.n_layers, _placed(row["placement"], model)
    shares = [float(share) for share in row["split"].split(",")] if row["split"] else [1.0] * len(ids)
    placement = placement_of(ids, device_of_layers(n_layers, on_devices, shares if ids else []), overrides)
    words = [f'--gpu "{row["gpus"]}"'] if ids else []
    words += [_host_in_words(row), f"--n-gpu-layers {placement.n_gpu_layers}"]
    words += [f"-ot {_in_words(override)}" for override in overrides]
    return Asked(machine, placement, " ".join(words))


def check_askable(row: dict[str, str]) -> None:
    """Raises Unasked with the reason why the planner cannot be asked for a row."""
    if row["placement"].startswith("RPC"):
        raise Unasked("a worker over a network of unknown latency")
    if "not fit" in row["expressible"]:
        raise Unasked("does not fit; the driver spilled it to the host's memory")
    if "paging" in row["notes"]:
        raise Unasked("the file is as large as the host's memory: its pages are read from disk all the time")
    if row["gpus"].startswith("("):
        raise Unasked("the source does not name the card")


def machine_of(row: dict[str, str]) -> Machine:
    """The cards and the host of a row. Raises Unasked if a card is unknown."""
    words = host_words(row["host_cpu"], row["host_ram"])
    backend = f"@{row['backend']}" if row["backend"] in _TOLD_BACKENDS else ""
    cards = [card + backend for card in row["gpus"].split(" + ")] if row["gpus"] else []
    try:
        if words is None or is_on_cards_alone(row):
            return what_if(cards, _UNKNOWN_HOST)
        return what_if(cards, description=words)
    except (UnknownDevice, BadHost) as error:
        raise Unasked(f"not in the catalog: {error}") from None


def host_words(cpu: str, ram: str) -> HostDescription | None:
    """The host of a row as the options --cpu and --ram; None if the row has at most its memory's size."""
    kind = re.search(r"L?P?DDR\d[Xx]?(?:-\d+)?", ram)
    channels = re.search(r"(\d+) ?ch", ram)
    rate = re.search(r"(\d+) GB/s", ram)
    size = re.match(r"(\d+) Gi?B", ram)
    name: str | None = cpu.partition(",")[0].strip()
    try:
        processors.find_processor(name or "")
    except UnknownDevice:
        cores = re.search(r"(\d+) cores", cpu)
        name = cores[0] if cores else None
    if name is None and kind is None and rate is None:
        return None
    memory = f"{size[1]}GiB" if size else _UNKNOWN_SIZE
    memory += f" {kind[0]}" if kind else ""
    memory += f" {channels[1]}ch" if channels else ""
    return HostDescription(ram=memory + (f"@{rate[1]}GB/s" if rate else ""), cpu=name)


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


def _in_words(override: Override) -> str:
    if override.part is None or not override.layers:
        return f"'{override.pattern}=CPU'"
    return f"{override.part}:{override.layers[0]}-{override.layers[-1]}=CPU"


def _host_in_words(row: dict[str, str]) -> str:
    words = host_words(row["host_cpu"], row["host_ram"])
    if words is None:
        return "(host unknown)"
    return f'--ram "{words.ram}"' + (f' --cpu "{words.cpu}"' if words.cpu else "")
