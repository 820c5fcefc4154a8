"""Messages between the dry run and its child process: four bytes of length, then JSON."""

import struct
from enum import StrEnum
from typing import IO

import msgspec

from vram_llm.machine.types import Device
from vram_llm.planner.estimates import MemoryUse
from vram_llm.planner.types import Context, FlashAttention, Placement

LENGTH = struct.Struct("<I")


class DryRunMode(StrEnum):
    """The devices that llama.cpp places a model on."""

    VIRTUAL = "virtual"  # devices that only answer, for which graphs are reserved as for a real load
    REAL = "real"  # the devices of this machine, with llama.cpp's own measure of a load


class DryRunQuestion(msgspec.Struct, tag=True):
    """Place the model at `path` by `placement`. `devices` are the placement's, in its order."""

    path: str
    context: Context
    placement: Placement
    devices: list[Device]
    mode: DryRunMode = DryRunMode.VIRTUAL
    adapters: list[tuple[str, float]] = []  # LoRA files and their scales


class ProjectorQuestion(msgspec.Struct, tag=True):
    """Place the multimodal projector at `path` on a device, or on the host where there is none."""

    path: str
    device: Device | None
    flash_attn: FlashAttention


class DryRunReply(msgspec.Struct):
    """The bytes that each device of the question and the host would hold, or why there is no answer.

    Splits are those of a decode step's graph and of a prompt's; None: not counted.
    """

    devices: list[MemoryUse] = []
    host: MemoryUse = MemoryUse()
    graph_splits: int | None = None
    prompt_graph_splits: int | None = None
    refusal: str = ""
    not_built: bool = False


def write(stream: IO[bytes], message: DryRunQuestion | ProjectorQuestion | DryRunReply) -> None:
    """Send a message."""
    data = msgspec.json.encode(message)
    stream.write(LENGTH.pack(len(data)) + data)
    stream.flush()
