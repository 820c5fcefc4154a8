"""Each layer's memory: keys and values per token, recurrent state per sequence.

This restates llama_hparams (src/llama-hparams.cpp), the generic part of load_hparams (src/llama-model.cpp)
and the layer filters of llama_model::create_memory.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vram_llm.errors import CorruptHeader
from vram_llm.model import rules
from vram_llm.model.gguf import SkippedArray, Value

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
_MAX_NUMBER = 2**32 - 1


@dataclass(frozen=True, slots=True)
class ArchKeys:
    """The metadata of one architecture; each key gets the prefix `{arch}.`. Getters raise CorruptHeader."""

    arch: str
    metadata: Mapping[str, Value]

    def raw(self, key: str) -> Value | None:
        """The value in the file."""
        return self.metadata.get(f"{self.arch}.{key}")

    def number(self, key: str, default: int = 0) -> int:
        """A whole number of 32 bits."""
        value = self.raw(key)
        return default if value is None else self._checked(key, value)

    def per_layer(self, key: str, n_layers: int, default: int | Sequence[int] = 0) -> tuple[int, ...]:
        """One number for each layer, from an array of at least `n_layers` values or one number for all."""
        value = self.raw(key)
        if value is None:
            return (default,) * n_layers if isinstance(default, int) else tuple(default)
        if not isinstance(value, tuple):
            return (self._checked(key, value),) * n_layers
        if len(value) < n_layers:
            raise CorruptHeader(f"{self.arch}.{key} has {len(value)} values for {n_layers} layers")
        return tuple(self._checked(key, number) for number in value[:n_layers])

    def flags(self, key: str, n_layers: int) -> tuple[bool, ...] | None:
        """A flag for each layer if the file has an array; layers past the array's end get False."""
        value = self.raw(key)
        if not isinstance(value, tuple):
            return None
        given = [bool(flag) for flag in value[:n_layers]]
        return (*given, *[False] * (n_layers - len(given)))

    def _checked(self, key: str, value: Value) -> int:
        if isinstance(value, (str, float, tuple, SkippedArray)) or not 0 <= value <= _MAX_NUMBER:
            shown = f"{value.count} values" if isinstance(value, SkippedArray) else repr(value)
            raise CorruptHeader(f"{self.arch}.{key} is {shown}, not a number of 32 bits")
        return int(value)


@dataclass(frozen=True, slots=True)
class LayerMemory:
    """The memory of one layer. Elements are per token and cell, before the cache's type is chosen."""

    n_embd_k_gqa: int
    n_embd_v_gqa: int
    has_values: bool  # the cache has a V tensor for the layer, even if it has no elements
    sliding_window: bool
    recurrent_state_bytes: int  # f32, per sequence
    head_k_gqa: int = 0  # of an MTP block, in the cache of the head's own context
    head_v_gqa: int = 0


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention's shape over all layers; head sizes in elements."""

    n_head: tuple[int, ...]
    n_head_kv: tuple[int, ...]
    head_k: int
    head_v: int
    window_head_k: int  # of layers with a window
    window_head_v: int
    window: int  # tokens; 0: no layer has one
    windowed: tuple[bool, ...]
    is_mla: bool

    def k_width(self, i: int) -> int:
        """Elements of K per token in layer `i` (n_embd_k_gqa)."""
        return self.n_head_kv[i] * (self.window_head_k if self.windowed[i] else self.head_k)

    def v_width(self, i: int) -> int:
        """Elements of V per token in layer `i` (n_embd_v_gqa), which MLA does not store."""
        return self.n_head_kv[i] * (self.window_head_v if self.windowed[i] else self.head_v)


def read_attention(keys: ArchKeys, n_layers: int, n_draft: int) -> Attention:
    """Head counts, head sizes and windows. `n_layers` counts the `n_draft` MTP blocks at the end."""
    n_head = keys.per_layer("attention.head_count", n_layers)
    n_head_kv = keys.per_layer("attention.head_count_kv", n_layers, n_head)
    share = keys.number("embedding_length") // n_head[0] if n_head[0] else 0
    head_k = keys.number("attention.key_length", share) if n_head[0] else 0
    head_v = keys.number("attention.value_length", share) if n_head[0] else 0
    window, windowed = _windows(keys, n_layers, n_draft)
    return Attention(
        n_head,
        n_head_kv,
        head_k,
        head_v,
        keys.number("attention.key_length_swa", head_k),
        keys.number("attention.value_length_swa", head_v),
        window,
        windowed,
        bool(keys.number("attention.key_length_mla") and keys.number("attention.value_length_mla")),
    )


def _windows(keys: ArchKeys, n_layers: int, n_draft: int) -> tuple[int, tuple[bool, ...]]:
    """The window in tokens and which layers have it."""
    none = (0, (False,) * n_layers)
    rule = rules.WINDOWS.get(keys.arch)
    n_trunk = n_layers - n_draft
    listed = keys.flags("attention.sliding_window_pattern", n_layers)
    if rule is None:
        window = keys.number("attention.sliding_window")
        return (window, listed) if keys.arch in rules.LISTED_WINDOWS and window and listed else none
    if rule.only_n_layers not in (0, n_trunk):
        return none
    window = keys.number("attention.sliding_window", rule.default_window)
    if not window:
        return none
    if listed is None:
        period = keys.number("attention.sliding_window_pattern", rule.period)
        full = 0 if rule.dense_first else period - 1
        listed = tuple(i < n_trunk and (period == 0 or i % period != full) for i in range(n_layers))
    return rule.fixed_window or window, listed


def linear_layers(keys: ArchKeys, n_layers: int, n_draft: int) -> tuple[bool, ...] | None:
    """Which layers are recurrent and not attention by the metadata; None if it does not list them."""
    interval = keys.number("full_attention_interval", rules.FULL_ATTENTION_INTERVALS.get(keys.arch, 0))
    if keys.raw("attention.recurrent_layers") is not None:
        return tuple(bool(flag) for flag in keys.per_layer("attention.recurrent_layers", n_layers))
    if not interval:
        return None
    return tuple(i < n_layers - n_draft and (i + 1) % interval != 0 for i in range(n_layers))


def recurrent_elements(keys: ArchKeys, attention: Attention) -> int:
    """Elements of state a recurrent layer keeps per sequence: n_embd_r + n_embd_s of llama-hparams.cpp."""
    n_embd, n_head = keys.number("embedding_length"), attention.n_head[0]
    if head := keys.number("wkv.head_size"):
        return keys.number("token_shift_count", 2) * n_embd + n_embd * head
    if cache := keys.number("shortconv.l_cache"):
        return n_embd * (cache - 1)
    kernel, inner, state = (keys.number(f"ssm.{key}") for key in ("conv_kernel", "inner_size", "state_size"))
    if head := keys.number("kda.head_dim"):
        return 3 * (kernel - 1 if kernel else 3) * n_head * head + head * head * n_head
    if inner or state:
        return max(kernel - 1, 0) * (inner + 2 * keys.number("ssm.group_count") * state) + state * inner
    return attention.head_k * attention.head_k * n_head  # lightning attention has no sizes of its own


def layer_memory(
    keys: ArchKeys,
    attention: Attention,
    n_draft: int,
    recurrent: Sequence[bool],
    attends: Callable[[int], bool],
) -> tuple[LayerMemory, ...]:
    """Each layer's memory in the main context.

    `recurrent` marks the layers that keep a state; `attends(i)` is whether recurrent layer `i` attends too.
    """
    n_layers = len(recurrent)
    n_trunk = n_layers - n_draft
    has_memory = keys.arch not in rules.NO_MEMORY
    shared = keys.number("attention.shared_kv_layers")
    n_storing = rules.KV_FROM_START.get(keys.arch, n_layers - shared)
    state_bytes = 4 * recurrent_elements(keys, attention) if has_memory and any(recurrent) else 0

    def layer(i: int) -> LayerMemory:
        kept = i < n_trunk or keys.arch in rules.DRAFT_KEEPS_KV
        stores = has_memory and kept and i < n_storing and (not recurrent[i] or attends(i))
        v_width = attention.v_width(i) if stores and not attention.is_mla else 0
        return LayerMemory(
            attention.k_width(i) if stores else 0,
            v_width,
            # a plain cache has tensors even for a layer without heads; a hybrid cache has none
            v_width > 0 or (stores and not attention.is_mla and not any(recurrent)),
            attention.windowed[i],
            state_bytes if recurrent[i] and i < n_trunk else 0,
            attention.k_width(i) if i >= n_trunk else 0,
            attention.v_width(i) if i >= n_trunk and not attention.is_mla else 0,
        )

    return tuple(layer(i) for i in range(n_layers))
