"""The scheduler: which sequences decode, prefill or wait. Policy only: no llama.cpp, no clock.

Decode rows go first. The remaining rows go to prompts, oldest first, in chunks as large as the prefill
budget; if all prompts fit, about half of them are computed first. A sequence is admitted when a slot and
enough KV cells for all its tokens are free. Later sequences may be admitted before one that does not fit, a
few times. When the running sequences outgrow the cells, the youngest is preempted: it gives its cells back
and waits, ahead of all that arrived after it.

With sequences of several clients, clients come before ages (fair_shares.py): prompts are computed and
admitted in the order of the clients' counters, a client runs no more sequences than its share of the slots,
and of a client that has more, one is preempted for another client that has less and waits.

A sequence that asks for a slot by its number waits until no other one runs there.
"""

from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import nsmallest
from itertools import islice
from typing import Protocol

from vram_llm.engine.fair_shares import FairShares
from vram_llm.engine.kv_cache.numbered_slots import NumberedSlots
from vram_llm.engine.kv_cache.prefix_cache import Admission
from vram_llm.engine.prefill_budget import TILE_ROWS
from vram_llm.engine.sequence import Chunk, Sequence

MAX_PASSED = 8  # times that a later sequence may be admitted before a waiting one
_LEAST_ROWS = 2 * TILE_ROWS  # of a step that leaves prompts to the next one
_MAX_TRIED = 16  # waiting sequences that one step tries to admit


class SlotCache(Protocol):
    """The part of the prefix cache that the scheduler uses (kv_cache/prefix_cache.py)."""

    @property
    def n_cells(self) -> int: ...
    @property
    def n_pinned(self) -> int: ...
    def admit(self, sequence: Sequence, spare_cells: int | None) -> Admission: ...
    def finish(self, sequence: Sequence) -> None: ...
    def suspend(self, sequence: Sequence) -> None: ...
    def discard(self, sequence: Sequence) -> None: ...


class PrefillPolicy(Protocol):
    """The part of the prefill budget that the scheduler uses (prefill_budget.py)."""

    def prefill_rows(self, n_decode: int, n_prompts: int) -> int: ...


@dataclass(slots=True)
class Scheduler:
    """Shares the cells of `cache` among at most `parallel` sequences.

    A step computes at most `max_rows` tokens and has at most `max_outputs` rows of logits. `on_waiting` gets
    the ids of all sequences that wait, see `report_waiting`.
    """

    cache: SlotCache
    prefill: PrefillPolicy
    parallel: int
    max_rows: int
    max_outputs: int
    on_waiting: Callable[[list[str]], None] = lambda _: None
    waiting: list[Sequence] = field(default_factory=list)  # by arrival
    running: list[Sequence] = field(default_factory=list)  # by arrival
    n_preemptions: int = 0
    shares: FairShares = field(init=False)
    slots: NumberedSlots = field(init=False)
    _n_arrived: int = 0
    _reported: list[str] = field(default_factory=list)
    _may_admit: bool | None = None  # of several clients; None: to be found out
    _short_of_cells: Sequence | None = None  # of several clients' sequences the first that found no room

    def __post_init__(self) -> None:
        self.shares = FairShares(self.parallel)
        self.slots = NumberedSlots(self.parallel)

    @property
    def n_cells_wanted(self) -> int:
        """KV cells that the running sequences need once all their tokens are computed."""
        return self.cache.n_pinned + sum(len(s.tokens) - s.n_in_tree for s in self.running)

    @property
    def may_admit(self) -> bool:
        """True if a sequence waits for which a slot is free, or is to be freed."""
        if not self.waiting:
            return False
        if not self.shares.is_shared:
            return len(self.running) < self.parallel and any(map(self.slots.may_run, self.waiting))
        if self._may_admit is None:
            has_slot = len(self.running) < self.parallel
            self._may_admit = bool(self._candidates()) if has_slot else self._to_give_way() is not None
        return self._may_admit

    def run_at_most(self, parallel: int) -> None:
        """Share the cells, and the clients' slots, among at most `parallel` sequences from now on."""
        self.parallel = self.shares.parallel = parallel
        self._may_admit = None

    def submit(self, sequence: Sequence) -> None:
        """Append a new sequence to the queue."""
        self._n_arrived += 1
        sequence.arrival = self._n_arrived
        self.shares.arrive(sequence)
        self.waiting.append(sequence)
        self._may_admit = None

    def charge(self, sequence: Sequence, n_tokens: int) -> None:
        """Count tokens that are computed."""
        if self.shares.is_shared:
            self.shares.charge(sequence, n_tokens)
            self._may_admit = None

    def report_waiting(self) -> None:
        """Call `on_waiting` if other sequences wait than at the last call."""
        waiting = [sequence.id for sequence in self.waiting]
        if waiting != self._reported:
            self._reported = waiting
            self.on_waiting(waiting)

    def find(self, request_id: str) -> Sequence | None:
        """The sequence of a request, running or waiting."""
        return next((s for s in (*self.running, *self.waiting) if s.id == request_id), None)

    def remove(self, sequence: Sequence) -> None:
        """Remove a sequence that has ended."""
        if sequence.slot < 0:
            self.waiting.remove(sequence)
            self.cache.discard(sequence)
        else:
            self.running.remove(sequence)
            self.slots.leave(sequence, keep=True)
            self.cache.finish(sequence)
        self.shares.leave(sequence)
        self._may_admit = self._short_of_cells = None

    def preempt(self) -> bool:
        """Preempt the youngest sequence; False if only one runs.

        Of several clients' sequences it is the youngest of the client that has most tokens for its weight.
        """
        if len(self.running) < 2:
            return False
        if self.shares.is_shared:
            held = self.shares.cells_held(self.running)
            self._suspend(max(self.running[1:], key=lambda s: (held[s.client], s.arrival)))
        else:
            self._suspend(self.running[-1])
        return True

    def make_room(self) -> None:
        """Preempt until the running sequences fit the cells, and one whose client has more than its share."""
        while self.n_cells_wanted > self.cache.n_cells and self.preempt():
            pass
        if self.shares.is_shared and (sequence := self._to_give_way()) is not None:
            self._suspend(sequence)

    def _suspend(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.slots.leave(sequence, keep=False)
        self.cache.suspend(sequence)
        insort(self.waiting, sequence, key=_arrival)
        self.n_preemptions += 1
        self._may_admit = self._short_of_cells = None

    def _to_give_way(self) -> Sequence | None:
        """The sequence to preempt for another client, of several; None if there is none.

        It is the youngest of a client with more than its share of what another one waits for with less:
        slots, or cells. A client's last one runs on.
        """
        shares = self.shares
        n_running = Counter(sequence.client for sequence in self.running)
        if len(self.running) == self.parallel:
            over: dict[str, float] = {client: n - shares.slots(client) for client, n in n_running.items()}
            is_short = shares.is_short_of_slots(n_running)
        elif (waits := self._short_of_cells) is not None:
            held = shares.cells_held(self.running)
            fair = self.cache.n_cells * shares.share(waits.client) / waits.weight  # the same for each client
            over = {client: held[client] - fair for client, n in n_running.items() if n > 1}
            is_short = held[waits.client] + len(waits.tokens) / waits.weight <= fair
        else:
            return None
        most = max(over, key=lambda client: over[client], default=None)
        if not is_short or most is None or over[most] <= 0:
            return None
        return next(sequence for sequence in reversed(self.running) if sequence.client == most)

    def schedule(self) -> list[Chunk]:
        """The next step: one row for each sequence that decodes, then prompts within the budget.

        It has at most one image, which is computed whole.
        """
        self._short_of_cells = None
        self.shares.note_steps(1)
        chunks = [Chunk(s, s.n_cached, 1) for s in self.running if len(s.tokens) == s.n_cached + 1]
        if self.shares.is_shared:
            for chunk in chunks:
                self.charge(chunk.sequence, 1)
        has_image = False
        n_decode = len(chunks)
        if n_decode == self.parallel:
            return chunks
        n_prompts = min(self.parallel, len(self.running) + len(self.waiting)) - n_decode
        budget = min(self.max_rows - n_decode, self.prefill.prefill_rows(n_decode, n_prompts))
        reserve = max(budget - self._enough_rows(budget), 0)
        n_outputs = self.max_outputs - n_decode
        prefilling = self._prefilling()
        while budget > reserve and n_outputs > 0 and (sequence := next(prefilling, None)) is not None:
            if sequence.images and (image := sequence.next_image) is not None:
                if not has_image:  # streams wait for an image
                    chunks.append(Chunk(sequence, image.start, image.count, image=image))
                    self.charge(sequence, image.count)
                    budget -= image.count
                has_image = True
                continue
            count = min(
                sequence.text_from(sequence.n_cached) if sequence.images else sequence.n_pending, budget
            )
            if sequence.prompt_logprobs_pending:
                count = min(count, max(n_outputs - self._n_others(sequence), 1))
            next_checkpoint = next((p for p in sequence.checkpoint_positions if p > sequence.n_cached), None)
            if next_checkpoint is not None:
                count = min(count, next_checkpoint - sequence.n_cached)
            chunks.append(Chunk(sequence, sequence.n_cached, count))
            self.charge(sequence, count)
            budget -= count
            n_outputs -= max(chunks[-1].n_outputs, 1)
        return chunks

    def _enough_rows(self, budget: int) -> int:
        """Prompt rows after which a step takes no further prompt: about half, if all prompts fit `budget`.

        Half of them then get their first token early, and the others hardly later.
        """
        prompts = [sequence.n_pending for sequence in self.running if sequence.n_pending > 1]
        prompts += [len(s.tokens) for s in islice(self.waiting, self.parallel - len(self.running))]
        n_rows = sum(prompts)
        return budget if n_rows > budget else max(n_rows // 2, _LEAST_ROWS)

    def _n_others(self, sequence: Sequence) -> int:
        """Other sequences that may need a row of logits in this step, in addition to those that decode."""
        others = sum(1 for s in self.running if s.n_pending > 1 and s is not sequence)
        return others + min(len(self.waiting), self.parallel - len(self.running))

    def _prefilling(self) -> Iterator[Sequence]:
        """Running sequences with a prompt to compute, then newly admitted ones, each when it is asked for.

        With several clients a new sequence comes before running ones of clients with higher counters.
        """
        prompts = [s for s in self.running if s.n_pending > 1]
        order = self.shares.order
        while self.shares.is_shared and prompts:
            prompts.sort(key=order)
            new = self._admitted(before=order(prompts[0])) if len(self.running) < self.parallel else None
            yield prompts.pop(0) if new is None else new
        yield from prompts
        while len(self.running) < self.parallel and (sequence := self._admitted()) is not None:
            yield sequence

    def _candidates(self) -> list[Sequence]:
        """The waiting sequences that may be admitted, first come first, if there is room for them."""
        shares = self.shares
        waiting = filter(self.slots.may_run, self.waiting)
        if not shares.is_shared:
            return list(islice(waiting, _MAX_TRIED))
        may_run = shares.may_run_more(Counter(sequence.client for sequence in self.running))
        return nsmallest(_MAX_TRIED, (s for s in waiting if s.client in may_run), key=shares.order)

    def _admitted(self, before: tuple[float, int] | None = None) -> Sequence | None:
        """Admit the first of the queue that can run; None if none can, or none comes `before` this place."""
        overtaken: list[Sequence] = []
        for sequence in self._candidates():
            if before is not None and self.shares.order(sequence) > before:
                return None
            admission = self.cache.admit(sequence, self._spare_cells())
            if admission is Admission.ADMITTED:
                for other in overtaken:
                    other.n_passed += 1
                self.waiting.remove(sequence)
                insort(self.running, sequence, key=_arrival)
                self.slots.take(sequence)
                self._may_admit = None
                return sequence
            if admission is Admission.NO_ROOM:
                self._short_of_cells = self._short_of_cells or sequence
                if sequence.n_passed >= MAX_PASSED:
                    return None
            overtaken.append(sequence)
        return None

    def _spare_cells(self) -> int | None:
        if not self.running:
            return None
        # one more cell for each running sequence, or the new one would be preempted at the next step
        return self.cache.n_cells - self.n_cells_wanted - len(self.running) - 1


def _arrival(sequence: Sequence) -> int:
    return sequence.arrival
