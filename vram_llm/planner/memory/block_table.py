"""The operations of each of a model's layers in a context, as distinct blocks."""

from collections.abc import Collection
from dataclasses import replace

from vram_llm.machine.types import DeviceKind
from vram_llm.model.layer_bytes import Layer
from vram_llm.model.profile import ModelProfile
from vram_llm.model.rules import RowsCut
from vram_llm.model.tensors import layer_of
from vram_llm.planner.memory.backend_kernels import F16_KINDS, has_scan
from vram_llm.planner.memory.cache_shapes import copy_bytes, rotations, stored_bytes
from vram_llm.planner.memory.flash_attention import (
    insists_on_flash_attention,
    layer_has_kernel,
    uses_flash_attention,
)
from vram_llm.planner.memory.layer_shapes import Block
from vram_llm.planner.types import Context, FlashAttention

_READ_BY_ATTENTION = frozenset({"attn_v_b", "attn_sinks"})


class BlockTable:
    """The blocks of a model's layers by number; equal layers share one. A layer's block may be changed.

    `on_device[i]` is the number of layer i's block on a device. Decoding does not run draft layers.
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
        self.insists = insists_on_flash_attention(context)
        self.flash = uses_flash_attention(profile, context, kinds)
        cells = (context.n_ctx_seq, n_swa_cells // context.n_caches)
        self.cells = cells if profile.has_memory else (self.n_tokens, self.n_tokens)  # of one cache
        # if flash attention is off from the start, V is transposed and each of its elements has an index
        self.turned = context.flash_attn is FlashAttention.OFF
        self._turns, self.rotation_bytes = rotations(profile, context)
        self._numbers: dict[Block, int] = {}
        self.blocks: list[Block] = []
        self.on_device = [self._number(self._block(layer)) for layer in profile.layers[: self.n_layers]]

    def at(self, index: int) -> Block:
        """The block of layer `index` on a device."""
        return self.blocks[self.on_device[index]]

    def on_host(self, number: int) -> int:
        """The number of a layer's block if the host computes the layer."""
        block = self.blocks[number]
        return self._number(
            replace(
                block,
                cache_copy_bytes=0,
                attends_elsewhere=False,
                scans_elsewhere=False,
                cache_from_host=(),
                states_from_host_bytes=0,
                parts_elsewhere=frozenset(),
            )
        )

    def without(self, number: int, parts: Collection[str]) -> int:
        """The number of block `number` if its matrices `parts` are elsewhere."""
        return self._number(replace(self.blocks[number], parts_elsewhere=frozenset(parts)))

    def feeding(self, number: int) -> int:
        """The number of a block that has only the feed-forward network or experts of block `number`."""
        block = self.blocks[number]
        shapes = tuple(shape for shape in block.shapes if shape[0].startswith("ffn_"))
        return self._number(
            replace(block, shapes=shapes, k_width=0, v_width=0, state_bytes=0, cache_copy_bytes=0,
                    attends_elsewhere=False, scans_elsewhere=False, cache_from_host=(),
                    states_from_host_bytes=0)
        )  # fmt: skip

    def attending(self, number: int) -> int:
        """The number of a block that has only the attention of block `number`, computed on the host."""
        block = self.blocks[self.on_host(number)]
        shapes = tuple(shape for shape in block.shapes if shape[0].startswith("attn_"))
        return self._number(replace(block, shapes=shapes, state_bytes=0))

    def with_cache_from_host(self, index: int) -> int:
        """The number of the block of layer `index` on a device that copies its KV cache from the host."""
        return self._number(replace(self.at(index), cache_from_host=self.cache_parts(index)))

    def cache_parts(self, index: int) -> tuple[int, int]:
        """Bytes of a layer's keys and of its values, over all cells; values that are part of keys count."""
        layer = self._profile.layers[index]
        n_cells = self.cells[layer.sliding_window] * self._context.n_caches
        keys, values = stored_bytes(layer, self._context, n_cells)
        return (keys, values) if layer.has_values else (keys, keys)

    def cache_bytes(self, index: int) -> int:
        """Bytes of a layer's KV cache."""
        layer = self._profile.layers[index]
        n_cells = self.cells[layer.sliding_window] * self._context.n_caches
        return sum(stored_bytes(layer, self._context, 1)) * n_cells

    def _number(self, block: Block) -> int:
        if block not in self._numbers:
            self._numbers[block] = len(self.blocks)
            self.blocks.append(block)
        return self._numbers[block]

    def _block(self, layer: Layer) -> Block:
        has_kernel = layer_has_kernel(self._profile, self._context, layer, self._kinds)
        named = ((layer_of(tensor.name), tensor.shape) for tensor in layer.tensors)
        shapes = tuple(sorted((name[1].removesuffix(".weight"), shape) for name, shape in named if name))
        n_cells = self.cells[layer.sliding_window]
        block = Block(
            shapes=shapes,
            turns_k=self._turns[0],
            turns_v=self._turns[1] and layer.n_embd_v_gqa > 0,
            n_embd=self._profile.n_embd,
            n_head=self._profile.n_head,
            n_cells=n_cells,
            n_value_cells=0 if self.turned else n_cells * self._context.n_caches,
            k_width=layer.n_embd_k_gqa,
            v_width=layer.n_embd_v_gqa,
            state_bytes=layer.recurrent_state_bytes,
            n_expert_used=self._profile.n_expert_used,
            is_windowed=layer.sliding_window,
            keeps_past=self._profile.has_memory,
            cuts_rows=layer.index == self.n_layers - 1 and self._profile.rows_cut is RowsCut.IN_LAST_LAYER,
            cache_copy_bytes=0,
            attends_elsewhere=self.insists and not has_kernel,
            scans_elsewhere=not self._scans(dict(shapes)),
        )
        if self.flash and has_kernel and not F16_KINDS.isdisjoint(self._kinds):
            block = replace(
                block, cache_copy_bytes=copy_bytes(layer, self._context, n_cells * self._context.n_caches)
            )
        if self._profile.has_memory and not self._context.kv_offload:
            block = self._with_cache_on_host(block, layer.index)
        return block

    def _with_cache_on_host(self, block: Block, index: int) -> Block:
        """`block` with its cache on the host: it is copied for flash attention, else the host attends.

        build_attn_mha of src/llama-graph.cpp pins attention's end to the host only without flash attention.
        With MLA or sinks, attention reads weights of the layer, so it stays on the device.
        """
        block = replace(block, states_from_host_bytes=block.state_bytes * self._context.parallel)
        if not self.flash and _READ_BY_ATTENTION.isdisjoint(block.by_name):
            return replace(block, attends_elsewhere=True)
        return block if block.attends_elsewhere else replace(block, cache_from_host=self.cache_parts(index))

    def _scans(self, shapes: dict[str, tuple[int, ...]]) -> bool:
        if "ssm_in" not in shapes or shapes["ssm_a"][0] != 1:
            return True
        inner, n_heads, n_groups = shapes["ssm_out"][0], shapes["ssm_a"][1], shapes.get("ssm_norm", (0, 1))[1]
        n_state = (shapes["ssm_conv1d"][1] - inner) // (2 * n_groups)
        return has_scan(self._kinds, n_state, inner // n_heads)
