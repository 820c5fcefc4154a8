"""The output of `analyze --json`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vram_llm.model.profile import ModelProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyzedShard:
    """One file of the model."""

    path: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyzedLayer:
    """One repeating layer. `sliding_window`: whether it attends to a window of the context. KV is at f16."""

    index: int
    bytes: int
    attention_bytes: int
    ffn_bytes: int
    expert_bytes: int
    recurrent_bytes: int
    other_bytes: int
    kv_bytes_per_token: int
    sliding_window: bool
    recurrent_state_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyzedModel:
    """A model file. Sizes are in bytes, unpadded; KV is at f16."""

    architecture: str
    name: str
    quantization: str
    parameters: int
    n_layers: int
    context_length: int
    vocab_size: int
    n_embd: int
    n_expert: int
    n_expert_used: int
    sliding_window: int
    total_bytes: int
    token_embd_bytes: int
    output_bytes: int
    tied_output: bool
    active_bytes_per_token: int
    kv_bytes_per_token: int
    draft_head: str | None  # its kind, if the file has a draft head alone and is no model
    shards: tuple[AnalyzedShard, ...]
    layers: tuple[AnalyzedLayer, ...]


def analyzed(profile: "ModelProfile") -> AnalyzedModel:
    """The profile in the form of `analyze --json`."""
    same = (name for name in AnalyzedModel.__dataclass_fields__ if name not in ("shards", "layers"))
    of_layer = tuple(AnalyzedLayer.__dataclass_fields__)
    return AnalyzedModel(
        **{name: getattr(profile, name) for name in same},
        shards=tuple(AnalyzedShard(path=str(shard.path), bytes=shard.n_bytes) for shard in profile.shards),
        layers=tuple(
            AnalyzedLayer(**{name: getattr(layer, name) for name in of_layer}) for layer in profile.layers
        ),
    )
