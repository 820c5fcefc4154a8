"""Gives drafts to the sequences of a step: by prompt lookup, else by the draft model or the MTP head."""

from collections.abc import Mapping
from typing import Protocol

from vram_llm.engine.scheduler import Scheduler
from vram_llm.engine.sequence import Chunk, Sequence
from vram_llm.engine.speculative.drafter import Draftable, Drafter
from vram_llm.engine.speculative.row_cost import RowCost


class LookupDraftable(Draftable, Protocol):
    """A generation that prompt lookup and a drafter can draft for."""

    def draft(self, sequence: Sequence, most: int) -> list[int]:
        """At most `most` tokens that may follow, by prompt lookup."""


class DraftScheduler:
    """Adds drafts to the chunks of a step.

    `max_rows` is the most rows that the device computes at once, `most_rewound` the most of a sequence's last
    rows that can be taken back. `drafter` drafts where prompt lookup does not.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        row_cost: RowCost,
        drafter: Drafter | None,
        *,
        max_rows: int,
        most_rewound: int,
    ) -> None:
        self._scheduler = scheduler
        self._row_cost = row_cost
        self._drafter = drafter
        self._max_rows, self._most_rewound = max_rows, most_rewound

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
        if self._drafter is not None and not self._row_cost.is_fresh(len(chunks)):
            return  # steps without drafts are measured now and then
        for i, chunk in enumerate(chunks):
            share = min(-(-spare // (len(chunks) - i)), self._most_rewound)
            chunk.draft = tuple(generations[chunk.sequence.id].draft(chunk.sequence, share))
            spare -= len(chunk.draft)
        if self._drafter is not None:
            self._drafter.draft([chunk for chunk in chunks if not chunk.draft], generations, spare)
