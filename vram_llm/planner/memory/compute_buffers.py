"""A close upper bound of compute buffers, from tensor shapes alone.

llama.cpp reserves a graph for a whole micro-batch. On each device the graph takes its inputs and the peak of
its layers' operations, with the rules of ggml's allocator (peak_memory.py). Inputs and the device of each
operation follow ggml_backend_sched_split_graph of ggml/src/ggml-backend.cpp (llama-cpp-python 0.3.36): a
device also computes operations without weights next to its own. With pipeline copies, each input has four
buffers of its own.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

from vram_llm.machine.types import DeviceKind
from vram_llm.model.profile import ModelProfile
from vram_llm.model.rules import RowsCut
from vram_llm.model.tensors import Role, Tensor
from vram_llm.planner.memory.backend_kernels import EXPERT_FUSING_KINDS, MIN_OFFLOADED_BATCH, OFFLOADING_KINDS
from vram_llm.planner.memory.cache_shapes import last_stored
from vram_llm.planner.memory.layer_shapes import (
    EXPERTS,
    F16_BYTES,
    F32_BYTES,
    ID_BYTES,
    GraphLayer,
    MicroBatch,
    OutputShape,
)
from vram_llm.planner.memory.layer_table import LayerTable
from vram_llm.planner.memory.peak_memory import OUTPUT, PeakMemory
from vram_llm.planner.memory.window_peak import GraphInputs
from vram_llm.planner.types import MOST_BIASED, Context

PIPELINE_COPIES = 4  # GGML_SCHED_MAX_COPIES
PIPELINED_KINDS = frozenset(DeviceKind) - {DeviceKind.METAL}
"""Kinds with async compute and events (ggml_backend_dev_caps). There is never more than one Metal device."""

MIN_COMPUTE_SHARE = 0.5
"""The smallest real compute as a share of the bound, if two or more devices have layers."""

_INDEX_BYTES = 4 + 2 * 8  # for each token: its position, its cells for K and V
_MIN_MOVED_NORM_TOKENS = (
    32  # with layers on the host, larger batches may compute a first norm on another device
)

_ADDED = ("position_embd.", "token_types.")  # embeddings that are added to the token's
_OFFLOADED_COPIES = 2  # of a tensor of the host on the device that computes with it
_ROUND_TRIP_ROWS = 3  # for each token: a layer's input, its weighted experts, their sum
_HOLES, _PIPELINED_HOLES = 1.075, 1.01
"""Factors for holes that appear only after many layers; with pipeline copies, inputs leave no holes."""


class ComputeBound:
    """Upper bounds of compute buffers for runs of a model's layers, in bytes.

    Methods: one for each part of a buffer (inputs, masks, runs, copies), over the same shapes.
    """

    def __init__(
        self, profile: ModelProfile, context: Context, n_swa_cells: int, kinds: Collection[DeviceKind]
    ) -> None:
        """`n_swa_cells` is 0 if no layer has a window; `kinds` are the kinds of all devices."""
        self._profile = profile
        self._context = context
        self._table = table = LayerTable(profile, context, n_swa_cells, kinds)
        self._n_layers, self._n_tokens, self._layers = table.n_layers, table.n_tokens, table.graph_layers
        self._on_device, self._at = table.on_device, table.at
        self._n_outputs = min(context.n_outputs, self._n_tokens)
        self._index_bytes = self._n_tokens * (
            _INDEX_BYTES + (8 * profile.n_embd_v_gqa_max if table.is_v_transposed else 0)
        )
        self._keeps_experts = not EXPERT_FUSING_KINDS.isdisjoint(kinds)
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
        output = OutputShape(profile.n_embd, n_vocab, profile.rows_cut, self._sampling_bytes)
        self._cache: dict[tuple[int | bool, ...], int] = {}
        self._peaks = PeakMemory(self._layers, output, is_hybrid=is_hybrid)

    def device_bytes(self, first: int, end: int, *, has_output: bool, n_host: int, pipelined: bool) -> int:
        """Upper bound for a device with layers first to end-1, with or without the output.

        The first `n_host` layers are on the host.
        """
        batch = self._batch(self._uses_flash(n_host), pipelined)
        key = (first, end, has_output, n_host > 0, n_host == first, batch.flash, pipelined)
        if key not in self._cache:
            run = self._on_device[first : min(end, self._n_layers)] + ([OUTPUT] if has_output else [])
            self._cache[key] = self._device_bytes(first, run, n_host, batch)
        return self._cache[key]

    def moved_device_bytes(
        self, own: range, matrices: Mapping[int, Collection[str]], *, has_output: bool, n_host: int
    ) -> int:
        """`device_bytes` for layers `own`, if `matrices` of them are on the host or on another device.

        `matrices` are names, by layer. The other device computes with them, so this device has their last
        products and no intermediate ones.
        """
        run = [*self._numbers_without(own, matrices), *([OUTPUT] if has_output else [])]
        return self._device_bytes(own.start, run, n_host, self._batch(self._uses_flash(n_host), False))

    def mixes_experts(self, own: range, matrices: Mapping[int, Collection[str]]) -> bool:
        """Whether some expert tensors of layers `own` are among `matrices`, and others are not.

        Then results of other devices leave holes in a buffer, whose size depends on the previous layers. The
        buffer needs up to `round_trip_bytes` more.
        """
        graph_layers = [self._layers[number] for number in self._numbers_without(own, matrices)]
        is_here = {
            part not in layer.moved_matrices
            for layer in graph_layers
            for part in EXPERTS
            if part in layer.by_name
        }
        return len(is_here) > 1

    def _numbers_without(self, own: range, matrices: Mapping[int, Collection[str]]) -> list[int]:
        """The numbers of the graph layers of layers `own`, without `matrices`."""
        return [
            self._table.without_matrices(self._on_device[i], matrices[i])
            if i in matrices
            else self._on_device[i]
            for i in own
            if i < self._n_layers
        ]

    def _device_bytes(self, first: int, run: list[int], n_host: int, batch: MicroBatch) -> int:
        """Upper bound for a `run` of graph layers that begins with layer `first`."""
        if not run:
            return 0
        has_output = run[-1] == OUTPUT
        end = first + len(run) - has_output
        inputs = self._inputs(first, end, batch.flash)
        if not batch.pipelined:
            start = self._first_inputs(first, end, n_host, has_output)
            states_next = not has_output and self._is_recurrent_only(end) and self._at(end - 1).has_experts
            peak = self._peaks.peak_bytes(run, start, inputs, batch, states_next=states_next)
            return self._lookup_bytes(first, end, 1) + ID_BYTES + int(peak * _HOLES)
        copied = sum(inputs) + self._stream_bytes(first) + self._returned_bytes(first, end) + ID_BYTES
        copied += self._gate_copy_bytes(first, end) + (self._sampling_bytes if has_output else 0)
        peak = self._peaks.peak_bytes(run, GraphInputs(0), (0, 0), batch)
        return (
            self._lookup_bytes(first, end, PIPELINE_COPIES)
            + PIPELINE_COPIES * copied
            + int(peak * _PIPELINED_HOLES)
        )

    def moved_bytes(self, layers: Collection[int]) -> int:
        """Upper bound for a device that computes the feed-forward networks or experts of `layers` alone."""
        numbers = [self._on_device[i] for i in layers if i < self._n_layers]
        run = sorted({self._table.feed_forward_only(number) for number in numbers})
        if not run:
            return 0
        batch = self._batch(self._table.flash, False)
        peak = self._peaks.peak_bytes(run, GraphInputs(self._profile.n_embd * self._row_bytes), (0, 0), batch)
        return self.round_trip_bytes + int(peak * _HOLES)

    def offloaded_bytes(
        self, n_host: int, moved: Mapping[int, Collection[Tensor]], own: range, *, has_output: bool
    ) -> int:
        """Upper bound for the device with layers `own` if it computes prompts with the host's weights.

        These are all weights of the first `n_host` layers, and the tensors `moved`, by layer. Each tensor is
        copied as a whole before its operation, with the experts that no token uses
        (ggml_backend_sched_split_graph starts a split there). The buffer has two copies of the largest
        tensor, because small results that are kept divide the hole of a freed copy. A layer's KV cache on the
        host is copied too.
        """
        table, layers = self._table, self._profile.layers[: self._n_layers]
        of_host = [table.with_cache_from_host(i) for i in range(min(n_host, len(layers)))]
        of_device = [self._on_device[i] for i in own if i < self._n_layers]
        of_others = {
            table.feed_forward_only(self._on_device[i]) for i in moved if i < self._n_layers and i not in own
        }
        run = [*of_host, *of_device, *([OUTPUT] if has_output else []), *sorted(of_others)]
        copied = (*(layer.tensors for layer in layers[:n_host]), *moved.values())
        largest = max((tensor.n_bytes for tensors in copied for tensor in tensors), default=0)
        batch, masks = self._batch(table.flash, False), self._inputs(0, self._n_layers, table.flash)
        start = GraphInputs(self._profile.n_embd * self._row_bytes, masks_late=True)
        peak = self._peaks.peak_bytes(run, start, masks, batch)
        return self.round_trip_bytes + ID_BYTES + _OFFLOADED_COPIES * largest + int(peak * _HOLES)

    @property
    def n_tokens(self) -> int:
        """The number of tokens of a micro-batch."""
        return self._n_tokens

    def offloads(self, kind: DeviceKind) -> bool:
        """Whether a device of `kind` takes over the operations of a prompt with weights on the host."""
        is_enabled = self._context.op_offload and self._n_tokens >= MIN_OFFLOADED_BATCH
        return is_enabled and kind in OFFLOADING_KINDS

    @property
    def round_trip_bytes(self) -> int:
        """Bytes of the activations that go to another device and back, for one layer."""
        return _ROUND_TRIP_ROWS * self._profile.n_embd * self._row_bytes

    def host_bytes(
        self, n_layers: int, *, has_output: bool, pipelined: bool, moved: Collection[int] = ()
    ) -> int:
        """Upper bound for the host with the first `n_layers`, and with weights of the layers `moved`.

        The host always computes embeddings and masks.
        """
        copies, stream = PIPELINE_COPIES if pipelined else 1, self._profile.n_embd * self._row_bytes
        table, end = self._table, min(n_layers, self._n_layers)
        run = [table.on_host(number) for number in self._on_device[:end]]
        run += [OUTPUT] if has_output else []
        has_attention_later = any(self._at(index).has_attention for index in range(end, self._n_layers))
        uses_flash = table.flash or not has_attention_later
        flash = uses_flash and (table.forces_flash or not self._leaves_host_attention(end))
        inputs = copies * (sum(self._inputs(0, self._n_layers, flash)) + self._host_op_bytes(end) + ID_BYTES)
        inputs += (
            copies * self._index_bytes
            + (1 + copies) * stream
            + 2 * self._extra_inputs * self._row_bytes
            + 2 * self._n_added * stream
            + copies * self._sampling_bytes
        )
        attention_run = []
        if not self._context.kv_offload and not flash:  # the host computes attention of all layers
            numbers = sorted({table.attention_only(number) for number in self._on_device[end:]})
            attention_run = [number for number in numbers if self._layers[number].has_attention]
        peaks = (
            self._peak(run, stream, flash),
            self._peak(attention_run, stream, flash),
            self.moved_bytes(moved),
        )
        return inputs + max(peaks)

    def _peak(self, run: Sequence[int], stream_bytes: int, flash: bool) -> int:
        """Bytes of the activations of a run of graph layers on the host."""
        if not run:
            return 0
        batch = self._batch(flash, False)
        return int(self._peaks.peak_bytes(run, GraphInputs(stream_bytes), (0, 0), batch) * _HOLES)

    def _host_op_bytes(self, first: int) -> int:
        """Bytes on the host for operations of layers from `first` on without a kernel, and for new states."""
        n_bytes = state_bytes = 0
        for index in range(first, self._n_layers):
            layer = self._at(index)
            if layer.attention_on_host and layer.has_attention and self._context.kv_offload:
                n_bytes += self._table.cache_bytes(index) + layer.attention_width * self._row_bytes
            state_bytes = max(state_bytes, layer.states_from_host_bytes)
            if layer.scan_on_host:
                n_bytes += (2 * layer.by_name["ssm_in"][1]) * self._row_bytes
                n_bytes += layer.scan_state_bytes * self._context.parallel
        return n_bytes + state_bytes

    def _batch(self, flash: bool, pipelined: bool) -> MicroBatch:
        n_sequences = self._context.parallel
        return MicroBatch(self._n_tokens, n_sequences, self._n_outputs, flash, self._keeps_experts, pipelined)

    def _first_inputs(self, first: int, end: int, n_host: int, has_output: bool) -> GraphInputs:
        """The inputs of a device's first operations, without pipeline copies."""
        if first == n_host > 0:
            start = self._inputs_after_host(min(first, self._n_layers))
        else:
            stream = self._stream_bytes(first)
            is_normed = n_host > 0 and self._n_tokens >= _MIN_MOVED_NORM_TOKENS and first < self._n_layers
            after_experts = first > 0 and self._is_recurrent_only(first) and self._at(first - 1).has_experts
            start = GraphInputs(stream, stream if is_normed else 0, states_first=after_experts)
        graph_layers = [self._layers[number] for number in self._on_device[first:end]]
        selects_rows = end == self._n_layers and self._profile.rows_cut is not RowsCut.AFTER_NORM
        return start._replace(
            window_first=next((layer.is_windowed for layer in graph_layers if layer.has_attention), False),
            has_ids=has_output or selects_rows or any(layer.state_bytes for layer in graph_layers),
            masks_late=any(layer.cache_from_host for layer in graph_layers),
        )

    def _inputs_after_host(self, first: int) -> GraphInputs:
        """The inputs of the device whose first layer `first` follows the host's last layer."""
        cache_bytes = self._table.cache_bytes(first - 1) if self._leaves_host_attention(first) else 0
        sums_experts = self._is_recurrent_only(first) and self._at(first - 1).has_experts
        return GraphInputs(0, 0, self._at(first - 1), sums_experts, cache_bytes)

    def _is_recurrent_only(self, index: int) -> bool:
        """Whether layer `index` is recurrent and has no attention: its states are read early."""
        return index < self._n_layers and self._at(index).is_recurrent_only

    def _uses_flash(self, n_host: int) -> bool:
        """Whether attention is flash attention if `n_host` layers are on the host."""
        return self._table.flash and (self._table.forces_flash or not self._leaves_host_attention(n_host))

    def _leaves_host_attention(self, n_host: int) -> bool:
        """Whether the next layer's device computes the attention of the host's last layer."""
        if not 0 < n_host < self._n_layers or not self._is_recurrent_only(n_host):
            return False
        last = self._at(n_host - 1)
        return last.has_attention and not last.state_bytes and not last.has_experts

    def _stream_bytes(self, first: int) -> int:
        """Bytes of the residual stream before layer `first`."""
        n_rows = self._n_tokens
        if first >= self._n_layers and self._profile.rows_cut is not RowsCut.AFTER_NORM:
            n_rows = self._n_outputs
        return self._profile.n_embd * n_rows * F32_BYTES

    def _inputs(self, first: int, end: int, flash: bool) -> tuple[int, int]:
        """Bytes of layers' inputs without the residual stream, for layers without a window and with one.

        Inputs are a mask, positions, cells and the rotations of keys and values.
        """
        mask_bytes_per_cell = self._n_tokens * (F16_BYTES if flash else F32_BYTES)
        n_bytes = [0, 0]
        for number in set(self._on_device[first:end]):
            layer = self._layers[number]
            if layer.has_attention:
                mask = 0 if layer.attention_on_host else mask_bytes_per_cell * layer.n_cells
                inputs = mask + self._index_bytes + self._table.rotation_bytes
                n_bytes[layer.is_windowed] = max(n_bytes[layer.is_windowed], inputs)
        for is_windowed, source in enumerate(self._last_stored if self._reuses else ()):
            is_reused = any(
                layer.sliding_window == is_windowed and layer.attention_bytes and not layer.n_embd_k_gqa
                for layer in self._profile.layers[first:end]
            )
            if is_reused and source >= 0 and not first <= source < end:
                n_bytes[is_windowed] += self._table.cache_bytes(source)
        return n_bytes[0], n_bytes[1]

    def _lookup_bytes(self, first: int, end: int, copies: int) -> int:
        """Bytes of inputs that the host looks up for each token, in addition to the embedding."""
        if first >= end:
            return 0
        extra_bytes = self._extra_inputs * self._row_bytes
        if first:
            return copies * extra_bytes
        added_bytes = self._n_added * self._profile.n_embd * self._row_bytes
        return (copies + 3) * extra_bytes + copies * added_bytes

    def _gate_copy_bytes(self, first: int, end: int) -> int:
        """Bytes of the gates of state-space layers that are copied between this device and its neighbours.

        If there are no attention and no experts between state-space layers on two devices, llama.cpp reads
        the states of the second layer before the first layer ends. The second layer's device copies the gate
        of the first layer and sends it back.
        """
        n_bytes = 0
        for before, after in pairwise(self._anchors):
            shapes = self._at(before).by_name
            if "ssm_in" not in shapes or not (
                self._is_recurrent_only(before) and self._is_recurrent_only(after)
            ):
                continue
            if self._at(before).has_experts or self._at(after).has_experts:
                continue
            if before < first <= after < end:
                n_bytes += shapes["ssm_in"][1] * self._row_bytes
            if first <= before < end <= after:
                n_bytes += shapes["ssm_out"][0] * self._row_bytes
        return n_bytes

    def _returned_bytes(self, first: int, end: int) -> int:
        """Bytes of the results that the host computes for layers first to end-1 and sends to their device."""
        n_bytes = 0
        for number in self._on_device[first:end]:
            layer = self._layers[number]
            if layer.attention_on_host and layer.has_attention:
                n_bytes += layer.attention_width * self._row_bytes
            if layer.scan_on_host:
                n_bytes += layer.by_name["ssm_out"][0] * self._row_bytes
                n_bytes += layer.scan_state_bytes * self._context.parallel
        return n_bytes


def _is_anchor(layer: GraphLayer) -> bool:
    """Whether the layer has more than a dense feed-forward network."""
    return layer.has_attention or layer.has_experts or layer.state_bytes > 0


def _sampling_bytes(context: Context, n_vocab: int, n_outputs: int) -> int:
    """Bytes of the inputs of sampler chains: a random number for each row, and biases of tokens."""
    if not context.backend_sampling or not n_vocab:
        return 0
    biases = 2 * F32_BYTES * min(MOST_BIASED, n_vocab)
    return context.parallel * (biases + ID_BYTES) + n_outputs * ID_BYTES
