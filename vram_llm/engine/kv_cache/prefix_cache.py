"""Which slot of llama.cpp's memory holds which tokens: begun prompts are shared, kept, evicted, brought back.

A slot is a sequence id of llama.cpp. It runs (a request computes in it), is idle (it holds what a request
left, for others to begin with) or is free. With a unified KV cache a common beginning has its cells once, and
what is left can be parked under an id that no batch may name, so that it takes no room from requests. Every
step of those that run walks over idle cells too: few stay beside them where the host keeps the others.
With a KV cache for each slot no cells can be shared: a request gets the idle slot that holds most of its
beginning, and goes on there.

Past 400 lines because admitting, sharing, parking and spilling change the same few sets of slots together.
"""

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from vram_llm.engine.kv_cache.checkpoints import stops
from vram_llm.engine.kv_cache.offload_store import SpillStore, State
from vram_llm.engine.kv_cache.offloaded_prefixes import SpilledPrefixes
from vram_llm.engine.kv_cache.radix_tree import Node, RadixTree, n_common
from vram_llm.engine.sequence import Sequence


class Memory(Protocol):
    """What the cache needs of llama.cpp's memory (llama/cells.py)."""

    @property
    def is_stateful(self) -> bool: ...
    def share(self, source: int, slot: int, length: int) -> None: ...
    def cut(self, slot: int, length: int) -> bool: ...
    def forget(self, slot: int) -> None: ...
    def state(self, slot: int, *, part: bool = False) -> State: ...
    def state_bytes(self, slot: int) -> int: ...
    def restore(self, slot: int, state: State, *, part: bool = False) -> bool: ...


class Admission(Enum):
    """What became of a sequence that asked to run."""

    ADMITTED = "admitted"
    NO_ROOM = "no room"
    LATER = "later"  # another one is computing the beginning that it can share


@dataclass(frozen=True, slots=True)
class _Found:
    """The longest beginning at hand: `length` tokens, in the tree up to `node`, or in the store under `key`.

    `branch` is how far the tree agrees with the prompt, of use or not.
    """

    length: int = 0
    node: Node | None = None
    key: int | None = None
    branch: int = 0


def freed_last(free: list[int], _: Sequence) -> int:
    """The slot that was freed last."""
    return free[-1]


@dataclass(slots=True)
class PrefixCache:
    """`n_slots` slots for requests over `n_cells` KV cells, `n_parked` to park in, and a store on the host.

    Where none are for parking, what requests leave stays in their slots until others need them.

    `choose` says which of the free slots a sequence gets, the one freed last at their end.
    `least` is the shortest beginning worth sharing, in tokens; 0 shares none. Counts since the start:
    `n_hits` requests that shared one, `n_reused` tokens that they did not compute, `n_moved` states that
    went to the host.
    """

    memory: Memory
    n_cells: int
    n_slots: int
    n_parked: int
    least: int
    store: SpillStore
    most_idle: int | None = None  # cells beside running ones, where the store keeps any; None: no bound
    least_spilled: int = 256  # tokens; fewer are computed again sooner than they are moved twice
    can_share: bool = True  # slots may have the same cells; else each slot has its own
    choose: Callable[[list[int], Sequence], int] = freed_last
    n_hits: int = 0
    n_reused: int = 0
    n_moved: int = 0
    _tree: RadixTree = field(default_factory=RadixTree)
    _running: dict[int, Sequence] = field(default_factory=dict)
    _idle: set[int] = field(default_factory=set)
    _free: list[int] = field(init=False)
    _free_to_park: list[int] = field(init=False)
    _spilled: SpilledPrefixes = field(init=False)
    _counted: tuple[int, int] | None = (0, 0)  # the tree's cells and those pinned; None: to be counted again

    def __post_init__(self) -> None:
        self._free = list(range(self.n_slots - 1, -1, -1))
        self._free_to_park = list(range(self.n_slots, self.n_slots + self.n_parked + 1))
        self._spilled = SpilledPrefixes(self.store, self.memory.is_stateful)

    # -- cells -----------------------------------------------------------------------------------

    @property
    def n_pinned(self) -> int:
        """Cells counted by the tree that running sequences hold, each once."""
        return self._count()[1]

    @property
    def n_used(self) -> int:
        """Cells in use, idle ones among them."""
        private = sum(sequence.n_cached - sequence.n_in_tree for sequence in self._running.values())
        return self._count()[0] + private

    @property
    def n_idle_cells(self) -> int:
        """Cells that only idle slots hold."""
        n_in_tree, n_pinned = self._count()
        return n_in_tree - n_pinned

    def _count(self) -> tuple[int, int]:
        if self._counted is None:
            nodes, running = list(self._tree.nodes()), self._running.keys()
            n_pinned = sum(node.n_cells(running) for node in nodes)
            self._counted = (sum(node.n_cells() for node in nodes), n_pinned)
        return self._counted

    def make_room(self, n_cells: int) -> None:
        """Evict idle prefixes until `n_cells` are free, or none is left."""
        while self.n_cells - self.n_used < n_cells and self.evict():
            pass

    def evict(self) -> bool:
        """Let go of the idle end of a prefix that was not used for longest; False where there is none."""
        leaf = self._tree.oldest_leaf(self._idle)
        if leaf is None:
            if self._idle:  # what they hold runs too, but they may have copies of their own
                self._drop_oldest(self._idle)
                return True
            return False
        for slot in list(leaf.slots):
            self._spill(slot)
            if self.memory.is_stateful or not self.memory.cut(slot, leaf.start):
                self._let_go(slot)
            else:
                self._shorten(slot, leaf.start)
        return True

    def _shorten(self, slot: int, length: int) -> None:
        """Note that a slot was cut to its first `length` tokens; it is free where others hold all of them."""
        for node in self._tree.cut(slot, length):
            self._drop_state(node)
        self._counted = None
        if slot in self._idle and (length == 0 or len(self._tree.end_of(slot).slots) > 1):
            self._let_go(slot)

    # -- coming and going ------------------------------------------------------------------------

    def admit(self, sequence: Sequence, spare_cells: int | None) -> Admission:
        """Give a sequence a slot, and in it as much of its tokens as is at hand.

        `spare_cells` is how many it may pin that are not pinned now; None sets no limit.
        """
        found = self._find(sequence)
        if self._is_on_its_way(sequence, found.length):
            return Admission.LATER
        if spare_cells is not None and len(sequence.tokens) - self._n_pinned_of(found) > spare_cells:
            return Admission.NO_ROOM
        slot, length = self._begin(found, sequence)
        self._running[slot] = sequence
        self._counted = None
        self._thin_out()
        sequence.slot, sequence.n_cached = slot, length
        sequence.n_in_tree = self._tree.end_of(slot).end
        self._drop_kept(sequence)
        if self.least and self.memory.is_stateful and self.store.would_keep(1):
            sequence.stops = stops(sequence.n_prompt, found.branch)
        if length and not sequence.n_generated:
            sequence.n_reused = length
            self.n_hits += 1
            self.n_reused += length
        return Admission.ADMITTED

    def note(self, sequence: Sequence) -> None:
        """Take in what has been computed of a prompt: from now on others can share it."""
        if not self.least:
            return
        slot = sequence.slot
        known = sequence.known_as(sequence.n_cached)
        self._tree.hold(slot, known)
        sequence.n_in_tree = len(known)
        self._counted = None
        if sequence.n_cached in sequence.stops and len(known) == sequence.n_cached:
            node = self._tree.end_of(slot)
            if node.state is None or node.state not in self.store:
                node.state = self.store.put(self.memory.state(slot, part=True))

    def finish(self, sequence: Sequence) -> None:
        """Take the slot of a sequence back; what it computed stays, idle, where nobody else has it."""
        slot, n_shared = sequence.slot, min(sequence.n_cached, sequence.n_shared)
        worth_it = 0 < self.least <= n_shared
        if worth_it and n_shared < sequence.n_cached:
            worth_it = not self.memory.is_stateful and self.memory.cut(slot, n_shared)
            sequence.n_cached = n_shared
        if worth_it:
            self.note(sequence)
        self._leave(sequence)
        end = self._tree.end_of(slot)
        others = {*(self._tree.ending_at(end) if self.memory.is_stateful else end.slots)} - {slot}
        if not self.can_share:
            others &= self._idle
        if not worth_it or others:
            self._let_go(slot)
        elif self.n_parked:
            self._park(slot)
            if self._running:
                self._thin_out()
        else:
            self._idle.add(slot)

    def suspend(self, sequence: Sequence) -> None:
        """Take the slot of a sequence that will come back; its state goes to the host where there is room."""
        slot = sequence.slot
        if sequence.n_cached and self.store.would_keep(self.memory.state_bytes(slot)):
            sequence.kept = (self.store.put(self.memory.state(slot)), sequence.n_cached)
            self.n_moved += 1
        self._leave(sequence)
        self._let_go(slot)

    def give_up(self, sequence: Sequence) -> None:
        """A sequence that waits will not come back."""
        self._drop_kept(sequence)

    # -- where to begin --------------------------------------------------------------------------

    def _find(self, sequence: Sequence) -> _Found:
        if sequence.kept is not None and sequence.kept[0] in self.store:
            return _Found(length=sequence.kept[1], key=sequence.kept[0])
        if not self.least or sequence.is_telling:
            return _Found()
        tokens = sequence.known_as(-1)  # the last has to be computed: its logits are wanted
        matched, branch = self._tree.match(tokens)
        node: Node | None = matched
        length = branch
        if not self.can_share:
            node = next((each for each in matched.path() if self._idle & each.slots.keys()), None)
            length = 0 if node is None else min(node.end, branch)
        if self.memory.is_stateful and node is not None:
            usable = (each for each in node.path() if each.end <= branch and self._is_usable(each))
            node = next(usable, None)
            length = 0 if node is None else node.end
        if node is not None and not self.can_share and not self._pays_to_take(node, length):
            node, length = None, 0
        if length < self.least:
            node, length = None, 0
        n_spilled, key = self._spilled.longest(tokens)
        if n_spilled >= length + self.least:
            return _Found(n_spilled, None, key, branch)
        return _Found(length, node, None, branch)

    def _pays_to_take(self, node: Node, length: int) -> bool:
        """Whether an idle slot that holds these tokens may lose what it holds after them.

        Where a slot is free, it may lose no more than is reused.
        """
        end = self._tree.end_of(self._source(node)).end
        return not self._free or end - length <= length

    def _is_usable(self, node: Node) -> bool:
        """Whether a sequence of a model that cannot go back can begin after this node."""
        return (node.state is not None and node.state in self.store) or self._resting_at(node) is not None

    def _resting_at(self, node: Node) -> int | None:
        """An idle slot that holds everything up to the end of this node, and no more."""
        return next((slot for slot in self._tree.ending_at(node) if slot in self._idle), None)

    def _is_on_its_way(self, sequence: Sequence, length: int) -> bool:
        """Whether one that runs is about to compute much more of the beginning than is at hand."""
        is_of_use = self.can_share and (self.store.would_keep(1) or not self.memory.is_stateful)
        if not self.least or not is_of_use or sequence.kept is not None:
            return False
        for other in self._running.values():
            if other.n_cached >= other.n_prompt or other.adapters != sequence.adapters:
                continue
            common = min(n_common(other.tokens, sequence.tokens), len(sequence.tokens) - 1, sequence.n_shared)
            if other.n_cached < common and common >= length + self.least:
                if self.memory.is_stateful and common not in other.stops:
                    insort(other.stops, common)
                return True
        return False

    def _n_pinned_of(self, found: _Found) -> int:
        if found.node is None:
            return 0
        source, n_pinned = self._source(found.node), 0
        for node in found.node.path():
            in_use = {node.slots[slot] for slot in node.slots.keys() & self._running.keys()}
            if node.slots[source] in in_use:
                n_pinned += min(node.end, found.length) - node.start
        return n_pinned

    def _source(self, node: Node) -> int:
        """The slot whose cells are shared: one that rests there, or runs, so that they are in use anyway.

        Where none can be shared: the idle slot that would lose least.
        """
        resting = self._resting_at(node) if self.memory.is_stateful else None
        if resting is not None:
            return resting
        if not self.can_share:
            return min(self._idle & node.slots.keys(), key=lambda slot: self._tree.end_of(slot).end)
        return min(node.slots, key=lambda slot: slot not in self._running)

    def _begin(self, found: _Found, sequence: Sequence) -> tuple[int, int]:
        """A slot and how many tokens it holds already."""
        if found.node is None:
            self._thin_out()
            slot = self._take_slot(sequence)
            return slot, 0 if found.key is None else self._restore(slot, found.key, found.length)
        node = self._tree.split(found.node, found.length)
        source = self._source(node)
        rests = source in self._idle and self._tree.end_of(source) is node
        goes_on = rests and not node.children  # as a chat's next turn does
        self._thin_out(found.length - self._n_pinned_of(found), source)
        is_cut = not self.can_share and not rests
        if is_cut or (source in self._idle and len(self._free) == 1 and not goes_on):
            self._spill(source)  # what is not shared of it will have to go, unread
        takes_over = not self.can_share or (goes_on and not self.n_parked)
        slot = self._take_over(source) if takes_over else self._take_slot(sequence, source)
        if slot != source:
            self.memory.share(source, slot, node.end)
            self._tree.share(source, slot, node)
            if goes_on:
                self._let_go(source)
        if self.memory.is_stateful and not rests:
            assert node.state is not None
            state = self.store.get(node.state)
            if state is None or not self.memory.restore(slot, state, part=True):
                self._empty(slot)
                return slot, 0
        if slot == source:
            self.memory.cut(slot, node.end)
            self._shorten(slot, node.end)
        return slot, node.end

    def _restore(self, slot: int, key: int, length: int) -> int:
        state = self.store.get(key)
        self.make_room(length)
        if state is None or not self.memory.restore(slot, state):
            self.memory.forget(slot)
            return 0
        if not self.memory.is_stateful:
            self.memory.cut(slot, length)
        return length

    # -- slots -----------------------------------------------------------------------------------

    def _take_slot(self, sequence: Sequence, source: int | None = None) -> int:
        """A free slot, made free if need be; `source`, no longer idle, where it is the only one there is."""
        if not self._free:
            others = self._idle - {source}
            if not others:
                assert source is not None
                return self._take_over(source)
            self._drop_oldest(others)
        slot = self.choose(self._free, sequence)
        self._free.remove(slot)
        return slot

    def _take_over(self, slot: int) -> int:
        """An idle slot, with all it holds, for a request."""
        self._idle.discard(slot)
        self._tree.touch(self._tree.end_of(slot))
        return slot

    def _park(self, slot: int) -> None:
        """Move what a slot holds to one for parking; one of those is always free for it."""
        parked, end = self._free_to_park.pop(), self._tree.end_of(slot)
        self.memory.share(slot, parked, end.end)
        self._tree.share(slot, parked, end)
        self._idle.add(parked)
        self._let_go(slot)
        if not self._free_to_park:
            self._drop_oldest(self._idle)

    def _thin_out(self, n_wanted: int = 0, needed: int | None = None) -> None:
        """Leave few cells idle beside running ones; `n_wanted` of them, in `needed`, are about to run.

        None where none run yet: attention walks from the first cell to the last in use, and what begins in an
        empty cache has its own at the beginning.
        """
        if self.most_idle is None or not self.n_parked or not self.store.would_keep(1):
            return
        most = self.most_idle if self._running else 0
        while self.n_idle_cells - n_wanted > most and (others := self._idle - {needed}):
            self._drop_oldest(others)

    def _drop_oldest(self, slots: set[int]) -> None:
        """Free the one of several idle slots whose loss costs least."""

        def worth(slot: int) -> tuple[bool, int]:
            end = self._tree.end_of(slot)
            return (self.memory.is_stateful or len(end.slots) == 1, end.last_used)

        oldest = min(slots, key=worth)
        self._spill(oldest)
        self._let_go(oldest)

    def _leave(self, sequence: Sequence) -> None:
        del self._running[sequence.slot]
        sequence.slot, sequence.n_cached, sequence.n_in_tree, sequence.stops = -1, 0, 0, []
        self._counted = None

    def _let_go(self, slot: int) -> None:
        """Free a slot and all it holds."""
        self._empty(slot)
        self._idle.discard(slot)
        (self._free if slot < self.n_slots else self._free_to_park).append(slot)

    def _empty(self, slot: int) -> None:
        self.memory.forget(slot)
        for node in self._tree.cut(slot, 0):
            self._drop_state(node)
        self._counted = None

    # -- the host --------------------------------------------------------------------------------

    def _spill(self, slot: int) -> None:
        """Keep a copy of an idle slot's state on the host, where much would be lost and it is not there."""
        path = list(self._tree.end_of(slot).path())
        n_lost = sum(len(node.tokens) for node in path if len(node.slots) == 1)
        if n_lost < self.least_spilled or not self.store.would_keep(self.memory.state_bytes(slot)):
            return
        if slot >= self.n_slots and not self._free:  # all run, and its cells cannot wait
            return
        tokens = [token for node in reversed(path) for token in node.tokens]
        if not self._spilled.has(tokens):
            self._spilled.add(tokens, self._state(slot, len(tokens)))
            self.n_moved += 1

    def _state(self, slot: int, length: int) -> State:
        """A copy of all an idle slot holds. llama.cpp can read back only what a batch's slot held."""
        if slot < self.n_slots:
            return self.memory.state(slot)
        reader = self._free[-1]
        self.memory.share(slot, reader, length)
        state = self.memory.state(reader)
        self.memory.forget(reader)
        return state

    def _drop_state(self, node: Node) -> None:
        if node.state is not None:
            self.store.drop(node.state)

    def _drop_kept(self, sequence: Sequence) -> None:
        if sequence.kept is not None:
            self.store.drop(sequence.kept[0])
            sequence.kept = None
