"""The operations of a layer in llama.cpp's graph.

Their order and their sources follow build_attn, build_ffn and build_moe_ffn (src/llama-graph.cpp of
llama-cpp-python 0.3.36). Activations are f32. Results of a few bytes for each token are left out.
"""

from collections.abc import Mapping

from vram_llm.model.rules import RowsCut
from vram_llm.planner.memory.backend_kernels import MAX_FUSED_EXPERTS
from vram_llm.planner.memory.graph_allocator import AllocationGraph
from vram_llm.planner.memory.layer_shapes import (
    DOWN,
    EXPERTS,
    F16_BYTES,
    F32_BYTES,
    ID_BYTES,
    GraphLayer,
    MicroBatch,
    OperationOrder,
    OutputShape,
)
from vram_llm.planner.memory.recurrent_ops import RecurrentOperations

_RESHAPED = frozenset({"shortconv.out_proj", "attn_qkv"})  # with one of these, the result is a view


class Operations(RecurrentOperations):
    """Adds the operations of layers to a graph.

    Methods: one for each kind of layer that llama.cpp builds, all on the same graph and look-ahead.
    """

    def __init__(self, graph: AllocationGraph, batch: MicroBatch, order: OperationOrder) -> None:
        super().__init__(graph, batch, order)
        self.mask_bytes = (0, 0)  # of the mask over all cells, and of the mask over the window's cells
        self._masks: dict[bool, int] = {}  # values of the masks; True: over the window's cells

    def layer(
        self, layer: GraphLayer, stream: int, normed: int | None = None, next_layer: GraphLayer | None = None
    ) -> int:
        """Add a layer that reads the residual stream `stream`, and return the stream after the layer.

        `normed` is the stream after the layer's first norm, if the previous device has computed it.
        `next_layer` is the next layer on this device.
        """
        widths, n_rows = layer.widths, self._batch.n_tokens
        self.look_up_states(layer)
        post_norms = any(part == "attn_output_norm" for part, _ in layer.shapes)
        if post_norms:
            normed = stream
        elif normed is None:
            normed = self._add(layer.n_embd, n_rows, stream)
        mixed = []
        if layer.has_attention:
            mixed.append(self._attention(layer, widths, normed))
        if layer.state_bytes:
            if mixed:
                normed = self._add(layer.n_embd, n_rows, stream)
            mixed.append(self._recurrent(layer, widths, normed))
        if len(mixed) == 2:
            mixed = [self._add(layer.n_embd, n_rows, *mixed, in_place=1)]
        if layer.selects_output_rows:
            n_rows = min(n_rows, self._batch.n_outputs)
            mixed = [self._add(layer.n_embd, n_rows, value) for value in mixed]
            stream = self._add(layer.n_embd, n_rows, stream)
        if mixed:
            stream = self._add_to_stream(layer, n_rows, mixed[0], stream)
        if not layer.has_feed_forward:
            return stream
        if post_norms:
            normed = stream = self._add(layer.n_embd, n_rows, stream)
        elif mixed or layer.selects_output_rows:
            normed = self._add(layer.n_embd, n_rows, stream)
        fed = self._feed_forward(layer, widths, normed, n_rows, next_layer)
        stream = self._add(layer.n_embd, n_rows, fed, stream, in_place=2)
        return self._add(layer.n_embd, n_rows, stream) if post_norms else stream

    def mask(self, is_windowed: bool) -> int:
        """The value of a mask, which the first call adds."""
        if is_windowed not in self._masks:
            self._masks[is_windowed] = self._graph.add(self.mask_bytes[is_windowed])
        return self._masks[is_windowed]

    def inputs_from_host(
        self, layer: GraphLayer, *, sums_experts: bool, next_layer: GraphLayer | None = None
    ) -> list[int]:
        """Add the inputs from the host's last layer; this device computes that layer's last operations.

        These have no weights. With `sums_experts` the device adds up the routed experts although a shared
        expert follows, and it reads the states of `next_layer` before the host computes the shared expert.
        """
        n_rows = self._rows_after(layer)
        parts = [part for part, _ in layer.shapes if part in DOWN]
        if "ffn_down_exps" in parts and (sums_experts or len(parts) == 1):
            outputs = self._add(layer.n_expert_used * layer.n_embd, n_rows)
            weights = self._add(layer.n_expert_used, n_rows)
            values = [outputs, weights]
            if len(parts) > 1:
                self._graph.add(ID_BYTES)
                values = [self._weighted(layer, outputs, weights, n_rows)]
                if next_layer:
                    self.look_up_states(next_layer)
            return [*values, *(self._add(layer.n_embd, n_rows) for _ in parts)]
        return [self._add(layer.n_embd, n_rows) for _ in range(max(len(parts), 1) + 1)]

    def finish_host_layer(self, layer: GraphLayer, values: list[int], next_layer: GraphLayer | None) -> int:
        """Add the last operations of the host's last layer, and return the residual stream after it.

        `values` are the inputs from the host (`inputs_from_host`).
        """
        if [part for part, _ in layer.shapes if part in DOWN] == ["ffn_down_exps"]:
            values = [self._weighted(layer, values[0], values[1], self._rows_after(layer)), *values[2:]]
            if next_layer:
                self.look_up_states(next_layer)
        n_rows = self._rows_after(layer)
        stream = values[0]
        for value in values[1:]:
            stream = self._add(layer.n_embd, n_rows, stream, value, in_place=1)
        return stream

    def _rows_after(self, layer: GraphLayer) -> int:
        """The rows of the inputs from the host's last layer."""
        has_output_rows = layer.selects_output_rows and layer.has_feed_forward
        return min(self._batch.n_tokens, self._batch.n_outputs) if has_output_rows else self._batch.n_tokens

    def host_attention(self, layer: GraphLayer, cache_bytes: int) -> None:
        """Add the attention of a host layer, which this device computes with a copy of its KV cache."""
        width = layer.by_name["attn_output"][0]
        query = self._add(width, self._batch.n_tokens)
        cache = self._graph.add(cache_bytes)
        self._graph.add(0, self._attend(layer, query, width, cache))

    def output(self, shape: OutputShape, stream: int, *, normed: bool) -> None:
        """Add the output's norm and, with a vocabulary, a row of logits for each output.

        With `normed`, the stream is normed already and has only the rows of the output.
        """
        n_outputs = min(self._batch.n_tokens, self._batch.n_outputs)
        if shape.cut is RowsCut.AFTER_NORM:
            stream = self._add(shape.n_embd, self._batch.n_tokens, stream, in_place=1)
            self._graph.keep(stream)
            stream = self._add(shape.n_embd, n_outputs, stream)
        else:
            if shape.cut is RowsCut.AFTER_LAYERS and not normed:
                self._graph.keep(stream)
                stream = self._add(shape.n_embd, n_outputs, stream)
            stream = self._add(shape.n_embd, n_outputs, stream, in_place=1)
        self._graph.keep(stream)
        if shape.n_vocab:
            logits = self._add(shape.n_vocab, n_outputs, stream)
            if shape.sampling_input_bytes:
                self._graph.keep(logits)
                self._sample(shape, logits, n_outputs)

    def _sample(self, shape: OutputShape, logits: int, n_outputs: int) -> None:
        """Add the largest sampler chain (llama/sampling.py) for each row: a bias, top-p, min-p and a draw.

        llama.cpp allocates one more row. Source: llama_sampler_*_backend_apply of src/llama-sampler.cpp.
        """
        self._graph.keep(self._graph.add(0 if self._batch.pipelined else shape.sampling_input_bytes))
        rows = self._add(shape.n_vocab, n_outputs + 1, logits)
        for _ in range(2):  # later rows repeat the second
            row = self._add(shape.n_vocab, 1, rows, self._add(shape.n_vocab, 1, rows))
            order = self._add(shape.n_vocab, 1, row)
            row = self._add(shape.n_vocab, 1, row, order)
            for reads in (2, 1):  # top-p adds up probabilities, min-p does not
                mask = row
                for _ in range(reads):
                    mask = self._add(shape.n_vocab, 1, mask)
                row = self._add(shape.n_vocab, 1, row, self._add(shape.n_vocab, 1, mask), in_place=2)
            reached = self._add(shape.n_vocab, 1, self._add(shape.n_vocab, 1, row))
            self._graph.keep(self._graph.add(ID_BYTES, order, reached))
        self._graph.add(0, rows)

    def _add_to_stream(self, layer: GraphLayer, n_rows: int, mixed: int, stream: int) -> int:
        """Add the sum of the residual stream and the result of attention or recurrence."""
        parts = {part for part, _ in layer.shapes}
        if not parts.isdisjoint(_RESHAPED) and not layer.selects_output_rows and not layer.has_attention:
            return self._add(layer.n_embd, n_rows, stream, mixed, in_place=1)
        return self._add(layer.n_embd, n_rows, mixed, stream, in_place=2)

    def _attention(self, layer: GraphLayer, widths: Mapping[str, int], normed: int) -> int:
        if "attn_kv_a_mqa" in widths and "attn_k_b" in widths:
            return self._latent_attention(layer, normed)
        n, output = self._batch.n_tokens, layer.by_name["attn_output"]
        is_gated = widths.get("attn_q", 0) >= 2 * output[0]  # half of the query's projection gates the result
        if "attn_qkv" in widths:
            whole = self._add(widths["attn_qkv"], n, normed)
            query = self._add(output[0], n, whole)
            key = self._add(layer.k_width, n, whole)
            self._graph.add(0, key)
            self._graph.add(0, whole)
        else:
            whole = self._add(widths.get("attn_q", output[0]), n, normed)
            query = whole
            if self._order.copies_qk or is_gated:  # a reshaped view cannot be worked on in place
                query = self._add(output[0], n, whole)
            if layer.rotates_k:
                query = self._add(output[0], n, query)
            self._store(layer, widths, normed)
        keys = [] if layer.has_kv_cache else self._keys_and_values(widths, normed)
        result = self._attend(layer, query, output[0], *keys)
        if is_gated:
            gate = self._add(output[0], n, whole)
            result = self._add(output[0], n, result, gate, in_place=1)
        return self._add(layer.n_embd, n, result)

    def _store(self, layer: GraphLayer, widths: Mapping[str, int], normed: int) -> None:
        """Add the writes of new keys and values to the cache.

        A layer with width 0 writes none: it reuses the cache of another layer.
        """
        if not layer.k_width or "attn_k" not in widths:
            return
        if self._order.keys_before_values:
            key = self._key(layer, widths, normed)
            value = self._value(layer, widths, normed)
        else:
            value = self._value(layer, widths, normed)
            key = self._key(layer, widths, normed)
        self._graph.add(0, key)
        self._graph.add(0, value)

    def _key(self, layer: GraphLayer, widths: Mapping[str, int], normed: int) -> int:
        key = self._add(layer.k_width, self._batch.n_tokens, normed)
        for _ in range(self._order.copies_qk + layer.rotates_k):
            key = self._add(layer.k_width, self._batch.n_tokens, key)
        return key

    def _value(self, layer: GraphLayer, widths: Mapping[str, int], normed: int) -> int:
        value = self._add(widths.get("attn_v", 0), self._batch.n_tokens, normed)
        return self._add(layer.v_width, self._batch.n_tokens, value) if layer.rotates_v else value

    def _keys_and_values(self, widths: Mapping[str, int], normed: int) -> list[int]:
        """Add keys and values of the batch, for a model without KV cache; returns their values."""
        n = self._batch.n_tokens
        projected = [self._add(widths[part], n, normed) for part in ("attn_k", "attn_v") if part in widths]
        return [*projected[:1], *(self._add(widths["attn_v"], n, value) for value in projected[1:])]

    def _latent_attention(self, layer: GraphLayer, normed: int) -> int:
        """Add multi-head latent attention (MLA), with the key's projection absorbed into the query."""
        shapes = layer.by_name
        n, (n_nope, n_latent, n_head) = self._batch.n_tokens, shapes["attn_k_b"][:3]
        n_key = shapes["attn_kv_a_mqa"][1]
        query = normed
        if "attn_q_a" in shapes:
            query = self._add(shapes["attn_q_a"][1], n, normed)
        n_query = shapes["attn_q_b" if "attn_q_b" in shapes else "attn_q"][1]
        query = self._add(n_query, n, query)
        absorbed = self._add(n_latent * n_head, n, query)
        turned = self._add(n_query - n_nope * n_head, n, query)
        query = self._add(n_key * n_head, n, absorbed, turned)
        shared = self._add(n_key, n, normed)
        latent = self._add(n_latent, n, shared)
        turned = self._add(n_key - n_latent, n, shared)
        key = self._add(n_key, n, latent, turned)
        self._graph.add(0, key, latent)
        result = self._attend(layer, query, n_latent * n_head)
        n_values = shapes["attn_output"][0]
        values = self._add(n_values, n, result)
        return self._add(layer.n_embd, n, self._add(n_values, n, values))

    def _attend(self, layer: GraphLayer, query: int, width: int, *more_sources: int) -> int:
        """Add attention of queries over all cells; it also reads `more_sources`."""
        n, graph = self._batch.n_tokens, self._graph
        if layer.attention_on_host:
            return self._computed_elsewhere(width * n * F32_BYTES, query, *more_sources)
        more_sources = (*more_sources, *(graph.add(n_bytes) for n_bytes in layer.cache_from_host))
        mask = self.mask(layer.is_windowed)
        if self._batch.flash:
            result = graph.add(width * n * F32_BYTES + layer.cache_copy_bytes, query, mask, *more_sources)
            return self._add(width, n, result) if layer.rotates_v else result
        values = graph.add((layer.v_width or layer.k_width) * layer.n_value_cells * F16_BYTES)
        scores = self._add(layer.n_head * layer.n_cells, n, query, *more_sources)
        graph.add(0, scores, mask)
        result = self._add(width, n, values, scores)
        return self._add(width, n, result)

    def _feed_forward(
        self,
        layer: GraphLayer,
        widths: Mapping[str, int],
        normed: int,
        n_rows: int,
        next_layer: GraphLayer | None,
    ) -> int:
        parts = []
        if "ffn_down_exps" in widths:
            parts.append(self._experts(layer, widths, normed, n_rows))
            if next_layer:
                self.look_up_states(next_layer)
        parts += [
            self._network(layer, widths, normed, n_rows, suffix)
            for suffix in ("_shexp", "")
            if f"ffn_down{suffix}" in widths
        ]
        total = parts[0] if parts else self._add(layer.n_embd, n_rows, normed)
        for part in parts[1:]:
            total = self._add(layer.n_embd, n_rows, total, part, in_place=1)
        return total

    def _network(
        self, layer: GraphLayer, widths: Mapping[str, int], normed: int, n_rows: int, suffix: str
    ) -> int:
        up_part, gate_part, down_part = (f"ffn_{name}{suffix}" for name in ("up", "gate", "down"))
        if _are_moved(layer, up_part, gate_part, down_part):
            return self._product(layer, down_part, layer.n_embd, n_rows, normed)
        width = layer.by_name[down_part][0]
        up = self._product(layer, up_part, widths.get(up_part, width), n_rows, normed)
        if gate_part in widths:
            gate = self._product(layer, gate_part, width, n_rows, normed)
            up = self._add(width, n_rows, gate, up)
        elif widths.get(up_part, width) > width:  # gate and up in one tensor
            up = self._add(width, n_rows, up)
        return self._product(layer, down_part, layer.n_embd, n_rows, up)

    def _product(self, layer: GraphLayer, part: str, width: int, n_rows: int, *sources: int) -> int:
        """Add the product with a matrix; if the matrix is moved, another device computes the product."""
        if part in layer.moved_matrices:
            return self._computed_elsewhere(width * n_rows * F32_BYTES, *sources)
        return self._add(width, n_rows, *sources)

    def _experts(self, layer: GraphLayer, widths: Mapping[str, int], normed: int, n_rows: int) -> int:
        shapes = layer.by_name
        n_used, n_expert = layer.n_expert_used, shapes["ffn_down_exps"][2]
        width = n_used * shapes["ffn_down_exps"][0]
        chances = self._add(n_expert, n_rows, normed)
        biased = chances
        if any(part.startswith("exp_probs_b") for part in shapes):
            biased = self._add(n_expert, n_rows, chances)
        chosen = self._add(n_expert, n_rows, biased)
        weights = self._add(n_used, n_rows, chances, chosen)
        weights = self._add(n_used, n_rows, weights, self._add(1, n_rows, weights))
        up = normed
        if _are_moved(layer, *EXPERTS):
            pass  # intermediate results are on the other device too
        elif "ffn_gate_up_exps" in widths:
            both = self._product(layer, "ffn_gate_up_exps", 2 * width, n_rows, normed, chosen)
            up = self._add(width, n_rows, both)
        else:
            up = self._product(layer, "ffn_up_exps", width, n_rows, normed, chosen)
            if "ffn_gate_exps" in widths:
                gate = self._product(layer, "ffn_gate_exps", width, n_rows, normed, chosen)
                up = self._add(width, n_rows, gate, up)
        down = self._product(layer, "ffn_down_exps", n_used * layer.n_embd, n_rows, up, chosen)
        return self._weighted(layer, down, weights, n_rows)

    def _weighted(self, layer: GraphLayer, outputs: int, weights: int, n_rows: int) -> int:
        """Add the weighted sum of the experts' outputs."""
        n_used = layer.n_expert_used
        kept = self._batch.keeps_experts and 2 <= n_used <= MAX_FUSED_EXPERTS
        weighted = self._add(n_used * layer.n_embd, n_rows, outputs, weights, in_place=int(not kept))
        if n_used == 1:
            return weighted
        total = self._add(layer.n_embd, n_rows, weighted)
        total = self._add(layer.n_embd, n_rows, total, weighted, in_place=1)
        if kept:
            self._graph.add(0, outputs, weights)
        return total


def _are_moved(layer: GraphLayer, *parts: str) -> bool:
    """Whether all matrices among `parts` that a layer has are moved."""
    return layer.moved_matrices.issuperset(part for part in parts if part in layer.by_name)
