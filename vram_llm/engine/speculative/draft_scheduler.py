"""Gives drafts to the sequences of a step: by prompt lookup, else by the draft model."""

from collections.abc import Mapping
from typing import Protocol

from vram_llm.engine.scheduler import Scheduler
from vram_llm.engine.sequence import Chunk, Sequence
from vram_llm.engine.speculative.draft_model import Draftable, DraftModelRunner
from vram_llm.engine.speculative.row_cost import RowCost


class LookupDraftable(Draftable, Protocol):
    """A generation that prompt lookup and a draft model can draft for."""

    def draft(self, sequence: Sequence, most: int) -> list[int]:
        """At most `most` tokens that may follow, by prompt lookup."""


class DraftScheduler:
    """Adds drafts to the chunks of a step. `max_rows` is the most rows that the device computes at once."""

    def __init__(
        self, scheduler: Scheduler, row_cost: RowCost, draft_model: DraftModelRunner | None, max_rows: int
    ) -> None:
        self._scheduler = scheduler
        self._row_cost = row_cost
        self._draft_model = draft_model
        self._max_rows = max_rows

    def add_drafts(self, chunks: list[Chunk], generations: Mapping[str, LookupDraftable]) -> None:
        """Add drafts if all chunks decode, as many as rows of logits and free cells allow.

        `generations` are by sequence id.
        """
        scheduler = self._scheduler
        spare = min(scheduler.max_outputs, self._max_rows) - len(chunks)
        spare = min(spare, scheduler.cache.n_cells - scheduler.n_cells_wanted)
        if spare < 1:
            return
        if any(c.count > 1 or not c.samples or c.sequence.prompt_logprobs_pending for c in chunks):
            return
        if self._draft_model is not None and not self._row_cost.is_fresh(len(chunks)):
            return  # steps without drafts are measured now and then
        for i, chunk in enumerate(chunks):
            share = -(-spare // (len(chunks) - i))
            chunk.draft = tuple(generations[chunk.sequence.id].draft(chunk.sequence, share))
            spare -= len(chunk.draft)
        if self._draft_model is not None:
            self._draft_model.draft([chunk for chunk in chunks if not chunk.draft], generations, spare)
