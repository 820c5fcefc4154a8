"""GGUF files with the header of a model and a hole for its weights.

Shapes and keys are those of published models; quantisation is the plain rule "every matrix in one type, what
llama-quantize never touches in F32". llama.cpp loads such files with `no_alloc`.
"""

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from vram_llm.model.quants import TYPES, GgmlType, row_bytes

Shape = tuple[int, ...]
TYPE = {t.name: t for t in TYPES.values()}
FILE_TYPE = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "Q2_K": 10, "Q3_K": 12, "Q4_K": 15, "Q5_K": 17, "Q6_K": 18,
    "IQ2_XXS": 19, "IQ3_XXS": 23, "IQ4_XS": 30, "BF16": 32,
}  # fmt: skip
ALIGNMENT = 32
_NEVER_QUANTIZED = ("_norm.weight", "ffn_gate_inp.weight", "ssm_conv1d", "position_embd", "token_types")


def metadata_value(value: object) -> bytes:
    """A value with its GGUF type in front. Whole numbers are u32 (i32 in arrays), others f32."""
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + text(value)
        case Exact(code, number):
            return struct.pack(f"<I{code}", {"H": 2, "i": 5, "Q": 10}[code], number)
        case [str(), *_]:
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(text(str(each)) for each in value)
        case [bool(), *_]:
            return struct.pack(f"<IIQ{len(value)}?", 9, 7, len(value), *value)
        case [int(), *_]:
            return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
    raise TypeError(f"no GGUF type for {value!r}")


def text(value: str) -> bytes:
    """A GGUF string: its length and its UTF-8 bytes."""
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


@dataclass(frozen=True)
class Exact:
    """A number to be written as u16 ("H"), i32 ("i") or u64 ("Q"), where llama.cpp insists."""

    code: str
    number: int


@dataclass
class Model:
    """A model before quantisation. `keys` go without their `{arch}.`; shapes are in ggml's order."""

    arch: str
    keys: dict[str, object]
    tensors: dict[str, Shape] = field(default_factory=dict)
    metadata: dict[str, object] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)  # of single tensors, before the common rule

    def add(self, prefix: str = "", **shapes: Shape | int) -> None:
        """Tensors `{prefix}{name}.weight`."""
        for name, shape in shapes.items():
            self.tensors[f"{prefix}{name}.weight"] = (shape,) if isinstance(shape, int) else shape


def type_of(model: Model, name: str, common: str) -> GgmlType:
    """The type of tensor `name` in a file whose matrices have the type `common`."""
    shape = model.tensors[name]
    if name in model.types:
        return TYPE[model.types[name]]
    is_matrix = len(shape) > 1 and prod(shape[1:]) > 1 and name.endswith(".weight")
    if not is_matrix or any(part in name for part in _NEVER_QUANTIZED):
        return TYPE["F32"]
    return TYPE[common] if shape[0] % TYPE[common].block == 0 else TYPE["F16"]


def n_bytes(model: Model, name: str, common: str) -> int:
    """The bytes of a tensor, without padding."""
    shape = model.tensors[name]
    return row_bytes(type_of(model, name, common), shape[0]) * prod(shape[1:])


def _pad(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT


def header_bytes(
    model: Model, metadata: Mapping[str, object], names: Sequence[str], common: str
) -> tuple[bytes, int]:
    """A GGUF header, padded, and how many bytes of tensor data follow it."""
    out = [struct.pack("<4sIQQ", b"GGUF", 3, len(names), len(metadata))]
    out += [text(key) + metadata_value(value) for key, value in metadata.items()]
    offset = 0
    for name in names:
        shape = model.tensors[name]
        dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        out.append(text(name) + dims + struct.pack("<IQ", type_of(model, name, common).id, offset))
        offset += _pad(n_bytes(model, name, common))
    raw = b"".join(out)
    return raw.ljust(_pad(len(raw)), b"\0"), offset


def metadata_of(model: Model, common: str) -> dict[str, object]:
    """All the metadata of a whole model, without a vocabulary unless the model brings one."""
    vocabulary: dict[str, object] = {"tokenizer.ggml.model": "none"}
    return {
        "general.architecture": model.arch,
        "general.type": "model",
        **{f"{model.arch}.{key}": value for key, value in model.keys.items()},
        **vocabulary,
        "general.file_type": FILE_TYPE[common],
        **model.metadata,
    }


def write(model: Model, path: Path, common: str = "Q8_0", shard_bytes: int = 0) -> Path:
    """Write the model to `path`, or to shards of at most `shard_bytes` of data each; the first one's path.

    Shards are cut as llama-gguf-split cuts them; only the first one says what the model is.
    """
    groups: list[list[str]] = [[]]
    room = shard_bytes
    for name in model.tensors:
        size = _pad(n_bytes(model, name, common))
        if shard_bytes and groups[-1] and size > room:
            groups.append([])
            room = shard_bytes
        groups[-1].append(name)
        room -= size
    paths = [
        path.with_name(f"{path.stem}-{i + 1:05d}-of-{len(groups):05d}.gguf") if len(groups) > 1 else path
        for i in range(len(groups))
    ]
    for number, (part, names) in enumerate(zip(paths, groups, strict=True)):
        metadata = metadata_of(model, common) if number == 0 else {}
        if len(groups) > 1:
            metadata |= {"split.no": Exact("H", number), "split.count": Exact("H", len(groups))}
            metadata["split.tensors.count"] = Exact("i", len(model.tensors))
        raw, data = header_bytes(model, metadata, names, common)
        part.write_bytes(raw)
        os.truncate(part, len(raw) + data)
    return paths[0]
