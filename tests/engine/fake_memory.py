"""A fake of llama.cpp's memory for the prefix cache: it knows each cell's token and refuses mistakes."""

import pickle
from collections.abc import Sequence

import numpy as np

from vram_llm.engine.kv_cache.offload_store import State


class FakeMemory:
    """Cells of one sequence or several. A stateful one also has, for each sequence, a state at one position.

    `n_slots` ids may be computed in; those above may only hold. Without `can_share` each slot has
    cells of its own.
    """

    def __init__(
        self, n_cells: int, n_slots: int, *, is_stateful: bool = False, can_share: bool = True
    ) -> None:
        self.is_stateful = is_stateful
        self._can_share = can_share
        self._n_cells = n_cells
        self._n_slots = n_slots
        self._held: dict[int, list[tuple[int, int]]] = {}  # per slot and position, the cell and its token
        self._at: dict[int, int] = {}  # where a slot's state is
        self._n_made = 0

    @property
    def n_used(self) -> int:
        """Cells that any slot holds."""
        return len({cell for held in self._held.values() for cell, _ in held})

    @property
    def slots(self) -> set[int]:
        """Slots that hold something."""
        return {slot for slot, held in self._held.items() if held}

    def tokens(self, slot: int) -> list[int]:
        """The tokens from which a slot's cells were computed."""
        return [token for _, token in self._held.get(slot, [])]

    def compute(self, slot: int, start: int, tokens: Sequence[int]) -> None:
        """Do what llama_decode does."""
        assert 0 <= slot < self._n_slots, "no batch may name this slot"
        held = self._held.setdefault(slot, [])
        assert len(held) == start, "positions must follow one another"
        assert not self.is_stateful or self._at.get(slot, 0) == start, "the state is elsewhere"
        for token in tokens:
            self._n_made += 1
            held.append((self._n_made, token))
        self._at[slot] = start + len(tokens)
        assert self.n_used <= self._n_cells, "out of cells"

    def share(self, source: int, slot: int, length: int) -> None:
        assert self._can_share, "no slot may hold another's cells"
        assert not self._held.get(slot)
        assert 0 < length <= len(self._held[source])
        self._held[slot] = self._held[source][:length]
        self._at[slot] = self._at[source]

    def cut(self, slot: int, length: int) -> bool:
        if self.is_stateful and 0 < length < self._at[slot]:
            return False
        del self._held[slot][length:]
        return True

    def forget(self, slot: int) -> None:
        self._held.pop(slot, None)
        self._at.pop(slot, None)

    def state(self, slot: int, *, part: bool = False) -> State:
        assert slot < self._n_slots, "llama.cpp writes no state of a parked one that it could read"
        kept = None if part else self.tokens(slot)
        return np.frombuffer(pickle.dumps((kept, self._at.get(slot, 0))), np.uint8)

    def state_bytes(self, slot: int) -> int:
        return len(pickle.dumps(self.tokens(slot)))

    def restore(self, slot: int, state: State, *, part: bool = False) -> bool:
        tokens, at = pickle.loads(state.tobytes())
        assert part == (tokens is None)
        if tokens is not None:
            self.forget(slot)
            if self.n_used + len(tokens) > self._n_cells:
                return False
            self._at[slot] = 0
            self.compute(slot, 0, tokens)
        self._at[slot] = at
        return True
