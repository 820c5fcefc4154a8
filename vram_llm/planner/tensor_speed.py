"""Predicted time of a tensor split: all devices compute at the same time, and add their sums up.

    step      slowest device's (overheads + share * (weights + context + flops)) + sums * all-reduce
    stage     the same for a micro-batch of a prompt, whose sums have a row for each token

A device's share is that of the weights that it holds, which counts mirrored ones and unequal rounding. Each
device launches all kernels, so overheads are not shared.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vram_llm.machine.assumed_speed import with_assumed_speeds
from vram_llm.machine.types import Device, Machine, Source
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.all_reduce import SumCost, n_sums, sum_cost
from vram_llm.planner.estimates import Estimate
from vram_llm.planner.layer_times import PlaceTimes, kernels_of
from vram_llm.planner.llama_split import placement_from_counts
from vram_llm.planner.run_costs import RunCosts
from vram_llm.planner.speed import Predictor, output_tensors
from vram_llm.planner.speed_error import EXPERTS_ERROR, TENSOR_ERROR, Width, range_around
from vram_llm.planner.speed_range import SpeedRange
from vram_llm.planner.step_times import DeviceTime, StepSums
from vram_llm.planner.types import Context, Placement, SpeedEstimate, Workload

_F32 = 4


@dataclass(frozen=True, slots=True)
class _Costs:
    """Seconds of a whole model on one device: those that it has for any share, and the others."""

    fixed: float
    shared: float


class TensorPredictor:
    """Predicts the speed of tensor splits of one model in one context on one machine."""

    def __init__(self, profile: ModelProfile, context: Context, machine: Machine, workload: Workload) -> None:
        self._profile, self._context = profile, context
        self._layer_predictor = Predictor(profile, context, machine, workload)
        self._devices = {device.id: device for device in with_assumed_speeds(machine).devices}
        self._links = {device.id: device for device in machine.devices}
        self._sum_facts = machine.sums
        self._n_sums = n_sums(profile)
        self._has_experts = any(layer.expert_bytes for layer in profile.layers)
        tensors = [*output_tensors(profile), *(t for layer in profile.layers for t in layer.tensors)]
        self._whole_bytes = sum(tensor.n_bytes for tensor in tensors)

    def ideal_shares(self, ids: tuple[str, ...]) -> tuple[float, ...]:
        """The shares with which all of these devices take the same time for a step."""
        rates = [1 / self._decode_costs(device_id, 1).shared for device_id in ids]
        return tuple(rate / sum(rates) for rate in rates)

    def __call__(self, placement: Placement, estimate: Estimate) -> SpeedEstimate:
        """The predicted speed of a placement whose bytes are known."""
        held = [min(use.weights_bytes / self._whole_bytes, 1.0) for use in estimate.devices]
        return self.of_shares(placement.device_order, held)

    def of_shares(self, ids: tuple[str, ...], shares: Sequence[float]) -> SpeedEstimate:
        """The predicted speed of devices that hold these shares of all weights."""
        predictor = self._layer_predictor
        step = [self._decode_costs(id, 1).fixed + share * self._decode_costs(id, 1).shared
                for id, share in zip(ids, shares, strict=True)]  # fmt: skip
        cost = self._sum_cost(ids)
        is_measured = cost.source is Source.MEASURED
        error = EXPERTS_ERROR if self._has_experts and not is_measured else TENSOR_ERROR
        step_s = max(step) + self._sums_s(ids, 1)
        streams = predictor.streams
        streams_step_s = self._slowest_s(ids, shares, streams)
        n_micro = math.ceil(predictor.prompt_tokens / self._context.n_ubatch)
        rows = math.ceil(predictor.prompt_tokens / n_micro)
        stage_s = max(
            costs.fixed + share * costs.shared
            for id, share in zip(ids, shares, strict=True)
            for costs in (self._stage_costs(id, rows),)
        ) + self._sums_s(ids, rows)
        # bases and names as of the same devices by layers
        by_layers = predictor(
            placement_from_counts(ids, _counts(self._profile.n_layers, len(ids)), self._profile.n_layers),
            pipelined=False,
        )
        found = replace(
            by_layers,
            basis=max(by_layers.basis, cost.source, key=tuple(Source).index),
            step_s=step_s,
            tokens_per_s=1 / step_s,
            streams_step_s=streams_step_s,
            streams_tokens_per_s=streams / streams_step_s,
            prompt_s=n_micro * stage_s,
            prompt_tokens_per_s=predictor.prompt_tokens / (n_micro * stage_s),
            prompt_stage_s=stage_s,
            devices=tuple(
                DeviceTime(id=id, seconds=seconds, share=seconds / step_s)
                for id, seconds in zip(ids, step, strict=True)
            ),
            sums=StepSums(
                count=self._n_sums,
                seconds=cost.seconds(self._profile.n_embd * _F32),
                source=cost.source,
                way=cost.way,
                error=error.ratio,
            ),
        )
        return _with_ranges(found, by_layers, error.own)

    def _slowest_s(self, ids: tuple[str, ...], shares: Sequence[float], rows: int) -> float:
        """Seconds of a decode step of `rows` streams."""
        costs = [self._decode_costs(device_id, rows) for device_id in ids]
        slowest = max(cost.fixed + share * cost.shared for cost, share in zip(costs, shares, strict=True))
        return slowest + self._sums_s(ids, rows)

    def _sums_s(self, ids: tuple[str, ...], rows: int) -> float:
        return self._n_sums * self._sum_cost(ids).seconds(rows * self._profile.n_embd * _F32)

    def _sum_cost(self, ids: tuple[str, ...]) -> SumCost:
        devices: list[Device] = [self._links[device_id] for device_id in ids]
        return sum_cost(devices, self._sum_facts)

    def _decode_costs(self, device_id: str, rows: int) -> _Costs:
        return self._apart(device_id, self._layer_predictor.decode_costs(device_id, rows))

    def _stage_costs(self, device_id: str, rows: int) -> _Costs:
        depth = self._layer_predictor.prompt_tokens // 2
        return self._apart(device_id, self._layer_predictor.stage_costs(device_id, rows, depth))

    def _apart(self, device_id: str, costs: RunCosts) -> _Costs:
        times = PlaceTimes(self._devices[device_id])
        _, launches = kernels_of(self._profile.layers)
        overhead_s = sum(map(times.overhead_s, launches)) + costs.fixed
        return _Costs(overhead_s, max(costs.run(0, self._profile.n_layers + 1) - overhead_s, 0.0))


def _with_ranges(found: SpeedEstimate, by_layers: SpeedEstimate, error: float) -> SpeedEstimate:
    """`found` with ranges: those of the same devices by layers, widened by `error`."""

    def near(rate: float | None, of_layers: float | None, likely: SpeedRange | None) -> SpeedRange | None:
        if rate is None or of_layers is None or likely is None:
            return None
        low, high = math.log(of_layers / likely.low), math.log(likely.high / of_layers)
        return range_around(rate, Width(math.hypot(low, error), math.hypot(high, error)))

    return replace(
        found,
        tokens_per_s_range=near(found.tokens_per_s, by_layers.tokens_per_s, by_layers.tokens_per_s_range),
        streams_tokens_per_s_range=near(
            found.streams_tokens_per_s, by_layers.streams_tokens_per_s, by_layers.streams_tokens_per_s_range
        ),
        prompt_tokens_per_s_range=near(
            found.prompt_tokens_per_s, by_layers.prompt_tokens_per_s, by_layers.prompt_tokens_per_s_range
        ),
    )


def _counts(n_layers: int, n_devices: int) -> list[int]:
    """Layers for each device, as equal as can be; the later get more."""
    return [n_layers * (i + 1) // n_devices - n_layers * i // n_devices for i in range(n_devices)]
