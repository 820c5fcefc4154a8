"""Read the placement of a model from the logs of llama-server and its workers, in llama.cpp's formats."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vram_llm.planner.types import HOST
from vram_llm.units import MIB

_LAYER = re.compile(r"load_tensors: layer +(\d+) assigned to device ([^,\s]+)")
_BUFFER = re.compile(r"(\S+) +(model|LoRA|KV|RS|compute) buffer size = +([\d.]+) MiB")
_ASKED = re.compile(r"\[alloc_buffer\] device: (\d+), size: (\d+) ")
_ON_WORKER = re.compile(r"RPC(\d+)\[(.+)\]")
_HALF_A_STEP = 0.005 * MIB  # sizes are printed to two places


@dataclass
class Held:
    """Bytes that one device holds. Exact on a worker; to 0.01 MiB on the host and for all compute buffers."""

    weights: float = 0
    context: float = 0
    compute: float = 0


def layers(log: str) -> dict[str, list[int]]:
    """The layers on each device by its ggml name ("RPC0", "CPU"); the output is the last number."""
    found: dict[str, list[int]] = {}
    for number, device in _LAYER.findall(log):
        found.setdefault(device, []).append(int(number))
    return found


def held(log: str, asked: Mapping[str, str]) -> dict[str, Held]:
    """The bytes of each worker, by its endpoint, and of the host; `asked` are the workers' own logs.

    llama-server requests weights, those of adapters, KV and state from a worker, in the order in which it
    prints them. Adapters are not counted. Raises ValueError if the two logs contradict each other.
    """
    exact = {endpoint: [int(size) for _, size in _ASKED.findall(text)] for endpoint, text in asked.items()}
    found = {name: Held() for name in (*asked, HOST)}
    computes: dict[tuple[str, str], float] = {}
    for buffer, kind, printed in _BUFFER.findall(log):
        match = _ON_WORKER.fullmatch(buffer)
        device = HOST if match is None else match[2]
        size = float(printed) * MIB
        if kind == "compute":
            computes[device, buffer] = size  # made again where adapters are set: the last one stays
            continue
        n_bytes = _exact(size, exact.get(device), device)
        if kind == "model":
            found[device].weights += n_bytes
        elif kind != "LoRA":
            found[device].context += n_bytes
    for (device, _), size in computes.items():
        found[device].compute += size
    return found


def _exact(printed: float, sizes: list[int] | None, device: str) -> float:
    """The next size in a worker's log, which must be the printed size."""
    if sizes is None:
        return printed
    while sizes and abs(sizes[0] - printed) > 2 * _HALF_A_STEP:
        sizes.pop(0)
    if not sizes:
        raise ValueError(
            f"llama-server prints {printed / MIB:.2f} MiB on {device}, which was not asked for it"
        )
    return sizes.pop(0)


def runs(numbers: Sequence[int]) -> str:
    """ "0-3" of 0, 1, 2, 3; commas between runs."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
