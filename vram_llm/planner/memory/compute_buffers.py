"""A close upper estimate of compute buffers, from tensor shapes alone.

llama.cpp reserves a graph for a whole micro-batch. On each device the graph takes its inputs and the peak of
its layers' operations, which go through the same allocator (peak_memory.py). Inputs and the device of each
operation follow ggml_backend_sched_split_graph of ggml/src/ggml-backend.cpp (llama-cpp-python 0.3.36): a
device also takes operations next to its own that have no weights. With pipeline copies, each input has four
places of its own, which nothing else uses.
"""

from collections.abc import Collection
from dataclasses import replace
from itertools import pairwise

from vram_llm.machine.types import DeviceKind
from vram_llm.model.layer_bytes import Layer
from vram_llm.model.profile import ModelProfile
from vram_llm.model.rules import RowsCut
from vram_llm.model.tensors import Role, layer_of
from vram_llm.planner.memory.backend_kernels import F16_KINDS, FUSING_KINDS, has_scan
from vram_llm.planner.memory.cache_shapes import cell_bytes, copy_bytes, last_stored, rotations
from vram_llm.planner.memory.flash_attention import (
    insists_on_flash_attention,
    layer_has_kernel,
    uses_flash_attention,
)
from vram_llm.planner.memory.layer_shapes import (
    F16_BYTES,
    F32_BYTES,
    ID_BYTES,
    Block,
    End,
    MicroBatch,
)
from vram_llm.planner.memory.peak_memory import OUTPUT, GraphInputs, Peaks
from vram_llm.planner.types import MOST_BIASED, Context, FlashAttention

PIPELINE_COPIES = 4  # GGML_SCHED_MAX_COPIES
PIPELINED_KINDS = frozenset(DeviceKind) - {DeviceKind.METAL}
"""Back ends with async compute and events (ggml_backend_dev_caps); there is only ever one Metal device."""

LEAST_COMPUTE_SHARE = 0.5
"""Lower bound: real compute / estimate when two or more devices hold layers."""

_INDEX_BYTES = 4 + 2 * 8  # per token: its position, its cells for K and V
_PINNED_TOKENS = 32  # from this size on, a layer's first norm may leave its device if layers are on the host

_ADDED = ("position_embd.", "token_types.")
_VISITING_ROWS = 3  # per token: a layer's input, its weighted experts, their sum
_ROOM, _PIPELINED_ROOM = 1.075, 1.01
"""Factors for holes that appear only after many layers; with pipeline copies, inputs leave no holes."""


class ComputeBound:
    """Bytes of compute buffers for runs of a model's layers.

    Methods: one for each part of a buffer (inputs, masks, chains, copies), over the same shapes.
    """

    def __init__(
        self, profile: ModelProfile, context: Context, n_swa_cells: int, kinds: Collection[DeviceKind]
    ) -> None:
        """`n_swa_cells` is 0 if no layer has a window; `kinds` are the kinds of all devices."""
        self._profile = profile
        self._context = context
        self._n_layers = profile.n_layers - profile.n_draft_layers  # decoding does not run draft layers
        n_tokens = min(context.n_ctx, context.n_ubatch)
        self._n_tokens = -(-n_tokens // context.parallel) * context.parallel
        self._n_outputs = min(context.n_outputs, self._n_tokens)
        has_kernel = [
            layer_has_kernel(profile, context, layer, kinds) for layer in profile.layers[: self._n_layers]
        ]
        self._insists = insists_on_flash_attention(context)
        self._flash = uses_flash_attention(profile, context, kinds)
        cells = (context.n_ctx_seq, n_swa_cells // context.n_caches)
        self._cells = cells if profile.has_memory else (self._n_tokens, self._n_tokens)  # of one cache
        # if flash attention is off from the start, V is transposed and each of its elements has an index
        self._turned = context.flash_attn is FlashAttention.OFF
        self._index_bytes = self._n_tokens * (
            _INDEX_BYTES + (8 * profile.n_embd_v_gqa_max if self._turned else 0)
        )
        self._kinds = frozenset(kinds)
        self._keeps_experts = not FUSING_KINDS.isdisjoint(kinds)
        self._turns, self._rotation_bytes = rotations(profile, context)
        self._numbers: dict[Block, int] = {}
        self._blocks: list[Block] = []  # distinct blocks; a layer is stored as its block's number
        self._on_device = [
            self._number(self._block(layer, has))
            for layer, has in zip(profile.layers, has_kernel, strict=False)
        ]
        self._reuses = profile.has_memory and any(
            layer.attention_bytes and not layer.n_embd_k_gqa for layer in profile.layers[: self._n_layers]
        )
        self._last_stored = last_stored(profile)
        self._extra_inputs = sum(
            tensor.shape[0]
            for tensor in profile.input_tensors
            if tensor.role is not Role.TOKEN_EMBD and tensor.name.startswith("per_layer_")
        )
        self._n_added = sum(tensor.name.startswith(_ADDED) for tensor in profile.input_tensors)
        self._row_bytes = self._n_tokens * F32_BYTES
        self._anchors = [i for i in range(self._n_layers) if _is_anchor(self._at(i))]
        is_hybrid = any(layer.recurrent_state_bytes for layer in profile.layers)
        n_vocab = profile.vocab_size if profile.output_bytes or profile.tied_output else 0
        self._sampling_bytes = _sampling_bytes(context, n_vocab, self._n_outputs)
        end = End(profile.n_embd, n_vocab, profile.rows_cut, self._sampling_bytes)
        self._known: dict[tuple[int | bool, ...], int] = {}
        self._peaks = Peaks(self._blocks, end, is_hybrid=is_hybrid)

    def device_bytes(self, first: int, end: int, *, has_output: bool, n_host: int, pipelined: bool) -> int:
        """Upper bound for a device with layers first to end-1, with the output or without.

        `n_host` layers stay on the host.
        """
        flash = self._flash and (self._insists or not self._leaves_attention(n_host))
        key = (first, end, has_output, n_host > 0, n_host == first, flash, pipelined)
        if key not in self._known:
            self._known[key] = self._device_bytes(
                first, min(end, self._n_layers), has_output, n_host, self._batch(flash, pipelined)
            )
        return self._known[key]

    def _device_bytes(self, first: int, end: int, has_output: bool, n_host: int, batch: MicroBatch) -> int:
        chain = self._on_device[first:end] + ([OUTPUT] if has_output else [])
        if not chain:
            return 0
        inputs = self._inputs(first, end, batch.flash)
        if not batch.pipelined:
            start = self._start(first, end, n_host, has_output)
            states_next = not has_output and self._recurs(end) and self._at(end - 1).has_experts
            peak = self._peaks.of(chain, start, inputs, batch, states_next=states_next)
            return self._looked_up(first, end, 1) + ID_BYTES + int(peak * _ROOM)
        copied = sum(inputs) + self._stream_bytes(first) + self._brought_back(first, end) + ID_BYTES
        copied += self._cut_off(first, end) + (self._sampling_bytes if has_output else 0)
        peak = self._peaks.of(chain, GraphInputs(0), (0, 0), batch)
        return (
            self._looked_up(first, end, PIPELINE_COPIES)
            + PIPELINE_COPIES * copied
            + int(peak * _PIPELINED_ROOM)
        )

    def moved_bytes(self, layers: Collection[int]) -> int:
        """Upper bound for a device that computes only the feed-forward networks or experts of `layers`."""
        chain = sorted({self._feeding(self._on_device[layer]) for layer in layers if layer < self._n_layers})
        if not chain:
            return 0
        batch = self._batch(self._flash, False)
        peak = self._peaks.of(chain, GraphInputs(self._profile.n_embd * self._row_bytes), (0, 0), batch)
        return self.visit_bytes + int(peak * _ROOM)

    @property
    def visit_bytes(self) -> int:
        """Bytes of the activations that a layer sends to another device and gets back."""
        return _VISITING_ROWS * self._profile.n_embd * self._row_bytes

    def host_bytes(self, n_layers: int, *, has_output: bool, pipelined: bool) -> int:
        """Upper bound for the host with the first `n_layers`; the host always makes embeddings and masks."""
        copies, stream = PIPELINE_COPIES if pipelined else 1, self._profile.n_embd * self._row_bytes
        end = min(n_layers, self._n_layers)
        chain = [self._on_host(number) for number in self._on_device[:end]] + ([OUTPUT] if has_output else [])
        later = any(self._at(index).attends for index in range(end, self._n_layers))
        flash = (self._flash or not later) and (self._insists or not self._leaves_attention(end))
        moved = copies * (sum(self._inputs(0, self._n_layers, flash)) + self._sent_here(end) + ID_BYTES)
        moved += (
            copies * self._index_bytes
            + (1 + copies) * stream
            + 2 * self._extra_inputs * self._row_bytes
            + 2 * self._n_added * stream
            + copies * self._sampling_bytes
        )
        if not chain:
            return moved
        return moved + int(
            self._peaks.of(chain, GraphInputs(stream), (0, 0), self._batch(flash, False)) * _ROOM
        )

    def _on_host(self, number: int) -> int:
        """The number of a layer's block if the host computes the layer."""
        block = self._blocks[number]
        return self._number(
            replace(block, cache_copy_bytes=0, attends_elsewhere=False, scans_elsewhere=False)
        )

    def _feeding(self, number: int) -> int:
        """The number of a block that has only the feed-forward network or experts of block `number`."""
        block = self._blocks[number]
        shapes = tuple(shape for shape in block.shapes if shape[0].startswith("ffn_"))
        return self._number(
            replace(block, shapes=shapes, k_width=0, v_width=0, state_bytes=0, cache_copy_bytes=0,
                    attends_elsewhere=False, scans_elsewhere=False)
        )  # fmt: skip

    def _sent_here(self, first: int) -> int:
        """Bytes on the host for operations that the devices of layers from `first` on have no kernel for."""
        n_bytes = 0
        for index in range(first, self._n_layers):
            block = self._at(index)
            if block.attends_elsewhere and block.attends:
                n_bytes += self._cache_bytes(index) + block.attention_width * self._row_bytes
            if block.scans_elsewhere:
                n_bytes += (2 * block.by_name["ssm_in"][1]) * self._row_bytes
                n_bytes += block.scan_state_bytes * self._context.parallel
        return n_bytes

    def _batch(self, flash: bool, pipelined: bool) -> MicroBatch:
        n_sequences = self._context.parallel
        return MicroBatch(self._n_tokens, n_sequences, self._n_outputs, flash, self._keeps_experts, pipelined)

    def _number(self, block: Block) -> int:
        if block not in self._numbers:
            self._numbers[block] = len(self._blocks)
            self._blocks.append(block)
        return self._numbers[block]

    def _block(self, layer: Layer, has_kernel: bool) -> Block:
        named = ((layer_of(tensor.name), tensor.shape) for tensor in layer.tensors)
        shapes = tuple(sorted((name[1].removesuffix(".weight"), shape) for name, shape in named if name))
        n_cells = self._cells[layer.sliding_window]
        block = Block(
            shapes=shapes,
            turns_k=self._turns[0],
            turns_v=self._turns[1] and layer.n_embd_v_gqa > 0,
            n_embd=self._profile.n_embd,
            n_head=self._profile.n_head,
            n_cells=n_cells,
            n_value_cells=0 if self._turned else n_cells * self._context.n_caches,
            k_width=layer.n_embd_k_gqa,
            v_width=layer.n_embd_v_gqa,
            state_bytes=layer.recurrent_state_bytes,
            n_expert_used=self._profile.n_expert_used,
            is_windowed=layer.sliding_window,
            keeps_past=self._profile.has_memory,
            cuts_rows=layer.index == self._n_layers - 1 and self._profile.rows_cut is RowsCut.IN_LAST_LAYER,
            cache_copy_bytes=0,
            attends_elsewhere=self._insists and not has_kernel,
            scans_elsewhere=not self._scans(dict(shapes)),
        )
        if self._flash and has_kernel and not F16_KINDS.isdisjoint(self._kinds):
            block = replace(
                block, cache_copy_bytes=copy_bytes(layer, self._context, n_cells * self._context.n_caches)
            )
        return block

    def _scans(self, shapes: dict[str, tuple[int, ...]]) -> bool:
        if "ssm_in" not in shapes or shapes["ssm_a"][0] != 1:
            return True
        inner, n_heads, n_groups = shapes["ssm_out"][0], shapes["ssm_a"][1], shapes.get("ssm_norm", (0, 1))[1]
        n_state = (shapes["ssm_conv1d"][1] - inner) // (2 * n_groups)
        return has_scan(self._kinds, n_state, inner // n_heads)

    def _start(self, first: int, end: int, n_host: int, has_output: bool) -> GraphInputs:
        """A device's first inputs without pipeline copies."""
        if first == n_host > 0:
            start = self._arrival(min(first, self._n_layers))
        else:
            stream = self._stream_bytes(first)
            handed_on = n_host > 0 and self._n_tokens >= _PINNED_TOKENS and first < self._n_layers
            after_experts = first > 0 and self._recurs(first) and self._at(first - 1).has_experts
            start = GraphInputs(stream, stream if handed_on else 0, states_first=after_experts)
        blocks = [self._blocks[number] for number in self._on_device[first:end]]
        picks_rows = end == self._n_layers and self._profile.rows_cut is not RowsCut.AFTER_NORM
        return replace(
            start,
            window_first=next((block.is_windowed for block in blocks if block.attends), False),
            has_ids=has_output or picks_rows or any(block.state_bytes for block in blocks),
        )

    def _arrival(self, first: int) -> GraphInputs:
        """Inputs of the device whose first layer `first` follows the host's last layer."""
        before = self._at(first - 1)
        cache_bytes = self._cache_bytes(first - 1) if self._leaves_attention(first) else 0
        sums_experts = self._recurs(first) and before.has_experts
        return GraphInputs(0, 0, self._on_device[first - 1], sums_experts, cache_bytes)

    def _recurs(self, index: int) -> bool:
        """Whether a layer is recurrent only: its states are looked up before the previous layer ends."""
        return index < self._n_layers and self._at(index).state_bytes > 0 and not self._at(index).attends

    def _leaves_attention(self, n_host: int) -> bool:
        """Whether the next layer's device computes the attention of the host's last layer."""
        if not 0 < n_host < self._n_layers or not self._recurs(n_host):
            return False
        before = self._at(n_host - 1)
        return before.attends and not before.state_bytes and not before.has_experts

    def _stream_bytes(self, first: int) -> int:
        """Bytes of the residual stream before layer `first`."""
        n_rows = self._n_tokens
        if first >= self._n_layers and self._profile.rows_cut is not RowsCut.AFTER_NORM:
            n_rows = self._n_outputs
        return self._profile.n_embd * n_rows * F32_BYTES

    def _inputs(self, first: int, end: int, flash: bool) -> tuple[int, int]:
        """Bytes of layers' inputs without the stream: for layers over all cells, for layers with a window.

        Inputs are a mask, positions, cells and the rotations of keys and values.
        """
        mask_bytes_per_cell = self._n_tokens * (F16_BYTES if flash else F32_BYTES)
        n_bytes = [0, 0]
        for number in set(self._on_device[first:end]):
            block = self._blocks[number]
            if block.attends:
                mask = 0 if block.attends_elsewhere else mask_bytes_per_cell * block.n_cells
                held = mask + self._index_bytes + self._rotation_bytes
                n_bytes[block.is_windowed] = max(n_bytes[block.is_windowed], held)
        for is_windowed, source in enumerate(self._last_stored if self._reuses else ()):
            reusing = any(
                layer.sliding_window == is_windowed and layer.attention_bytes and not layer.n_embd_k_gqa
                for layer in self._profile.layers[first:end]
            )
            if reusing and source >= 0 and not first <= source < end:
                n_bytes[is_windowed] += self._cache_bytes(source)
        return n_bytes[0], n_bytes[1]

    def _looked_up(self, first: int, end: int, copies: int) -> int:
        """Bytes of other inputs than the embedding that the host looks up for each token."""
        if first >= end:
            return 0
        wide = self._extra_inputs * self._row_bytes
        if first:
            return copies * wide
        return (copies + 3) * wide + copies * self._n_added * self._profile.n_embd * self._row_bytes

    def _cut_off(self, first: int, end: int) -> int:
        """Bytes of state-space layers' gates that are copied between this device and its neighbours.

        Two state-space layers on different devices may have neither attention nor experts between them.
        llama.cpp then looks up the states of the second before the first is done. The second layer's device
        makes the copy of the first layer's gate and sends it back.
        """
        n_bytes = 0
        for before, after in pairwise(self._anchors):
            shapes = self._at(before).by_name
            if "ssm_in" not in shapes or not (self._recurs(before) and self._recurs(after)):
                continue
            if self._at(before).has_experts or self._at(after).has_experts:
                continue
            if before < first <= after < end:
                n_bytes += shapes["ssm_in"][1] * self._row_bytes
            if first <= before < end <= after:
                n_bytes += shapes["ssm_out"][0] * self._row_bytes
        return n_bytes

    def _at(self, index: int) -> Block:
        return self._blocks[self._on_device[index]]

    def _cache_bytes(self, index: int) -> int:
        layer = self._profile.layers[index]
        n_cells = self._cells[layer.sliding_window] * self._context.n_caches
        return cell_bytes(layer, self._context) * n_cells

    def _brought_back(self, first: int, end: int) -> int:
        """Bytes of results that the host computes for layers first to end-1 and sends back."""
        n_bytes = 0
        for number in self._on_device[first:end]:
            block = self._blocks[number]
            if block.attends_elsewhere and block.attends:
                n_bytes += block.attention_width * self._row_bytes
            if block.scans_elsewhere:
                n_bytes += block.by_name["ssm_out"][0] * self._row_bytes
                n_bytes += block.scan_state_bytes * self._context.parallel
        return n_bytes


def _is_anchor(block: Block) -> bool:
    """Whether the layer has more than a dense feed-forward network."""
    return block.attends or block.has_experts or block.state_bytes > 0


def _sampling_bytes(context: Context, n_vocab: int, n_outputs: int) -> int:
    """Inputs of sampler chains: a number per draw, and biases of tokens."""
    if not context.backend_sampling or not n_vocab:
        return 0
    biases = 2 * F32_BYTES * min(MOST_BIASED, n_vocab)
    return context.parallel * (biases + ID_BYTES) + n_outputs * ID_BYTES
