"""Headers of models in pieces, to be changed before they are written."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests import zoo

MOST_BYTES = 2**43  # of a file; file systems have limits


@dataclass
class TensorEntry:
    """A tensor as the header lists it."""

    name: bytes
    dims: list[int]
    type: int
    offset: int
    n_dims: int | None = None  # None: as many as `dims`

    def raw(self) -> bytes:
        """Its bytes in the header."""
        n_dims = len(self.dims) if self.n_dims is None else self.n_dims
        dims = struct.pack(f"<I{len(self.dims)}Q", n_dims % 2**32, *(dim % 2**64 for dim in self.dims))
        return string(self.name) + dims + struct.pack("<IQ", self.type % 2**32, self.offset % 2**64)


@dataclass
class Draft:
    """A file before it is written. Counts are those of the lists unless they are given."""

    pairs: list[tuple[bytes, bytes]]  # keys, and values with their type in front
    tensors: list[TensorEntry]
    data_bytes: int
    magic: bytes = b"GGUF"
    version: int = 3
    n_pairs: int | None = None
    n_tensors: int | None = None
    edits: list[Callable[[bytearray], None]] = field(default_factory=list)  # of the header's bytes
    keeps_hole: bool = True

    def write(self, path: Path) -> None:
        """Write the header, and a hole for the tensor data."""
        counts = [
            len(given) if n is None else n
            for n, given in ((self.n_tensors, self.tensors), (self.n_pairs, self.pairs))
        ]
        raw = bytearray(self.magic + struct.pack("<IQQ", self.version % 2**32, *(n % 2**64 for n in counts)))
        raw += b"".join(string(key) + value for key, value in self.pairs)
        raw += b"".join(tensor.raw() for tensor in self.tensors)
        for edit in self.edits:
            edit(raw)
        with path.open("wb") as file:
            file.write(raw)
            if self.keeps_hole:
                file.truncate(min(-(-len(raw) // 32) * 32 + self.data_bytes, MOST_BYTES))


def string(raw: bytes) -> bytes:
    """A GGUF string."""
    return struct.pack("<Q", len(raw)) + raw


@cache
def seeds() -> tuple[tuple[Draft, ...], ...]:
    """Small models of many architectures, a split one, an adapter and a projector."""
    models = [build() for build in zoo.SMALL.values()]
    models += [
        zoo.llama(2, 64, 4, 2, 128, 96),
        zoo.qwen3_moe(2),
        zoo.deepseek2(3, 1, 8),
        zoo.gpt_oss(2, 4),
        zoo.gemma3(2),
    ]
    models[-1].metadata |= {
        "tokenizer.ggml.tokens": [f"token{i}" for i in range(300)],
        "tokenizer.ggml.scores": list(range(300)),
        "tokenizer.chat_template": "{{ messages }}",
        "general.name": "A model",
    }
    drafts: list[tuple[Draft, ...]] = [(_draft(model),) for model in models]
    whole = _draft(zoo.llama(4, 64, 4, 2, 128, 96))
    drafts.append(_split(whole, 3))
    for metadata, suffix in (
        ({"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 16.0}, ".lora_a"),
        ({"general.type": "mmproj", "general.architecture": "clip", "clip.vision.image_size": 336}, ""),
    ):
        model = zoo.llama(1, 64, 4, 2, 128, 96)
        model.tensors = {name + suffix: shape for name, shape in model.tensors.items()}
        model.metadata |= metadata
        drafts.append((_draft(model),))
    return tuple(drafts)


def _draft(model: zoo.Model) -> Draft:
    pairs = [
        (key.encode(), zoo.metadata_value(value)) for key, value in zoo.metadata_of(model, "Q8_0").items()
    ]
    tensors, offset = [], 0
    for name, shape in model.tensors.items():
        tensors.append(TensorEntry(name.encode(), list(shape), zoo.type_of(model, name, "Q8_0").id, offset))
        offset += -(-zoo.n_bytes(model, name, "Q8_0") // 32) * 32
    return Draft(pairs, tensors, offset)


def _split(whole: Draft, n: int) -> tuple[Draft, ...]:
    parts = []
    for i in range(n):
        numbers = {
            b"split.no": ("H", i),
            b"split.count": ("H", n),
            b"split.tensors.count": ("i", len(whole.tensors)),
        }
        pairs = [(key, zoo.metadata_value(zoo.Exact(code, value))) for key, (code, value) in numbers.items()]
        own = whole.tensors[i::n]
        sizes = [
            whole.tensors[j + 1].offset if j + 1 < len(whole.tensors) else whole.data_bytes
            for j in range(len(whole.tensors))
        ]
        offset, tensors = 0, []
        for tensor in own:
            tensors.append(TensorEntry(tensor.name, tensor.dims, tensor.type, offset))
            offset += sizes[whole.tensors.index(tensor)] - tensor.offset
        parts.append(Draft([*(whole.pairs if i == 0 else []), *pairs], tensors, offset))
    return tuple(parts)


def copy(draft: Draft) -> Draft:
    """A draft that can be changed alone."""
    tensors = [TensorEntry(each.name, list(each.dims), each.type, each.offset) for each in draft.tensors]
    return Draft(list(draft.pairs), tensors, draft.data_bytes)
