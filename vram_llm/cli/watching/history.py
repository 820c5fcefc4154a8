"""The values of the last minutes, for the curves."""

from collections import deque
from enum import StrEnum

from vram_llm.cli.watching.snapshot import Snapshot
from vram_llm.machine.device_state import DeviceState

_KEPT = 600  # as many columns as the widest terminal shows
_MOST_C = 100


class Curve(StrEnum):
    """The figure of a device's curve."""

    UTILIZATION = "GPU use"
    MEMORY = "memory"
    POWER = "power"
    TEMPERATURE = "temperature"


class History:
    """Shares from 0 to 1 of each device, and tokens per second; None: unknown."""

    def __init__(self) -> None:
        self.prompt_rates: deque[float | None] = deque(maxlen=_KEPT)
        self.generation_rates: deque[float | None] = deque(maxlen=_KEPT)
        self._curves: dict[tuple[str, Curve], deque[float | None]] = {}

    def add(self, snapshot: Snapshot) -> None:
        """Append the values of a snapshot."""
        load = snapshot.load
        self.prompt_rates.append(None if load is None else load.prompt_tokens_per_s)
        self.generation_rates.append(None if load is None else load.generation_tokens_per_s)
        for device in snapshot.devices:
            for curve in Curve:
                values = self._curves.setdefault((device.id, curve), deque(maxlen=_KEPT))
                values.append(_share(device, curve))

    def of(self, device: DeviceState, curve: Curve) -> tuple[float | None, ...]:
        """The values of a device's curve, the oldest first."""
        return tuple(self._curves.get((device.id, curve), ()))


def _share(device: DeviceState, curve: Curve) -> float | None:
    match curve:
        case Curve.UTILIZATION:
            return device.utilization
        case Curve.MEMORY:
            return ratio(device.used_bytes, device.total_bytes)
        case Curve.POWER:
            return ratio(device.power_w, device.power_limit_w)
        case Curve.TEMPERATURE:
            return ratio(device.temperature_c, _MOST_C)


def ratio(value: float | None, of: float | None) -> float | None:
    """A share; None if either is unknown."""
    return None if value is None or not of else value / of
