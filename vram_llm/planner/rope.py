"""How a model's rotary positions are scaled beyond its training: llama.cpp's RoPE and YaRN parameters."""

from dataclasses import dataclass, replace
from enum import StrEnum

from vram_llm.model.profile import ModelProfile


class RopeScaling(StrEnum):
    """The way of scaling, as in llama_rope_scaling_type."""

    NONE = "none"
    LINEAR = "linear"
    YARN = "yarn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Fields of llama_context_params. None: the model file's value, or llama.cpp's."""

    scaling: RopeScaling | None = None
    freq_base: float | None = None
    freq_scale: float | None = None  # of positions: 0.25 makes four times the trained context
    yarn_orig_ctx: int | None = None  # tokens that the model was trained on, before any scaling
    yarn_ext_factor: float | None = None
    yarn_attn_factor: float | None = None
    yarn_beta_slow: float | None = None
    yarn_beta_fast: float | None = None

    @property
    def numbers(self) -> dict[str, float | int]:
        """The numbers that are given, by their names in llama_context_params."""
        names = {
            "rope_freq_base": self.freq_base,
            "rope_freq_scale": self.freq_scale,
            "yarn_orig_ctx": self.yarn_orig_ctx,
            "yarn_ext_factor": self.yarn_ext_factor,
            "yarn_attn_factor": self.yarn_attn_factor,
            "yarn_beta_slow": self.yarn_beta_slow,
            "yarn_beta_fast": self.yarn_beta_fast,
        }
        return {name: value for name, value in names.items() if value is not None}


AS_IN_FILE = Rope()


def with_rope(profile: ModelProfile, rope: Rope) -> ModelProfile:
    """`profile` with the context length that `rope` makes of the trained one.

    YaRN with another scale than the file's: as llama_init_from_model adjusts n_ctx_train. Linear scaling: the
    trained length times the file's scale over the given one, of which llama.cpp knows nothing. Another
    frequency base changes no length here: how far it carries is not known.
    """
    own = profile.rope
    scaling = own.scaling if rope.scaling is None else rope.scaling.value
    scale = own.freq_scale if rope.freq_scale is None else rope.freq_scale
    trained = profile.context_length
    if scaling == RopeScaling.YARN and scale != own.freq_scale:
        n_ctx = int((rope.yarn_orig_ctx or own.original_context or trained) / scale)
    elif scaling == RopeScaling.LINEAR and rope.freq_scale is not None:
        n_ctx = int(trained * own.freq_scale / scale)
    else:
        return profile
    return replace(profile, context_length=n_ctx)
