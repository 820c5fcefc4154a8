"""A llama_batch filled through numpy: no per-row ctypes calls."""

import ctypes
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vram_llm.llama.bindings import C

_seq_id_pointer = ctypes.POINTER(ctypes.c_int32)


class Batch:
    """Rows of (token, position, sequence, wants logits), up to `capacity`; one sequence a row.

    The arrays are made once and llama.cpp reads them in place; `seq_id[i]` points for good at cell i of a
    flat arena.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.n_rows = 0
        self._token = np.zeros(capacity, np.int32)
        self._pos = np.zeros(capacity, np.int32)
        self._seq = np.zeros(capacity, np.int32)
        self._n_seq = np.ones(capacity, np.int32)
        self._logits = np.zeros(capacity, np.int8)
        cells = self._seq.ctypes.data
        self._seq_pointers = (_seq_id_pointer * capacity)(
            *(ctypes.cast(cells + 4 * i, _seq_id_pointer) for i in range(capacity))
        )
        self.struct = C.llama_batch(
            n_tokens=0,
            token=_pointer(self._token, ctypes.c_int32),
            embd=None,
            pos=_pointer(self._pos, ctypes.c_int32),
            n_seq_id=_pointer(self._n_seq, ctypes.c_int32),
            seq_id=self._seq_pointers,
            logits=_pointer(self._logits, ctypes.c_int8),
        )

    def clear(self) -> None:
        """Start a new batch."""
        self.n_rows = 0
        self.struct.n_tokens = 0

    def add_singles(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        sequences: Sequence[int],
        logits: Sequence[bool],
    ) -> None:
        """Append a row for each of as many sequences."""
        start, end = self.n_rows, self.n_rows + len(tokens)
        self._token[start:end] = tokens
        self._pos[start:end] = positions
        self._seq[start:end] = sequences
        self._logits[start:end] = logits
        self.n_rows = self.struct.n_tokens = end

    def add(self, tokens: Sequence[int], position: int, sequence: int, *, n_outputs: int) -> int:
        """Append `tokens` of one sequence from `position` on; returns the row of the last of them.

        The last `n_outputs` of them give logits.
        """
        start, end = self.n_rows, self.n_rows + len(tokens)
        self._token[start:end] = tokens
        self._pos[start:end] = np.arange(position, position + len(tokens), dtype=np.int32)
        self._seq[start:end] = sequence
        self._logits[start : end - n_outputs] = 0
        self._logits[end - n_outputs : end] = 1
        self.n_rows = self.struct.n_tokens = end
        return end - 1


def _pointer(array: npt.NDArray[np.generic], kind: "type[ctypes._SimpleCData[int]]") -> object:
    return array.ctypes.data_as(ctypes.POINTER(kind))
