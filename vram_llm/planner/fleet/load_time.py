"""Predicted time of loading a model: its file from the disk, then each device's weights over its link.

The two are counted one after the other, for llama.cpp reads a tensor before it sends it. The host's weights
are in memory once they are read. A file in the page cache needs no disk; that is not assumed.
"""

from collections.abc import Mapping
from typing import NamedTuple

from vram_llm.machine.assumed_speed import disk_speed, offload_link
from vram_llm.machine.types import Fact, Machine, Source

_TRUST = tuple(Source)  # most trusted first


class LoadTime(NamedTuple):
    """Seconds, and the least trusted source of the rates."""

    seconds: float
    basis: Source


def load_time(machine: Machine, file_bytes: int, weights_bytes: Mapping[str, int]) -> LoadTime:
    """The time of a load of `file_bytes`, of which `weights_bytes` go to each device, by its id."""
    disk = disk_speed(machine.host)
    parts: list[tuple[int, Fact]] = [(file_bytes, disk)]
    for device in machine.devices:
        if n_bytes := weights_bytes.get(device.id, 0):
            link = offload_link(device)
            parts.append((n_bytes, link.send_bytes_per_s or link.bytes_per_s))
    basis = max((rate.source for _, rate in parts), key=_TRUST.index)
    return LoadTime(sum(n_bytes / rate.value for n_bytes, rate in parts), basis)
