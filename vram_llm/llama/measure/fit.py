"""Fits the figures of a device to times of batches: least squares of the plan's formula for a step."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vram_llm.llama.measure.calibrate_wire import (
    MORE_ROWS,
    PROMPT_ROWS,
    DeviceTimes,
    HostTimes,
    StepTime,
    fitted_link,
)
from vram_llm.machine.processor_speed import SPLIT_S
from vram_llm.machine.types import Fact, Link, Source, Speed, TypeSpeed

_UNCACHED_BYTES = 32e6  # bytes of weights; caches of a core or a card hold only a small part
_OF_MODELS = "Q8_0"  # the type of the models that steps are measured with
_MOST_APART = 2.0  # a model's read rate and a single operation's
_SLOWEST_FLOPS = 1e18  # if the time of more rows is too small to measure


class FittedSpeed(NamedTuple):
    """The figures of a device, and the formula's root mean square error over the times it was fitted to."""

    speed: Speed
    link: Link | None
    residual: float


def fit_speed(times: DeviceTimes) -> FittedSpeed:
    """The figures that fit a calibration's times best.

    A step of n rows over L layers takes step_overhead + L * layer_overhead + bytes / read + (n - 1) * flops /
    row_flops, on top of what its rows take on the link. All terms are 0 or more; what counts is how far the
    sum is off as a share. Models that caches hold run faster for each byte than real ones do, and count for
    less: they say what overheads are, the others how fast bytes are read. The first three terms come from
    steps of one row: what more rows take is less regular, and one stream's time must not suffer from it.
    """
    link = fitted_link(times.transfers)
    per_byte_s = 0.0 if link is None else 1 / link.bytes_per_s.value
    seconds = np.array([step.seconds - step.rows * step.row_bytes * per_byte_s for step in times.decode])
    matrix = np.array([_terms(step) for step in times.decode]) / seconds[:, None]
    is_single = np.array([step.rows == 1 for step in times.decode])
    weights = np.array([min(step.read_bytes / _UNCACHED_BYTES, 1.0) for step in times.decode])
    found = _not_negative(matrix[is_single, :3] * weights[is_single, None], weights[is_single])
    more, left = matrix[~is_single, 3], 1 - matrix[~is_single, :3] @ found
    found.append(max(float(more @ left / (more @ more)), 0.0))
    step_s, layer_s, byte_s, flop_s = found
    prompt = times.prompt
    taken_s = (
        prompt.seconds - step_s - prompt.n_layers * layer_s - prompt.rows * prompt.row_bytes * per_byte_s
    )
    prompt_flops = 2 * prompt.params * prompt.rows / max(taken_s, prompt.seconds / 2)
    speed = Speed(
        read_bytes_per_s=_measured(1 / max(byte_s, 1e-15)),
        layer_overhead_s=_measured(layer_s),
        step_overhead_s=_measured(step_s),
        row_flops_per_s=_measured(1 / max(flop_s, 1 / _SLOWEST_FLOPS)),
        prompt_flops_per_s=_measured(prompt_flops),
        split_s=_split(times),
    )
    if times.host is not None:
        speed = _with_types(speed, times.host)
    return FittedSpeed(speed, link, float(np.sqrt(np.average((matrix @ found - 1) ** 2, weights=weights))))


def _terms(step: StepTime) -> tuple[float, float, float, float]:
    return 1.0, step.n_layers, step.read_bytes, (step.rows - 1) * 2.0 * step.params


def _split(times: DeviceTimes) -> Fact | None:
    """The extra time of a layer with a part on the host, without the host's own time."""
    if times.moved is None:
        return None
    n_layers = times.moved.n_layers
    (at_home,) = (
        step
        for step in times.decode
        if (step.params, step.n_layers, step.rows) == (times.moved.params, n_layers, 1)
    )
    return _measured(max((times.moved.seconds - at_home.seconds) / n_layers - SPLIT_S, 0.0))


def _with_types(speed: Speed, host: HostTimes) -> Speed:
    """`speed` with rates of each type.

    Read rates are relative to Q8_0's, the type of the models whose steps gave the absolute rate.
    """
    found = {(each.type, each.rows): each for each in host.matrices}
    reads = {name: each.n_bytes / each.seconds for (name, rows), each in found.items() if rows == 1}
    scale = min(max(speed.read_bytes_per_s.value / reads[_OF_MODELS], 1 / _MOST_APART), _MOST_APART)
    types = []
    for name, read in reads.items():
        some, many = found[name, MORE_ROWS], found[name, PROMPT_ROWS]
        first_s = some.n_bytes / read  # the time of one row
        row_s = max(some.seconds - first_s, some.seconds / _MOST_APART / MORE_ROWS)
        types.append(
            TypeSpeed(
                type=name,
                read_bytes_per_s=_measured(scale * read),
                row_flops_per_s=_measured(2 * some.products * (1 - 1 / MORE_ROWS) / row_s),
                prompt_flops_per_s=_measured(2 * many.products / many.seconds),
            )
        )
    experts = host.experts.n_bytes / host.experts.seconds / reads[host.experts.type]
    return dataclasses.replace(
        speed,
        types=tuple(types),
        threads=host.n_threads,
        expert_read_share=_measured(min(experts, 1.0)),
        attention_flops_per_s=_measured(2 * host.attention.products / host.attention.seconds),
    )


def _not_negative(matrix: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]) -> list[float]:
    """Least squares with no coefficient below 0: the most negative one is left out until none is."""
    scale = np.linalg.norm(matrix, axis=0)
    kept = list(range(matrix.shape[1]))
    while True:
        solved, *_ = np.linalg.lstsq(matrix[:, kept] / scale[kept], wanted, rcond=None)
        if min(solved, default=0.0) >= 0:
            break
        kept.pop(int(np.argmin(solved)))
    found = [0.0] * matrix.shape[1]
    for index, value in zip(kept, solved, strict=True):
        found[index] = float(value / scale[index])
    return found


def _measured(value: float) -> Fact:
    assert math.isfinite(value)
    return Fact(value, Source.MEASURED)
