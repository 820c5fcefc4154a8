"""Who decodes, who prefills, who waits. Policy only: no llama.cpp, no clock.

Decode rows go first; what room is left goes to prompts, oldest first, in chunks as large as the pace allows.
A sequence is let in when a slot and enough KV cells for all it has are at hand. One that does not fit may be
passed by later ones, a few times. When the running sequences outgrow the cells, the youngest gives its own
back and waits for its turn, which comes before that of all who arrived after it.
"""

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from vram_llm.engine.kv_cache.prefix_cache import Admission
from vram_llm.engine.sequence import Chunk, Sequence

MOST_PASSED = 8  # times a waiting sequence may see a later one let in before it
_MOST_TRIED = 16  # waiting sequences looked at in one step


class Room(Protocol):
    """What the scheduler needs of the cache (cache.py)."""

    @property
    def n_cells(self) -> int: ...
    @property
    def n_pinned(self) -> int: ...
    def admit(self, sequence: Sequence, spare_cells: int | None) -> Admission: ...
    def finish(self, sequence: Sequence) -> None: ...
    def suspend(self, sequence: Sequence) -> None: ...
    def give_up(self, sequence: Sequence) -> None: ...


class Budget(Protocol):
    """What the scheduler needs of the pace (prefill_budget.py)."""

    def prefill_rows(self, n_decode: int, n_prompts: int) -> int: ...


@dataclass(slots=True)
class Scheduler:
    """Shares the cells of `room` among at most `parallel` sequences.

    A step computes at most `max_rows` tokens and has at most `max_outputs` rows of logits.
    """

    room: Room
    pace: Budget
    parallel: int
    max_rows: int
    max_outputs: int
    waiting: list[Sequence] = field(default_factory=list)  # by arrival
    running: list[Sequence] = field(default_factory=list)  # by arrival
    n_preemptions: int = 0
    _n_arrived: int = 0

    @property
    def n_cells_wanted(self) -> int:
        """KV cells in use once all that the running sequences have is computed, idle ones left out."""
        return self.room.n_pinned + sum(len(s.tokens) - s.n_in_tree for s in self.running)

    @property
    def may_admit(self) -> bool:
        """True where a sequence waits that a slot is free for."""
        return bool(self.waiting) and len(self.running) < self.parallel

    def submit(self, sequence: Sequence) -> None:
        """Put a new sequence at the end of the queue."""
        self._n_arrived += 1
        sequence.arrival = self._n_arrived
        self.waiting.append(sequence)

    def find(self, request_id: str) -> Sequence | None:
        """The sequence of a request, running or waiting."""
        return next((s for s in (*self.running, *self.waiting) if s.id == request_id), None)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out for good."""
        if sequence.slot < 0:
            self.waiting.remove(sequence)
            self.room.give_up(sequence)
        else:
            self.running.remove(sequence)
            self.room.finish(sequence)

    def preempt(self) -> bool:
        """Send the youngest back to the queue; False where only one runs."""
        if len(self.running) < 2:
            return False
        youngest = self.running.pop()
        self.room.suspend(youngest)
        insort(self.waiting, youngest, key=_arrival)
        self.n_preemptions += 1
        return True

    def make_room(self) -> None:
        """Preempt until the running sequences fit the cells."""
        while self.n_cells_wanted > self.room.n_cells and self.preempt():
            pass

    def schedule(self) -> list[Chunk]:
        """The next step: one row for each sequence that decodes, then prompts as far as the budget goes.

        Of images at most one is computed, whole.
        """
        chunks = [Chunk(s, s.n_cached, 1) for s in self.running if len(s.tokens) == s.n_cached + 1]
        has_image = False
        n_decode = len(chunks)
        if n_decode == self.parallel:
            return chunks
        n_prompts = min(self.parallel, len(self.running) + len(self.waiting)) - n_decode
        budget = min(self.max_rows - n_decode, self.pace.prefill_rows(n_decode, n_prompts))
        n_outputs = self.max_outputs - n_decode
        prefilling = self._prefilling()
        while budget > 0 and n_outputs > 0 and (sequence := next(prefilling, None)) is not None:
            if sequence.images and (image := sequence.next_image) is not None:
                if not has_image:  # one a step: streams wait for it
                    chunks.append(Chunk(sequence, image.start, image.count, image=image))
                    budget -= image.count
                has_image = True
                continue
            count = min(
                sequence.text_from(sequence.n_cached) if sequence.images else sequence.n_pending, budget
            )
            if sequence.is_telling:
                count = min(count, max(n_outputs - self._n_to_come(sequence), 1))
            if (stop := next((p for p in sequence.stops if p > sequence.n_cached), None)) is not None:
                count = min(count, stop - sequence.n_cached)
            chunks.append(Chunk(sequence, sequence.n_cached, count))
            budget -= count
            n_outputs -= max(chunks[-1].n_outputs, 1)
        return chunks

    def _n_to_come(self, sequence: Sequence) -> int:
        """Others that may want a row of logits in this step, after those that decode."""
        others = sum(1 for s in self.running if s.n_pending > 1 and s is not sequence)
        return others + min(len(self.waiting), self.parallel - len(self.running))

    def _prefilling(self) -> Iterator[Sequence]:
        """Running sequences with a prompt to compute, then, one by one as they are asked for, new ones."""
        yield from [s for s in self.running if s.n_pending > 1]
        while len(self.running) < self.parallel and (sequence := self._admitted()) is not None:
            yield sequence

    def _admitted(self) -> Sequence | None:
        """The first of the queue that can run, now running."""
        for i, sequence in enumerate(self.waiting[:_MOST_TRIED]):
            admission = self.room.admit(sequence, self._spare_cells())
            if admission is Admission.ADMITTED:
                for passed in self.waiting[:i]:
                    passed.n_passed += 1
                del self.waiting[i]
                insort(self.running, sequence, key=_arrival)
                return sequence
            if admission is Admission.NO_ROOM and sequence.n_passed >= MOST_PASSED:
                return None
        return None

    def _spare_cells(self) -> int | None:
        if not self.running:
            return None
        # a cell more for each of them, or the newcomer would be sent back at the next step
        return self.room.n_cells - self.n_cells_wanted - len(self.running) - 1


def _arrival(sequence: Sequence) -> int:
    return sequence.arrival
