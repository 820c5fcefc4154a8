"""Seconds of attention on one device, in decode steps and in prompts, with or without flash attention.

Flash attention stores no scores. Without it, a card writes and reads the scores of all heads several times,
and a decode step reads K and V more slowly. A processor's scores stay in its caches.
"""

from collections.abc import Collection

from vram_llm.machine.types import DeviceKind
from vram_llm.model.layer_bytes import Layer
from vram_llm.model.profile import ModelProfile
from vram_llm.model.quants import KV_TYPES
from vram_llm.planner.attention_size import attention_flops, cache_bytes, score_bytes, seen_tokens
from vram_llm.planner.layer_times import Heads, PlaceTimes
from vram_llm.planner.memory.flash_attention import uses_flash_attention
from vram_llm.planner.types import Context


class AttentionTimes:
    """Times of one model's attention in one context on devices of some kinds."""

    def __init__(self, profile: ModelProfile, context: Context, kinds: Collection[DeviceKind]) -> None:
        self._profile, self._context = profile, context
        self.is_flash = uses_flash_attention(profile, context, kinds)
        per_kv = profile.n_head // profile.n_head_kv if profile.n_head_kv else 1
        self._heads = Heads(size=min(profile.head_k, profile.head_v), per_kv=max(per_kv, 1))
        self._quantized = any(KV_TYPES[name].is_quantized for name in (context.kv_type_k, context.kv_type_v))

    def decode_s(self, times: PlaceTimes, layer: Layer, rows: int, depth: int) -> float:
        """Seconds of a decode step of `rows` streams, each over a cache of `depth` tokens."""
        tokens = seen_tokens(self._profile, layer, depth)
        flops = rows * attention_flops(self._profile, layer, tokens)
        n_bytes = rows * cache_bytes(self._profile, self._context, layer, depth)
        seconds = times.attention_s(
            flops, n_bytes, self._heads, quantized=self._quantized, is_flash=self.is_flash
        )
        least_s = times.least_attention_s(tokens, is_flash=self.is_flash)
        return max(seconds, least_s) if flops else 0.0

    def prompt_s(self, times: PlaceTimes, layer: Layer, rows: int, depth: int) -> float:
        """Seconds of a micro-batch of `rows` tokens of one sequence, over `depth` earlier ones on average.

        A layer with a window has cells for that and for the micro-batch; some kernels compute with all.
        """
        tokens = seen_tokens(self._profile, layer, depth, masked=0 if times.skips_masked else rows)
        seconds = times.prompt_attention_s(
            rows * attention_flops(self._profile, layer, tokens), self._heads, quantized=self._quantized
        )
        if self.is_flash:
            return seconds
        return seconds + times.scores_s(rows * score_bytes(self._profile, layer, tokens))
