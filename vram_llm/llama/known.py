"""A model of two layers whose bytes are known, to see whether a dry run can be trusted."""

import struct
from pathlib import Path

from vram_llm.llama.dryrun_wire import Use
from vram_llm.machine.types import Device, DeviceKind, Source
from vram_llm.model.gguf import TensorInfo, Value
from vram_llm.model.header import Header, Shard
from vram_llm.model.quants import TYPES, GgmlType, row_bytes
from vram_llm.model.strip import write_stripped
from vram_llm.plan.layout import placement_from_counts
from vram_llm.plan.types import Context, Placement
from vram_llm.units import GIB

_N_EMBD, _N_FF, _N_VOCAB, _N_LAYERS = 256, 512, 1000, 2
_U32, _F32, _TEXT = 4, 6, 8

DEVICES = [
    Device(id=f"CUDA{i}", name="known", kind=DeviceKind.CUDA, total_bytes=GIB, free_bytes=GIB,
           memory_source=Source.GIVEN, row_padding=512)
    for i in range(2)
]  # fmt: skip

ANSWER = [Use(631_040, 262_144, 1_053_696), Use(904_448, 262_144, 726_528)]
"""What llama.cpp, as llama-cpp-python 0.3.36 carries it, takes for it."""


def placement() -> Placement:
    """One layer on each device."""
    return placement_from_counts([device.id for device in DEVICES], [1, 1], _N_LAYERS)


def context() -> Context:
    """A small context."""
    return Context(
        n_ctx=512, parallel=2, kv_type_k="f16", kv_type_v="f16", n_batch=128, n_ubatch=64, n_threads=1,
        use_mmap=False, pipeline_copies=True,
    )  # fmt: skip


def write(path: Path) -> Path:
    """Write the model to `path`."""
    text = b"llama"
    raw = {"general.architecture": struct.pack("<IQ", _TEXT, len(text)) + text}
    numbers = {
        "block_count": _N_LAYERS, "context_length": 512, "embedding_length": _N_EMBD,
        "feed_forward_length": _N_FF, "attention.head_count": 4, "attention.head_count_kv": 2,
        "rope.dimension_count": 64, "vocab_size": _N_VOCAB,
    }  # fmt: skip
    raw |= {f"llama.{key}": struct.pack("<II", _U32, value) for key, value in numbers.items()}
    raw["llama.attention.layer_norm_rms_epsilon"] = struct.pack("<If", _F32, 1e-5)
    metadata: dict[str, Value] = {"general.architecture": "llama", "llama.vocab_size": _N_VOCAB}
    return write_stripped(Header(metadata, raw, _tensors(), (Shard(path, 0, 0),)), path)


def _tensors() -> tuple[TensorInfo, ...]:
    q8, f32 = TYPES[8], TYPES[0]
    found = [
        _tensor("token_embd.weight", q8, _N_EMBD, _N_VOCAB),
        _tensor("output_norm.weight", f32, _N_EMBD),
        _tensor("output.weight", q8, _N_EMBD, _N_VOCAB),
    ]
    for i in range(_N_LAYERS):
        found += [_tensor(f"blk.{i}.{part}_norm.weight", f32, _N_EMBD) for part in ("attn", "ffn")]
        shapes = {
            "attn_q": (_N_EMBD, _N_EMBD), "attn_k": (_N_EMBD, 128), "attn_v": (_N_EMBD, 128),
            "attn_output": (_N_EMBD, _N_EMBD), "ffn_gate": (_N_EMBD, _N_FF), "ffn_up": (_N_EMBD, _N_FF),
            "ffn_down": (_N_FF, _N_EMBD),
        }  # fmt: skip
        found += [_tensor(f"blk.{i}.{part}.weight", q8, *shape) for part, shape in shapes.items()]
    return tuple(found)


def _tensor(name: str, stored: GgmlType, row: int, rows: int = 1) -> TensorInfo:
    shape = (row, rows) if rows > 1 else (row,)
    return TensorInfo(name, shape, stored, 0, row_bytes(stored, row) * rows)
