"""The rotary positions that a model file asks for: their scaling, and positions of images."""

from dataclasses import dataclass

from vram_llm.model.gguf import Value
from vram_llm.model.layer_memory import ArchKeys


@dataclass(frozen=True, slots=True)
class RopeFacts:
    """Keys of llama_model's hparams. `freq_scale` is one over the file's factor."""

    scaling: str = "linear"  # llama.cpp's default; with a scale of 1 it does nothing
    freq_scale: float = 1.0
    original_context: int = 0  # tokens; 0: the file does not say
    is_mrope: bool = False  # positions of images have a row and a column: llama_hparams::use_mrope


UNSCALED = RopeFacts()


def read_rope(keys: ArchKeys) -> RopeFacts:
    """As llama_model::load_hparams reads them. Raises CorruptHeader."""
    scaling = keys.raw("rope.scaling.type")
    factor = keys.raw("rope.scaling.factor")
    if factor is None:
        factor = keys.raw("rope.scale_linear")
    is_number = isinstance(factor, int | float) and factor > 0
    return RopeFacts(
        scaling if isinstance(scaling, str) else "linear",
        1 / float(factor) if is_number and isinstance(factor, int | float) else 1.0,
        keys.number("rope.scaling.original_context_length"),
        _is_mrope(keys.raw("rope.dimension_sections")),
    )


def _is_mrope(sections: Value | None) -> bool:
    """Whether the first two sections, for time and rows, have dimensions."""
    first = sections[:2] if isinstance(sections, tuple) else ()
    return len(first) == 2 and all(isinstance(size, int) and size > 0 for size in first)
