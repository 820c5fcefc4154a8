"""The slots of llama.cpp's memory: running, idle and free ones, and the tokens of each.

A slot is a sequence id of llama.cpp. It runs (a request computes in it), is idle (it holds the tokens of a
finished request, for later ones to reuse) or is free. Slots above those for requests are for parking: no
batch may name them, so an idle prefix there takes no slot from requests.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from vram_llm.engine.kv_cache.offload_store import OffloadStore, State
from vram_llm.engine.kv_cache.radix_tree import RadixNode, RadixTree
from vram_llm.engine.sequence import Sequence


class CellMemory(Protocol):
    """The operations of llama.cpp's memory that the cache needs (llama/cells.py)."""

    @property
    def is_stateful(self) -> bool: ...
    def share(self, source: int, slot: int, length: int) -> None: ...
    def cut(self, slot: int, length: int) -> bool: ...
    def forget(self, slot: int) -> None: ...
    def state(self, slot: int, *, part: bool = False) -> State: ...
    def state_bytes(self, slot: int) -> int: ...
    def restore(self, slot: int, state: State, *, part: bool = False) -> bool: ...


PickSlot = Callable[[list[int], Sequence], int]
"""The slot that a sequence gets, of the free ones; the one freed last is at their end."""


def most_recent(free: list[int], _: Sequence) -> int:
    """The slot that was freed last."""
    return free[-1]


@dataclass(slots=True)
class SlotTable:
    """`n_slots` slots for requests and `n_parked` for parking. `store` has the states of checkpoints.

    `tree` has the tokens in each slot's cells that others may share.
    """

    memory: CellMemory
    store: OffloadStore
    n_slots: int
    n_parked: int
    pick_slot: PickSlot
    tree: RadixTree = field(default_factory=RadixTree)
    running: dict[int, Sequence] = field(default_factory=dict)
    idle: set[int] = field(default_factory=set)
    free: list[int] = field(init=False)
    free_to_park: list[int] = field(init=False)
    _counted: tuple[int, int] | None = (0, 0)  # the tree's cells and those pinned; None: out of date

    def __post_init__(self) -> None:
        self.free = list(range(self.n_slots - 1, -1, -1))
        self.free_to_park = list(range(self.n_slots, self.n_slots + self.n_parked + 1))

    # -- cells -----------------------------------------------------------------------------------

    @property
    def n_pinned(self) -> int:
        """Cells in the tree that running sequences hold, each once."""
        return self._count()[1]

    @property
    def n_used(self) -> int:
        """Cells in use, idle ones included."""
        private = sum(sequence.n_cached - sequence.n_in_tree for sequence in self.running.values())
        return self._count()[0] + private

    @property
    def n_idle_cells(self) -> int:
        """Cells that only idle slots hold."""
        n_in_tree, n_pinned = self._count()
        return n_in_tree - n_pinned

    def _count(self) -> tuple[int, int]:
        if self._counted is None:
            nodes, running = list(self.tree.nodes()), self.running.keys()
            n_pinned = sum(node.n_cells(running) for node in nodes)
            self._counted = (sum(node.n_cells() for node in nodes), n_pinned)
        return self._counted

    def idle_slot_at(self, node: RadixNode) -> int | None:
        """An idle slot that holds everything up to the end of this node, and no more."""
        return next((slot for slot in self.tree.ending_at(node) if slot in self.idle), None)

    # -- changes ---------------------------------------------------------------------------------

    def run(self, slot: int, sequence: Sequence, length: int) -> None:
        """A sequence computes in a slot from here on; the slot holds its first `length` tokens."""
        self.running[slot] = sequence
        self._counted = None
        sequence.slot, sequence.n_cached = slot, length

    def leave(self, sequence: Sequence) -> None:
        """The sequence no longer runs in its slot; the slot keeps its tokens."""
        del self.running[sequence.slot]
        sequence.slot, sequence.n_cached, sequence.n_in_tree, sequence.checkpoint_positions = -1, 0, 0, []
        self._counted = None

    def hold(self, sequence: Sequence) -> RadixNode:
        """Put the computed tokens of a running sequence into the tree. Returns the node where they end."""
        tokens = sequence.cache_key(sequence.n_cached)
        self.tree.hold(sequence.slot, tokens)
        sequence.n_in_tree = len(tokens)
        self._counted = None
        return self.tree.end_of(sequence.slot)

    def take_free(self, sequence: Sequence) -> int:
        """A free slot for a sequence. There has to be one."""
        slot = self.pick_slot(self.free, sequence)
        self.free.remove(slot)
        return slot

    def take_idle(self, slot: int) -> int:
        """An idle slot, with all it holds, for a request."""
        self.idle.discard(slot)
        self.tree.touch(self.tree.end_of(slot))
        return slot

    def share(self, source: int, slot: int, node: RadixNode) -> None:
        """Give an empty slot the cells that `source` has up to the end of a node."""
        self.memory.share(source, slot, node.end)
        self.tree.share(source, slot, node)

    def park(self, slot: int) -> None:
        """Move a slot's cells to a parking slot. One parking slot must be free."""
        parked = self.free_to_park.pop()
        self.share(slot, parked, self.tree.end_of(slot))
        self.idle.add(parked)
        self.release(slot)

    def cut(self, slot: int, length: int) -> None:
        """Note that a slot was cut to `length` tokens; it is freed if other slots hold all of them."""
        for node in self.tree.cut(slot, length):
            self._drop_state(node)
        self._counted = None
        if slot in self.idle and (length == 0 or len(self.tree.end_of(slot).slots) > 1):
            self.release(slot)

    def release(self, slot: int) -> None:
        """Free a slot and all it holds."""
        self.empty(slot)
        self.idle.discard(slot)
        (self.free if slot < self.n_slots else self.free_to_park).append(slot)

    def empty(self, slot: int) -> None:
        """Drop all that a slot holds; it stays taken."""
        self.memory.forget(slot)
        for node in self.tree.cut(slot, 0):
            self._drop_state(node)
        self._counted = None

    def _drop_state(self, node: RadixNode) -> None:
        if node.state is not None:
            self.store.drop(node.state)
