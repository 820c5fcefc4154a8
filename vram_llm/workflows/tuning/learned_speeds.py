"""Stores the speeds of devices that `tune` has corrected, as `calibrate` stores those that it measures."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vram_llm.machine import calibration_store
from vram_llm.machine.assumed_speed import device_speed, host_speed
from vram_llm.machine.types import Device, Fact, Host, Machine, Source, Speed
from vram_llm.planner.tensor_split import SplitMode
from vram_llm.planner.tuning.device_factors import DeviceFactors, MeasuredStep, fit_factors, slowed
from vram_llm.planner.types import HOST

if TYPE_CHECKING:
    from vram_llm.workflows.tuning.candidates import TuneCandidate

_MOST = 8.0  # a correction of prompts is within this and its reciprocal


def measured_factors(candidates: "Sequence[TuneCandidate]", streams: int) -> DeviceFactors | None:
    """How much slower the devices are than predicted, from the steps of all measured layer splits.

    The devices of a tensor split compute at the same time, so that its step is no sum.
    """
    steps = []
    for each in candidates:
        speed = each.plan.speed
        by_layers = each.plan.placement.split_mode is SplitMode.LAYER
        if not each.measured or each.failed is not None or speed is None or not by_layers:
            continue
        predicted = speed.step_s if streams == 1 else speed.streams_step_s
        scale = (predicted or speed.step_s) / speed.step_s
        shares = {device.id: scale * device.seconds for device in speed.devices}
        steps.append(MeasuredStep(shares, each.step_s))
    return fit_factors(steps)


def prompt_factor(candidates: "Sequence[TuneCandidate]") -> float:
    """Measured time / predicted time of prompts: the median of all layer splits; 1 without any."""
    found = [
        statistics.median(times.prompt_token_s for times in each.measured)
        * each.plan.speed.prompt_tokens_per_s
        for each in candidates
        if each.measured
        and each.plan.speed is not None
        and each.plan.speed.prompt_tokens_per_s
        and each.plan.placement.split_mode is SplitMode.LAYER
    ]
    return statistics.median(found) if found else 1.0


def store_speeds(
    machine: Machine, factors: DeviceFactors, prompt_factor: float, model: str
) -> tuple[str, ...]:
    """Store each device's speed, as it explains the measured steps of `model`'s plans. Returns sentences.

    `prompt_factor` is measured time / predicted time of prompts, for all devices alike. A device that cannot
    be recognised later, and one without a noticeable correction, is left out.
    """
    sentences: list[str] = []
    learned: list[str] = []
    for device_id, device, speed in _devices(machine):
        factor, key = factors.notable.get(device_id), calibration_store.device_key(device)
        if factor is None or key is None:
            continue
        own = with_prompts(slowed(speed, factor), prompt_factor)
        record = calibration_store.new_record(
            device,
            own,
            None if isinstance(device, Host) else device.link,
            factors.error_after,
            tuned_with=model,
        )
        sentences += calibration_store.store(key, record).notes
        learned.append(f"{device_id} takes {factor:.2g} times as long as predicted")
    if learned:
        sentences.append(
            f"learned for later plans: {'; '.join(learned)}; predictions of these steps were "
            f"{factors.error_before:.0%} off and are {factors.error_after:.0%} off now"
        )
    return tuple(sentences)


def with_prompts(speed: Speed, factor: float) -> Speed:
    """`speed` with prompts that take `factor` times as long."""
    factor = min(max(factor, 1 / _MOST), _MOST)
    if speed.prompt_flops_per_s is None:
        return speed
    rate = Fact(speed.prompt_flops_per_s.value / factor, Source.MEASURED)
    types = (
        replace(each, prompt_flops_per_s=Fact(each.prompt_flops_per_s.value / factor, Source.MEASURED))
        for each in speed.types
    )
    return replace(speed, prompt_flops_per_s=rate, types=tuple(types))


def _devices(machine: Machine) -> Iterator[tuple[str, Device | Host, Speed]]:
    yield HOST, machine.host, host_speed(machine.host)
    for device in machine.devices:
        yield device.id, device, device_speed(device)
