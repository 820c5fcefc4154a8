"""How far predictions may be off: ranges that hold nine of ten measurements.

An error is ln(measured / predicted). A device's are the 5 % and 95 % quantiles of the published measurements
of its generation and back end, pooled with its maker's where they are few (docs/predictions.md), or those of
calibrated devices if its speed is measured. Predictions are for today's builds; the lower side counts builds
since 2024. A plan's error is the mean of its devices', by their shares of the time: errors of one computer's
devices may all point the same way.

Two plans of one model on one computer share most of their error: a card that reads 10 % more slowly than
predicted does so in both. Of device i's error only the part counts by which its shares of the two times
differ; the rest cancels. What differs besides, launches and splits, adds PAIR_ERROR:

    error of the ratio = sqrt(PAIR_ERROR^2 + sum over i of ((share_i - share'_i) * error_i)^2)

A tensor split adds an error to its devices'. Which split mode is faster is certain if their times differ by
more than the error of such ratios: for seven published pairs of cards (bench/tensor_rows.csv) they were off
by up to 0.12, for a model with experts on an early build by 0.34 (ggml-org/llama.cpp#19378).
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from vram_llm.machine.card_figures import backend_of_speed
from vram_llm.machine.card_generation import ChipGeneration, generation_of
from vram_llm.machine.types import Device, DeviceKind, Host, Source
from vram_llm.planner.speed_range import SpeedRange
from vram_llm.planner.types import SpeedEstimate

PAIR_ERROR = 0.03
STREAMS_ERROR = 0.07  # more, for several streams


class TensorError(NamedTuple):
    """Errors of a tensor split's prediction that come on top of its devices' errors, as logarithms."""

    own: float  # of a step's time
    ratio: float  # of that time over the time of a split by layers


TENSOR_ERROR = TensorError(0.15, 0.22)
EXPERTS_ERROR = TensorError(0.30, 0.40)  # of models with routed experts, over sums that are not measured


class Width(NamedTuple):
    """How far below and above a prediction measurements are, as logarithms."""

    low: float
    high: float

    @property
    def mean(self) -> float:
        """The error if both sides were alike."""
        return (self.low + self.high) / 2


class SpeedError(NamedTuple):
    """Errors of one device's times."""

    decode: Width
    prompt: Width


def _error(decode: tuple[float, float], prompt: tuple[float, float]) -> SpeedError:
    return SpeedError(Width(*decode), Width(*prompt))


def _even(decode: float, prompt: float) -> SpeedError:
    return _error((decode, decode), (prompt, prompt))


# The lower sides of cards of 2024 and before hold builds of 2024, which lacked CUDA graphs and later kernels.
_NEWEST_NVIDIA = _error((0.06, 0.08), (0.20, 0.22))
_HBM = _error((0.35, 0.20), (0.35, 0.35))
_ERRORS = {
    ChipGeneration.BLACKWELL: _NEWEST_NVIDIA,
    ChipGeneration.GB10: _NEWEST_NVIDIA,
    ChipGeneration.ADA: _error((0.17, 0.07), (0.58, 0.13)),
    ChipGeneration.AMPERE: _error((0.16, 0.06), (0.50, 0.19)),
    ChipGeneration.AMPERE_HBM: _HBM,
    ChipGeneration.HOPPER: _HBM,
    ChipGeneration.PASCAL: _error((0.20, 0.20), (0.45, 0.30)),
    ChipGeneration.TURING: _error((0.20, 0.20), (0.45, 0.30)),
    ChipGeneration.VOLTA: _error((0.45, 0.20), (0.45, 0.30)),
    ChipGeneration.RDNA3: _error((0.25, 0.20), (0.45, 0.25)),
    ChipGeneration.RDNA3_5: _error((0.20, 0.13), (0.27, 0.25)),
    ChipGeneration.RDNA4: _error((0.30, 0.16), (0.46, 0.29)),
    ChipGeneration.APPLE: _error((0.20, 0.20), (0.60, 0.45)),
    ChipGeneration.APPLE_ULTRA: _even(0.28, 0.45),
}
_OLD_AMD = _error((0.30, 0.22), (0.50, 0.35))
_EITHER_BACKEND = _error((0.45, 0.27), (0.36, 0.68))  # Vulkan's figures, rows of both
_NVIDIA_ON_VULKAN = _error((0.25, 0.20), (0.45, 0.30))  # one row, by CUDA's figures: the older cards' error
_UNKNOWN = _error((0.50, 0.30), (0.90, 0.50))
_CALIBRATED = _even(0.13, 0.25)
_ASSUMED = _even(0.90, 1.20)
_HOST = {
    Source.MEASURED: _CALIBRATED,
    Source.ESTIMATED: _even(0.20, 0.50),
    Source.ASSUMED: _even(0.50, 0.90),
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
    if backend_of_speed(place) is not place.kind:
        return _EITHER_BACKEND
    if place.kind is DeviceKind.VULKAN and place.compute_capability is not None:
        return _NVIDIA_ON_VULKAN
    return _ERRORS.get(generation, _UNKNOWN if place.kind is DeviceKind.CUDA else _OLD_AMD)


def mean_error(seconds: Mapping[str, float], errors: Mapping[str, Width]) -> Width:
    """The error of a sum of devices' times; both by device id."""
    total = sum(seconds.values())
    shares = [(each / total, errors[place]) for place, each in seconds.items()]
    return Width(sum(share * width.low for share, width in shares),
                 sum(share * width.high for share, width in shares))  # fmt: skip


def of_streams(width: Width) -> Width:
    """The error of a step of several streams."""
    return Width(math.hypot(width.low, STREAMS_ERROR), math.hypot(width.high, STREAMS_ERROR))


def range_around(tokens_per_s: float, width: Width) -> SpeedRange:
    """The range of nine of ten measurements."""
    return SpeedRange(low=tokens_per_s * math.exp(-width.low), high=tokens_per_s * math.exp(width.high))


def is_certain(one: SpeedEstimate, other: SpeedEstimate) -> bool:
    """Whether it is certain which of two plans of a model on one computer decodes faster."""
    sums = one.sums or other.sums
    if sums is not None and None in (one.sums, other.sums):
        error = sums.error
    else:
        shares = [{each.id: each.share for each in speed.devices} for speed in (one, other)]
        errors = {each.id: each.error for speed in (one, other) for each in speed.devices}
        if any(error is None for error in errors.values()):
            return True  # plans of older versions
        apart = [
            (shares[0].get(id, 0.0) - shares[1].get(id, 0.0)) * (error or 0.0) for id, error in errors.items()
        ]
        error = math.hypot(PAIR_ERROR, *apart)
    return abs(math.log(other.step_s / one.step_s)) > error
