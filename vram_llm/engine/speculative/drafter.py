"""Drafts of a step by a draft model or by an MTP head: which sequences get how many tokens."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from vram_llm.engine.sequence import Chunk, Sequence
from vram_llm.engine.speculative.draft_budget import DraftCostModel, SequenceDraftStats
from vram_llm.engine.stats_recorder import StatsRecorder


class Draftable(Protocol):
    """The part of a generation that a draft model reads."""

    @property
    def draft_stats(self) -> SequenceDraftStats | None:
        """Its acceptance rate; None if the draft model drafts nothing for this generation."""

    def allowed_draft(self, draft: list[int]) -> list[int]:
        """The longest beginning of a draft that its grammar allows."""


@dataclass(slots=True)
class DraftRequest:
    """Draft up to `most` tokens of a sequence into `drafted`."""

    sequence: Sequence
    draft_stats: SequenceDraftStats
    most: int
    drafted: list[int] = field(default_factory=list)
    n_wanted: int = 0
    pays: bool = False  # known to save time; else it is a trial


class Drafter(ABC):
    """Drafts greedily, all sequences together: one batch for each position."""

    def __init__(self, cost_model: DraftCostModel, recorder: StatsRecorder, most_drafted: int) -> None:
        """At most `most_drafted` tokens of a sequence at once."""
        self.cost_model = cost_model
        self._recorder = recorder
        self._most_drafted = most_drafted
        self._last_s = 0.0  # time of the last run

    def draft(self, chunks: Collection[Chunk], generations: Mapping[str, Draftable], spare: int) -> None:
        """Add drafts to chunks, in equal shares of `spare` rows; `generations` are by sequence id."""
        requests: dict[str, DraftRequest] = {}
        for i, chunk in enumerate(chunks):
            stats, n_left = generations[chunk.sequence.id].draft_stats, chunk.sequence.n_left
            if stats is None:
                continue
            share = -(-spare // (len(chunks) - i))
            requests[chunk.sequence.id] = DraftRequest(
                chunk.sequence, stats, min(share, n_left - 1, self._most_drafted)
            )
            spare -= share
        self.run(requests.values())
        for chunk in chunks:
            if (request := requests.get(chunk.sequence.id)) is not None:
                chunk.draft = tuple(generations[chunk.sequence.id].allowed_draft(request.drafted))
                chunk.by_draft_model = bool(chunk.draft)

    def run(self, requests: Iterable[DraftRequest]) -> None:
        """Fill in `drafted` of each request; it stays empty if drafts do not pay."""
        wanted = []
        for request in requests:
            request.n_wanted, request.pays = request.draft_stats.length(request.most)
            if request.n_wanted:
                wanted.append(request)
        spent_before = self._recorder.llama.seconds
        self._continue_drafts(self._follow(wanted))
        n_tried = sum(len(request.drafted) for request in wanted if not request.pays)
        if n_trials := sum(not request.pays for request in wanted):
            seconds = self._recorder.llama.seconds - spent_before
            self.cost_model.spend(n_tried, seconds * n_trials / len(wanted))

    @abstractmethod
    def _follow(self, requests: list[DraftRequest]) -> list[DraftRequest]:
        """Read tokens that were not read yet; the requests that got a first draft token."""

    @abstractmethod
    def _continue_drafts(self, requests: list[DraftRequest]) -> None:
        """Draft further tokens after each request's first one."""
