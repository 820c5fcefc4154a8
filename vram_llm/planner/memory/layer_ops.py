"""The operations that llama.cpp's graph has for a layer.

Their order and the results kept between them follow build_attn, build_ffn and build_moe_ffn
(src/llama-graph.cpp of llama-cpp-python 0.3.36). Activations are f32. Results of a few bytes per token are
left out.
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
    Block,
    End,
    Habit,
    MicroBatch,
)
from vram_llm.planner.memory.recurrent_ops import RecurrentOperations

_RESHAPED = frozenset({"shortconv.out_proj", "attn_qkv"})  # a layer with one of these ends in a view


class Operations(RecurrentOperations):
    """Adds the operations of layers to a graph.

    Methods: one for each kind of layer that llama.cpp builds, all on the same graph and look-ahead.
    """

    def __init__(self, graph: AllocationGraph, batch: MicroBatch, habit: Habit) -> None:
        super().__init__(graph, batch, habit)
        self.mask_bytes = (0, 0)  # of the mask over all cells, and of the mask over the window's cells
        self._masks: dict[bool, int] = {}  # their values, by whether it is the window's

    def layer(self, block: Block, stream: int, normed: int | None = None, after: Block | None = None) -> int:
        """Add a layer that reads the residual stream `stream`; returns the stream after it.

        `normed` is the stream after the layer's first norm, if the device before has made it. `after` is
        the next layer.
        """
        widths, n_rows = block.widths, self._batch.n_tokens
        self.look_up(block)
        post_norms = any(part == "attn_output_norm" for part, _ in block.shapes)
        if post_norms:
            normed = stream
        elif normed is None:
            normed = self._add(block.n_embd, n_rows, stream)
        mixed = []
        if block.attends:
            mixed.append(self._attention(block, widths, normed))
        if block.state_bytes:
            if mixed:
                normed = self._add(block.n_embd, n_rows, stream)
            mixed.append(self._recurrent(block, widths, normed))
        if len(mixed) == 2:
            mixed = [self._add(block.n_embd, n_rows, *mixed, in_place=1)]
        if block.cuts_rows:
            n_rows = min(n_rows, self._batch.n_outputs)
            mixed = [self._add(block.n_embd, n_rows, value) for value in mixed]
            stream = self._add(block.n_embd, n_rows, stream)
        if mixed:
            stream = self._joined(block, n_rows, mixed[0], stream)
        if not block.feeds:
            return stream
        if post_norms:
            normed = stream = self._add(block.n_embd, n_rows, stream)
        elif mixed or block.cuts_rows:
            normed = self._add(block.n_embd, n_rows, stream)
        fed = self._feed(block, widths, normed, n_rows, after)
        stream = self._add(block.n_embd, n_rows, fed, stream, in_place=2)
        return self._add(block.n_embd, n_rows, stream) if post_norms else stream

    def mask(self, is_windowed: bool) -> int:
        """The value of a mask, which is added when it is first asked for."""
        if is_windowed not in self._masks:
            self._masks[is_windowed] = self._graph.add(self.mask_bytes[is_windowed])
        return self._masks[is_windowed]

    def incoming(self, block: Block, *, sums_experts: bool, after: Block | None = None) -> list[int]:
        """Add the inputs from the host's last layer; the device computes that layer's weightless operations.

        With `sums_experts` the device adds up the routed experts even if a shared expert follows. It then
        also looks up the states of `after` before the host computes the shared expert.
        """
        n_rows = self._rows_after(block)
        parts = [part for part, _ in block.shapes if part in DOWN]
        if "ffn_down_exps" in parts and (sums_experts or len(parts) == 1):
            outputs = self._add(block.n_expert_used * block.n_embd, n_rows)
            weights = self._add(block.n_expert_used, n_rows)
            values = [outputs, weights]
            if len(parts) > 1:
                self._graph.add(ID_BYTES)
                values = [self._weighted(block, outputs, weights, n_rows)]
                if after:
                    self.look_up(after)
            return [*values, *(self._add(block.n_embd, n_rows) for _ in parts)]
        return [self._add(block.n_embd, n_rows) for _ in range(max(len(parts), 1) + 1)]

    def arrival(self, block: Block, values: list[int], after: Block | None) -> int:
        """The residual stream after the host's last layer, from its incoming `values`; `after` is next."""
        if [part for part, _ in block.shapes if part in DOWN] == ["ffn_down_exps"]:
            values = [self._weighted(block, values[0], values[1], self._rows_after(block)), *values[2:]]
            if after:
                self.look_up(after)
        n_rows = self._rows_after(block)
        stream = values[0]
        for value in values[1:]:
            stream = self._add(block.n_embd, n_rows, stream, value, in_place=1)
        return stream

    def _rows_after(self, block: Block) -> int:
        """Rows that come from the host's last layer; if it ends in attention, the device cuts them."""
        is_cut = block.cuts_rows and block.feeds
        return min(self._batch.n_tokens, self._batch.n_outputs) if is_cut else self._batch.n_tokens

    def attention_left(self, block: Block, cache_bytes: int) -> None:
        """Add a host layer's attention, which the device computes from a copy of the layer's KV cache."""
        width = block.by_name["attn_output"][0]
        query = self._add(width, self._batch.n_tokens)
        cache = self._graph.add(cache_bytes)
        self._graph.add(0, self._attend(block, query, width, cache))

    def output(self, end: End, stream: int, *, normed: bool) -> None:
        """Add the output's norm and, if there is a vocabulary, a row of logits for each output.

        `normed`: the stream is normed already and has only the output's rows.
        """
        n_outputs = min(self._batch.n_tokens, self._batch.n_outputs)
        if end.cut is RowsCut.AFTER_NORM:
            stream = self._add(end.n_embd, self._batch.n_tokens, stream, in_place=1)
            self._graph.keep(stream)
            stream = self._add(end.n_embd, n_outputs, stream)
        else:
            if end.cut is RowsCut.AFTER_LAYERS and not normed:
                self._graph.keep(stream)
                stream = self._add(end.n_embd, n_outputs, stream)
            stream = self._add(end.n_embd, n_outputs, stream, in_place=1)
        self._graph.keep(stream)
        if end.n_vocab:
            logits = self._add(end.n_vocab, n_outputs, stream)
            if end.sampling_input_bytes:
                self._graph.keep(logits)
                self._sample(end, logits, n_outputs)

    def _sample(self, end: End, logits: int, n_outputs: int) -> None:
        """Add the largest sampler chain (llama/sampling.py) for row after row; one more row is allocated.

        The chain is a bias, top-p, min-p and a draw. Source: llama_sampler_*_backend_apply of
        src/llama-sampler.cpp.
        """
        self._graph.keep(self._graph.add(0 if self._batch.pipelined else end.sampling_input_bytes))
        rows = self._add(end.n_vocab, n_outputs + 1, logits)
        for _ in range(2):  # later rows repeat the second
            row = self._add(end.n_vocab, 1, rows, self._add(end.n_vocab, 1, rows))
            order = self._add(end.n_vocab, 1, row)
            row = self._add(end.n_vocab, 1, row, order)
            for reads in (2, 1):  # top-p adds up probabilities, min-p does not
                mask = row
                for _ in range(reads):
                    mask = self._add(end.n_vocab, 1, mask)
                row = self._add(end.n_vocab, 1, row, self._add(end.n_vocab, 1, mask), in_place=2)
            reached = self._add(end.n_vocab, 1, self._add(end.n_vocab, 1, row))
            self._graph.keep(self._graph.add(ID_BYTES, order, reached))
        self._graph.add(0, rows)

    def _joined(self, block: Block, n_rows: int, mixed: int, stream: int) -> int:
        """The residual stream plus the result of attention or recurrence."""
        parts = {part for part, _ in block.shapes}
        if not parts.isdisjoint(_RESHAPED) and not block.cuts_rows and not block.attends:
            return self._add(block.n_embd, n_rows, stream, mixed, in_place=1)
        return self._add(block.n_embd, n_rows, mixed, stream, in_place=2)

    def _attention(self, block: Block, widths: Mapping[str, int], normed: int) -> int:
        if "attn_kv_a_mqa" in widths and "attn_k_b" in widths:
            return self._latent_attention(block, normed)
        n, output = self._batch.n_tokens, block.by_name["attn_output"]
        is_gated = widths.get("attn_q", 0) >= 2 * output[0]  # half of the query's projection gates the result
        if "attn_qkv" in widths:
            whole = self._add(widths["attn_qkv"], n, normed)
            query = self._add(output[0], n, whole)
            key = self._add(block.k_width, n, whole)
            self._graph.add(0, key)
            self._graph.add(0, whole)
        else:
            whole = self._add(widths.get("attn_q", output[0]), n, normed)
            query = whole
            if self._habit.turns or is_gated:  # a reshaped view cannot be worked on in place
                query = self._add(output[0], n, whole)
            if block.turns_k:
                query = self._add(output[0], n, query)
            self._store(block, widths, normed)
        keys = [] if block.keeps_past else self._keys_and_values(widths, normed)
        result = self._attend(block, query, output[0], *keys)
        if is_gated:
            gate = self._add(output[0], n, whole)
            result = self._add(output[0], n, result, gate, in_place=1)
        return self._add(block.n_embd, n, result)

    def _store(self, block: Block, widths: Mapping[str, int], normed: int) -> None:
        """Add the writes of new keys and values to the cache; a layer with width 0 reuses another's."""
        if not block.k_width or "attn_k" not in widths:
            return
        makers = (self._value, self._key) if not self._habit.keys_first else (self._key, self._value)
        made = [make(block, widths, normed) for make in makers]
        for value in made if self._habit.keys_first else reversed(made):
            self._graph.add(0, value)

    def _key(self, block: Block, widths: Mapping[str, int], normed: int) -> int:
        key = self._add(block.k_width, self._batch.n_tokens, normed)
        for _ in range(self._habit.turns + block.turns_k):
            key = self._add(block.k_width, self._batch.n_tokens, key)
        return key

    def _value(self, block: Block, widths: Mapping[str, int], normed: int) -> int:
        value = self._add(widths.get("attn_v", 0), self._batch.n_tokens, normed)
        return self._add(block.v_width, self._batch.n_tokens, value) if block.turns_v else value

    def _keys_and_values(self, widths: Mapping[str, int], normed: int) -> list[int]:
        """Keys and values of the batch, for a model without KV cache."""
        n = self._batch.n_tokens
        made = [self._add(widths[part], n, normed) for part in ("attn_k", "attn_v") if part in widths]
        return [*made[:1], *(self._add(widths["attn_v"], n, value) for value in made[1:])]

    def _latent_attention(self, block: Block, normed: int) -> int:
        """MLA with the key's projection absorbed into the query."""
        shapes = block.by_name
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
        result = self._attend(block, query, n_latent * n_head)
        n_values = shapes["attn_output"][0]
        values = self._add(n_values, n, result)
        return self._add(block.n_embd, n, self._add(n_values, n, values))

    def _attend(self, block: Block, query: int, width: int, *more_sources: int) -> int:
        """Attention of queries over all cells. `more_sources` are further sources."""
        n, graph = self._batch.n_tokens, self._graph
        if block.attends_elsewhere:
            return self._returned(width * n * F32_BYTES, query, *more_sources)
        more_sources = (*more_sources, *(graph.add(n_bytes) for n_bytes in block.cache_from_host))
        mask = self.mask(block.is_windowed)
        if self._batch.flash:
            result = graph.add(width * n * F32_BYTES + block.cache_copy_bytes, query, mask, *more_sources)
            return self._add(width, n, result) if block.turns_v else result
        values = graph.add((block.v_width or block.k_width) * block.n_value_cells * F16_BYTES)
        scores = self._add(block.n_head * block.n_cells, n, query, *more_sources)
        graph.add(0, scores, mask)
        result = self._add(width, n, values, scores)
        return self._add(width, n, result)

    def _feed(
        self, block: Block, widths: Mapping[str, int], normed: int, n_rows: int, after: Block | None
    ) -> int:
        parts = []
        if "ffn_down_exps" in widths:
            parts.append(self._experts(block, widths, normed, n_rows))
            if after:
                self.look_up(after)
        parts += [
            self._network(block, widths, normed, n_rows, suffix)
            for suffix in ("_shexp", "")
            if f"ffn_down{suffix}" in widths
        ]
        total = parts[0] if parts else self._add(block.n_embd, n_rows, normed)
        for part in parts[1:]:
            total = self._add(block.n_embd, n_rows, total, part, in_place=1)
        return total

    def _network(self, block: Block, widths: Mapping[str, int], normed: int, n_rows: int, suffix: str) -> int:
        up_part, gate_part, down_part = (f"ffn_{name}{suffix}" for name in ("up", "gate", "down"))
        if _is_elsewhere(block, up_part, gate_part, down_part):
            return self._product(block, down_part, block.n_embd, n_rows, normed)
        width = block.by_name[down_part][0]
        up = self._product(block, up_part, widths.get(up_part, width), n_rows, normed)
        if gate_part in widths:
            gate = self._product(block, gate_part, width, n_rows, normed)
            up = self._add(width, n_rows, gate, up)
        elif widths.get(up_part, width) > width:  # gate and up in one tensor
            up = self._add(width, n_rows, up)
        return self._product(block, down_part, block.n_embd, n_rows, up)

    def _product(self, block: Block, part: str, width: int, n_rows: int, *sources: int) -> int:
        """The product with a matrix, which is copied back if the matrix is elsewhere."""
        if part in block.parts_elsewhere:
            return self._returned(width * n_rows * F32_BYTES, *sources)
        return self._add(width, n_rows, *sources)

    def _experts(self, block: Block, widths: Mapping[str, int], normed: int, n_rows: int) -> int:
        shapes = block.by_name
        n_used, n_expert = block.n_expert_used, shapes["ffn_down_exps"][2]
        width = n_used * shapes["ffn_down_exps"][0]
        chances = self._add(n_expert, n_rows, normed)
        biased = chances
        if any(part.startswith("exp_probs_b") for part in shapes):
            biased = self._add(n_expert, n_rows, chances)
        chosen = self._add(n_expert, n_rows, biased)
        weights = self._add(n_used, n_rows, chances, chosen)
        weights = self._add(n_used, n_rows, weights, self._add(1, n_rows, weights))
        up = normed
        if _is_elsewhere(block, *EXPERTS):
            pass  # so are the results in between
        elif "ffn_gate_up_exps" in widths:
            both = self._product(block, "ffn_gate_up_exps", 2 * width, n_rows, normed, chosen)
            up = self._add(width, n_rows, both)
        else:
            up = self._product(block, "ffn_up_exps", width, n_rows, normed, chosen)
            if "ffn_gate_exps" in widths:
                gate = self._product(block, "ffn_gate_exps", width, n_rows, normed, chosen)
                up = self._add(width, n_rows, gate, up)
        down = self._product(block, "ffn_down_exps", n_used * block.n_embd, n_rows, up, chosen)
        return self._weighted(block, down, weights, n_rows)

    def _weighted(self, block: Block, outputs: int, weights: int, n_rows: int) -> int:
        """The weighted sum of the experts' outputs."""
        n_used = block.n_expert_used
        kept = self._batch.keeps_experts and 2 <= n_used <= MAX_FUSED_EXPERTS
        weighted = self._add(n_used * block.n_embd, n_rows, outputs, weights, in_place=int(not kept))
        if n_used == 1:
            return weighted
        total = self._add(block.n_embd, n_rows, weighted)
        total = self._add(block.n_embd, n_rows, total, weighted, in_place=1)
        if kept:
            self._graph.add(0, outputs, weights)
        return total


def _is_elsewhere(block: Block, *parts: str) -> bool:
    """Whether all of a block's matrices among `parts` are elsewhere."""
    return block.parts_elsewhere.issuperset(part for part in parts if part in block.by_name)
