"""A close upper estimate of compute buffers, from tensor shapes alone.

llama.cpp reserves a graph for a whole micro-batch. On each device the graph takes its inputs and the peak of
its layers' operations, which go through the same allocator (peak_memory.py). Inputs and the device of each
operation follow ggml_backend_sched_split_graph of ggml/src/ggml-backend.cpp (llama-cpp-python 0.3.36): a
device also takes operations next to its own that have no weights. With pipeline copies, each input has four
places of its own, which nothing else uses.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from vram_llm.machine.types import DeviceKind
from vram_llm.model.profile import ModelProfile
from vram_llm.model.rules import RowsCut
from vram_llm.model.tensors import Role, Tensor
from vram_llm.planner.memory.backend_kernels import FUSING_KINDS, LEAST_OFFLOADED_BATCH, OFFLOADING_KINDS
from vram_llm.planner.memory.block_table import BlockTable
from vram_llm.planner.memory.cache_shapes import last_stored
from vram_llm.planner.memory.layer_shapes import (
    EXPERTS,
    F16_BYTES,
    F32_BYTES,
    ID_BYTES,
    Block,
    End,
    MicroBatch,
)
from vram_llm.planner.memory.peak_memory import OUTPUT, GraphInputs, Peaks
from vram_llm.planner.types import MOST_BIASED, Context

PIPELINE_COPIES = 4  # GGML_SCHED_MAX_COPIES
PIPELINED_KINDS = frozenset(DeviceKind) - {DeviceKind.METAL}
"""Back ends with async compute and events (ggml_backend_dev_caps); there is only ever one Metal device."""

LEAST_COMPUTE_SHARE = 0.5
"""Lower bound: real compute / estimate when two or more devices hold layers."""

_INDEX_BYTES = 4 + 2 * 8  # per token: its position, its cells for K and V
_PINNED_TOKENS = 32  # from this size on, a layer's first norm may leave its device if layers are on the host

_ADDED = ("position_embd.", "token_types.")
_COPIES_OF_WEIGHTS = 2  # of a tensor of the host that have room on the device that computes with it
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
        self._table = table = BlockTable(profile, context, n_swa_cells, kinds)
        self._n_layers, self._n_tokens, self._blocks = table.n_layers, table.n_tokens, table.blocks
        self._on_device, self._at = table.on_device, table.at
        self._n_outputs = min(context.n_outputs, self._n_tokens)
        self._index_bytes = self._n_tokens * (
            _INDEX_BYTES + (8 * profile.n_embd_v_gqa_max if table.turned else 0)
        )
        self._keeps_experts = not FUSING_KINDS.isdisjoint(kinds)
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
        batch = self._batch(self._uses_flash(n_host), pipelined)
        key = (first, end, has_output, n_host > 0, n_host == first, batch.flash, pipelined)
        if key not in self._known:
            chain = self._on_device[first : min(end, self._n_layers)] + ([OUTPUT] if has_output else [])
            self._known[key] = self._device_bytes(first, chain, n_host, batch)
        return self._known[key]

    def moved_device_bytes(
        self, own: range, matrices: Mapping[int, Collection[str]], *, has_output: bool, n_host: int
    ) -> int:
        """Like `device_bytes` for layers `own`, if some `matrices` of them, named by layer, are elsewhere.

        The host or another device computes with these, so the device holds the products that come back and
        not those between.
        """
        chain = [*self._numbers_without(own, matrices), *([OUTPUT] if has_output else [])]
        return self._device_bytes(own.start, chain, n_host, self._batch(self._uses_flash(n_host), False))

    def mixes_experts(self, own: range, matrices: Mapping[int, Collection[str]]) -> bool:
        """Whether experts of some of the layers `own`, or a part of them, are among `matrices`, and not all.

        Results that come back then leave holes in a buffer, of a size that depends on the layers before. Up
        to `visit_bytes` more are needed.
        """
        blocks = [self._blocks[number] for number in self._numbers_without(own, matrices)]
        stay = {
            part not in block.parts_elsewhere for block in blocks for part in EXPERTS if part in block.by_name
        }
        return len(stay) > 1

    def _numbers_without(self, own: range, matrices: Mapping[int, Collection[str]]) -> list[int]:
        """The numbers of the blocks of layers `own`, without `matrices`."""
        return [
            self._table.without(self._on_device[i], matrices[i]) if i in matrices else self._on_device[i]
            for i in own
            if i < self._n_layers
        ]

    def _device_bytes(self, first: int, chain: list[int], n_host: int, batch: MicroBatch) -> int:
        """Bytes for a `chain` of blocks that begins with layer `first`."""
        if not chain:
            return 0
        has_output = chain[-1] == OUTPUT
        end = first + len(chain) - has_output
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
        chain = sorted(
            {self._table.feeding(self._on_device[layer]) for layer in layers if layer < self._n_layers}
        )
        if not chain:
            return 0
        batch = self._batch(self._table.flash, False)
        peak = self._peaks.of(chain, GraphInputs(self._profile.n_embd * self._row_bytes), (0, 0), batch)
        return self.visit_bytes + int(peak * _ROOM)

    def offloaded_bytes(
        self, n_host: int, moved: Mapping[int, Collection[Tensor]], own: range, *, has_output: bool
    ) -> int:
        """Upper bound for the device with layers `own` if it computes prompts with the host's weights.

        These are all weights of the first `n_host` layers, and those of `moved` by layer. Each tensor is
        copied whole before its operation (ggml_backend_sched_split_graph starts a split there), also of
        experts that no token uses. A second one has room as well: small results that stay break the hole
        that a first copy leaves. A layer's KV cache on the host is copied too.
        """
        table, layers = self._table, self._profile.layers[: self._n_layers]
        hosted = [table.with_cache_from_host(i) for i in range(min(n_host, len(layers)))]
        here = [self._on_device[i] for i in own if i < self._n_layers]
        others = {table.feeding(self._on_device[i]) for i in moved if i < self._n_layers and i not in own}
        chain = [*hosted, *here, *([OUTPUT] if has_output else []), *sorted(others)]
        copied = (*(layer.tensors for layer in layers[:n_host]), *moved.values())
        largest = max((tensor.n_bytes for tensors in copied for tensor in tensors), default=0)
        batch, masks = self._batch(table.flash, False), self._inputs(0, self._n_layers, table.flash)
        start = GraphInputs(self._profile.n_embd * self._row_bytes, masks_late=True)
        peak = self._peaks.of(chain, start, masks, batch)
        return self.visit_bytes + ID_BYTES + _COPIES_OF_WEIGHTS * largest + int(peak * _ROOM)

    @property
    def n_tokens(self) -> int:
        """Tokens of a micro-batch."""
        return self._n_tokens

    def offloads(self, kind: DeviceKind) -> bool:
        """Whether a device of `kind` takes over the operations of a prompt with weights on the host."""
        is_wanted = self._context.op_offload and self._n_tokens >= LEAST_OFFLOADED_BATCH
        return is_wanted and kind in OFFLOADING_KINDS

    @property
    def visit_bytes(self) -> int:
        """Bytes of the activations that a layer sends to another device and gets back."""
        return _VISITING_ROWS * self._profile.n_embd * self._row_bytes

    def host_bytes(
        self, n_layers: int, *, has_output: bool, pipelined: bool, moved: Collection[int] = ()
    ) -> int:
        """Upper bound for the host with the first `n_layers`, and with parts of the layers `moved`.

        The host always makes embeddings and masks.
        """
        copies, stream = PIPELINE_COPIES if pipelined else 1, self._profile.n_embd * self._row_bytes
        table, end = self._table, min(n_layers, self._n_layers)
        chain = [table.on_host(number) for number in self._on_device[:end]]
        chain += [OUTPUT] if has_output else []
        later = any(self._at(index).attends for index in range(end, self._n_layers))
        flash = (table.flash or not later) and (table.insists or not self._leaves_attention(end))
        inputs = copies * (sum(self._inputs(0, self._n_layers, flash)) + self._sent_here(end) + ID_BYTES)
        inputs += (
            copies * self._index_bytes
            + (1 + copies) * stream
            + 2 * self._extra_inputs * self._row_bytes
            + 2 * self._n_added * stream
            + copies * self._sampling_bytes
        )
        attending = []
        if not self._context.kv_offload and not flash:  # the host computes attention of all layers
            numbers = sorted({table.attending(number) for number in self._on_device[end:]})
            attending = [number for number in numbers if self._blocks[number].attends]
        peaks = (
            self._peak(chain, stream, flash),
            self._peak(attending, stream, flash),
            self.moved_bytes(moved),
        )
        return inputs + max(peaks)

    def _peak(self, chain: Sequence[int], stream_bytes: int, flash: bool) -> int:
        """Bytes of the activations of a run of blocks on the host."""
        if not chain:
            return 0
        batch = self._batch(flash, False)
        return int(self._peaks.of(chain, GraphInputs(stream_bytes), (0, 0), batch) * _ROOM)

    def _sent_here(self, first: int) -> int:
        """Bytes on the host for layers from `first` on: operations without a kernel, and new states."""
        n_bytes = sent_back = 0
        for index in range(first, self._n_layers):
            block = self._at(index)
            if block.attends_elsewhere and block.attends and self._context.kv_offload:
                n_bytes += self._table.cache_bytes(index) + block.attention_width * self._row_bytes
            sent_back = max(sent_back, block.states_from_host_bytes)
            if block.scans_elsewhere:
                n_bytes += (2 * block.by_name["ssm_in"][1]) * self._row_bytes
                n_bytes += block.scan_state_bytes * self._context.parallel
        return n_bytes + sent_back

    def _batch(self, flash: bool, pipelined: bool) -> MicroBatch:
        n_sequences = self._context.parallel
        return MicroBatch(self._n_tokens, n_sequences, self._n_outputs, flash, self._keeps_experts, pipelined)

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
            masks_late=any(block.cache_from_host for block in blocks),
        )

    def _arrival(self, first: int) -> GraphInputs:
        """Inputs of the device whose first layer `first` follows the host's last layer."""
        before = self._at(first - 1)
        cache_bytes = self._table.cache_bytes(first - 1) if self._leaves_attention(first) else 0
        sums_experts = self._recurs(first) and before.has_experts
        return GraphInputs(0, 0, self._on_device[first - 1], sums_experts, cache_bytes)

    def _recurs(self, index: int) -> bool:
        """Whether a layer is recurrent only: its states are looked up before the previous layer ends."""
        return index < self._n_layers and self._at(index).state_bytes > 0 and not self._at(index).attends

    def _uses_flash(self, n_host: int) -> bool:
        """Whether attention is flash attention with `n_host` layers on the host."""
        return self._table.flash and (self._table.insists or not self._leaves_attention(n_host))

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
                held = mask + self._index_bytes + self._table.rotation_bytes
                n_bytes[block.is_windowed] = max(n_bytes[block.is_windowed], held)
        for is_windowed, source in enumerate(self._last_stored if self._reuses else ()):
            reusing = any(
                layer.sliding_window == is_windowed and layer.attention_bytes and not layer.n_embd_k_gqa
                for layer in self._profile.layers[first:end]
            )
            if reusing and source >= 0 and not first <= source < end:
                n_bytes[is_windowed] += self._table.cache_bytes(source)
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
