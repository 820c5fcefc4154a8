"""A llama_batch that is filled by columns, without a ctypes call for each row."""

import ctypes
from array import array
from collections.abc import Sequence

import numpy as np

from vram_llm.llama.bindings import C

_seq_id_pointer = ctypes.POINTER(ctypes.c_int32)


class TokenBatch:
    """Rows of (token, position, sequence, wants logits), up to `capacity`; each row has one sequence.

    With `n_embd` each row has a hidden state as well: `hidden`, shape (capacity, n_embd). The arrays are made
    once and llama.cpp reads them in place; `seq_id[i]` always points at cell i of a flat array.
    """

    def __init__(self, capacity: int, n_embd: int = 0) -> None:
        self.capacity = capacity
        self.n_rows = 0
        self._token, self._pos, self._seq = (array("i", bytes(4 * capacity)) for _ in range(3))
        self._n_seq, self._logits = array("i", [1]) * capacity, array("b", bytes(capacity))
        self.hidden = np.zeros((capacity if n_embd else 0, n_embd), np.float32)
        cells = self._seq.buffer_info()[0]
        self._seq_pointers = (_seq_id_pointer * capacity)(
            *(ctypes.cast(cells + 4 * i, _seq_id_pointer) for i in range(capacity))
        )
        self.struct = C.llama_batch(
            n_tokens=0,
            token=_pointer(self._token, ctypes.c_int32),
            embd=self.hidden.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) if n_embd else None,
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
        logits: Sequence[int],
    ) -> None:
        """Append a row for each of several sequences; `logits` is 1 for rows that need them, else 0."""
        start, end = self._room(len(tokens))
        self._token[start:end] = array("i", tokens)
        self._pos[start:end] = array("i", positions)
        self._seq[start:end] = array("i", sequences)
        self._logits[start:end] = array("b", logits)
        self.n_rows = self.struct.n_tokens = end

    def advance(self, tokens: Sequence[int]) -> None:
        """Replace the rows' tokens, and move each row to the next position."""
        token_column, positions = self._token, self._pos
        for row, token in enumerate(tokens):
            token_column[row] = token
            positions[row] += 1

    def add(self, tokens: Sequence[int], position: int, sequence: int, *, n_outputs: int) -> int:
        """Append `tokens` of one sequence from `position` on; returns the row of the last of them.

        The last `n_outputs` of them give logits.
        """
        start, end = self._room(len(tokens))
        self._token[start:end] = array("i", tokens)
        self._pos[start:end] = array("i", range(position, position + len(tokens)))
        self._seq[start:end] = array("i", [sequence]) * len(tokens)
        self._logits[start:end] = array("b", bytes(len(tokens) - n_outputs) + b"\x01" * n_outputs)
        self.n_rows = self.struct.n_tokens = end
        return end - 1

    def runs(self) -> list[tuple[int, int, int, list[int]]]:
        """The rows as runs of one sequence each: first row, sequence, first position, tokens."""
        n, found = self.n_rows, []
        tokens, positions, sequences = self._token[:n], self._pos[:n], self._seq[:n]
        start = 0
        for end in range(1, n + 1):
            if end == n or sequences[end] != sequences[start] or positions[end] != positions[end - 1] + 1:
                found.append((start, sequences[start], positions[start], tokens[start:end].tolist()))
                start = end
        return found

    def _room(self, n: int) -> tuple[int, int]:
        """Start and end of the next `n` rows. Raises ValueError: llama.cpp reads the arrays in place."""
        end = self.n_rows + n
        if end > self.capacity:
            raise ValueError(
                f"{n} rows more are {end - self.capacity} too many for a batch of {self.capacity}"
            )
        return self.n_rows, end


def _pointer(column: "array[int]", kind: "type[ctypes._SimpleCData[int]]") -> object:
    return ctypes.cast(column.buffer_info()[0], ctypes.POINTER(kind))
