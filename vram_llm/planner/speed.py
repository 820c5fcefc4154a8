"""Predicted time of a step, from bytes, arithmetic and links, device by device.

In a decode step llama.cpp's devices compute one after the other, for any number of sequences
(ggml_backend_sched_compute_splits in ggml-backend.cpp waits for each boundary's activations). For n streams
with D tokens of context each, on one device with L layers:

    weights   active bytes of its layers; of the routed experts a share of 1 - (1 - used / all)^n; the
              output's bytes if it has the output
    context   n * (K and V rows) * D, at most the window if a layer has one; recurrent states n times, read
              and written
    flops     2 * active parameters, per row
    step      step overhead + L * layer overhead + (weights + context) / read rate
              + (n - 1) * flops / row rate
              + n * n_embd * 4 / link, once in and once out; the output's device sends n * n_vocab * 4

The step is the sum over the devices, and over the host if it has layers. The embedding's row is not counted:
it is a few kilobytes. Weights that an override moves are read on their own device, and the activations go
there and back:

    move      (bytes there / read rate there) - (bytes / read rate of the layer's device)
              + a split's overhead on either device + 2 * n * n_embd * 4 / link

A prompt is computed in batches of n_batch tokens, each in micro-batches of m = n_ubatch. On one device, with
each row's attention over D earlier tokens:

    stage     step overhead + L * layer overhead + m * n_embd * 4 / link, twice
              + max(weights / read rate, m * flops / prompt rate)
              + m * 2 * heads * (head size of K + of V) * D / prompt rate, for each layer with attention

With pipeline copies the devices work on different micro-batches of a batch at the same time: k micro-batches
take the sum of the stages and k - 1 times the slowest stage; without, k times the sum. The first token comes
after the last micro-batch. Transfers over a link of unknown speed are left out: on PCIe they take a few
microseconds per step. Other unknown speeds are assumed (machine/assumed_speed.py); the prediction's basis
shows it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from vram_llm.machine.assumed_speed import with_assumed_speeds
from vram_llm.machine.types import Device, Fact, Host, Machine, Source, Speed
from vram_llm.model.layer_bytes import Layer
from vram_llm.model.profile import ModelProfile
from vram_llm.model.quants import KV_TYPES, row_bytes
from vram_llm.model.tensors import Role, Tensor
from vram_llm.planner.memory.moved_weights import moved_by_layer
from vram_llm.planner.types import HOST, Context, DeviceTime, Objective, Placement, SpeedEstimate, Workload

_F32 = 4
SPLIT_OVERHEAD_S = 20e-6  # estimated: of a device that continues a step's graph
_TRUST = tuple(Source)  # most trusted first


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of one device for any run of items; the output is the item after the last layer."""

    fixed: float  # for every run
    sums: list[float]  # sums[i]: all items before i

    def run(self, start: int, end: int) -> float:
        """Seconds for items start to end-1; 0 for an empty run."""
        return self.fixed + self.sums[end] - self.sums[start] if end > start else 0.0


class Predictor:
    """Predicts the speed of placements of one model in one context on one machine."""

    def __init__(self, profile: ModelProfile, context: Context, machine: Machine, workload: Workload) -> None:
        self._profile = profile
        self._context = context
        machine = with_assumed_speeds(machine)
        self._devices = {device.id: device for device in machine.devices}
        self._host = machine.host
        half = max(context.n_ctx_seq // 2, 1)
        wanted = workload.expect_depth or min(Workload.DEFAULT_DEPTH, half)
        self.depth = min(wanted, context.n_ctx_seq)
        prompt = workload.expect_depth or min(Workload.DEFAULT_PROMPT, half)
        self.prompt_tokens = min(prompt, context.n_ctx_seq)
        self.streams = workload.expect_streams if workload.expect_streams > 1 else context.parallel
        self.objective_streams = workload.expect_streams
        self._params = [_active_params(layer) for layer in profile.layers]
        self._output = output_tensors(profile)
        self._output_params = _elements(self._output)

    def __call__(self, placement: Placement, *, pipelined: bool) -> SpeedEstimate:
        """The predicted speed of a placement."""
        runs = self._runs(placement)
        step, streams_step_s = self._step(placement, 1), sum(self._step(placement, self.streams).values())
        speeds = [self._speed(place) for place in step]
        stages = [self.full_stage_costs(place).run(start, end) for place, start, end in runs]
        prompt = self._prompt(runs, self.prompt_tokens, pipelined=pipelined)
        total = sum(step.values())
        basis = _least_trusted([f for s in speeds for f in (s.read_bytes_per_s, s.layer_overhead_s)])
        return SpeedEstimate(
            basis=basis,
            depth=self.depth,
            step_s=total,
            tokens_per_s=1 / total,
            streams=self.streams,
            streams_step_s=streams_step_s,
            streams_tokens_per_s=self.streams / streams_step_s,
            streams_basis=self._basis_of_streams(basis, speeds),
            prompt_tokens=self.prompt_tokens,
            prompt_s=prompt,
            prompt_tokens_per_s=self.prompt_tokens / prompt,
            prompt_stage_s=max(stages),
            prompt_basis=_least_trusted([speed.prompt_flops_per_s for speed in speeds]),
            devices=tuple(
                DeviceTime(id=place, seconds=seconds, share=seconds / total)
                for place, seconds in step.items()
            ),
        )

    def objective_seconds(self, placement: Placement, objective: Objective, *, pipelined: bool) -> float:
        """The time that the objective minimises: a step of the expected streams; for THROUGHPUT, a prompt."""
        if objective is Objective.THROUGHPUT:
            return self._prompt(self._runs(placement), self.depth, pipelined=pipelined)
        return sum(self._step(placement, self.objective_streams).values())

    def _basis_of_streams(self, basis: Source, speeds: Sequence[Speed]) -> Source:
        if self.streams == 1:
            return basis
        return max(basis, _least_trusted([speed.row_flops_per_s for speed in speeds]), key=_TRUST.index)

    def decode_costs(self, device_id: str, rows: int) -> Costs:
        """Seconds of a decode step of `rows` streams on a device.

        The weights of a layer never take longer for all rows together than for one row after the other.
        """
        speed = self._speed(device_id)
        per_byte, per_flop = 1 / speed.read_bytes_per_s.value, 0.0
        if speed.row_flops_per_s is not None:
            per_flop = (rows - 1) / speed.row_flops_per_s.value

        def together(n_bytes: float, n_bytes_of_one: float, params: float) -> float:
            return min(n_bytes * per_byte + 2 * params * per_flop, rows * n_bytes_of_one * per_byte)

        layers = [
            0.0
            if layer.is_draft
            else speed.layer_overhead_s.value
            + together(_weight_bytes(layer, rows), _weight_bytes(layer, 1), params)
            + self._kept_bytes(layer, rows) * per_byte
            for layer, params in zip(self._profile.layers, self._params, strict=True)
        ]
        output = together(_n_bytes(self._output), _n_bytes(self._output), self._output_params)
        in_and_out = self._crossing_s(device_id, 2 * rows * self._profile.n_embd)
        logits = self._crossing_s(device_id, rows * (self._profile.vocab_size - self._profile.n_embd))
        return Costs(speed.step_overhead_s.value + in_and_out, _sums([*layers, output + logits]))

    def stage_costs(self, device_id: str, rows: int, depth: int) -> Costs:
        """Seconds of a micro-batch of a prompt on a device."""
        speed = self._speed(device_id)
        assert speed.prompt_flops_per_s is not None  # known or assumed
        per_byte, per_flop = 1 / speed.read_bytes_per_s.value, rows / speed.prompt_flops_per_s.value
        layers = [
            0.0
            if layer.is_draft
            else speed.layer_overhead_s.value
            + max(_weight_bytes(layer, rows) * per_byte, 2 * params * per_flop)
            + self._attention_flops(layer, depth) * per_flop
            for layer, params in zip(self._profile.layers, self._params, strict=True)
        ]
        # a prompt needs only the last row's logits
        output = _n_bytes(self._output) * per_byte
        in_and_out = self._crossing_s(device_id, 2 * rows * self._profile.n_embd)
        return Costs(speed.step_overhead_s.value + in_and_out, _sums([*layers, output]))

    def full_stage_costs(self, device_id: str) -> Costs:
        """Like `stage_costs`, for a full micro-batch in the middle of a prompt of the expected depth."""
        return self.stage_costs(device_id, self._context.n_ubatch, self.depth // 2)

    def _runs(self, placement: Placement) -> list[tuple[str, int, int]]:
        """Id of the device or host, first item and exclusive end, in the order they compute."""
        n_layers = self._profile.n_layers
        runs, start = [], placement.cpu_layers
        on_host = [(HOST, 0, placement.cpu_layers)] if placement.cpu_layers else []
        if placement.output_device == HOST:
            on_host = [(HOST, 0, n_layers + 1)]
        for device_id, count in zip(placement.device_order, placement.layers_per_device, strict=True):
            end = start + count + (placement.output_device == device_id)
            runs.append((device_id, start, end))
            start = end
        return on_host + runs

    def _speed(self, device_id: str) -> Speed:
        speed = self._place(device_id).speed
        assert speed is not None  # known or assumed
        return speed

    def _place(self, device_id: str) -> Device | Host:
        return self._host if device_id == HOST else self._devices[device_id]

    def _step(self, placement: Placement, rows: int) -> dict[str, float]:
        """Seconds of a decode step of `rows` streams on each device, in the order they compute."""
        step = {
            device_id: self.decode_costs(device_id, rows).run(start, end)
            for device_id, start, end in self._runs(placement)
        }
        for moved in moved_by_layer(self._profile, placement):
            layer, tensors = self._profile.layers[moved.layer], moved.tensors
            step[moved.home] -= self.read_s(moved.home, layer, tensors, rows)
            there = self.read_s(moved.device, layer, tensors, rows)
            step[moved.device] = step.get(moved.device, 0.0) + there
            step[moved.device] += self.visit_s(moved.home, moved.device, rows)
        return step

    def read_s(self, device_id: str, layer: Layer, tensors: Sequence[Tensor], rows: int) -> float:
        """Seconds of a decode step of `rows` streams for some tensors of a layer on a device."""
        speed = self._speed(device_id)
        per_byte, per_flop = 1 / speed.read_bytes_per_s.value, 0.0
        if speed.row_flops_per_s is not None:
            per_flop = (rows - 1) / speed.row_flops_per_s.value
        experts = [tensor for tensor in tensors if tensor.role is Role.EXPERT]
        others = [tensor for tensor in tensors if tensor.role is not Role.EXPERT]
        used = _used_share(layer)
        params = _elements(others) + used * _elements(experts)
        n_bytes = _n_bytes(others) + (1 - (1 - used) ** rows) * _n_bytes(experts)
        n_bytes_of_one = _n_bytes(others) + used * _n_bytes(experts)
        return min(n_bytes * per_byte + 2 * params * per_flop, rows * n_bytes_of_one * per_byte)

    def visit_s(self, home: str, device_id: str, rows: int) -> float:
        """Seconds that a layer takes more in a step if some of its weights are on another device."""
        there_and_back = 2 * rows * self._profile.n_embd
        crossing = self._crossing_s(home, there_and_back) + self._crossing_s(device_id, there_and_back)
        return crossing + 2 * SPLIT_OVERHEAD_S

    def _prompt(self, runs: Sequence[tuple[str, int, int]], n_tokens: int, *, pipelined: bool) -> float:
        """Seconds until the logits of the last of `n_tokens` are computed."""
        n_batch, n_ubatch = self._context.n_batch, self._context.n_ubatch
        total = 0.0
        for first in range(0, n_tokens, n_batch):
            rows = min(n_batch, n_tokens - first)
            n_micro = math.ceil(rows / n_ubatch)
            micro, depth = math.ceil(rows / n_micro), first + rows // 2
            stages = [
                self.stage_costs(device_id, micro, depth).run(start, end) for device_id, start, end in runs
            ]
            slowest = max(stages) if pipelined else sum(stages)
            total += sum(stages) + (n_micro - 1) * slowest
        return total

    def _kept_bytes(self, layer: Layer, rows: int) -> int:
        """Bytes of context that a decode step reads, plus recurrent state that it reads and writes."""
        cells = self.depth
        if layer.sliding_window and self._profile.sliding_window:
            cells = min(cells, self._profile.sliding_window)
        key = row_bytes(KV_TYPES[self._context.kv_type_k], layer.n_embd_k_gqa)
        value = row_bytes(KV_TYPES[self._context.kv_type_v], layer.n_embd_v_gqa)
        return rows * ((key + value) * cells + 2 * layer.recurrent_state_bytes)

    def _attention_flops(self, layer: Layer, depth: int) -> int:
        """Operations of one row's attention over `depth` tokens: scores and weighted values."""
        if not layer.n_embd_k_gqa:
            return 0
        profile = self._profile
        if layer.sliding_window and profile.sliding_window:
            depth = min(depth, profile.sliding_window)
        return 2 * profile.n_head * (profile.head_k + profile.head_v) * depth

    def _crossing_s(self, device_id: str, n_elements: int) -> float:
        place = self._place(device_id)
        if isinstance(place, Host) or place.link is None:
            return 0.0
        return n_elements * _F32 / place.link.bytes_per_s.value


def output_tensors(profile: ModelProfile) -> tuple[Tensor, ...]:
    """The tensors that are read for the logits; tied embeddings are the output."""
    tied = [t for t in profile.input_tensors if profile.tied_output and t.role is Role.TOKEN_EMBD]
    return (*profile.output_tensors, *tied)


def _used_share(layer: Layer) -> float:
    """The share of a layer's routed experts that one token uses."""
    return 1 - (layer.bytes - layer.active_bytes) / layer.expert_bytes if layer.expert_bytes else 0.0


def _weight_bytes(layer: Layer, rows: int) -> float:
    """Bytes read for `rows` tokens at a time; each token's experts are assumed independent."""
    if not layer.expert_bytes:
        return layer.active_bytes
    idle = layer.bytes - layer.active_bytes
    return layer.bytes - layer.expert_bytes * (idle / layer.expert_bytes) ** rows


def _active_params(layer: Layer) -> float:
    """Number of weights that one token is multiplied with."""
    if layer.is_draft:
        return 0
    experts = _elements([t for t in layer.tensors if t.role is Role.EXPERT])
    return _elements(layer.tensors) - experts * (1 - _used_share(layer))


def _elements(tensors: Sequence[Tensor]) -> int:
    return sum(math.prod(tensor.shape) for tensor in tensors)


def _n_bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.n_bytes for tensor in tensors)


def _sums(values: Sequence[float]) -> list[float]:
    return [0.0, *accumulate(values)]


def _least_trusted(facts: Sequence[Fact | None]) -> Source:
    return max((fact.source for fact in facts if fact is not None), key=_TRUST.index)
