"""Write a model's header as a file that holds only what llama.cpp needs to place the model.

The file has no vocabulary, and its weights are a hole, so it takes some kilobytes of disk and llama.cpp opens
it in milliseconds. All other metadata is copied byte for byte, since llama.cpp requires the exact type of
each value (get_key in src/llama-model-loader.cpp).
"""

import struct
from pathlib import Path

from vram_llm.errors import CorruptHeader
from vram_llm.model.gguf import SkippedArray
from vram_llm.model.header import Header
from vram_llm.model.metadata_override import MetadataOverride

_VERSION = 3
_STRING, _U32 = 8, 4
_DROPPED = ("split.", "tokenizer.")
_KEPT = ("tokenizer.ggml.token_type_count",)  # describes a weight, not the vocabulary: BERT's token_types


def write_stripped(header: Header, path: Path) -> Path:
    """Write all shards of `header` to `path` as one file without vocabulary and without weights.

    llama.cpp reads the vocabulary's size from `{arch}.vocab_size` if `tokenizer.ggml.model` is "none"
    (llama_vocab in src/llama-vocab.cpp). Raises CorruptHeader if the header names no architecture.
    """
    arch = header.metadata.get("general.architecture")
    if not isinstance(arch, str):
        raise CorruptHeader(f"{header.path.name} does not say what architecture it is")
    size_key = f"{arch}.vocab_size"
    values = {key: raw for key, raw in header.raw.items() if key in _KEPT or not key.startswith(_DROPPED)}
    values["tokenizer.ggml.model"] = struct.pack("<I", _STRING) + _text("none")
    if (n_vocab := vocab_size(header)) is not None:
        values[size_key] = struct.pack("<II", _U32, n_vocab)
    alignment = header.metadata.get("general.alignment", 32)
    assert isinstance(alignment, int)  # gguf.parse has checked it
    out = [struct.pack("<4sIQQ", b"GGUF", _VERSION, len(header.tensors), len(values))]
    out += [_text(key) + raw for key, raw in values.items()]
    offset = 0
    for tensor in header.tensors:
        n_dims = len(tensor.shape)
        out.append(_text(tensor.name) + struct.pack(f"<I{n_dims}Q", n_dims, *tensor.shape))
        out.append(struct.pack("<IQ", tensor.type.id, offset))
        offset += _pad(tensor.n_bytes, alignment)
    raw_header = b"".join(out)
    data_offset = _pad(len(raw_header), alignment)
    with path.open("wb") as stream:
        stream.write(raw_header)
        stream.truncate(data_offset + offset)
    return path


def overrides_of_stripped(header: Header) -> tuple[MetadataOverride, ...]:
    """The header's overrides that concern a stripped copy, which keeps the file's own metadata.

    Those of the vocabulary and of its size do not: a stripped copy has the real size, and no vocabulary.
    """
    size_key = f"{header.metadata.get('general.architecture')}.vocab_size"
    return tuple(
        override
        for override in header.overrides
        if override.key in _KEPT or not override.key.startswith((*_DROPPED, size_key))
    )


def vocab_size(header: Header) -> int | None:
    """Tokens in the vocabulary; the embedding's rows if the file does not list them; None without either."""
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, SkippedArray):
        return tokens.count
    size = header.metadata.get(f"{header.metadata.get('general.architecture')}.vocab_size")
    if isinstance(size, int):
        return size
    rows = (t.shape[1] for t in header.tensors if t.name == "token_embd.weight" and len(t.shape) > 1)
    return next(rows, None)


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def _pad(n: int, to: int) -> int:
    return -(-n // to) * to
