"""A safe upper estimate of compute buffers, from tensor shapes alone.

What llama.cpp really reserves comes out of its graph allocator, whose holes no formula foresees; this bounds
it. The terms were read in src/llama-graph.cpp and ggml/src/ggml-backend.cpp of llama-cpp-python 0.3.36 and
fitted to its own answers. For T tokens of a micro-batch, activations are f32, T x 4 bytes an element:

    inputs    masks of n_kv x T x 2 bytes (f16; without flash attention f32), one over all cells and one over
              the window's, where a layer has use for them, and indices
    layers    3 n_embd + the widest projection, and beside them the widest of
                feed-forward: gate, up and their product, 3 x the width active for a token
                experts: the outputs of those used, and the same weighted
                attention under MLA or recurrent mixing: every projection's output
                scores: n_kv for each head, without flash attention, and V over all cells
    output    n_vocab for each row of logits, once the layers are through
    a copy    with pipeline copies: inputs and what the device before hands on, 4 times
"""

from collections.abc import Collection
from dataclasses import dataclass

from vram_llm.machine.types import DeviceKind
from vram_llm.model.profile import Layer, ModelProfile
from vram_llm.model.quants import KV_TYPES, row_bytes
from vram_llm.model.tensors import Role
from vram_llm.plan.types import Context, FlashAttention

PIPELINE_COPIES = 4  # GGML_SCHED_MAX_COPIES
PIPELINED_KINDS = frozenset(DeviceKind) - {DeviceKind.METAL}
"""Back ends with async compute and events (ggml_backend_dev_caps); there is only ever one Metal device."""

LEAST_COMPUTE_SHARE = 0.5
"""What is really taken is at least so much of the estimate, with two devices or more and layers on each."""

_F32, _F16 = 4, 2
_INDEX_BYTES = 4 + 4 + 4 * 8  # of a token: its id, its position, its cells for K and V in two caches
_SMALL_INPUTS_BYTES = 4096  # output ids, sequence indices and their padding
_HEAD_SIZES = {
    DeviceKind.CUDA: frozenset({40, 64, 72, 80, 96, 112, 128, 256}),
    DeviceKind.METAL: frozenset({32, 40, 48, 64, 72, 80, 96, 112, 128, 192, 256, 320, 512, 576}),
}
_HEAD_SIZES[DeviceKind.ROCM] = _HEAD_SIZES[DeviceKind.CUDA]
_GROUPED_HEADS = {(192, 128): 8, (320, 256): 32, (512, 512): 2, (576, 512): 2}


@dataclass(frozen=True, slots=True)
class _Need:
    """What one layer asks for. Elements are per token."""

    projection: int
    widest: int
    mixer: int  # every projection's output of attention
    scores: int  # for each cell; 0 with flash attention, or without attention
    value_bytes: int  # of each cell of one cache, beside the scores
    state_bytes: int
    is_windowed: bool
    attends: bool
    reuses: bool  # attends to another layer's keys and values
    has_experts: bool
    is_state_space: bool  # and has neither attention nor experts
    is_anchor: bool  # is more than a dense feed-forward network


class ComputeBound:
    """Bytes of compute buffers for runs of a model's layers."""

    def __init__(
        self, profile: ModelProfile, context: Context, n_swa_cells: int, kinds: Collection[DeviceKind]
    ) -> None:
        """`n_swa_cells` is 0 where no layer has a window; `kinds` are those of all devices there are."""
        self._n_tokens = min(context.n_ctx, context.n_ubatch)
        self._n_embd, self._n_outputs = profile.n_embd, min(context.n_outputs, self._n_tokens)
        self._n_expert_used = profile.n_expert_used
        flash = uses_flash_attention(profile, context, kinds)
        mask_bytes = (_F16 if flash else _F32) * self._n_tokens
        n_cells = context.n_ctx_seq if profile.has_memory else self._n_tokens
        n_swa_cells //= context.n_caches
        self._cells = (n_cells, n_swa_cells if profile.has_memory else self._n_tokens)  # of one cache
        self._mask_bytes = (mask_bytes * self._cells[0], mask_bytes * self._cells[1])
        is_off = (
            context.flash_attn is FlashAttention.OFF
        )  # V lies transposed: each of its elements has an index
        self._value_index_bytes = 8 * self._n_tokens * profile.n_embd_v_gqa_max if is_off else 0
        cell_bytes = [[0], [0]]
        for layer in profile.layers:
            cell_bytes[layer.sliding_window].append(_cell_bytes(layer, context))
        # a layer that reuses keys and values copies them where they are another device's
        self._reused_bytes = context.n_caches * sum(
            cells * max(each) for cells, each in zip(self._cells, cell_bytes, strict=True)
        )
        self._extra_inputs = sum(
            tensor.shape[0]
            for tensor in profile.input_tensors
            if tensor.role is not Role.TOKEN_EMBD and tensor.shape[0] > profile.n_embd
        )
        self._n_added = len(profile.input_tensors) - 1  # looked up and added on the host: positions, kinds
        self._needs = [_need(profile, layer, context, flash) for layer in profile.layers]
        self._is_hybrid = any(layer.recurrent_bytes for layer in profile.layers)
        self._row_bytes = self._n_tokens * _F32
        self._output_bytes = (profile.vocab_size + 6 * profile.n_embd) * self._n_outputs * _F32
        self._known: dict[tuple[int, int], tuple[int, int]] = {}

    def device_bytes(self, first: int, end: int, *, has_output: bool, is_first: bool, pipelined: bool) -> int:
        """Upper bound for a device with layers first to end-1, with the output or without."""
        embedding, copies = self._n_embd * self._row_bytes, PIPELINE_COPIES if pipelined else 1
        inputs, layers = self._layers(first, end)
        moved = copies * (inputs + embedding)
        if first == 0 < end:
            moved += 4 * self._extra_inputs * self._row_bytes
        if pipelined:
            moved += copies * self._strays(first, end)
        if not pipelined and not is_first:
            moved += embedding  # the first norm is left to the device before, and handed on as well
        if is_first and first:
            moved += self._left_by_host(first)
        return moved + (max(layers, self._output_bytes) if has_output else layers)

    def host_bytes(self, n_layers: int, *, has_output: bool, pipelined: bool) -> int:
        """Upper bound for the host with the first `n_layers`; embeddings and masks are made there anyway."""
        copies = PIPELINE_COPIES if pipelined else 1
        inputs, _ = self._layers(0, len(self._needs))
        layers = self._layers(0, n_layers)[1] if n_layers else 0
        moved = copies * inputs + (1 + copies) * self._n_embd * self._row_bytes
        moved += 2 * (self._extra_inputs + self._n_added * self._n_embd) * self._row_bytes
        return moved + max(layers, self._output_bytes if has_output else 0)

    def _left_by_host(self, first: int) -> int:
        """Bytes for the host's last operations without weights, which fall to the device after it."""
        embedding, left = self._n_embd * self._row_bytes, 0
        if self._needs[first - 1].has_experts:  # the sum of their outputs
            left += (self._n_expert_used + 2) * embedding
        if self._is_hybrid and any(need.attends for need in self._needs[:first]):  # attention, cache and all
            left += self._reused_bytes + self._mask_bytes[0] + 4 * embedding
        return left

    def _strays(self, first: int, end: int) -> int:
        """Bytes of a state-space layer's gate that are cut off by a boundary.

        llama.cpp puts the states of the next such layer, on the device after, before what is left of this one
        where neither attention nor experts stand between: the gate's copy then is made there and sent back.
        """
        return self._row_bytes * (self._stray_before(first) + self._stray_before(end))

    def _stray_before(self, boundary: int) -> int:
        before = next((need for need in reversed(self._needs[:boundary]) if need.is_anchor), None)
        after = next((need for need in self._needs[boundary:] if need.is_anchor), None)
        if before is None or after is None or not (before.is_state_space and after.is_state_space):
            return 0
        return before.projection

    def _layers(self, first: int, end: int) -> tuple[int, int]:
        """Bytes of inputs and of activations for layers first to end-1."""
        if (first, end) not in self._known:
            self._known[first, end] = self._measure(self._needs[first:end])
        return self._known[first, end]

    def _measure(self, needs: list[_Need]) -> tuple[int, int]:
        if not needs:
            return _SMALL_INPUTS_BYTES, self._n_embd * self._row_bytes  # the output's norm
        inputs = self._n_tokens * _INDEX_BYTES + _SMALL_INPUTS_BYTES + self._extra_inputs * self._row_bytes
        if any(need.reuses for need in needs):
            inputs += self._reused_bytes
        for is_windowed in (False, True):
            if any(need.attends and need.is_windowed == is_windowed for need in needs):
                inputs += self._mask_bytes[is_windowed] + self._value_index_bytes
        base = (3 * self._n_embd + max(need.projection for need in needs)) * self._row_bytes
        return inputs, base + max(self._widest(need) for need in needs)

    def _widest(self, need: _Need) -> int:
        n_cells = self._cells[need.is_windowed]
        scores = (need.scores * n_cells + need.mixer) * self._row_bytes + need.value_bytes * n_cells
        return max(need.widest * self._row_bytes + need.state_bytes, scores)


def uses_flash_attention(profile: ModelProfile, context: Context, kinds: Collection[DeviceKind]) -> bool:
    """Whether attention runs without a table of scores, as far as head sizes decide it."""
    if context.flash_attn is not FlashAttention.AUTO:
        return context.flash_attn is FlashAttention.ON
    # a quantised V needs it: llama_init_from_model then switches it on whatever the devices have
    return KV_TYPES[context.kv_type_v].is_quantized or has_flash_attention(profile, kinds)


def has_flash_attention(profile: ModelProfile, kinds: Collection[DeviceKind]) -> bool:
    """Whether every kind of device has a kernel for the model's heads; else llama.cpp does without anywhere.

    llama_context::resolve_fused_ops; ggml_cuda_get_best_fattn_kernel (ggml-cuda/fattn.cu),
    ggml_metal_device_supports_op. Vulkan, SYCL, RPC and the processor take all sizes in use.
    """
    per_head = profile.n_head // profile.n_head_kv if profile.n_head_kv else 0
    heads = {(profile.head_k, profile.head_v)}
    if profile.sliding_window:
        heads.add((profile.window_head_k, profile.window_head_v))
    for kind in kinds:
        sizes = _HEAD_SIZES.get(kind)
        for key, value in heads:
            least = _GROUPED_HEADS.get((key, value))
            grouped = kind != DeviceKind.METAL and least is not None and per_head and per_head % least == 0
            plain = key in (sizes or ()) and (key == value or kind == DeviceKind.METAL)
            if sizes is not None and key and not plain and not grouped:
                return False
    return True


def _need(profile: ModelProfile, layer: Layer, context: Context, flash: bool) -> _Need:
    widths = dict.fromkeys(Role, 0)
    projection = 0
    for tensor in () if layer.is_draft else layer.tensors:  # which no decoding runs
        if len(tensor.shape) < 2 or "norm" in tensor.name or tensor.name.endswith(".bias"):
            continue
        rows = tensor.shape[1] * (profile.n_expert_used if tensor.role is Role.EXPERT else 1)
        if tensor.role is not Role.EXPERT and len(tensor.shape) == 3:
            rows *= tensor.shape[2]
        if tensor.role in (Role.FFN, Role.EXPERT):
            widths[tensor.role] = max(widths[tensor.role], rows if "_down" not in tensor.name else 0)
        else:
            widths[tensor.role] += rows
            projection = max(projection, rows)
    scans = any(".ssm_in." in tensor.name for tensor in layer.tensors)
    has_experts = layer.expert_bytes > 0 and not layer.is_draft
    attends = layer.attention_bytes > 0 and not layer.is_draft
    return _Need(
        projection=projection,
        widest=max(
            3 * (widths[Role.FFN] + widths[Role.EXPERT]),
            2 * profile.n_expert_used * profile.n_embd if has_experts else 0,
            widths[Role.ATTENTION],
            widths[Role.RECURRENT],
        ),
        mixer=0 if flash or not attends else widths[Role.ATTENTION] + profile.n_embd,
        scores=0 if flash or not attends else profile.n_head,
        value_bytes=0
        if flash or context.flash_attn is FlashAttention.OFF
        else _F32 * context.n_caches * (layer.n_embd_v_gqa or layer.n_embd_k_gqa),
        # a state-space scan holds its states once, linear attention beside what it makes of them
        state_bytes=layer.recurrent_state_bytes * context.parallel * (1 if scans else 2),
        is_windowed=layer.sliding_window,
        attends=attends,
        reuses=profile.has_memory and attends and not layer.n_embd_k_gqa,
        has_experts=has_experts,
        is_state_space=bool(layer.recurrent_bytes) and not attends and not has_experts,
        is_anchor=attends or has_experts or bool(layer.recurrent_bytes),
    )


def _cell_bytes(layer: Layer, context: Context) -> int:
    key = row_bytes(KV_TYPES[context.kv_type_k], layer.n_embd_k_gqa)
    return key + row_bytes(KV_TYPES[context.kv_type_v], layer.n_embd_v_gqa)
