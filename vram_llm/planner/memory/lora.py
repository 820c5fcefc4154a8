"""Memory of LoRA adapters. llama.cpp puts their weights on the device of the tensor that they change."""

from collections.abc import Sequence
from itertools import accumulate

from vram_llm.model.adapter import Adapter
from vram_llm.model.profile import ModelProfile
from vram_llm.model.tensors import Role
from vram_llm.planner.padding import padded
from vram_llm.planner.types import Context

_F32 = 4


class AdapterWeights:
    """Bytes of adapters for runs of the model's layers."""

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        self._adapters = adapters
        self._cache: dict[tuple[int, int], list[int]] = {}

    def device_bytes(
        self, alignment: int, row_padding: int, first: int, end: int, *, has_output: bool
    ) -> int:
        """Bytes on a device with layers first to end-1, with or without the output."""
        if not self._adapters:
            return 0
        sums = self._sums(alignment, row_padding)
        total = sums[end] - sums[first]
        for adapter in self._adapters:
            total += padded(adapter.output, alignment, row_padding) if has_output else 0
            total += padded(adapter.first_layer, alignment, row_padding) if first == 0 < end else 0
        return total

    def host_bytes(self, alignment: int, n_layers: int, *, has_output: bool) -> int:
        """Bytes on the host with the first `n_layers`; adapters of the embeddings are always on the host."""
        on_host = self.device_bytes(alignment, 0, 0, n_layers, has_output=has_output)
        return on_host + sum(padded(adapter.input, alignment, 0) for adapter in self._adapters)

    def compute_bytes(self, profile: ModelProfile, context: Context) -> int:
        """Approximate bytes that adapters add to a compute buffer: activations of one adapter, and a sum."""
        tensors = [tensor for adapter in self._adapters for tensor in adapter.tensors]
        if not tensors:
            return 0
        width = 3 * max(min(tensor.shape[:2]) for tensor in tensors) + profile.n_embd
        if any(tensor.role is Role.EXPERT for tensor in tensors):
            width *= profile.n_expert_used
        return width * min(context.n_ctx, context.n_ubatch) * _F32

    def _sums(self, alignment: int, row_padding: int) -> list[int]:
        key = (alignment, row_padding)
        if key not in self._cache:
            layers = zip(*(adapter.layers for adapter in self._adapters), strict=True)
            layer_bytes = [sum(padded(tensors, *key) for tensors in layer) for layer in layers]
            self._cache[key] = [0, *accumulate(layer_bytes)]
        return self._cache[key]
