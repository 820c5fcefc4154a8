"""Batches: what llama.cpp will read through the pointers is what was added."""

import ctypes
from typing import Any

import pytest

from vram_llm.llama.batch import TokenBatch

Row = tuple[int, int, int, int]  # token, position, sequence, wants logits


def _rows(batch: TokenBatch) -> list[Row]:
    """The rows as C sees them."""
    struct: Any = batch.struct
    assert all(struct.n_seq_id[i] == 1 for i in range(struct.n_tokens))
    return [
        (struct.token[i], struct.pos[i], struct.seq_id[i][0], struct.logits[i])
        for i in range(struct.n_tokens)
    ]


def test_rows_lie_in_the_order_they_were_added() -> None:
    batch = TokenBatch(8)
    assert batch.add([10, 11, 12], 5, 2, n_outputs=1) == 2
    assert batch.add([20], 0, 7, n_outputs=1) == 3
    assert batch.add([30, 31], 100, 0, n_outputs=0) == 5
    assert batch.n_rows == 6
    assert _rows(batch) == [
        (10, 5, 2, 0),
        (11, 6, 2, 0),
        (12, 7, 2, 1),
        (20, 0, 7, 1),
        (30, 100, 0, 0),
        (31, 101, 0, 0),
    ]


def test_a_cleared_batch_keeps_nothing() -> None:
    batch = TokenBatch(4)
    batch.add([1, 2, 3, 4], 0, 3, n_outputs=1)
    batch.clear()
    assert (batch.n_rows, _rows(batch)) == (0, [])
    batch.add([9, 9, 9, 9], 7, 1, n_outputs=0)
    assert _rows(batch) == [(9, 7, 1, 0), (9, 8, 1, 0), (9, 9, 1, 0), (9, 10, 1, 0)]


def test_a_batch_takes_its_capacity_and_not_one_more() -> None:
    batch = TokenBatch(3)
    batch.add([1, 2], 0, 0, n_outputs=0)
    with pytest.raises(ValueError, match="1 too many for a batch of 3"):
        batch.add([3, 4], 2, 0, n_outputs=1)
    assert _rows(batch) == [(1, 0, 0, 0), (2, 1, 0, 0)]


def test_sequence_pointers_stay_where_they_were_made() -> None:
    batch = TokenBatch(2)
    struct: Any = batch.struct
    before = [ctypes.addressof(struct.seq_id[i].contents) for i in range(2)]
    batch.add([1, 2], 0, 1, n_outputs=1)
    batch.clear()
    batch.add([1, 2], 2, 0, n_outputs=1)
    assert [ctypes.addressof(struct.seq_id[i].contents) for i in range(2)] == before
    assert before[1] - before[0] == ctypes.sizeof(ctypes.c_int32)


def test_the_next_rows_of_the_same_sequences() -> None:
    batch = TokenBatch(4)
    batch.add_singles([10, 20, 30], [5, 0, 100], [2, 7, 0], [1, 1, 1])
    batch.advance([11, 21, 31])
    assert _rows(batch) == [(11, 6, 2, 1), (21, 1, 7, 1), (31, 101, 0, 1)]
    batch.advance([12, 22, 32])
    assert _rows(batch) == [(12, 7, 2, 1), (22, 2, 7, 1), (32, 102, 0, 1)]
