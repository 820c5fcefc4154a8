"""What the dry run and its child process say to each other: JSON behind four bytes of its length."""

import struct
from typing import IO

import msgspec

from vram_llm.machine.types import Device
from vram_llm.planner.types import Context, FlashAttention, Placement

LENGTH = struct.Struct("<I")


class DryRunQuestion(msgspec.Struct, tag=True):
    """Place the model at `path` so. `devices` are those of the placement, in its order."""

    path: str
    context: Context
    placement: Placement
    devices: list[Device]
    real: bool = False  # ask the devices themselves, not virtual ones
    as_measured: bool = False  # with the copies that the norms' pins spare a real load; see virtual.py
    adapters: list[tuple[str, float]] = []  # LoRA files and their scales


class ProjectorQuestion(msgspec.Struct, tag=True):
    """Place the multimodal projector at `path` on a device, or on the host where there is none."""

    path: str
    device: Device | None
    flash_attn: FlashAttention


class Use(msgspec.Struct):
    """Bytes on one device, or on the host."""

    weights_bytes: int = 0
    context_bytes: int = 0
    compute_bytes: int = 0


class DryRunReply(msgspec.Struct):
    """What each device of the question would hold, and the host; or why there is no answer."""

    devices: list[Use] = []
    host: Use = msgspec.field(default_factory=Use)
    refusal: str = ""
    not_built: bool = False


def write(stream: IO[bytes], message: DryRunQuestion | ProjectorQuestion | DryRunReply) -> None:
    """Send a message."""
    data = msgspec.json.encode(message)
    stream.write(LENGTH.pack(len(data)) + data)
    stream.flush()
