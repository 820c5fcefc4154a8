"""Messages between the dry run and its child process: four bytes of length, then JSON."""

import struct
from enum import StrEnum
from typing import IO

import msgspec

from vram_llm.machine.types import Device
from vram_llm.model.metadata_override import MetadataOverride
from vram_llm.planner.estimates import MemoryUse
from vram_llm.planner.types import Context, FlashAttention, Placement

LENGTH = struct.Struct("<I")


class DryRunMode(StrEnum):
    """The devices on which llama.cpp places a model."""

    VIRTUAL = "virtual"  # devices without memory; graphs are reserved on them as in a real load
    REAL = "real"  # the devices of this machine; sizes are llama.cpp's own measure (no_alloc)


class DryRunRequest(msgspec.Struct, tag=True):
    """Place the model at `path` by `placement`. `devices` are the placement's devices, in its order."""

    path: str
    context: Context
    placement: Placement
    devices: list[Device]
    mode: DryRunMode = DryRunMode.VIRTUAL
    adapters: list[tuple[str, float]] = []  # the path and the scale of each LoRA adapter
    kv_overrides: list[MetadataOverride] = []


class ProjectorRequest(msgspec.Struct, tag=True):
    """Place the multimodal projector at `path` on `device`, or on the host if that is None."""

    path: str
    device: Device | None
    flash_attn: FlashAttention


class HeadRequest(msgspec.Struct, tag=True):
    """Make a context for the MTP head of the model at `path`, which drafts `n_mtp` tokens, on the host."""

    path: str
    n_mtp: int
    kv_overrides: list[MetadataOverride] = []


class DryRunReply(msgspec.Struct):
    """The bytes that a load would take on each device of the request and on the host, or a refusal."""

    devices: list[MemoryUse] = []  # in the order of the request
    host: MemoryUse = MemoryUse()
    graph_splits: int | None = None  # of a decode step's graph; None: not counted
    prompt_graph_splits: int | None = None  # of the graph of a prompt's micro-batch; None: not counted
    refusal: str = ""  # llama.cpp's reason; empty: none
    not_built: bool = False  # whether the refusal is because this llama.cpp cannot do dry runs


def write(stream: IO[bytes], message: DryRunRequest | ProjectorRequest | HeadRequest | DryRunReply) -> None:
    """Send a message."""
    data = msgspec.json.encode(message)
    stream.write(LENGTH.pack(len(data)) + data)
    stream.flush()
