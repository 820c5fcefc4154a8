"""The graph layers of a model in a context: equal layers share one, which has a number."""

from collections.abc import Collection
from dataclasses import replace

from vram_llm.machine.types import DeviceKind
from vram_llm.model.layer_bytes import Layer
from vram_llm.model.profile import ModelProfile
from vram_llm.model.rules import RowsCut
from vram_llm.model.tensors import layer_of
from vram_llm.planner.memory.backend_kernels import F16_COPY_KINDS, has_scan
from vram_llm.planner.memory.cache_shapes import copy_bytes, rotations, stored_bytes
from vram_llm.planner.memory.flash_attention import (
    forces_flash_attention,
    layer_has_kernel,
    uses_flash_attention,
)
from vram_llm.planner.memory.layer_shapes import GraphLayer
from vram_llm.planner.types import Context, FlashAttention

_READ_BY_ATTENTION = frozenset({"attn_v_b", "attn_sinks"})  # weights that operations of attention read


class LayerTable:
    """The graph layers of a model, by number; methods make variants of a layer, which have numbers too.

    `on_device[i]` is the number of layer i's graph layer on a device. Draft layers are not in the table:
    decoding does not run them.
    """

    def __init__(
        self, profile: ModelProfile, context: Context, n_swa_cells: int, kinds: Collection[DeviceKind]
    ) -> None:
        """`n_swa_cells` is 0 if no layer has a window; `kinds` are the kinds of all devices."""
        self._profile = profile
        self._context = context
        self._kinds = frozenset(kinds)
        self.n_layers = profile.n_layers - profile.n_draft_layers
        n_tokens = min(context.n_ctx, context.n_ubatch)
        self.n_tokens = -(-n_tokens // context.parallel) * context.parallel  # of a micro-batch
        self.forces_flash = forces_flash_attention(context)
        self.flash = uses_flash_attention(profile, context, kinds)
        cells = (context.n_ctx_seq, n_swa_cells // context.n_caches)
        self.cells = cells if profile.has_memory else (self.n_tokens, self.n_tokens)  # of one cache
        # if the user turns flash attention off, V is transposed, and each of its elements has an index
        self.is_v_transposed = context.flash_attn is FlashAttention.OFF
        self._rotates, self.rotation_bytes = rotations(profile, context)
        self._numbers: dict[GraphLayer, int] = {}
        self.graph_layers: list[GraphLayer] = []
        self.on_device = [self._number(self._graph_layer(layer)) for layer in profile.layers[: self.n_layers]]

    def at(self, index: int) -> GraphLayer:
        """The graph layer of layer `index` on a device."""
        return self.graph_layers[self.on_device[index]]

    def on_host(self, number: int) -> int:
        """The number of graph layer `number` on the host, with its cache and all its operations."""
        graph_layer = self.graph_layers[number]
        return self._number(
            replace(
                graph_layer,
                cache_copy_bytes=0,
                attention_on_host=False,
                scan_on_host=False,
                cache_from_host=(),
                states_from_host_bytes=0,
                moved_matrices=frozenset(),
            )
        )

    def without_matrices(self, number: int, parts: Collection[str]) -> int:
        """The number of graph layer `number` with its matrices `parts` on another device or on the host."""
        return self._number(replace(self.graph_layers[number], moved_matrices=frozenset(parts)))

    def feed_forward_only(self, number: int) -> int:
        """The number of a graph layer that is only the feed-forward network or experts of `number`."""
        graph_layer = self.graph_layers[number]
        shapes = tuple(shape for shape in graph_layer.shapes if shape[0].startswith("ffn_"))
        return self._number(
            replace(graph_layer, shapes=shapes, k_width=0, v_width=0, state_bytes=0, cache_copy_bytes=0,
                    attention_on_host=False, scan_on_host=False, cache_from_host=(),
                    states_from_host_bytes=0)
        )  # fmt: skip

    def attention_only(self, number: int) -> int:
        """The number of a graph layer that is only the attention of `number`, on the host."""
        graph_layer = self.graph_layers[self.on_host(number)]
        shapes = tuple(shape for shape in graph_layer.shapes if shape[0].startswith("attn_"))
        return self._number(replace(graph_layer, shapes=shapes, state_bytes=0))

    def with_cache_from_host(self, index: int) -> int:
        """The number of layer `index` on a device that copies the layer's KV cache from the host."""
        return self._number(replace(self.at(index), cache_from_host=self.cache_parts(index)))

    def cache_parts(self, index: int) -> tuple[int, int]:
        """Bytes of a layer's keys and of its values, over all cells; values within keys count as well."""
        layer = self._profile.layers[index]
        n_cells = self.cells[layer.sliding_window] * self._context.n_caches
        keys, values = stored_bytes(layer, self._context, n_cells)
        return (keys, values) if layer.has_values else (keys, keys)

    def cache_bytes(self, index: int) -> int:
        """Bytes of a layer's KV cache."""
        layer = self._profile.layers[index]
        n_cells = self.cells[layer.sliding_window] * self._context.n_caches
        return sum(stored_bytes(layer, self._context, 1)) * n_cells

    def _number(self, graph_layer: GraphLayer) -> int:
        if graph_layer not in self._numbers:
            self._numbers[graph_layer] = len(self.graph_layers)
            self.graph_layers.append(graph_layer)
        return self._numbers[graph_layer]

    def _graph_layer(self, layer: Layer) -> GraphLayer:
        has_kernel = layer_has_kernel(self._profile, self._context, layer, self._kinds)
        named = ((layer_of(tensor.name), tensor.shape) for tensor in layer.tensors)
        shapes = tuple(sorted((name[1].removesuffix(".weight"), shape) for name, shape in named if name))
        n_cells = self.cells[layer.sliding_window]
        graph_layer = GraphLayer(
            shapes=shapes,
            rotates_k=self._rotates[0],
            rotates_v=self._rotates[1] and layer.n_embd_v_gqa > 0,
            n_embd=self._profile.n_embd,
            n_head=self._profile.n_head,
            n_cells=n_cells,
            n_value_cells=0 if self.is_v_transposed else n_cells * self._context.n_caches,
            k_width=layer.n_embd_k_gqa,
            v_width=layer.n_embd_v_gqa,
            state_bytes=layer.recurrent_state_bytes,
            n_expert_used=self._profile.n_expert_used,
            is_windowed=layer.sliding_window,
            has_kv_cache=self._profile.has_memory,
            selects_output_rows=layer.index == self.n_layers - 1
            and self._profile.rows_cut is RowsCut.IN_LAST_LAYER,
            cache_copy_bytes=0,
            attention_on_host=self.forces_flash and not has_kernel,
            scan_on_host=not self._has_scan_kernel(dict(shapes)),
        )
        if self.flash and has_kernel and not F16_COPY_KINDS.isdisjoint(self._kinds):
            graph_layer = replace(
                graph_layer,
                cache_copy_bytes=copy_bytes(layer, self._context, n_cells * self._context.n_caches),
            )
        if self._profile.has_memory and not self._context.kv_offload:
            graph_layer = self._with_cache_on_host(graph_layer, layer.index)
        return graph_layer

    def _with_cache_on_host(self, graph_layer: GraphLayer, index: int) -> GraphLayer:
        """`graph_layer` with its cache on the host.

        With flash attention, the device copies the cache. Without, build_attn_mha of src/llama-graph.cpp
        assigns the end of attention to the host, which computes it. With MLA or sinks, attention reads
        weights of the layer, so it stays on the device.
        """
        graph_layer = replace(
            graph_layer, states_from_host_bytes=graph_layer.state_bytes * self._context.parallel
        )
        if not self.flash and _READ_BY_ATTENTION.isdisjoint(graph_layer.by_name):
            return replace(graph_layer, attention_on_host=True)
        return (
            graph_layer
            if graph_layer.attention_on_host
            else replace(graph_layer, cache_from_host=self.cache_parts(index))
        )

    def _has_scan_kernel(self, shapes: dict[str, tuple[int, ...]]) -> bool:
        """Whether all devices have a kernel for the layer's scan; true for a layer without Mamba 2."""
        if "ssm_in" not in shapes or shapes["ssm_a"][0] != 1:
            return True
        inner, n_heads, n_groups = shapes["ssm_out"][0], shapes["ssm_a"][1], shapes.get("ssm_norm", (0, 1))[1]
        n_state = (shapes["ssm_conv1d"][1] - inner) // (2 * n_groups)
        return has_scan(self._kinds, n_state, inner // n_heads)
