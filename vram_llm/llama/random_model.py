"""Random llama models of any width and depth, to measure devices and to check the dry run.

If only the sizes of a model count, its weights are a hole in a sparse file. Speed is measured with random
weights: processors are up to a fifth faster on zeros.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

from vram_llm.model.gguf import TensorInfo, Value
from vram_llm.model.header import Header, Shard
from vram_llm.model.header_reader import read_header
from vram_llm.model.quants import TYPES, GgmlType, row_bytes
from vram_llm.model.strip import write_stripped

_U32, _F32, _TEXT = 4, 6, 8
_F32_TYPE, _Q8_0 = TYPES[0], TYPES[8]
_BLOCK = [("scale", "<f2"), ("weights", "i1", 32)]  # block_q8_0 of ggml-common.h
_N_BLOCKS = 4096  # random blocks, repeated over the file
_SCALE = 2.7e-4  # times a byte's standard deviation: 0.02, as trained weights have


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomModelShape:
    """The dimensions of a llama model in Q8_0, with separate tensors for embedding and output."""

    n_embd: int
    n_ff: int
    n_layers: int
    n_head: int
    n_head_kv: int
    n_vocab: int
    head_size: int | None = None  # None: n_embd / n_head

    @property
    def params(self) -> int:
        """Weights that each token is multiplied with: all matrices except the embedding."""
        return sum(t.n_elements for t in self._matrices() if t.name != "token_embd.weight")

    @property
    def read_bytes(self) -> int:
        """Bytes of these matrices, which each decode step reads."""
        return sum(t.n_bytes for t in self._matrices() if t.name != "token_embd.weight")

    def write_sparse(self, path: Path) -> Path:
        """Write the model without weights to `path`, as a sparse file of a few kilobytes on disk."""
        text = b"llama"
        raw = {"general.architecture": struct.pack("<IQ", _TEXT, len(text)) + text}
        numbers = {
            "block_count": self.n_layers, "context_length": 4096, "embedding_length": self.n_embd,
            "feed_forward_length": self.n_ff, "attention.head_count": self.n_head,
            "attention.head_count_kv": self.n_head_kv, "rope.dimension_count": self._head_size,
            "vocab_size": self.n_vocab,
        }  # fmt: skip
        if self.head_size is not None:
            numbers |= {"attention.key_length": self.head_size, "attention.value_length": self.head_size}
        raw |= {f"llama.{key}": struct.pack("<II", _U32, value) for key, value in numbers.items()}
        raw["llama.attention.layer_norm_rms_epsilon"] = struct.pack("<If", _F32, 1e-5)
        metadata: dict[str, Value] = {"general.architecture": "llama", "llama.vocab_size": self.n_vocab}
        return write_stripped(Header(metadata, raw, self._tensors(), (Shard(path, 0, 0),)), path)

    def write_random(self, path: Path) -> Path:
        """Write the model with random weights, and norms of 1."""
        import numpy as np  # here: planning needs this module without numpy

        header = read_header(self.write_sparse(path))
        blocks = np.zeros(_N_BLOCKS, _BLOCK)
        blocks["scale"] = _SCALE
        blocks["weights"] = np.random.default_rng(1).integers(-127, 128, (_N_BLOCKS, 32))
        weights, ones = blocks.tobytes(), struct.pack("<f", 1)
        with path.open("r+b") as stream:
            for tensor in header.tensors:
                stream.seek(header.shards[0].data_offset + tensor.offset)
                pattern = weights if tensor.type is _Q8_0 else ones
                whole, rest = divmod(tensor.n_bytes, len(pattern))
                stream.write(pattern * whole + pattern[:rest])
        return path

    @property
    def _head_size(self) -> int:
        return self.head_size or self.n_embd // self.n_head

    def _matrices(self) -> list[TensorInfo]:
        return [tensor for tensor in self._tensors() if tensor.type is _Q8_0]

    def _tensors(self) -> tuple[TensorInfo, ...]:
        n_embd, n_q, n_kv = self.n_embd, self._head_size * self.n_head, self._head_size * self.n_head_kv
        tensors = [
            _tensor("token_embd.weight", _Q8_0, n_embd, self.n_vocab),
            _tensor("output_norm.weight", _F32_TYPE, n_embd),
            _tensor("output.weight", _Q8_0, n_embd, self.n_vocab),
        ]
        shapes = {
            "attn_q": (n_embd, n_q), "attn_k": (n_embd, n_kv), "attn_v": (n_embd, n_kv),
            "attn_output": (n_q, n_embd), "ffn_gate": (n_embd, self.n_ff), "ffn_up": (n_embd, self.n_ff),
            "ffn_down": (self.n_ff, n_embd),
        }  # fmt: skip
        for i in range(self.n_layers):
            tensors += [_tensor(f"blk.{i}.{part}_norm.weight", _F32_TYPE, n_embd) for part in ("attn", "ffn")]
            tensors += [_tensor(f"blk.{i}.{part}.weight", _Q8_0, *shape) for part, shape in shapes.items()]
        return tuple(tensors)


def _tensor(name: str, tensor_type: GgmlType, row: int, rows: int = 1) -> TensorInfo:
    shape = (row, rows) if rows > 1 else (row,)
    return TensorInfo(name, shape, tensor_type, 0, row_bytes(tensor_type, row) * rows)
