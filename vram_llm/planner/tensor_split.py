"""A split of the layers that the user dictates: shares in the order of the devices, or by name."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vram_llm.errors import BadSplit

EXAMPLE = "32,33,16 or GPU1=38,GPU2=43"


@dataclass(frozen=True, slots=True)
class TensorSplit:
    """Shares of the layers, the output counted as one of them.

    `devices` are ids in the order in which they compute; a device that is not among them gets no layers.
    None: there is a share for each device of the machine, in its order. Raises BadSplit.
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
            raise BadSplit(f"{len(self.shares)} shares are not one for each of {len(self.devices)} devices")
        folded = [device.casefold() for device in self.devices]
        if twice := [name for name, one in zip(self.devices, folded, strict=True) if folded.count(one) > 1]:
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
        """Ids in the order they compute, of a machine's `ids`, and their shares. Raises BadSplit."""
        known = ", ".join(ids) or "none"
        if self.devices is None:
            if len(self.shares) != len(ids):
                raise BadSplit(
                    f"--tensor-split has {len(self.shares)} shares and there are {len(ids)} devices "
                    f"({known}); give one share for each, in that order, or name the devices"
                )
            return tuple(ids), self.shares
        by_name = {each.casefold(): each for each in ids}
        if unknown := [name for name in self.devices if name.casefold() not in by_name]:
            raise BadSplit(f"--tensor-split names {unknown[0]}, and the devices are {known}")
        return tuple(by_name[name.casefold()] for name in self.devices), self.shares
