"""A split of the layers given by the user: shares in the order of the devices, or by name."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from vram_llm.errors import BadSplit

EXAMPLE = "32,33,16 or GPU1=38,GPU2=43"


class SplitMode(StrEnum):
    """How devices share a model (llama_split_mode of llama.h)."""

    LAYER = "layer"  # each device has whole layers, and they compute one after the other
    TENSOR = "tensor"  # each device has a share of every layer, and they compute at the same time


class SplitChoice(StrEnum):
    """The user's wish for the split mode."""

    AUTO = "auto"  # by tensors if that is faster by more than the prediction may be off
    LAYER = "layer"
    TENSOR = "tensor"  # by tensors, or a refusal


@dataclass(frozen=True, slots=True)
class TensorSplit:
    """Shares of the layers; the output counts as one layer.

    `devices` are ids in the order in which they compute; other devices get no layers. None: one share for
    each device of the machine, in its order. Raises BadSplit.
    """

    shares: tuple[float, ...]
    devices: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if odd := [share for share in self.shares if not 0 <= share < math.inf]:
            raise BadSplit(f"--tensor-split has a share of {odd[0]}; shares are 0 or more")
        if not any(self.shares):
            raise BadSplit("every share of --tensor-split is 0; give at least one device a share above 0")
        if self.devices is None:
            return
        if len(self.devices) != len(self.shares):
            raise BadSplit(f"{len(self.shares)} shares for {len(self.devices)} devices; give one for each")
        folded = [device.casefold() for device in self.devices]
        if twice := [name for name in self.devices if folded.count(name.casefold()) > 1]:
            raise BadSplit(f"--tensor-split names {twice[0]} twice; give each device one share")

    @classmethod
    def parse(cls, text: str) -> "TensorSplit":
        """From "0.35,0.45,0.20", "0,38,43" or "GPU1=38,GPU2=43". Raises BadSplit."""
        parts = [part.strip() for part in text.split(",")]
        named = [part.partition("=") for part in parts if "=" in part]
        if named and len(named) < len(parts):
            raise BadSplit(f"{text!r} names some devices and not others; write it like {EXAMPLE}")
        names = tuple(name.strip() for name, _, _ in named)
        try:
            shares = tuple(float(share) for _, _, share in named) or tuple(float(part) for part in parts)
        except ValueError:
            raise BadSplit(f"{text!r} is not a list of shares; write it like {EXAMPLE}") from None
        if not all(names):
            raise BadSplit(f"{text!r} has a share without a device; write it like {EXAMPLE}")
        return cls(shares, names or None)

    def __str__(self) -> str:
        shares = [f"{share:.15g}" for share in self.shares]
        if self.devices is None:
            return ",".join(shares)
        return ",".join(f"{device}={share}" for device, share in zip(self.devices, shares, strict=True))

    def over(self, ids: Sequence[str]) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """The used ids of a machine's `ids`, in the order they compute, and their shares. Raises BadSplit."""
        known = ", ".join(ids) or "none"
        if self.devices is None:
            if len(self.shares) != len(ids):
                raise BadSplit(
                    f"--tensor-split has {len(self.shares)} shares and there are {len(ids)} devices "
                    f"({known}); give one share for each, in that order, or name the devices"
                )
            return tuple(ids), self.shares
        by_name = {device_id.casefold(): device_id for device_id in ids}
        if unknown := [name for name in self.devices if name.casefold() not in by_name]:
            raise BadSplit(f"--tensor-split names {unknown[0]}, and the devices are {known}")
        return tuple(by_name[name.casefold()] for name in self.devices), self.shares
