"""How much slower each device is than predicted, from measured decode steps of several placements.

A step is the sum of its devices' times. So measured steps of placements that share the layers differently say
how far off each device is: least squares of sum(factor * predicted) / measured = 1 over the placements.
Factors are drawn towards the one factor that fits all best: a device that hardly takes part is as wrong as
the others.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vram_llm.machine.assumed_speed import device_speed, host_speed
from vram_llm.machine.types import Fact, Machine, Source, Speed
from vram_llm.planner.types import HOST

_RIDGE = 0.003  # weight of the common factor, relative to one measured step
_MOST = 8.0  # a factor is within this and its reciprocal
_WORTH_NOTING = 0.03  # factors closer to 1 are noise
_BETTER = 0.75  # of the error before, at most, if factors are to be kept


class MeasuredStep(NamedTuple):
    """The predicted seconds of each device, and the measured seconds of the whole step."""

    predicted_s: Mapping[str, float]
    measured_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFactors:
    """By device id and HOST: measured time / predicted time. The errors are root mean squares."""

    factors: Mapping[str, float]
    error_before: float
    error_after: float

    @property
    def is_better(self) -> bool:
        """Whether predictions with the factors are noticeably closer to the measurements."""
        return self.error_after < _BETTER * self.error_before and bool(self.notable)

    @property
    def notable(self) -> dict[str, float]:
        """Factors beyond the noise."""
        return {each: f for each, f in self.factors.items() if abs(f - 1) > _WORTH_NOTING}


def fit_factors(steps: Sequence[MeasuredStep]) -> DeviceFactors | None:
    """The factors that fit best; None with fewer than two placements."""
    if len({tuple(sorted(step.predicted_s.items())) for step in steps}) < 2:
        return None
    ids = sorted({device_id for step in steps for device_id in step.predicted_s})
    common = statistics.median(step.measured_s / sum(step.predicted_s.values()) for step in steps)
    matrix = np.array([[step.predicted_s.get(each, 0.0) / step.measured_s for each in ids] for step in steps])
    eye = math.sqrt(_RIDGE) * np.eye(len(ids)) / common
    wanted = np.concatenate([np.ones(len(steps)), np.full(len(ids), math.sqrt(_RIDGE))])
    found, *_ = np.linalg.lstsq(np.vstack([matrix, eye]), wanted, rcond=None)
    found = np.clip(found, 1 / _MOST, _MOST)
    return DeviceFactors(
        factors={each: float(factor) for each, factor in zip(ids, found, strict=True)},
        error_before=_rms(matrix.sum(axis=1) - 1),
        error_after=_rms(matrix @ found - 1),
    )


def corrected(machine: Machine, factors: Mapping[str, float]) -> Machine:
    """`machine` with every device as fast as the measurements say."""
    devices = tuple(
        dataclasses.replace(device, speed=slowed(device_speed(device), factors[device.id]))
        if device.id in factors
        else device
        for device in machine.devices
    )
    host = machine.host
    if HOST in factors:
        host = dataclasses.replace(host, speed=slowed(host_speed(host), factors[HOST]))
    return dataclasses.replace(machine, devices=devices, host=host)


def slowed(speed: Speed, factor: float) -> Speed:
    """The speed of a device whose decode steps take `factor` times as long; prompts stay as they are."""

    def longer(fact: Fact) -> Fact:
        return Fact(fact.value * factor, Source.MEASURED)

    def slower(fact: Fact) -> Fact:
        return Fact(fact.value / factor, Source.MEASURED)

    return dataclasses.replace(
        speed,
        read_bytes_per_s=slower(speed.read_bytes_per_s),
        layer_overhead_s=longer(speed.layer_overhead_s),
        step_overhead_s=longer(speed.step_overhead_s),
        split_s=None if speed.split_s is None else longer(speed.split_s),
        types=tuple(
            dataclasses.replace(each, read_bytes_per_s=slower(each.read_bytes_per_s)) for each in speed.types
        ),
    )


def _rms(values: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> float:
    return float(np.sqrt(np.mean(values**2)))
