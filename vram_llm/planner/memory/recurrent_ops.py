"""The operations of a recurrent layer in llama.cpp's graph.

Source: build_mamba_layer and build_mamba2_layer (src/models/mamba-base.cpp) and build_delta_net
(delta-net-base.cpp) of llama-cpp-python 0.3.36.
"""

from collections.abc import Mapping

from vram_llm.planner.memory.graph_allocator import AllocationGraph
from vram_llm.planner.memory.graph_ops import GraphOperations
from vram_llm.planner.memory.layer_shapes import F32_BYTES, GraphLayer, MicroBatch, OperationOrder


class RecurrentOperations(GraphOperations):
    """Adds the operations of recurrence."""

    def __init__(self, graph: AllocationGraph, batch: MicroBatch, order: OperationOrder) -> None:
        super().__init__(graph, batch, order)
        self._states: int | None = None  # states of a convolution, if they are read and not used yet

    def look_up_states(self, layer: GraphLayer) -> None:
        """Add the read of the states of a layer's convolution, if it has one and they are not read yet."""
        shape = layer.by_name.get("ssm_conv1d")
        if shape and layer.state_bytes and self._states is None:
            self._states = self._add(shape[1], (shape[0] - 1) * self._batch.n_sequences)

    def _recurrent(self, layer: GraphLayer, widths: Mapping[str, int], normed: int) -> int:
        n, n_embd = self._batch.n_tokens, layer.n_embd
        if layer.states_from_host_bytes:  # all states, then those of the batch's sequences
            copied = self._graph.add(layer.states_from_host_bytes)
            self._graph.add(layer.states_from_host_bytes, copied)
        if "shortconv.in_proj" in widths:
            whole = self._add(3 * n_embd, n, normed)
            gated = self._add(n_embd, n, whole)
            filtered = self._window(n_embd, gated, layer.by_name["shortconv.conv"][0])
            gated = self._add(n_embd, n, filtered, whole, in_place=1)
            return self._add(n_embd, n, gated)
        if "ssm_in" in widths:
            return self._scan(layer, widths, normed)
        if "ssm_conv1d" in widths and "attn_qkv" in widths:
            return self._linear_attention(layer, widths, normed)
        states = 2 * layer.state_bytes * self._batch.n_sequences
        every = sum(width for part, width in widths.items() if not part.startswith(("ffn_", "channel_mix_")))
        return self._add(n_embd, n, self._graph.add(every * n * F32_BYTES + states, normed))

    def _window(self, width: int, source: int, kernel: int) -> int:
        """Add a convolution over the stored states and the new tokens of each sequence."""
        n_before = (kernel - 1) * self._batch.n_sequences
        sources = [source] if self._states is None else [source, self._states]
        self._states = None
        window = self._add(width, self._batch.n_tokens + n_before, *sources)
        return self._add(width, self._batch.n_tokens, window)

    def _scan(self, layer: GraphLayer, widths: Mapping[str, int], normed: int) -> int:
        """Add the operations of Mamba 1 or Mamba 2."""
        shapes, n = layer.by_name, self._batch.n_tokens
        inner, (kernel, mixed) = shapes["ssm_out"][0], shapes["ssm_conv1d"][:2]
        states = layer.scan_state_bytes * self._batch.n_sequences
        whole = self._add(widths["ssm_in"], n, normed)
        filtered = self._window(mixed, whole, kernel)
        sources = [filtered]
        if "ssm_x" in widths:
            parameters = self._add(widths["ssm_x"], n, filtered)
            sources += [parameters, self._add(inner, n, parameters)]
        if layer.scan_on_host:  # two views of the result come back
            scanned = self._computed_elsewhere(inner * n * F32_BYTES, *sources)
            self._graph.add(0, self._computed_elsewhere(states))
        else:
            scanned = self._graph.add(inner * n * F32_BYTES + states, *sources)
        gate = self._add(inner, n, whole)
        direct = self._add(inner, n, filtered)
        result = self._add(inner, n, direct, scanned, in_place=1)
        result = self._add(inner, n, gate, result)
        if "ssm_norm" in widths:
            result = self._add(inner, n, result, in_place=int(self._order.norms_in_place))
        return self._add(layer.n_embd, n, result)

    def _linear_attention(self, layer: GraphLayer, widths: Mapping[str, int], normed: int) -> int:
        """Add the operations of a gated delta net."""
        shapes, n, mixed = layer.by_name, self._batch.n_tokens, widths["attn_qkv"]
        inner, kernel = shapes["ssm_out"][0], shapes["ssm_conv1d"][0]
        states = layer.scan_state_bytes * self._batch.n_sequences
        whole = self._add(mixed, n, normed)
        filtered = self._window(mixed, whole, kernel)
        state = self._graph.add(states)
        query = self._add(inner, n, self._add((mixed - inner) // 2, n, filtered))
        key = self._add(inner, n, self._add((mixed - inner) // 2, n, filtered))
        result = self._graph.add(inner * n * F32_BYTES + states, query, key, filtered, state)
        summed = self._add(inner, n, result)
        gate = self._add(inner, n, self._add(inner, n, normed))
        result = self._add(inner, n, summed, gate, in_place=1)
        return self._add(layer.n_embd, n, result)
