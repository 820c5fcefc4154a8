"""The draft model at work: it follows the sequences in a context of its own, and guesses what comes next."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from vram_llm.engine.kv_cache.radix_tree import n_common
from vram_llm.engine.sequence import Chunk, Sequence
from vram_llm.engine.speculative.draft_budget import FREE_ROWS, Guesses, Worth
from vram_llm.engine.stats_recorder import Meter
from vram_llm.errors import EngineDied
from vram_llm.llama.model import NO_ROOM, LoadedModel


class Draftable(Protocol):
    """A generation, as far as drafts for it are concerned."""

    @property
    def guesses(self) -> Guesses | None:
        """How its drafts fared; None: the draft model drafts nothing for it."""

    def fitting(self, draft: list[int]) -> list[int]:
        """As much of a draft as its grammar allows."""


@dataclass(slots=True)
class Wish:
    """Guess up to `most` tokens of a sequence."""

    sequence: Sequence
    guesses: Guesses
    most: int
    found: list[int] = field(default_factory=list)
    n_wanted: int = 0
    pays: bool = False  # as far as is known; else it is tried out


class Drafter:
    """Guesses by the most likely token, all sequences together: a run of the draft model for each place.

    A slot of the engine has the same number in the draft model's context. What a slot holds there is compared
    with the sequence whenever it is asked for, so that nothing has to be told of what ends, gives way, comes
    back, begins with cells computed before or has its draft refused.
    """

    def __init__(self, model: LoadedModel, n_vocab: int, worth: Worth, meter: Meter) -> None:
        """`n_vocab` is the number of tokens that the guesses' reader knows."""
        n_slots = model.plan.context.parallel
        self.worth = worth
        self._model, self._meter = model, meter
        self._n_vocab = n_vocab
        self._held: list[list[int]] = [[] for _ in range(n_slots)]  # tokens, by slot
        self._owner: list[Sequence | None] = [None] * n_slots
        self._n_sure = [0] * n_slots  # of those held, that are the owner's own
        self._last_s = 0.0  # what the last run took
        self._can_share = model.plan.context.kv_unified

    def draft(self, chunks: Collection[Chunk], generations: Mapping[str, Draftable], spare: int) -> None:
        """Drafts for chunks in `spare` rows, an equal share for each; `generations` by sequence id."""
        wishes = {}
        for i, chunk in enumerate(chunks):
            guesses, n_left = generations[chunk.sequence.id].guesses, chunk.sequence.n_left
            if guesses is None:
                continue
            share = -(-spare // (len(chunks) - i))
            wishes[chunk.sequence.id] = Wish(chunk.sequence, guesses, min(share, n_left - 1))
            spare -= share
        self.guess(wishes.values())
        for chunk in chunks:
            if (wish := wishes.get(chunk.sequence.id)) is not None:
                chunk.draft = tuple(generations[chunk.sequence.id].fitting(wish.found))
                chunk.guessed = bool(chunk.draft)

    def guess(self, wishes: Iterable[Wish]) -> None:
        """Fill in what is `found` for each wish; nothing where that does not pay."""
        asked = []
        for wish in wishes:
            wish.n_wanted, wish.pays = wish.guesses.length(wish.most)
            if wish.n_wanted:
                asked.append(wish)
        spent_before = self._meter.llama.seconds
        self._guess(self._follow(asked))
        n_tried = sum(len(wish.found) for wish in asked if not wish.pays)
        if tried := sum(not wish.pays for wish in asked):
            seconds = self._meter.llama.seconds - spent_before
            self.worth.spend(n_tried, seconds * tried / len(asked))

    # -- following -------------------------------------------------------------------------------

    def _follow(self, wishes: list[Wish]) -> list[Wish]:
        """Read what is new in the sequences, as much as a step has time for; those with a first guess."""
        batch = self._model.batch
        batch.clear()
        room = self.worth.rows_to_follow(self._model.n_batch)
        read: list[tuple[Wish, int, int]] = []  # with how many tokens, and the row of the guess or -1
        for wish in wishes:
            sequence = wish.sequence
            start = self._align(sequence)
            n_behind = len(sequence.tokens) - start
            if wish.pays and not wish.guesses.pays_to_follow(n_behind, sequence.n_left):
                continue
            n_read = n_behind if n_behind <= FREE_ROWS else min(n_behind, room)
            tokens = sequence.tokens[start:][: min(n_read, batch.capacity - batch.n_rows)]
            if not tokens:
                continue
            if max(tokens) >= self._model.vocab.n_tokens:
                wish.guesses.is_over = True
                continue
            is_all = len(tokens) == n_behind
            row = batch.add(tokens, start, sequence.slot, n_outputs=int(is_all))
            read.append((wish, len(tokens), row if is_all else -1))
            room -= len(tokens) if n_behind > FREE_ROWS else 0
        if not read or not self._decode([wish for wish, _, _ in read]):
            return []
        ready = [(wish, row) for wish, _, row in read if row >= 0]
        for wish, n_read, _ in read:
            self._keep(wish.sequence, n_read)
        if batch.n_rows > FREE_ROWS * len(read):
            self.worth.observe_read(batch.n_rows, self._last_s)
        elif ready:
            self.worth.observe_guesses(len(ready), self._last_s)
        self._take(ready)
        return [wish for wish, _ in ready]

    def _align(self, sequence: Sequence) -> int:
        """Leave in a sequence's slot what agrees with it, or share that with another; how much that is.

        Its last token is not among it: what comes after that is asked for.
        """
        slot, tokens = sequence.slot, sequence.tokens
        most = len(tokens) - 1
        length, is_new = 0, self._owner[slot] is not sequence
        if not is_new:
            sure = min(self._n_sure[slot], most)
            length = sure + n_common(self._held[slot][sure:], tokens[sure:most])
        self._owner[slot] = sequence
        if is_new and most > FREE_ROWS and not self._model.cells.is_stateful:
            length = self._begin(slot, tokens[:most])
        held = self._held[slot]
        if length < len(held):
            self._model.cells.cut(slot, length)
            del held[length:]
        self._n_sure[slot] = length
        return length

    def _begin(self, slot: int, tokens: list[int]) -> int:
        """How many of `tokens` a slot holds, once it shares what any other holds more of, if it can."""
        if not self._can_share:
            return n_common(self._held[slot], tokens)
        source = max(range(len(self._held)), key=lambda i: (n_common(self._held[i], tokens), i == slot))
        length = n_common(self._held[source], tokens)
        if source != slot:
            self._model.forget(slot)
            self._model.cells.share(source, slot, length)
            self._held[slot] = tokens[:length]
        return length

    def _keep(self, sequence: Sequence, n_read: int) -> None:
        """Note that so many tokens more of a sequence are in its slot's cells now."""
        held = self._held[sequence.slot]
        held += sequence.tokens[len(held) :][:n_read]
        self._n_sure[sequence.slot] = len(held)

    # -- guessing --------------------------------------------------------------------------------

    def _guess(self, wishes: list[Wish]) -> None:
        """Go on from each one's first guess."""
        while wishes := [wish for wish in wishes if len(wish.found) < wish.n_wanted]:
            batch = self._model.batch
            batch.clear()
            batch.add_singles(
                [wish.found[-1] for wish in wishes],
                [len(self._held[wish.sequence.slot]) for wish in wishes],
                [wish.sequence.slot for wish in wishes],
                [1] * len(wishes),
            )
            if not self._decode(wishes):
                return
            for wish in wishes:
                self._held[wish.sequence.slot].append(wish.found[-1])
            self.worth.observe_guesses(len(wishes), self._last_s)
            self._take([(wish, row) for row, wish in enumerate(wishes)])

    def _take(self, rows: list[tuple[Wish, int]]) -> None:
        for wish, row in rows:
            wish.found.append(int(self._model.logits(row)[: self._n_vocab].argmax()))

    def _decode(self, wishes: list[Wish]) -> bool:
        """Run the batch; False where there was no room, some of which is made for the next time."""
        with self._meter.llama:
            status = self._model.decode()
            self._model.wait()
        self._last_s = self._meter.llama.last_s
        if status == NO_ROOM:
            self._make_room(wishes)
        elif status:
            raise EngineDied(f"llama.cpp could not run the draft model (code {status})")
        return status == 0

    def _make_room(self, wishes: list[Wish]) -> None:
        """Forget what is not in use, or else stop following the last of `wishes`."""
        in_use = {wish.sequence.slot for wish in wishes}
        idle = [slot for slot, held in enumerate(self._held) if held and slot not in in_use]
        if not idle:
            wishes[-1].guesses.is_over = True
            idle = [wishes[-1].sequence.slot]
        for slot in idle:
            self._forget(slot)

    def _forget(self, slot: int) -> None:
        self._model.forget(slot)
        self._held[slot], self._owner[slot], self._n_sure[slot] = [], None, 0
