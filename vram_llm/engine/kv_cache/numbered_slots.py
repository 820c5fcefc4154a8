"""The slots that clients see: the number of each running sequence, and the prompt that each number holds.

A number is not a slot of llama.cpp's memory (slots.py): there prefixes are shared, parked and moved to the
host. A sequence has a number while it runs. Then the number holds its computed tokens until another sequence
takes it, and these tokens are looked up in the prefix cache when the slot is to be saved.
"""

from dataclasses import dataclass, field

from vram_llm.engine.adapters import Adapters
from vram_llm.engine.kv_cache.radix_tree import n_common
from vram_llm.engine.sequence import Sequence

_LEAST_SIMILAR = 0.1  # share of a prompt that a slot must hold to be preferred; llama-server's default


@dataclass(frozen=True, slots=True, eq=False)
class SlotPrompt:
    """The computed tokens of a client's sequence that has ended, and what its beginnings are shared by."""

    tokens: list[int]
    adapters: Adapters | None
    namespace: int
    client: str

    def sequence(self, name: str) -> Sequence:
        """A sequence of these tokens and one more, which would be computed next."""
        return Sequence(name, [*self.tokens, 0], len(self.tokens) + 1, 0, self.adapters, self.namespace)


@dataclass(slots=True)
class NumberedSlots:
    """Gives running sequences numbers below `n_slots`."""

    n_slots: int
    running: dict[int, Sequence] = field(default_factory=dict)
    held: dict[int, SlotPrompt] = field(default_factory=dict)
    has_changed: bool = False  # since it was last set to False
    _used: dict[int, int] = field(default_factory=dict)  # by number, when it was taken last
    _n_taken: int = 0

    def may_run(self, sequence: Sequence) -> bool:
        """Whether the slot that a sequence asks for is free, or it asks for none."""
        return sequence.id_slot is None or sequence.id_slot not in self.running

    def take(self, sequence: Sequence) -> None:
        """Give a sequence that begins to run the slot it asks for.

        Else it is the slot that holds most of its beginning, as in llama-server, an empty one, or the least
        recently used.
        """
        number = sequence.id_slot
        if number is None or number in self.running or number >= self.n_slots:
            number = self._choose(sequence)
        self._n_taken += 1
        self._used[number] = self._n_taken
        self.running[number], sequence.number = sequence, number
        self.held.pop(number, None)
        self.has_changed = True

    def _choose(self, sequence: Sequence) -> int:
        """The free slot that a sequence runs in if it asks for none."""
        shared_by = sequence.adapters, sequence.namespace
        n_least = _LEAST_SIMILAR * len(sequence.tokens)
        similar = {
            number: n_same
            for number, held in self.held.items()
            if (n_same := n_common(held.tokens, sequence.tokens)) > n_least
            and (held.adapters, held.namespace) == shared_by
        }
        if similar:
            n_most = max(similar.values())
            fit = [number for number, n_same in similar.items() if n_same == n_most]
        else:
            empty = [i for i in range(self.n_slots) if i not in self.held and i not in self.running]
            fit = empty or list(self.held)
        return min(fit, key=lambda number: (self._used.get(number, 0), number))

    def leave(self, sequence: Sequence, *, keep: bool) -> None:
        """A sequence no longer runs. `keep`: its slot holds its computed tokens from now on."""
        number, sequence.number = sequence.number, None
        assert number is not None
        del self.running[number]
        self.has_changed = True
        n_kept = min(sequence.n_cached, sequence.n_shared) if keep else 0
        if n_kept:
            tokens, client = sequence.tokens[:n_kept], sequence.client
            self.hold(number, SlotPrompt(tokens, sequence.adapters, sequence.namespace, client))

    def hold(self, number: int, prompt: SlotPrompt | None) -> None:
        """A free slot holds this prompt from now on; None: nothing."""
        self.held.pop(number, None)
        if prompt is not None:
            self.held[number] = prompt
        self.has_changed = True
