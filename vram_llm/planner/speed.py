"""Predicted time of a step, from bytes, arithmetic and links, device by device.

In a decode step llama.cpp's devices compute one after the other, for any number of sequences
(ggml_backend_sched_compute_splits in ggml-backend.cpp waits for each boundary's activations). For n streams
with D tokens of context each, on one device with L layers:

    weights   active bytes of its layers, of routed experts a share of 1 - (1 - used / all)^sqrt(n); the
              output's bytes if it has the output: each type's bytes / the type's read rate
    context   n * (K and V rows) * D, at most the window if a layer has one, / read rate; on a processor at
              least attention's operations / its attention rate, on some cards at least a time for each of
              the D tokens; recurrent states n times, read and written
    flops     2 * active parameters, per row: each type's / the type's row rate
    step      step overhead + layers' launches * layer overhead + weights + context + (n - 1) * flops
              + n * n_embd * 4 / link, once in and once out; the output's device sends n * n_vocab * 4

A layer's launches are those of its parts (planner/layer_times.py), relative to a dense layer with attention:
experts, delta nets and latent attention launch more kernels. A card reads K and V at a share of the rate of
weights; for several rows its experts have another kernel, which reads at a share of that rate and takes some
us a layer more, as latent attention of several rows does. From the 9th row on, kernels of prompts compute,
and a row costs less. These figures depend on the card's generation (machine/card_figures.py). The step is
the sum over the devices, and over the host if it has layers. The embedding's row is not counted: it is a few
kilobytes. A card has one read rate and one arithmetic rate for all types; a processor has rates for each
type, since unpacking may take longer than reading (machine/processor_speed.py).
Weights that an override moves are read on their own device, and the activations go there and back:

    move      weights there - weights on the layer's device + the split's overhead of either device
              + 2 * n * n_embd * 4 / link

A prompt is computed in batches of n_batch tokens, each in micro-batches of m = n_ubatch. On one device, with
each row's attention over D earlier tokens:

    stage     step overhead + L * layer overhead + m * n_embd * 4 / link, twice
              + for each type max(bytes / read rate, m * flops / prompt rate), of the experts that are used
              + m * 2 * heads * (head size of K + of V) * D / attention's rate, for each layer with attention;
              in a layer with a window, D is at most that, and m more on cards that do not skip masked cells;
              without flash attention also passes * m * heads * D * 4 / read rate: the scores are stored
              + m * recurrent states, read and written / a multiple of the read rate

On cards, the prompt rate grows with the rows of a product: a = m rows of dense weights run at a / (a + half)
of it, r = m * used / all rows of an expert at share * r / (r + half). Tokens share experts: m of them use as
many as sqrt(m) independent ones would. (Prompts of gpt-oss-120b with experts sent to an RTX 3090, published
2025: 0.58, 0.65 and 0.79 of them at 512, 2048 and 8192 tokens; several streams on a GB10, 2025-11.)

With op_offload and 32 rows or more, weights on the host, of whole layers and of moved parts, are sent to the
first device that is no RPC worker, once for each micro-batch, and that device computes:

    sent      bytes of used weights / its link + a split's overhead for each + the stage's terms there

Norms of heads in whole layers on the host have a row for each head, so they go to that device in decode steps
too, if they have 32 rows; each costs the overhead of a split on either side.

Without KV offload, layers on devices wait for the cache and states on the host (planner/host_cache_cost.py).

With pipeline copies the devices work on different micro-batches of a batch at the same time: k micro-batches
take the sum of the stages and k - 1 times the slowest stage; without, k times the sum. The first token comes
after the last micro-batch. Transfers over a link of unknown speed are left out: on PCIe they take a few
microseconds per step; only for sent weights such a link is assumed. Other unknown speeds are assumed
(machine/assumed_speed.py); the prediction's basis shows it.
"""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate

from vram_llm.machine.assumed_speed import offload_link, with_assumed_speeds
from vram_llm.machine.types import Device, DeviceKind, Fact, Host, Machine, Source, Speed
from vram_llm.model.layer_bytes import Layer
from vram_llm.model.profile import ModelProfile
from vram_llm.model.tensors import Role, Tensor
from vram_llm.planner.attention_times import AttentionTimes
from vram_llm.planner.head_times import HeadTimes
from vram_llm.planner.host_cache_cost import HostCacheCost
from vram_llm.planner.layer_times import (
    PlaceTimes,
    Weights,
    head_norms,
    kernels_of,
    used_share,
    weights_of,
)
from vram_llm.planner.memory.moved_weights import MovedPart, moved_by_layer
from vram_llm.planner.mtp import EXPECTED_DRAFTED
from vram_llm.planner.run_costs import RunCosts
from vram_llm.planner.speed_error import device_error, mean_error, of_streams, range_around
from vram_llm.planner.step_times import DeviceTime
from vram_llm.planner.types import HOST, Context, Objective, Placement, SpeedEstimate, Workload

_F32 = 4
OFFLOAD_MIN_ROWS = 32  # GGML_OP_OFFLOAD_MIN_BATCH's default
_TRUST = tuple(Source)  # most trusted first


class Predictor:
    """Predicts the speed of placements of one model in one context on one machine."""

    def __init__(self, profile: ModelProfile, context: Context, machine: Machine, workload: Workload) -> None:
        self._profile = profile
        self._context = context
        machine = with_assumed_speeds(machine)
        self._devices = {device.id: device for device in machine.devices}
        self._times = {device.id: PlaceTimes(device) for device in machine.devices}
        self._times[HOST] = PlaceTimes(machine.host)
        places: dict[str, Device | Host] = {**self._devices, HOST: machine.host}
        self._errors = {place: device_error(facts) for place, facts in places.items()}
        half = max(context.n_ctx_seq // 2, 1)
        wanted = workload.expect_depth or min(Workload.DEFAULT_DEPTH, half)
        self.depth = min(wanted, context.n_ctx_seq)
        prompt = workload.expect_depth or min(Workload.DEFAULT_PROMPT, half)
        self.prompt_tokens = min(prompt, context.n_ctx_seq)
        self.streams = workload.expect_streams if workload.expect_streams > 1 else context.parallel
        self.objective_streams = workload.expect_streams
        self._weights, self._parts = kernels_of(profile.layers)
        self._output = weights_of(output_tensors(profile))
        self._host_cache = HostCacheCost(profile, context, machine)
        self._attention = AttentionTimes(profile, context, {device.kind for device in machine.devices})
        n_drafted = min(context.n_mtp, EXPECTED_DRAFTED)
        self._head = HeadTimes(profile, n_drafted) if n_drafted else None
        self._decode_costs: dict[tuple[str, int], RunCosts] = {}
        self._stage_layers: dict[tuple[str, int, str | None], list[float]] = {}

    def __call__(self, placement: Placement, *, pipelined: bool) -> SpeedEstimate:
        """The predicted speed of a placement."""
        step, streams_step_s = (
            self._step(placement, 1, self.decode_costs),
            self.step_s(placement, self.streams),
        )
        speeds = [self._times[place].speed for place in step]
        parts = tuple(moved_by_layer(self._profile, placement))
        stages = self._stages(placement, parts, self._context.n_ubatch, self.depth // 2)
        prompt = self._prompt(placement, self.prompt_tokens, pipelined=pipelined)
        total = sum(step.values())
        decode_errors = {place: error.decode for place, error in self._errors.items()}
        prompt_errors = {place: error.prompt for place, error in self._errors.items()}
        decode_error = mean_error(step, decode_errors)
        streams_error = of_streams(decode_error) if self.streams > 1 else decode_error
        basis = _least_trusted([f for s in speeds for f in (s.read_bytes_per_s, s.layer_overhead_s)])
        return SpeedEstimate(
            basis=basis,
            depth=self.depth,
            step_s=total,
            tokens_per_s=1 / total,
            streams=self.streams,
            streams_step_s=streams_step_s,
            streams_tokens_per_s=self.streams / streams_step_s,
            streams_basis=_basis_of_streams(self.streams, basis, speeds),
            prompt_tokens=self.prompt_tokens,
            prompt_s=prompt,
            prompt_tokens_per_s=self.prompt_tokens / prompt,
            prompt_stage_s=max(stages.values()),
            prompt_basis=_least_trusted([speed.prompt_flops_per_s for speed in speeds]),
            devices=tuple(
                DeviceTime(id=place, seconds=seconds, share=seconds / total, error=decode_errors[place].mean)
                for place, seconds in step.items()
            ),
            tokens_per_s_range=range_around(1 / total, decode_error),
            streams_tokens_per_s_range=range_around(self.streams / streams_step_s, streams_error),
            prompt_tokens_per_s_range=range_around(
                self.prompt_tokens / prompt, mean_error(stages, prompt_errors)
            ),
        )

    def objective_seconds(self, placement: Placement, objective: Objective, *, pipelined: bool) -> float:
        """The time that the objective minimises: a step of the expected streams; for THROUGHPUT, a prompt."""
        if objective is Objective.THROUGHPUT:
            return self._prompt(placement, self.depth, pipelined=pipelined)
        return self.step_s(placement, self.objective_streams, drafts=True)

    def step_s(self, placement: Placement, rows: int, *, drafts: bool = False) -> float:
        """Seconds of a decode step of `rows` streams; with `drafts`, the MTP head drafts EXPECTED_DRAFTED
        tokens for each, if there is one."""
        return sum(
            self._step(placement, rows, self.objective_costs if drafts else self.decode_costs).values()
        )

    def objective_costs(self, device_id: str, rows: int) -> RunCosts:
        """`decode_costs`, with what the MTP head takes to draft for each stream."""
        costs = self.decode_costs(device_id, rows)
        if (head := self._head) is None:
            return costs
        return head.added_to(costs, self._times[device_id], self._output, rows)

    def decode_costs(self, device_id: str, rows: int) -> RunCosts:
        """Seconds of a decode step of `rows` streams on a device."""
        if (device_id, rows) in self._decode_costs:
            return self._decode_costs[device_id, rows]
        times = self._times[device_id]
        layers = [
            0.0
            if layer.is_draft
            else times.overhead_s(parts)
            + times.rows_s(parts, rows)
            + times.decode_s(weights, rows)
            + self._attention.decode_s(times, layer, rows, self.depth)
            + times.state_s(rows * layer.recurrent_state_bytes)
            + self._host_cache.decode_s(device_id, layer, rows, self.depth)
            for layer, weights, parts in zip(self._profile.layers, self._weights, self._parts, strict=True)
        ]
        output = times.decode_s(self._output, rows)
        in_and_out = self._crossing_s(device_id, 2 * rows * self._profile.n_embd)
        logits = self._crossing_s(device_id, rows * (self._profile.vocab_size - self._profile.n_embd))
        costs = RunCosts(times.speed.step_overhead_s.value + in_and_out, _sums([*layers, output + logits]))
        self._decode_costs[device_id, rows] = costs
        return costs

    def stage_costs(self, device_id: str, rows: int, depth: int, offload_to: str | None = None) -> RunCosts:
        """Seconds of a micro-batch of a prompt on a device.

        `offload_to` is the device that computes with the host's weights (`offload_device`).
        """
        times = self._times[device_id]
        on_card = None if device_id != HOST or rows < OFFLOAD_MIN_ROWS else offload_to
        computes = self._times[on_card or device_id]
        layers = [
            0.0
            if layer.is_draft
            else seconds
            + self._attention.prompt_s(computes, layer, rows, depth)
            + self._host_cache.prompt_s(device_id, layer, rows, depth)
            for layer, seconds in zip(
                self._profile.layers, self._without_attention(device_id, rows, on_card), strict=True
            )
        ]
        # a prompt needs only the last row's logits
        output = times.decode_s(self._output, 1)
        in_and_out = self._crossing_s(on_card or device_id, 2 * rows * self._profile.n_embd)
        return RunCosts(times.speed.step_overhead_s.value + in_and_out, _sums([*layers, output]))

    def _without_attention(self, device_id: str, rows: int, on_card: str | None) -> list[float]:
        """Seconds of a micro-batch for each layer, without its attention: only that depends on the depth.

        `on_card` is the device that computes with the host's weights, if one does.
        """
        key = (device_id, rows, on_card)
        if key not in self._stage_layers:
            computes = self._times[on_card or device_id]
            weights_s = [
                computes.prompt_s(each, rows) if on_card is None else self.sent_s(on_card, each, rows)
                for each in self._weights
            ]
            self._stage_layers[key] = [
                computes.overhead_s(parts)
                + seconds
                + computes.prompt_state_s(layer.recurrent_state_bytes, rows)
                for layer, parts, seconds in zip(self._profile.layers, self._parts, weights_s, strict=True)
            ]
        return self._stage_layers[key]

    def full_stage_costs(self, device_id: str, offload_to: str | None = None) -> RunCosts:
        """Like `stage_costs`, for a full micro-batch in the middle of a prompt of the expected depth."""
        return self.stage_costs(device_id, self._context.n_ubatch, self.depth // 2, offload_to)

    def offload_device(self, device_order: Sequence[str]) -> str | None:
        """The device that computes prompts with weights on the host; None: the host does.

        The first that offers it; RPC workers do not (ggml_backend_sched_backend_id_from_cur, ggml-rpc.cpp).
        """
        if not self._context.op_offload:
            return None
        return next((id for id in device_order if self._times[id].kind is not DeviceKind.RPC), None)

    def read_s(self, device_id: str, layer: Layer, tensors: Sequence[Tensor], rows: int) -> float:
        """Seconds of a decode step of `rows` streams for some tensors of a layer on a device."""
        return self._times[device_id].decode_s(weights_of(tensors, used_share(layer)), rows)

    def round_trip_s(self, home: str, device_id: str, rows: int) -> float:
        """Seconds that a layer adds to a step if some of its weights are on another device."""
        there_and_back = 2 * rows * self._profile.n_embd
        places = (home, device_id)
        crossing = sum(self._crossing_s(place, there_and_back) for place in places)
        return crossing + sum(self._times[place].split_s for place in places)

    def moved_s(self, home: str, device_id: str, layer: Layer, tensors: Sequence[Tensor], rows: int) -> float:
        """Seconds that a decode step takes more if these tensors are not at home; may be below 0."""
        there, here = (self.read_s(place, layer, tensors, rows) for place in (device_id, home))
        return there - here + self.round_trip_s(home, device_id, rows)

    def moved_stage_s(
        self,
        home: str,
        device_id: str,
        layer: Layer,
        tensors: Sequence[Tensor],
        offload_to: str | None = None,
        rows: int | None = None,
    ) -> float:
        """Seconds that a micro-batch takes more if these tensors are not at home; may be below 0.

        With `offload_to`, weights on the host are sent to that device, which computes; experts that no token
        of the micro-batch uses are not sent (ggml_backend_sched_compute_splits). `rows` is the micro-batch,
        None for a full one.
        """
        rows = rows or self._context.n_ubatch
        weights = weights_of(tensors, used_share(layer))
        here = self._times[home].prompt_s(weights, rows)
        if device_id != HOST or offload_to is None or rows < OFFLOAD_MIN_ROWS:
            there = self._times[device_id].prompt_s(weights, rows)
            return there - here + self.round_trip_s(home, device_id, rows)
        there = self.sent_s(offload_to, weights, rows)
        return there - here + (self.round_trip_s(home, offload_to, rows) if offload_to != home else 0.0)

    def sent_s(self, device_id: str, weights: Sequence[Weights], rows: int) -> float:
        """Seconds of a micro-batch for the host's weights, which are sent to a device that computes."""
        sent_bytes = sum(part.share_of(rows) * part.n_bytes for part in weights)
        splits_s = (
            len(weights) * self._times[device_id].split_s
        )  # each weight begins one; most types have several
        link = offload_link(self._devices[device_id])
        rate = link.send_bytes_per_s or link.bytes_per_s
        return sent_bytes / rate.value + splits_s + self._times[device_id].prompt_s(weights, rows)

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

    def _step(
        self, placement: Placement, rows: int, costs_of: Callable[[str, int], RunCosts]
    ) -> dict[str, float]:
        """Seconds of a decode step of `rows` streams on each device, in the order they compute."""
        step = {
            device_id: costs_of(device_id, rows).run(start, end)
            for device_id, start, end in self._runs(placement)
        }
        for moved in moved_by_layer(self._profile, placement):
            layer, tensors = self._profile.layers[moved.layer], moved.tensors
            here_s = self.read_s(moved.home, layer, tensors, rows)
            moved_s = self.moved_s(moved.home, moved.device, layer, tensors, rows)
            step[moved.home] -= here_s
            step[moved.device] = step.get(moved.device, 0.0) + here_s + moved_s
        offload_to = self.offload_device(placement.device_order)
        if offload_to is not None and placement.cpu_layers:
            on_host = self._profile.layers[: placement.cpu_layers]
            n_trips = sum(head_norms(self._profile, layer, OFFLOAD_MIN_ROWS / rows) for layer in on_host)
            step[HOST] += n_trips * self.round_trip_s(HOST, offload_to, rows)
        return step

    def _stages(
        self, placement: Placement, parts: Sequence[MovedPart], rows: int, depth: int
    ) -> dict[str, float]:
        """Seconds of a micro-batch of a prompt on each device, in the order they compute."""
        offload_to = self.offload_device(placement.device_order)
        stages = {
            device_id: self.stage_costs(device_id, rows, depth, offload_to).run(start, end)
            for device_id, start, end in self._runs(placement)
        }
        for part in parts:
            layer = self._profile.layers[part.layer]
            weights = weights_of(part.tensors, used_share(layer))
            here_s = self._times[part.home].prompt_s(weights, rows)
            moved_s = self.moved_stage_s(part.home, part.device, layer, part.tensors, offload_to, rows)
            offloaded = part.device == HOST and offload_to is not None and rows >= OFFLOAD_MIN_ROWS
            place = offload_to if offloaded and offload_to else part.device
            stages[part.home] -= here_s
            stages[place] = stages.get(place, 0.0) + here_s + moved_s
        return stages

    def _prompt(self, placement: Placement, n_tokens: int, *, pipelined: bool) -> float:
        """Seconds until the logits of the last of `n_tokens` are computed."""
        n_batch, n_ubatch = self._context.n_batch, self._context.n_ubatch
        parts = tuple(moved_by_layer(self._profile, placement))
        total = 0.0
        for first in range(0, n_tokens, n_batch):
            rows = min(n_batch, n_tokens - first)
            n_micro = math.ceil(rows / n_ubatch)
            stages = self._stages(placement, parts, math.ceil(rows / n_micro), first + rows // 2).values()
            slowest = max(stages) if pipelined else sum(stages)
            total += sum(stages) + (n_micro - 1) * slowest
        return total

    def _crossing_s(self, device_id: str, n_elements: int) -> float:
        link = None if device_id == HOST else self._devices[device_id].link
        return 0.0 if link is None else n_elements * _F32 / link.bytes_per_s.value


def output_tensors(profile: ModelProfile) -> tuple[Tensor, ...]:
    """The tensors that are read for the logits; tied embeddings are the output."""
    tied = [t for t in profile.input_tensors if profile.tied_output and t.role is Role.TOKEN_EMBD]
    return (*profile.output_tensors, *tied)


def _sums(values: Sequence[float]) -> list[float]:
    return [0.0, *accumulate(values)]


def _basis_of_streams(streams: int, basis: Source, speeds: Sequence[Speed]) -> Source:
    if streams == 1:
        return basis
    return max(basis, _least_trusted([speed.row_flops_per_s for speed in speeds]), key=_TRUST.index)


def _least_trusted(facts: Sequence[Fact | None]) -> Source:
    return max((fact.source for fact in facts if fact is not None), key=_TRUST.index)
