"""The analytic meter: the bytes of a placement, computed without llama.cpp.

Weights and KV cache are exact. Weights are the sizes of tensors with the padding of the device's buffer type;
tensors of a mapped file count as if they were allocated. The KV cache is rows times cells
(src/llama-kv-cache.cpp, llama-kv-cache-iswa.cpp, llama-memory-recurrent.cpp). Compute is an upper bound
(compute_buffers.py). Overhead comes from a table (planner/overhead.py).
"""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate

from vram_llm.machine.types import Device, Host
from vram_llm.model.layer_bytes import Layer
from vram_llm.model.profile import ModelProfile
from vram_llm.model.quants import KV_TYPES, row_bytes
from vram_llm.model.rules import RowsCut
from vram_llm.model.tensors import Tensor
from vram_llm.planner.estimates import DeviceEstimate, Estimate, HostEstimate, MemoryUse
from vram_llm.planner.memory.compute_buffers import MIN_COMPUTE_SHARE, PIPELINED_KINDS, ComputeBound
from vram_llm.planner.memory.host_pool import divide_host_memory
from vram_llm.planner.memory.lora import AdapterWeights
from vram_llm.planner.memory.moved_weights import MATRICES, MovedWeights, moved_weights
from vram_llm.planner.memory.mtp_memory import MtpMemory
from vram_llm.planner.memory.padded_weights import WeightsByPadding, token_embedding
from vram_llm.planner.overhead import overhead_bytes
from vram_llm.planner.padding import pad, padded
from vram_llm.planner.types import HOST, Context, FlashAttention, Placement

METHOD = "analytic"

_CELLS_PAD = 256  # a sliding-window cache has a multiple of this many cells


def swa_cells(profile: ModelProfile, context: Context) -> int:
    """KV cells of layers with a sliding window, over all caches; 0 if no layer has one."""
    if not any(layer.sliding_window for layer in profile.layers):
        return 0
    if context.swa_full:
        return context.n_ctx
    sharing = context.parallel if context.kv_unified else 1
    wanted = profile.sliding_window * sharing + context.n_ubatch
    return context.n_caches * pad(min(context.n_ctx_seq, wanted), _CELLS_PAD)


class AnalyticMeter:
    """Measures placements of one model in one context on one set of devices. Call it with a Placement."""

    def __init__(
        self,
        profile: ModelProfile,
        context: Context,
        devices: Sequence[Device],
        host: Host,
        reserve_bytes: int,
    ) -> None:
        """The budget of each device and of the host is its free memory minus `reserve_bytes`.

        If a device shares the host's memory, the bytes of a host without layers are not in its budget.
        """
        self.devices = _by_id(devices)
        self.context = context
        self._profile = profile
        self._host = host
        self._host_budget = host.budget_bytes(reserve_bytes)
        n_swa_cells = swa_cells(profile, context)
        kinds = {device.kind for device in devices}
        self._adapters = AdapterWeights(profile.added_weights)
        self._adapter_compute = AdapterWeights(profile.adapters).compute_bytes(profile, context)
        self._mtp = MtpMemory(profile, context, n_swa_cells)
        if context.n_mtp:  # the head takes the hidden states of all rows
            profile = replace(profile, rows_cut=RowsCut.AFTER_NORM)
        self._bound = ComputeBound(profile, context, n_swa_cells, kinds)
        self._compute_share = 1.0
        layer_contexts = [
            _layer_context(profile, layer, context, n_swa_cells) + self._mtp.cache_bytes(layer)
            for layer in profile.layers
        ]
        self._context_sums = _sums(layer_contexts if context.kv_offload else [0] * profile.n_layers)
        self._host_context_sums = _sums(layer_contexts)
        self.context_bytes = self._host_context_sums[-1]  # of all layers, wherever they are
        self._padded = WeightsByPadding(profile, with_mtp=context.n_mtp > 0)
        self._of_device = {
            dev.id: (
                self._padded[dev.alignment_bytes, dev.row_padding],
                dev.companion_bytes + overhead_bytes(dev),
            )
            for dev in devices
        }  # weights, and bytes whatever the layers
        self._bytes_on_host: dict[int, int] = {}  # by number of layers there
        own = {dev.id: dev.budget_bytes(reserve_bytes) for dev in devices}
        left = {
            dev.id: self._host_budget + dev.set_aside_bytes - self._host_bytes(0)
            for dev in devices
            if dev.shares_host_memory
        }
        # bytes that the host may take before a device that shares its memory has less
        self._spare = {name: max(n_bytes - own[name], 0) for name, n_bytes in left.items()}
        self.budgets: Mapping[str, int] = own | {
            name: max(min(own[name], n_bytes), 0) for name, n_bytes in left.items()
        }

    def with_budgets(self, budgets: Mapping[str, int]) -> "AnalyticMeter":
        """The same meter with other budgets: bytes by device id, for every device."""
        other = copy.copy(self)
        other.budgets = budgets
        return other

    def optimistic(self) -> "AnalyticMeter":
        """The same meter with a lower bound of compute in place of the upper bound."""
        other = copy.copy(self)
        other._compute_share = MIN_COMPUTE_SHARE
        return other

    def __call__(self, placement: Placement) -> Estimate:
        """The estimate for a placement."""
        pipelined = is_pipelined(self._profile, self.context, self.devices.values(), placement)
        moved = moved_weights(self._profile, placement)
        first, devices = placement.cpu_layers, []
        for device_id, count in zip(placement.device_order, placement.layers_per_device, strict=True):
            own, has_output = range(first, first + count), placement.output_device == device_id
            use = self.device_estimate(
                device_id, own.start, own.stop, has_output, placement.cpu_layers, pipelined
            )
            devices.append(self._with_moved(use, own, placement, moved))
            first += count
        has_output = placement.output_device == HOST
        offloads = self.offload_device(placement.device_order) is not None
        host = self._host_estimate(placement.cpu_layers, has_output, pipelined, moved, offloads=offloads)
        return divide_host_memory(
            Estimate(method=METHOD, devices=tuple(devices), host=host), self.devices.values()
        )

    def _with_moved(
        self, use: DeviceEstimate, own: range, placement: Placement, moved: MovedWeights
    ) -> DeviceEstimate:
        """The estimate for a device with layers `own` of a placement, whose overrides move `moved`."""
        n_bytes, compute = moved.bytes_on(use.id, partial(self.bytes_of, use.id)), use.compute_bytes
        if placement.overrides:
            compute = self._moved_compute_bytes(use.id, own, placement, moved)
        on_host, n_host = moved.layers.get(HOST, {}), placement.cpu_layers
        if use.id == self.offload_device(placement.device_order) and (on_host or n_host):
            # it needs the bytes for the host's weights or for its own layers, whichever is more
            has_output = placement.output_device == use.id
            bound = self._bound.offloaded_bytes(n_host, on_host, own, has_output=has_output)
            compute = max(compute, int(bound * self._compute_share))
        return replace(
            use,
            weights_bytes=use.weights_bytes + n_bytes,
            compute_bytes=compute,
            total_bytes=use.total_bytes + n_bytes + compute - use.compute_bytes,
        )

    def least_compute_bytes(self, own: range, *, has_output: bool, n_host: int) -> int:
        """Compute bytes of a device with layers `own` if all their experts and networks are elsewhere."""
        matrices = dict.fromkeys(own, MATRICES)
        bound = self._bound.moved_device_bytes(own, matrices, has_output=has_output, n_host=n_host)
        return int((bound + self._adapter_compute) * self._compute_share)

    def _moved_compute_bytes(
        self, device_id: str, own: range, placement: Placement, moved: MovedWeights
    ) -> int:
        """Compute bytes of a device with layers `own` of a placement that moves weights."""
        has_output, matrices = placement.output_device == device_id, moved.moved_matrices(own)

        def of_own(n_host: int) -> int:
            bound = self._bound.moved_device_bytes(own, matrices, has_output=has_output, n_host=n_host)
            return int((bound + self._adapter_compute) * self._compute_share)

        compute = of_own(placement.cpu_layers)
        if own.start - 1 in moved.layers.get(HOST, {}):  # this device adds up the results of the host
            compute = max(compute, of_own(own.start))
        if moved.has_round_trips(device_id, own) or self._bound.mixes_experts(own, matrices):
            compute += self.round_trip_bytes
        return max(compute, self.moved_compute_bytes(moved.layers.get(device_id, ())))

    @property
    def may_pipeline(self) -> bool:
        """Whether llama.cpp would make pipeline copies for some placement without layers on the host."""
        n_devices = sum(device.kind in PIPELINED_KINDS for device in self.devices.values())
        return self.context.pipeline_copies and self.context.kv_offload and n_devices > 1

    def device_estimate(
        self, device_id: str, first: int, end: int, has_output: bool, n_host: int, pipelined: bool
    ) -> DeviceEstimate:
        """The estimate for one device with layers first to end-1, with or without the output."""
        device = self.devices[device_id]
        weights = self._padded[device.alignment_bytes, device.row_padding].of_run(first, end, has_output)
        context = self._context_sums[end] - self._context_sums[first]
        companions = device.companion_bytes + self._adapter_bytes(device, first, end, has_output)
        compute = self._compute_bytes(first, end, has_output, n_host, pipelined)
        return DeviceEstimate.of(
            device_id,
            MemoryUse(weights, context, compute),
            overhead_bytes=overhead_bytes(device),
            budget_bytes=self.budget_bytes(device_id, n_host),
            companion_bytes=companions,
        )

    def fits_device(
        self,
        device_id: str,
        first: int,
        end: int,
        has_output: bool,
        n_host: int,
        pipelined: bool,
        share: float = 1.0,
    ) -> bool:
        """Whether a device with layers first to end-1 stays within `share` of its budget.

        Compute is estimated only if weights, context, companions and overhead alone fit.
        """
        most = share * self.budget_bytes(device_id, n_host)
        n_bytes = self.bytes_without_compute(device_id, first, end, has_output)
        if n_bytes > most:
            return False
        return n_bytes + self._compute_bytes(first, end, has_output, n_host, pipelined) <= most

    def _compute_bytes(self, first: int, end: int, has_output: bool, n_host: int, pipelined: bool) -> int:
        """Compute bytes of a device with layers first to end-1, with or without the output."""
        bound = self._bound.device_bytes(
            first, end, has_output=has_output, n_host=n_host, pipelined=pipelined
        )
        bound += self._mtp.device_compute_bytes(first, end, has_output=has_output, pipelined=pipelined)
        return int((bound + self._adapter_compute) * self._compute_share)

    def bytes_without_compute(self, device_id: str, first: int, end: int, has_output: bool) -> int:
        """Bytes of weights, context, companions and overhead of a device with layers first to end-1."""
        weights, fixed_bytes = self._of_device[device_id]
        n_bytes = fixed_bytes + weights.of_run(first, end, has_output)
        n_bytes += self._context_sums[end] - self._context_sums[first]
        return n_bytes + self._adapter_bytes(self.devices[device_id], first, end, has_output)

    def bytes_of(self, place: str, tensors: Sequence[Tensor]) -> int:
        """Bytes of weights on a device or on the host."""
        if place == HOST:
            return padded(tensors, self._host.alignment_bytes, 0)
        device = self.devices[place]
        return padded(tensors, device.alignment_bytes, device.row_padding)

    @property
    def round_trip_bytes(self) -> int:
        """Bytes that a device needs in addition if activations go to another device and back."""
        return self._bound.round_trip_bytes

    def moved_compute_bytes(self, layers: Collection[int]) -> int:
        """Compute bytes of a device or of the host for weights of other devices' `layers`."""
        return int(self._bound.moved_bytes(layers) * self._compute_share)

    def offload_device(self, device_order: Sequence[str]) -> str | None:
        """The device that, with `op_offload`, computes prompts with weights on the host; None: the host does.

        It is the first device whose back end offers this (ggml_backend_sched_backend_id_from_cur).
        """
        return next((each for each in device_order if self._bound.offloads(self.devices[each].kind)), None)

    def budget_bytes(self, device_id: str, n_host: int) -> int:
        """Bytes that a device may hold; if it shares the host's memory, with `n_host` layers there.

        Above 0 if the device has any budget, since the search looks for the share of it that suffices.
        """
        budget = self.budgets[device_id]
        if not n_host or not budget or device_id not in self._spare:
            return budget
        more = self._host_bytes(n_host) - self._host_bytes(0) - self._spare[device_id]
        return max(budget - max(more, 0), 1)

    def _host_bytes(self, n_host: int) -> int:
        """Bytes on the host that has `n_host` layers and not the output."""
        if n_host not in self._bytes_on_host:
            estimate = self._host_estimate(n_host, False, False, MovedWeights())
            self._bytes_on_host[n_host] = estimate.total_bytes
        return self._bytes_on_host[n_host]

    def _adapter_bytes(self, device: Device, first: int, end: int, has_output: bool) -> int:
        alignment, row_padding = device.alignment_bytes, device.row_padding
        return self._adapters.device_bytes(alignment, row_padding, first, end, has_output=has_output)

    def _host_estimate(
        self,
        cpu_layers: int,
        has_output: bool,
        pipelined: bool,
        moved: MovedWeights,
        *,
        offloads: bool = False,
    ) -> HostEstimate:
        """The estimate for the host; with `offloads`, a device computes prompts with the host's weights."""
        alignment = self._host.alignment_bytes
        weights = self._padded[alignment, 0].of_run(0, cpu_layers, has_output)
        weights += padded(self._profile.input_tensors, alignment, 0)
        if has_output and self._profile.tied_output:  # the host's embedding is also its output
            weights -= padded(token_embedding(self._profile), alignment, 0)
        weights += moved.bytes_on(HOST, partial(self.bytes_of, HOST))
        on_host = cpu_layers if self.context.kv_offload else self._profile.n_layers
        context = self._host_context_sums[on_host]
        bound = partial(self._bound.host_bytes, has_output=has_output, pipelined=pipelined)
        compute = bound(cpu_layers, moved=moved.layers.get(HOST, ()))
        if offloads and not any(layer.recurrent_state_bytes for layer in self._profile.layers[:cpu_layers]):
            # the host's layers only decode, and do even that for few sequences
            least = bound(0)
            compute = least + (compute - least) * self.context.parallel // self._bound.n_tokens
        if cpu_layers or has_output or any(adapter.input for adapter in self._profile.adapters):
            compute += self._adapter_compute
        compute += self._mtp.host_compute_bytes(cpu_layers, has_output=has_output, pipelined=pipelined)
        companions = self._host.companion_bytes + self._adapters.host_bytes(
            self._host.alignment_bytes, cpu_layers, has_output=has_output
        )
        return HostEstimate.of(
            MemoryUse(weights, context, compute),
            budget_bytes=self._host_budget,
            companion_bytes=companions,
        )


def without_pipeline_copies(meter: AnalyticMeter) -> AnalyticMeter:
    """The same meter for a context without pipeline copies."""
    other = copy.copy(meter)
    other.context = replace(meter.context, pipeline_copies=False)
    return other


def on_devices(meter: AnalyticMeter, ids: Collection[str]) -> AnalyticMeter:
    """The same meter for some of its devices."""
    other = copy.copy(meter)
    other.devices = {name: device for name, device in meter.devices.items() if name in ids}
    other.budgets = {name: n_bytes for name, n_bytes in meter.budgets.items() if name in ids}
    return other


def is_pipelined(
    profile: ModelProfile, context: Context, devices: Collection[Device], placement: Placement
) -> bool:
    """Whether llama.cpp makes pipeline copies.

    It does with several devices of kinds that support them, if no layer and no cache is on the host and there
    is no override.
    """
    used = placement.device_order
    return (
        context.pipeline_copies
        and context.kv_offload
        and not placement.overrides
        and len(used) > 1
        and placement.n_gpu_layers > profile.n_layers
        and all(device.kind in PIPELINED_KINDS for device in devices if device.id in used)
    )


def _by_id(devices: Sequence[Device]) -> dict[str, Device]:
    return {device.id: device for device in devices}


def _layer_context(profile: ModelProfile, layer: Layer, context: Context, n_swa_cells: int) -> int:
    cells = n_swa_cells if layer.sliding_window else context.n_ctx
    key = row_bytes(KV_TYPES[context.kv_type_k], layer.n_embd_k_gqa)
    n_value = layer.n_embd_v_gqa
    if context.flash_attn is FlashAttention.OFF and layer.has_values:
        n_value = profile.n_embd_v_gqa_max  # V is transposed; all layers' rows have the same length
    value = row_bytes(KV_TYPES[context.kv_type_v], n_value)
    n_states = context.parallel * (1 + context.n_mtp)  # llama_memory_recurrent, with n_rs_seq
    return (key + value) * cells + layer.recurrent_state_bytes * n_states


def _sums(values: Sequence[int]) -> list[int]:
    return [0, *accumulate(values)]
