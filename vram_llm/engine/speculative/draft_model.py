"""Runs the draft model: it reads the sequences in a context of its own and drafts their next tokens."""

from vram_llm.engine.kv_cache.radix_tree import n_common
from vram_llm.engine.sequence import Sequence
from vram_llm.engine.speculative.draft_budget import FREE_ROWS, MAX_DRAFTED, DraftCostModel
from vram_llm.engine.speculative.drafter import Drafter, DraftRequest
from vram_llm.engine.stats_recorder import StatsRecorder
from vram_llm.errors import EngineDied
from vram_llm.llama.model import NO_ROOM, LoadedModel


class DraftModelRunner(Drafter):
    """Drafts with a draft model.

    A slot of the engine has the same number in the draft model's context. The tokens that a slot holds there
    are compared with the sequence at each request, so that the engine need not report ends, preemptions,
    reused prefixes or rejected drafts.
    """

    def __init__(
        self, model: LoadedModel, n_vocab: int, cost_model: DraftCostModel, recorder: StatsRecorder
    ) -> None:
        """`n_vocab` is the number of tokens that the main model knows."""
        n_slots = model.plan.context.parallel
        super().__init__(cost_model, recorder, MAX_DRAFTED)
        self._model = model
        self._n_vocab = n_vocab
        self._held: list[list[int]] = [[] for _ in range(n_slots)]  # tokens by slot
        self._owner: list[Sequence | None] = [None] * n_slots
        self._n_sure = [0] * n_slots  # number of held tokens that are certainly the owner's
        self._can_share = model.plan.context.kv_unified

    # -- following -------------------------------------------------------------------------------

    def _follow(self, requests: list[DraftRequest]) -> list[DraftRequest]:
        """Read new tokens within the time of a step; the requests that got a first draft token."""
        batch = self._model.batch
        batch.clear()
        room = self.cost_model.rows_to_follow(self._model.n_batch)
        read: list[tuple[DraftRequest, int, int]] = []  # tokens read, and the row to draft from or -1
        for request in requests:
            sequence = request.sequence
            start = self._align(sequence)
            n_behind = len(sequence.tokens) - start
            if request.pays and not request.draft_stats.pays_to_follow(n_behind, sequence.n_left):
                continue
            n_read = n_behind if n_behind <= FREE_ROWS else min(n_behind, room)
            tokens = sequence.tokens[start:][: min(n_read, batch.capacity - batch.n_rows)]
            if not tokens:
                continue
            if max(tokens) >= self._model.vocab.n_tokens:
                request.draft_stats.is_over = True
                continue
            is_all = len(tokens) == n_behind
            row = batch.add(tokens, start, sequence.slot, n_outputs=int(is_all))
            read.append((request, len(tokens), row if is_all else -1))
            room -= len(tokens) if n_behind > FREE_ROWS else 0
        if not read or not self._decode([request for request, _, _ in read]):
            return []
        ready = [(request, row) for request, _, row in read if row >= 0]
        for request, n_read, _ in read:
            self._keep(request.sequence, n_read)
        if batch.n_rows > FREE_ROWS * len(read):
            self.cost_model.observe_read(batch.n_rows, self._last_s)
        elif ready:
            self.cost_model.observe_drafting(len(ready), self._last_s)
        self._take(ready)
        return [request for request, _ in ready]

    def _align(self, sequence: Sequence) -> int:
        """Cut a sequence's slot to the tokens that agree with it, or share another's. Returns their number.

        The sequence's last token is never among them: the draft model has to compute it for its logits.
        """
        slot, tokens = sequence.slot, sequence.tokens
        most = len(tokens) - 1
        length, is_new = 0, self._owner[slot] is not sequence
        if not is_new:
            sure = min(self._n_sure[slot], most)
            length = sure + n_common(self._held[slot][sure:], tokens[sure:most])
        if is_new and most > FREE_ROWS and not self._model.cells.is_stateful:
            length = self._begin(slot, tokens[:most], sequence.namespace)
        self._owner[slot] = sequence
        held = self._held[slot]
        if length < len(held):
            self._model.cells.cut(slot, length)
            del held[length:]
        self._n_sure[slot] = length
        return length

    def _begin(self, slot: int, tokens: list[int], namespace: int) -> int:
        """Share the slot that holds most of `tokens`, if slots can share; how many `slot` then holds."""

        def n_usable(other: int) -> int:
            owner = self._owner[other]
            is_own = owner is not None and owner.namespace == namespace
            return n_common(self._held[other], tokens) if is_own else 0

        if not self._can_share:
            return n_usable(slot)
        source = max(range(len(self._held)), key=lambda i: (n_usable(i), i == slot))
        length = n_usable(source)
        if source != slot:
            self._model.forget(slot)
            self._model.cells.share(source, slot, length)
            self._held[slot] = tokens[:length]
        return length

    def _keep(self, sequence: Sequence, n_read: int) -> None:
        """Note that `n_read` more tokens of a sequence are in its slot's cells."""
        held = self._held[sequence.slot]
        held += sequence.tokens[len(held) :][:n_read]
        self._n_sure[sequence.slot] = len(held)

    # -- drafting --------------------------------------------------------------------------------

    def _continue_drafts(self, requests: list[DraftRequest]) -> None:
        """Draft further tokens after each request's first one."""
        while requests := [request for request in requests if len(request.drafted) < request.n_wanted]:
            batch = self._model.batch
            batch.clear()
            batch.add_singles(
                [request.drafted[-1] for request in requests],
                [len(self._held[request.sequence.slot]) for request in requests],
                [request.sequence.slot for request in requests],
                [1] * len(requests),
            )
            if not self._decode(requests):
                return
            for request in requests:
                self._held[request.sequence.slot].append(request.drafted[-1])
            self.cost_model.observe_drafting(len(requests), self._last_s)
            self._take([(request, row) for row, request in enumerate(requests)])

    def _take(self, rows: list[tuple[DraftRequest, int]]) -> None:
        for request, row in rows:
            request.drafted.append(int(self._model.logits(row)[: self._n_vocab].argmax()))

    def _decode(self, requests: list[DraftRequest]) -> bool:
        """Run the batch; False if there was no room: then some is made for the next time."""
        with self._recorder.llama:
            status = self._model.decode()
            self._model.wait()
        self._last_s = self._recorder.llama.last_s
        if status == NO_ROOM:
            self._make_room(requests)
        elif status:
            raise EngineDied(f"llama.cpp could not run the draft model (code {status})")
        return status == 0

    def _make_room(self, requests: list[DraftRequest]) -> None:
        """Empty the slots not in use; if all are in use, stop following the last of `requests`."""
        in_use = {request.sequence.slot for request in requests}
        idle = [slot for slot, held in enumerate(self._held) if held and slot not in in_use]
        if not idle:
            requests[-1].draft_stats.is_over = True
            idle = [requests[-1].sequence.slot]
        for slot in idle:
            self._forget(slot)

    def _forget(self, slot: int) -> None:
        self._model.forget(slot)
        self._held[slot], self._owner[slot], self._n_sure[slot] = [], None, 0
