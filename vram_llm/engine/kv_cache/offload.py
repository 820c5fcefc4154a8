"""Copies the states of slots to the host, so that they outlive their slots."""

from dataclasses import dataclass, field

from vram_llm.engine.kv_cache.offload_store import OffloadStore, State
from vram_llm.engine.kv_cache.offloaded_prefixes import OffloadedPrefixes
from vram_llm.engine.kv_cache.slots import SlotTable
from vram_llm.engine.sequence import Sequence


@dataclass(slots=True)
class Offloader:
    """Copies the states of idle prefixes and of preempted sequences from `slots` into `store`.

    A prefix is copied if at least `min_tokens` of it would be lost. `n_offloaded` counts copies.
    """

    slots: SlotTable
    store: OffloadStore
    min_tokens: int
    n_offloaded: int = 0
    prefixes: OffloadedPrefixes = field(init=False)

    def __post_init__(self) -> None:
        self.prefixes = OffloadedPrefixes(self.store, self.slots.memory.is_stateful)

    def save_prefix(self, slot: int) -> None:
        """Copy an idle slot's state, if much would be lost with it and no copy exists."""
        slots = self.slots
        path = list(slots.tree.end_of(slot).path())
        n_lost = sum(len(node.tokens) for node in path if len(node.slots) == 1)
        if n_lost < self.min_tokens or not self.store.would_keep(slots.memory.state_bytes(slot)):
            return
        if slot >= slots.n_slots and not slots.free:  # a parked state can be read only through a free slot
            return
        tokens = [token for node in reversed(path) for token in node.tokens]
        if not self.prefixes.has(tokens):
            self.prefixes.add(tokens, self._state(slot, len(tokens)))
            self.n_offloaded += 1

    def save_sequence(self, sequence: Sequence) -> None:
        """Copy the state of a running sequence that is about to be preempted, if the store has room."""
        memory, slot = self.slots.memory, sequence.slot
        if sequence.n_cached and self.store.would_keep(memory.state_bytes(slot)):
            sequence.saved_state = (self.store.put(memory.state(slot)), sequence.n_cached)
            self.n_offloaded += 1

    def drop_saved_state(self, sequence: Sequence) -> None:
        """Drop the state that a preempted sequence has in the store, if it has one."""
        if sequence.saved_state is not None:
            self.store.drop(sequence.saved_state[0])
            sequence.saved_state = None

    def _state(self, slot: int, length: int) -> State:
        """A copy of an idle slot's state. llama.cpp can restore only states of slots for requests."""
        slots = self.slots
        if slot < slots.n_slots:
            return slots.memory.state(slot)
        reader = slots.free[-1]
        slots.memory.share(slot, reader, length)
        state = slots.memory.state(reader)
        slots.memory.forget(reader)
        return state
