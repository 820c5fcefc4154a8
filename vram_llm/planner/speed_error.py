"""How far predictions may be off: ranges that hold nine of ten measurements.

An error is |ln(measured / predicted)|. A device's is the 90 % quantile of the published measurements of its
generation, pooled with its maker's where they are few (docs/predictions.md), or that of calibrated devices if
its speed is measured. A plan's is the mean of its devices', by their shares of the time: errors of one
computer's devices may all point the same way.

Two plans of one model on one computer share most of their error: a card that reads 10 % more slowly than
predicted does so in both. Of device i's error only the part counts by which its shares of the two times
differ; the rest cancels. What differs besides, launches and splits, adds PAIR_ERROR:

    error of the ratio = sqrt(PAIR_ERROR^2 + sum over i of ((share_i - share'_i) * error_i)^2)
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from vram_llm.machine.card_generation import ChipGeneration, generation_of
from vram_llm.machine.types import Device, DeviceKind, Host, Source
from vram_llm.planner.speed_range import SpeedRange
from vram_llm.planner.types import SpeedEstimate

PAIR_ERROR = 0.03
STREAMS_ERROR = 0.07  # more, for several streams


class SpeedError(NamedTuple):
    """Errors of one device's times."""

    decode: float
    prompt: float


_NEW_NVIDIA = SpeedError(0.09, 0.29)
_OLD_NVIDIA = SpeedError(0.30, 0.45)
_AMD = SpeedError(0.36, 0.60)
_ERRORS = {
    ChipGeneration.ADA: _NEW_NVIDIA,
    ChipGeneration.AMPERE: SpeedError(0.11, 0.29),
    ChipGeneration.BLACKWELL: _NEW_NVIDIA,
    ChipGeneration.GB10: _NEW_NVIDIA,
    ChipGeneration.PASCAL: _OLD_NVIDIA,
    ChipGeneration.PASCAL_HBM: SpeedError(0.40, 0.60),
    ChipGeneration.VOLTA: SpeedError(0.40, 0.53),
    ChipGeneration.TURING: _OLD_NVIDIA,
    ChipGeneration.AMPERE_HBM: SpeedError(0.34, 0.40),
    ChipGeneration.HOPPER: SpeedError(0.34, 0.40),
    ChipGeneration.BLACKWELL_HBM: SpeedError(0.40, 0.60),
    ChipGeneration.RDNA3_5: SpeedError(0.40, 0.62),
    ChipGeneration.APPLE: SpeedError(0.13, 0.50),
    ChipGeneration.APPLE_ULTRA: SpeedError(0.20, 0.50),
}
_UNKNOWN = SpeedError(0.40, 0.70)
_CALIBRATED = SpeedError(0.13, 0.25)
_ASSUMED = SpeedError(0.90, 1.20)
_HOST = {
    Source.MEASURED: _CALIBRATED,
    Source.ESTIMATED: SpeedError(0.20, 0.50),
    Source.ASSUMED: SpeedError(0.50, 0.90),
}


def device_error(place: Device | Host) -> SpeedError:
    """The errors of a device's or the host's times; its speed is known or assumed."""
    assert place.speed is not None
    source = place.speed.read_bytes_per_s.source
    if isinstance(place, Host):
        return _HOST.get(source, _HOST[Source.ESTIMATED])
    if source is Source.ASSUMED:
        return _ASSUMED
    if source is Source.MEASURED:
        return _CALIBRATED
    generation = generation_of(place)
    if generation is None:
        return _UNKNOWN
    return _ERRORS.get(generation, _UNKNOWN if place.kind is DeviceKind.CUDA else _AMD)


def mean_error(seconds: Mapping[str, float], errors: Mapping[str, float]) -> float:
    """The error of a sum of devices' times; both by device id."""
    total = sum(seconds.values())
    return sum(each * errors[place] for place, each in seconds.items()) / total


def range_around(tokens_per_s: float, error: float) -> SpeedRange:
    """The range of nine of ten measurements."""
    return SpeedRange(low=tokens_per_s * math.exp(-error), high=tokens_per_s * math.exp(error))


def is_certain(one: SpeedEstimate, other: SpeedEstimate) -> bool:
    """Whether it is certain which of two plans of a model on one computer decodes faster."""
    shares = [{each.id: each.share for each in speed.devices} for speed in (one, other)]
    errors = {each.id: each.error for speed in (one, other) for each in speed.devices}
    if any(error is None for error in errors.values()):
        return True  # plans of older versions
    apart = [
        (shares[0].get(id, 0.0) - shares[1].get(id, 0.0)) * (error or 0.0) for id, error in errors.items()
    ]
    error = math.hypot(PAIR_ERROR, *apart)
    return abs(math.log(other.step_s / one.step_s)) > error
