"""Runs a model's own MTP head: it drafts from the hidden states that the model computed for the last tokens.

The head reads a token together with the hidden state of the token before. The model gives these states with
each step, and only then: a slot keeps those of its last rows. Prompts are read at once, while the states of
all their rows are there, unless drafts do not pay. After a reused prefix the state of its last token may be
missing, and the token after it is read with zeros, as the first of a text is. After a longer gap the head
begins anew behind it. Drafts may then be worse; answers stay the same, since the model verifies each draft.

While no running sequence may get a draft, the model gives no hidden states and the head computes nothing. It
begins anew afterwards, with the TRIAL_ROWS tokens before the next draft: the states of the tokens between are
not there, and a head depends most on the last one, in which the model has summed up the whole text.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from vram_llm.engine.kv_cache.radix_tree import n_common
from vram_llm.engine.sequence import Chunk, Sequence
from vram_llm.engine.speculative.draft_budget import FREE_ROWS, MAX_DRAFTED, TRIAL_ROWS, DraftCostModel
from vram_llm.engine.speculative.drafter import Drafter, DraftRequest
from vram_llm.engine.stats_recorder import StatsRecorder
from vram_llm.errors import EngineDied
from vram_llm.llama.model import NO_ROOM, LoadedModel
from vram_llm.llama.mtp_head import HiddenStates, MtpHead, keep_hidden_states

_KEPT_STATES = 64  # per slot, for tokens that the head has not read


@dataclass(slots=True)
class _Slot:
    """A slot's cells in the head's context, and hidden states of the model for the rows that follow.

    The cells belong to `held`, the tokens at the positions from `start` on; `states[i]` is the hidden state
    of the token at position `states_from + i`.
    """

    owner: Sequence | None = None
    start: int = 0
    held: list[int] = field(default_factory=list)
    states_from: int = 0
    states: list[HiddenStates] = field(default_factory=list)

    @property
    def end(self) -> int:
        """The position after the last cell."""
        return self.start + len(self.held)

    @property
    def states_end(self) -> int:
        """The position after the last hidden state."""
        return self.states_from + len(self.states)

    def note_states(self, position: int, states: HiddenStates) -> None:
        """Keep the last hidden states of the rows from `position` on, instead of earlier rows there."""
        if not self.states_from <= position <= self.states_end:
            self.states_from, self.states = position, []
        del self.states[position - self.states_from :]
        n_left_out = max(len(states) - _KEPT_STATES, 0)
        self.states.extend(states[n_left_out:].copy())
        del self.states[: max(len(self.states) - _KEPT_STATES, 0)]
        self.states_from = position + len(states) - len(self.states)

    def state_before(self, position: int) -> HiddenStates | None:
        """The hidden state of the token before `position`; None if it is not known."""
        i = position - 1 - self.states_from
        return self.states[i] if 0 <= i < len(self.states) else None


class MtpRunner(Drafter):
    """Drafts with the MTP head of `model`. A slot of the engine has the same number in the head's context.

    Call `begin` before a step with new sequences or prompts, and `note_step` after each step of the model.
    """

    def __init__(
        self, model: LoadedModel, head: MtpHead, cost_model: DraftCostModel, recorder: StatsRecorder
    ) -> None:
        super().__init__(cost_model, recorder, head.most_drafted)
        self._model, self._head = model, head
        self._n_vocab = model.vocab.n_tokens
        self._slots = [_Slot() for _ in range(head.n_sequences)]
        self._own_states: dict[int, HiddenStates] = {}  # the head's, of the last rows, by slot
        self._rests = False  # the model gives no hidden states
        self.rest()

    # -- following -------------------------------------------------------------------------------

    def begin(self, chunks: Iterable[Chunk], *, may_draft: bool) -> None:
        """Prepare the slots of sequences that are new there: share the cells of an equal prefix.

        Without `may_draft`, no running sequence gets a draft soon: the head rests.
        """
        if not may_draft:
            self.rest()
            return
        if self._rests:
            keep_hidden_states(self._model.ctx, keep=True)
            self._rests = False
        for chunk in chunks:
            if self._slots[chunk.sequence.slot].owner is not chunk.sequence:
                self._take_slot(chunk.sequence)

    def rest(self) -> None:
        """Let the model give no hidden states, until `begin` wants them again."""
        if self._rests:
            return
        self._rests = True
        keep_hidden_states(self._model.ctx, keep=False)
        for slot in self._slots:
            slot.states = []

    def note_step(self) -> None:
        """Keep the hidden states of the step that the model has computed; read its prompts."""
        if self._rests:
            return
        states = self._model.hidden_states()
        for row, number, position, tokens in self._model.batch.runs():
            slot, rows = self._slots[number], states[row : row + len(tokens)]
            if (owner := slot.owner) is None or owner.images:
                continue
            if len(tokens) > FREE_ROWS and owner.n_left > 1 and self._pays_to_read:
                self._read_prompt(number, position, rows)
            slot.note_states(position, rows)

    @property
    def _pays_to_read(self) -> bool:
        """Whether drafts are known, or still assumed, to save time."""
        return self.cost_model.length(self.cost_model.acceptance_rate, MAX_DRAFTED) > 0

    def _take_slot(self, sequence: Sequence) -> None:
        """Give a slot to `sequence`, with the cells of the longest equal prefix that any slot holds."""
        number, tokens = sequence.slot, sequence.tokens[: sequence.n_cached]

        def n_same(slot: _Slot) -> int:
            owner = slot.owner
            if owner is None or owner.namespace != sequence.namespace or owner.images or sequence.images:
                return 0
            return n_common(owner.tokens, tokens)

        def usable_end(i: int) -> int:
            end = min(self._slots[i].end, n_same(self._slots[i]))
            return end if end > self._slots[i].start else 0

        numbers = range(len(self._slots)) if self._head.can_share else (number,)
        source_number = max(numbers, key=lambda i: (usable_end(i), i == number))
        source, end = self._slots[source_number], usable_end(source_number)
        slot = self._slots[number]
        if source_number == number:
            self._cut(number, end)
        else:
            self._forget(number)
            self._head.cells.share(source_number, number, end)
            slot.start, slot.held = source.start, source.held[: end - source.start]
        n_known = max(n_same(source) - source.states_from, 0)
        slot.states_from, slot.states = source.states_from, source.states[:n_known]
        slot.owner = sequence

    def _cut(self, number: int, end: int) -> None:
        """Free a slot's cells from position `end` on."""
        slot = self._slots[number]
        if end <= slot.start:
            self._forget(number)
        elif end < slot.end:
            self._head.cells.cut(number, end)
            del slot.held[end - slot.start :]

    def _forget(self, number: int) -> None:
        self._head.cells.forget(number)
        self._slots[number].start, self._slots[number].held = 0, []

    def _first_unread(self, number: int, first_known: int) -> int:
        """The position from which on the head can read a slot, if states are known from `first_known` on."""
        slot = self._slots[number]
        if slot.end < first_known:  # of a single missing state zeros take the place
            self._forget(number)
            slot.start = first_known + 1
        return slot.end

    def _read_prompt(self, number: int, position: int, states: HiddenStates) -> None:
        """Read a slot's unread rows and those from `position` on, which gave `states`."""
        slot, end = self._slots[number], position + len(states)
        assert slot.owner is not None
        self._cut(number, position)
        is_gapless = bool(slot.states) and slot.states_end == position
        first = self._first_unread(number, slot.states_from if is_gapless else position)
        batch = self._head.batch
        while first < end:
            tokens = slot.owner.tokens[first : min(end, first + batch.capacity)]
            batch.clear()
            batch.add(tokens, first, number, n_outputs=0)
            n_earlier = min(max(position + 1 - first, 0), len(tokens))
            self._fill_hidden(0, slot, first, n_earlier)
            at = first + n_earlier - 1 - position
            batch.hidden[n_earlier : len(tokens)] = states[at : at + len(tokens) - n_earlier]
            if not self._decode({number}):
                return
            self.cost_model.observe_read(len(tokens), self._last_s)
            slot.held += tokens
            first += len(tokens)

    def _fill_hidden(self, row: int, slot: _Slot, first: int, n_rows: int) -> None:
        """Put the kept hidden states in front of `n_rows` positions from `first` on into the head's batch."""
        for i in range(n_rows):
            state = slot.state_before(first + i)
            self._head.batch.hidden[row + i] = 0 if state is None else state

    def _follow(self, requests: list[DraftRequest]) -> list[DraftRequest]:
        batch = self._head.batch
        batch.clear()
        read: list[tuple[DraftRequest, list[int], int]] = []  # with the tokens, and the row of the last one
        for request in requests:
            sequence, number = request.sequence, request.sequence.slot
            slot, last = self._slots[number], len(sequence.tokens) - 1
            if slot.owner is not sequence or slot.state_before(last) is None:
                continue  # it comes with the next step
            self._cut(number, last)
            first_known = slot.states_from if request.pays else max(slot.states_from, last - TRIAL_ROWS)
            first = self._first_unread(number, first_known)
            tokens = sequence.tokens[first:]
            if len(tokens) > batch.capacity - batch.n_rows:
                continue
            self._fill_hidden(batch.n_rows, slot, first, len(tokens))
            read.append((request, tokens, batch.add(tokens, first, number, n_outputs=1)))
        if not read or not self._decode({request.sequence.slot for request, _, _ in read}):
            return []
        for request, tokens, _ in read:
            self._slots[request.sequence.slot].held += tokens
        if batch.n_rows > FREE_ROWS * len(read):
            self.cost_model.observe_read(batch.n_rows, self._last_s)
        else:
            self.cost_model.observe_drafting(len(read), self._last_s)
        self._take([(request, row) for request, _, row in read])
        return [request for request, _, _ in read]

    # -- drafting --------------------------------------------------------------------------------

    def _continue_drafts(self, requests: list[DraftRequest]) -> None:
        ends = [(request.sequence.slot, len(request.sequence.tokens)) for request in requests]
        while requests := [request for request in requests if len(request.drafted) < request.n_wanted]:
            batch = self._head.batch
            batch.clear()
            slots = [request.sequence.slot for request in requests]
            positions = [self._slots[number].end for number in slots]
            batch.add_singles([r.drafted[-1] for r in requests], positions, slots, [1] * len(slots))
            for row, number in enumerate(slots):
                batch.hidden[row] = self._own_states[number]
            if not self._decode(set(slots)):
                break
            for request in requests:
                self._slots[request.sequence.slot].held.append(request.drafted[-1])
            self.cost_model.observe_drafting(len(requests), self._last_s)
            self._take([(request, row) for row, request in enumerate(requests)])
        for number, end in ends:  # cells of drafts have the head's states in place of the model's
            self._cut(number, end)

    def _take(self, rows: list[tuple[DraftRequest, int]]) -> None:
        """Draft the likeliest token of each row, and keep the head's own hidden state for the next."""
        for request, row in rows:
            request.drafted.append(self._head.likeliest(row, self._n_vocab))
            self._own_states[request.sequence.slot] = self._head.hidden(row).copy()

    def _decode(self, in_use: set[int]) -> bool:
        """Run the head's batch; False if there was no room: then some is made for the next time."""
        with self._recorder.llama:
            status = self._head.decode()
        self._last_s = self._recorder.llama.last_s
        if status == NO_ROOM:
            idle = [i for i, slot in enumerate(self._slots) if slot.held and i not in in_use]
            for number in idle or in_use:
                self._forget(number)
        elif status:
            raise EngineDied(f"llama.cpp could not run the model's MTP head (code {status})")
        return status == 0
