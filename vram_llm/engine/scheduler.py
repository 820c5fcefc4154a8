"""Who decodes, who prefills, who waits. Policy only: no llama.cpp, no clock.

Decode rows go first; what room is left in the batch goes to prompts, in chunks, oldest first. A sequence
is let in when a slot and enough KV cells for all it has are free. When the running sequences outgrow the
cells, the youngest gives its own back and waits at the head of the queue to be computed again.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Sequence:
    """One request on its way. `tokens` is the prompt and, after it, what was generated."""

    id: str
    tokens: list[int]
    n_prompt: int
    max_tokens: int
    slot: int = -1
    n_cached: int = 0  # of `tokens`, how many are in the KV cache

    @property
    def n_generated(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.n_prompt

    @property
    def n_pending(self) -> int:
        """Tokens to compute before the next one can be sampled."""
        return len(self.tokens) - self.n_cached


@dataclass(frozen=True, slots=True)
class Chunk:
    """Compute `count` tokens of a sequence from `start` on."""

    sequence: Sequence
    start: int
    count: int

    @property
    def samples(self) -> bool:
        """True where the last row gives the sequence its next token."""
        return self.start + self.count == len(self.sequence.tokens)


@dataclass(slots=True)
class Scheduler:
    """`n_cells` KV cells and `parallel` slots, shared out in steps of at most `max_rows` tokens.

    `prefill_budget` bounds the prompt rows of a step in which others decode, so that a long prompt
    cannot hold up their next token for long.
    """

    n_cells: int
    parallel: int
    max_rows: int
    prefill_budget: int
    waiting: deque[Sequence] = field(default_factory=deque)
    running: list[Sequence] = field(default_factory=list)  # oldest first
    n_preemptions: int = 0
    _free_slots: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._free_slots = list(range(self.parallel - 1, -1, -1))

    @property
    def n_cells_wanted(self) -> int:
        """KV cells the running sequences hold once all they have is computed."""
        return sum(len(sequence.tokens) for sequence in self.running)

    def find(self, request_id: str) -> Sequence | None:
        """The sequence of a request, running or waiting."""
        return next((s for s in (*self.running, *self.waiting) if s.id == request_id), None)

    def remove(self, sequence: Sequence) -> int | None:
        """Take a sequence out for good; the slot it held, whose cells are to be freed, if it ran."""
        if sequence.slot < 0:
            self.waiting.remove(sequence)
            return None
        self.running.remove(sequence)
        slot, sequence.slot, sequence.n_cached = sequence.slot, -1, 0
        self._free_slots.append(slot)
        return slot

    def preempt(self) -> int | None:
        """Send the youngest back to the queue's head; the slot it held, or None where only one runs."""
        if len(self.running) < 2:
            return None
        youngest = self.running[-1]
        slot = self.remove(youngest)
        self.waiting.appendleft(youngest)
        self.n_preemptions += 1
        return slot

    def make_room(self) -> list[int]:
        """Preempt until the running sequences fit the cells; the slots whose cells are to be freed."""
        freed = []
        while self.n_cells_wanted > self.n_cells and (slot := self.preempt()) is not None:
            freed.append(slot)
        return freed

    def schedule(self) -> list[Chunk]:
        """The next step: one row for each sequence that decodes, then prompts as far as the budget goes."""
        chunks = [Chunk(s, s.n_cached, 1) for s in self.running if s.n_pending == 1]
        budget = self.max_rows - len(chunks)
        if chunks:
            budget = min(budget, self.prefill_budget)
        prefilling = self._prefilling()
        while budget > 0 and (sequence := next(prefilling, None)) is not None:
            count = min(sequence.n_pending, budget)
            chunks.append(Chunk(sequence, sequence.n_cached, count))
            budget -= count
        return chunks

    def _prefilling(self) -> Iterator[Sequence]:
        """Running sequences with a prompt to compute, then, one by one as they are asked for, new ones."""
        yield from [s for s in self.running if s.n_pending > 1]
        while self.waiting and self._free_slots and self._has_cells_for(self.waiting[0]):
            sequence = self.waiting.popleft()
            sequence.slot = self._free_slots.pop()
            self.running.append(sequence)
            yield sequence

    def _has_cells_for(self, sequence: Sequence) -> bool:
        # a cell more for each of them, or the newcomer would be sent back at the next step
        growth = len(self.running) + 1
        return not self.running or self.n_cells_wanted + len(sequence.tokens) + growth <= self.n_cells
