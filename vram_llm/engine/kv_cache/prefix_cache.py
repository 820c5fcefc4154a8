"""The prefix cache: computed beginnings of prompts, which are shared, kept, evicted and restored.

With a unified KV cache, requests share the cells of a common beginning. Finished requests are parked in slots
that no batch may name, so they take no slot from requests. Every step walks over idle cells too, so few of
them stay if the host keeps the others. With a KV cache for each slot, cells cannot be shared: a request gets
the idle slot that holds most of its beginning, and continues there.
"""

from dataclasses import dataclass, field
from enum import Enum

from vram_llm.engine.kv_cache.checkpoints import checkpoint_positions
from vram_llm.engine.kv_cache.offload import Offloader
from vram_llm.engine.kv_cache.offload_store import OffloadStore, State
from vram_llm.engine.kv_cache.prefix_lookup import FoundPrefix, PrefixLookup
from vram_llm.engine.kv_cache.slots import CellMemory, PickSlot, SlotTable, most_recent
from vram_llm.engine.sequence import Sequence


class Admission(Enum):
    """The answer to a sequence that asks to run."""

    ADMITTED = "admitted"
    NO_ROOM = "no room"
    LATER = "later"  # a running sequence is computing the beginning that it can share


@dataclass(slots=True)
class PrefixCache:
    """`n_slots` slots for requests over `n_cells` KV cells, `n_parked` for parking, and a store on the host.

    Without slots for parking, a finished request stays in its slot until another needs it.

    `min_prefix_tokens` is the shortest beginning worth sharing; 0 shares none. Counts since the start:
    `n_hits` requests that shared one, `n_reused` tokens that they did not compute, `n_offloaded` states that
    went to the host.
    """

    memory: CellMemory
    n_cells: int
    n_slots: int
    n_parked: int
    min_prefix_tokens: int
    store: OffloadStore
    max_idle_cells: int | None = None  # while sequences run, if the store keeps states; None: no bound
    min_offload_tokens: int = 256  # computing fewer again is faster than moving them twice
    can_share: bool = True  # slots may have the same cells; else each slot has its own
    pick_slot: PickSlot = most_recent
    n_hits: int = 0
    n_reused: int = 0
    _slots: SlotTable = field(init=False)
    _offloader: Offloader = field(init=False)
    _lookup: PrefixLookup = field(init=False)

    def __post_init__(self) -> None:
        self._slots = SlotTable(self.memory, self.store, self.n_slots, self.n_parked, self.pick_slot)
        self._offloader = Offloader(self._slots, self.store, self.min_offload_tokens)
        self._lookup = PrefixLookup(self._slots, self._offloader, self.min_prefix_tokens, self.can_share)

    @property
    def n_pinned(self) -> int:
        """Cells in the tree that running sequences hold, each counted once."""
        return self._slots.n_pinned

    @property
    def n_used(self) -> int:
        """Cells in use, idle ones included."""
        return self._slots.n_used

    @property
    def n_idle_cells(self) -> int:
        """Cells that only idle slots hold."""
        return self._slots.n_idle_cells

    @property
    def n_offloaded(self) -> int:
        """States that went to the host."""
        return self._offloader.n_offloaded

    # -- evicting --------------------------------------------------------------------------------

    def make_room(self, n_cells: int) -> None:
        """Evict idle prefixes until `n_cells` are free, or none is left."""
        while self.n_cells - self.n_used < n_cells and self.evict():
            pass

    def evict(self) -> bool:
        """Evict the last tokens of the least recently used idle prefix. Returns False if none is idle."""
        slots = self._slots
        leaf = slots.tree.oldest_leaf(slots.idle)
        if leaf is None:
            if slots.idle:  # running slots hold the same tokens, but perhaps in cells of their own
                self._evict_oldest(slots.idle)
                return True
            return False
        for slot in list(leaf.slots):
            self._offloader.save_prefix(slot)
            if self.memory.is_stateful or not self.memory.cut(slot, leaf.start):
                slots.release(slot)
            else:
                slots.cut(slot, leaf.start)
        return True

    def drop_idle(self, of: Sequence | None = None) -> None:
        """Free all idle prefixes without a copy on the host.

        With a sequence, free those that hold nothing but beginnings of its tokens, and their copies.
        """
        slots = self._slots
        if of is None:
            ends = slots.idle
        else:
            tokens = of.cache_key(-1)
            node, length = slots.tree.match(tokens)
            whole = [ancestor for ancestor in node.path() if ancestor.end <= length]
            ends = {slot for each in whole for slot in slots.tree.ending_at(each)} & slots.idle
            self._offloader.prefixes.drop(tokens)
        for slot in list(ends):
            slots.release(slot)

    def _evict_excess_idle(self, n_wanted: int = 0, needed: int | None = None) -> None:
        """Evict idle cells beyond `max_idle_cells`, except the `n_wanted` cells that slot `needed` is to run.

        If no sequence runs, all others are evicted: attention walks from the first cell to the last in use,
        and a sequence that begins in an empty cache has its cells at the beginning.
        """
        slots = self._slots
        if self.max_idle_cells is None or not self.n_parked or not self.store.would_keep(1):
            return
        most = self.max_idle_cells if slots.running else 0
        while slots.n_idle_cells - n_wanted > most and (others := slots.idle - {needed}):
            self._evict_oldest(others)

    def _evict_oldest(self, idle: set[int]) -> None:
        """Free the one of several idle slots whose loss costs least."""
        tree = self._slots.tree

        def cost(slot: int) -> tuple[bool, int]:
            end = tree.end_of(slot)
            return (self.memory.is_stateful or len(end.slots) == 1, end.last_used)

        oldest = min(idle, key=cost)
        self._offloader.save_prefix(oldest)
        self._slots.release(oldest)

    # -- coming and going ------------------------------------------------------------------------

    def admit(self, sequence: Sequence, spare_cells: int | None) -> Admission:
        """Give a sequence a slot that holds as much of its tokens as is cached.

        `spare_cells`: the most cells that it may pin in addition to those pinned now; None: no limit.
        """
        found = self._lookup.find(sequence)
        if self._lookup.prefix_being_computed(sequence, found.length):
            return Admission.LATER
        if spare_cells is not None:
            n_more = len(sequence.tokens) - self._lookup.n_pinned_of(found)
            if n_more > spare_cells:
                return Admission.NO_ROOM
        slot, length = self._begin(found, sequence)
        self._slots.run(slot, sequence, length)
        self._evict_excess_idle()
        sequence.n_in_tree = self._slots.tree.end_of(slot).end
        self._offloader.drop_saved_state(sequence)
        if self.min_prefix_tokens and self.memory.is_stateful and self.store.would_keep(1):
            sequence.checkpoint_positions = checkpoint_positions(sequence.n_prompt, found.branch)
        if length and not sequence.n_generated:
            sequence.n_reused = length
            self.n_hits += 1
            self.n_reused += length
        return Admission.ADMITTED

    def publish(self, sequence: Sequence) -> None:
        """Let others share the computed part of a prompt from now on."""
        if not self.min_prefix_tokens:
            return
        node = self._slots.hold(sequence)
        if sequence.n_cached not in sequence.checkpoint_positions or sequence.n_in_tree != sequence.n_cached:
            return
        if node.state is None or node.state not in self.store:
            node.state = self.store.put(self.memory.state(sequence.slot, part=True))

    def finish(self, sequence: Sequence) -> None:
        """Take back the slot of a sequence. Its tokens stay, idle, unless another slot holds them."""
        slots = self._slots
        slot, n_shared = sequence.slot, min(sequence.n_cached, sequence.n_shared)
        is_worth_keeping = 0 < self.min_prefix_tokens <= n_shared
        if is_worth_keeping and n_shared < sequence.n_cached:
            is_worth_keeping = not self.memory.is_stateful and self.memory.cut(slot, n_shared)
            sequence.n_cached = n_shared
        if is_worth_keeping:
            self.publish(sequence)
        slots.leave(sequence)
        end = slots.tree.end_of(slot)
        others = {*(slots.tree.ending_at(end) if self.memory.is_stateful else end.slots)} - {slot}
        if not self.can_share:
            others &= slots.idle
        if not is_worth_keeping or others:
            slots.release(slot)
        elif self.n_parked:
            slots.park(slot)
            if not slots.free_to_park:
                self._evict_oldest(slots.idle)
            if slots.running:
                self._evict_excess_idle()
        else:
            slots.idle.add(slot)

    def suspend(self, sequence: Sequence) -> None:
        """Take back the slot of a sequence that will run again; its state goes to the host if it fits."""
        slot = sequence.slot
        self._offloader.save_sequence(sequence)
        self._slots.leave(sequence)
        self._slots.release(slot)

    def discard(self, sequence: Sequence) -> None:
        """Drop the states of a waiting sequence that will not run again."""
        self._offloader.drop_saved_state(sequence)

    # -- states that leave the engine and come back ----------------------------------------------

    def copy_state(self, sequence: Sequence) -> tuple[State, int] | None:
        """The state of all that is cached of a sequence's tokens but the last, and their number.

        None if nothing is. A slot must be free or idle. Raises MemoryError.
        """
        slots = self._slots
        slot, length = self._begin(self._lookup.find(sequence), sequence)
        slots.run(slot, sequence, length)
        sequence.n_in_tree = slots.tree.end_of(slot).end
        try:
            state = self.memory.state(slot) if length else None
        finally:
            self.finish(sequence)
        return None if state is None else (state, length)

    def take_state(self, sequence: Sequence, state: State) -> bool:
        """Keep, idle, a state of a sequence's tokens but the last; False if llama.cpp does not take it.

        A slot must be free or idle.
        """
        slots, length = self._slots, len(sequence.tokens) - 1
        self.make_room(length)
        slot = self._take_slot(sequence)
        if not self.memory.restore(slot, state):
            slots.release(slot)
            return False
        slots.run(slot, sequence, length)
        self.finish(sequence)
        return True

    # -- beginning -------------------------------------------------------------------------------

    def _begin(self, found: FoundPrefix, sequence: Sequence) -> tuple[int, int]:
        """A slot, and the number of the sequence's tokens that it holds."""
        slots = self._slots
        if found.node is None:
            self._evict_excess_idle()
            slot = self._take_slot(sequence)
            return slot, 0 if found.key is None else self._restore(slot, found.key, found.length)
        node = slots.tree.split(found.node, found.length)
        source = self._lookup.source(node)
        rests = source in slots.idle and slots.tree.end_of(source) is node
        continues = rests and not node.children  # as the next turn of a chat does
        self._evict_excess_idle(found.length - self._lookup.n_pinned_of(found), source)
        is_cut = not self.can_share and not rests
        if is_cut or (source in slots.idle and len(slots.free) == 1 and not continues):
            self._offloader.save_prefix(source)  # its tokens after the shared ones are about to be dropped
        takes_idle = not self.can_share or (continues and not self.n_parked)
        slot = slots.take_idle(source) if takes_idle else self._take_slot(sequence, source)
        if slot != source:
            slots.share(source, slot, node)
            if continues:
                slots.release(source)
        if self.memory.is_stateful and not rests:
            assert node.state is not None
            state = self.store.get(node.state)
            if state is None or not self.memory.restore(slot, state, part=True):
                slots.empty(slot)
                return slot, 0
        if slot == source:
            self.memory.cut(slot, node.end)
            slots.cut(slot, node.end)
        return slot, node.end

    def _restore(self, slot: int, key: int, length: int) -> int:
        """Restore a state of `length` tokens from the host. Returns how many of them the slot then holds."""
        state = self.store.get(key)
        self.make_room(length)
        if state is None or not self.memory.restore(slot, state):
            self.memory.forget(slot)
            return 0
        if not self.memory.is_stateful:
            self.memory.cut(slot, length)
        return length

    def _take_slot(self, sequence: Sequence, source: int | None = None) -> int:
        """A free slot; an idle one is freed if there is none. If only `source` is idle, it is the slot."""
        slots = self._slots
        if not slots.free:
            others = slots.idle - {source}
            if not others:
                assert source is not None
                return slots.take_idle(source)
            self._evict_oldest(others)
        return slots.take_free(sequence)
