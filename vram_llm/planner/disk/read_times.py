"""The time that steps wait for the disk.

Dense weights are read ahead while others are computed with, experts only when it is known which ones:

    wait      max(dense bytes / disk rate - computation, 0) + expert bytes / disk rate

A prompt waits as long in each of its micro-batches. Many tokens use more experts than one, but not as many
more (planner/layer_times.py).
"""

import math
from dataclasses import replace

from vram_llm.machine.assumed_speed import disk_speed
from vram_llm.machine.types import Machine, Source
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.disk.resident_weights import resident_shares, step_reads, weights_on_host
from vram_llm.planner.speed_range import SpeedRange
from vram_llm.planner.step_times import DeviceTime
from vram_llm.planner.types import DISK, Context, Placement, SpeedEstimate

_TRUST = tuple(Source)  # most trusted first
_DISK_ERROR = 0.4  # of the waiting time: a guess, since caches and expert choice differ


def with_disk(
    speed: SpeedEstimate, profile: ModelProfile, placement: Placement, context: Context, machine: Machine
) -> SpeedEstimate:
    """`speed`, which is of weights in memory, with the time for those that stay in the file."""
    if context.resident_bytes is None:
        return speed
    weights, rate = weights_on_host(profile, placement), disk_speed(machine.host)
    resident = resident_shares(weights, context.resident_bytes)

    def wait_s(computes_s: float, rows: int) -> float:
        reads = step_reads(weights, resident, rows)
        ahead_s = max(reads.dense_bytes / rate.value - computes_s, 0.0)
        return ahead_s + reads.expert_bytes / rate.value

    step_wait_s = wait_s(speed.step_s, 1)
    step_s = speed.step_s + step_wait_s
    times = (*speed.devices, DeviceTime(id=DISK, seconds=step_wait_s, share=0.0, error=_DISK_ERROR))
    slower = speed.step_s / step_s
    found = replace(
        speed,
        basis=_less_trusted(speed.basis, rate.source),
        step_s=step_s,
        tokens_per_s=1 / step_s,
        tokens_per_s_range=_wider(speed.tokens_per_s_range, slower),
        devices=tuple(replace(each, share=each.seconds / step_s) for each in times),
    )
    if speed.streams_step_s is not None and speed.streams_basis is not None:
        streams_s = speed.streams_step_s + wait_s(speed.streams_step_s, speed.streams)
        found = replace(
            found,
            streams_step_s=streams_s,
            streams_tokens_per_s=speed.streams / streams_s,
            streams_tokens_per_s_range=_wider(
                speed.streams_tokens_per_s_range, speed.streams_step_s / streams_s
            ),
            streams_basis=_less_trusted(speed.streams_basis, rate.source),
        )
    if speed.prompt_s is not None and speed.prompt_basis is not None:
        n_micro = _micro_batches(context, speed.prompt_tokens)
        rows = math.ceil(speed.prompt_tokens / n_micro)
        prompt_s = speed.prompt_s + n_micro * wait_s(speed.prompt_s / n_micro, rows)
        found = replace(
            found,
            prompt_s=prompt_s,
            prompt_tokens_per_s=speed.prompt_tokens / prompt_s,
            prompt_tokens_per_s_range=_wider(speed.prompt_tokens_per_s_range, speed.prompt_s / prompt_s),
            prompt_basis=_less_trusted(speed.prompt_basis, rate.source),
        )
    return found


def _wider(likely: SpeedRange | None, slower: float) -> SpeedRange | None:
    """A range of speeds without the disk, for a speed that the disk makes `slower` times as high."""
    if likely is None:
        return None
    error = (1 - slower) * _DISK_ERROR
    return SpeedRange(low=likely.low * slower * math.exp(-error), high=likely.high * slower * math.exp(error))


def _micro_batches(context: Context, n_tokens: int) -> int:
    """Number of micro-batches of a prompt."""
    whole, last = divmod(n_tokens, context.n_batch)
    each = math.ceil(context.n_batch / context.n_ubatch)
    return max(whole * each + math.ceil(last / context.n_ubatch), 1)


def _less_trusted(one: Source, other: Source) -> Source:
    return max(one, other, key=_TRUST.index)
