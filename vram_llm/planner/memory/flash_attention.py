"""Whether llama.cpp uses flash attention for a model in a context (src/llama-context.cpp)."""

from collections.abc import Collection

from vram_llm.machine.types import DeviceKind
from vram_llm.model.layer_bytes import Layer
from vram_llm.model.profile import ModelProfile
from vram_llm.model.quants import KV_TYPES
from vram_llm.planner.memory.backend_kernels import has_flash_attention
from vram_llm.planner.types import Context, FlashAttention


def uses_flash_attention(profile: ModelProfile, context: Context, kinds: Collection[DeviceKind]) -> bool:
    """Whether llama.cpp uses flash attention: by its options, the types of the cache and the head sizes."""
    if context.flash_attn is FlashAttention.OFF:
        return False
    trunk = profile.layers[: profile.n_layers - profile.n_draft_layers]
    return forces_flash_attention(context) or all(
        layer_has_kernel(profile, context, layer, kinds) for layer in trunk
    )


def forces_flash_attention(context: Context) -> bool:
    """Whether llama.cpp uses flash attention even if a device has no kernel, and the host computes it.

    It does if the user turns flash attention on, and with a quantised V (llama_init_from_model).
    """
    return context.flash_attn is FlashAttention.ON or KV_TYPES[context.kv_type_v].is_quantized


def layer_has_kernel(
    profile: ModelProfile, context: Context, layer: Layer, kinds: Collection[DeviceKind]
) -> bool:
    """Whether all kinds of devices have a flash attention kernel for the layer, or it has no attention."""
    if not layer.attention_bytes or not profile.n_head_kv:
        return True
    head = (profile.head_k, profile.head_v)
    if layer.sliding_window:
        head = (profile.window_head_k, profile.window_head_v)
    per_head = profile.n_head // profile.n_head_kv
    return has_flash_attention(kinds, head, per_head, {context.kv_type_k, context.kv_type_v})
