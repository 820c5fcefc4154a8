"""Multimodal projectors (mmproj files), which turn images or sound into a language model's input.

Keys are those of tools/mtmd/clip-impl.h, sizes those of clip_model_loader in tools/mtmd/clip.cpp.
"""

from dataclasses import dataclass

from vram_llm.errors import ModelFileError
from vram_llm.model.file_kind import kind_of
from vram_llm.model.gguf import TensorInfo
from vram_llm.model.header import Header
from vram_llm.model.layer_memory import ArchKeys

_F32 = 4
_ARCHITECTURE = "clip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Projector:
    """A projector's weights, and a rough estimate of its compute."""

    path: str
    name: str
    tensors: tuple[TensorInfo, ...]
    total_bytes: int
    estimated_compute_bytes: int


def read_projector(header: Header) -> Projector:
    """The projector in `header`. Raises ModelFileError if the file is not a projector."""
    if header.metadata.get("general.architecture") != _ARCHITECTURE:
        raise ModelFileError(
            f"{header.path.name} is {kind_of(header).value}; --mmproj takes the model's projector"
        )
    return Projector(
        path=str(header.path),
        name=header.path.name,
        tensors=header.tensors,
        total_bytes=sum(tensor.n_bytes for tensor in header.tensors),
        estimated_compute_bytes=max(
            _compute_bytes(ArchKeys(f"{_ARCHITECTURE}.{part}", header.metadata))
            for part in ("vision", "audio")
        ),
    )


def _compute_bytes(keys: ArchKeys) -> int:
    """Compute bytes for one image of the encoder's size, without flash attention; 0 without this encoder."""
    size, patch = keys.number("image_size"), keys.number("patch_size", 1)
    n_tokens = (size // max(patch, 1)) ** 2 if size else keys.number("embedding_length") and 1500
    wide = 8 * keys.number("embedding_length") + 2 * keys.number("feed_forward_length")
    return _F32 * n_tokens * (wide + 2 * keys.number("attention.head_count") * n_tokens)
