"""Runs chunks as one llama.cpp batch, or a smaller one if the KV cache has no room, and records the time."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

from vram_llm.engine.kv_cache.prefix_cache import PrefixCache
from vram_llm.engine.prefill_budget import PrefillBudget
from vram_llm.engine.scheduler import Scheduler
from vram_llm.engine.sequence import Chunk
from vram_llm.engine.speculative.draft_budget import DraftCostModel
from vram_llm.engine.speculative.row_cost import RowCost
from vram_llm.engine.stats_recorder import StatsRecorder
from vram_llm.errors import EngineDied
from vram_llm.llama.model import NO_ROOM, LoadedModel


class ComputedChunk(NamedTuple):
    """A chunk that was computed, and the batch rows in which it has logits."""

    chunk: Chunk
    rows: range


@dataclass(frozen=True, slots=True)
class StepCosts:
    """The policies that learn from the times of steps."""

    prefill: PrefillBudget
    rows: RowCost
    drafts: DraftCostModel | None  # None: no draft model

    def observe_decode(self, n_streams: int, n_steps: int, seconds: float) -> None:
        """Steps with one token for each of `n_streams` and nothing else took `seconds` together."""
        self.prefill.observe(n_streams, 0, seconds / n_steps)
        self.rows.observe(n_streams, 0, seconds / n_steps)
        if self.drafts is not None:
            self.drafts.earn(seconds, n_steps)

    def observe(self, n_decode: int, n_prefill: int, n_drafted: int, seconds: float) -> None:
        """Record that a step with these numbers of decode, prompt and draft rows took `seconds`."""
        if not n_drafted:
            self.prefill.observe(n_decode, n_prefill, seconds)
        if not n_prefill:
            self.rows.observe(n_decode, n_drafted, seconds)
        if self.drafts is not None:
            self.drafts.earn(seconds)


class BatchRunner:
    """Computes chunks of sequences that have slots in `cache`, and calls `on_computed` after each batch."""

    def __init__(
        self,
        model: LoadedModel,
        cache: PrefixCache,
        scheduler: Scheduler,
        costs: StepCosts,
        recorder: StatsRecorder,
    ) -> None:
        self.on_computed: Callable[[], None] | None = None
        self._model = model
        self._cache = cache
        self._scheduler = scheduler
        self._costs = costs
        self._recorder = recorder

    def run(self, chunks: list[Chunk]) -> list[ComputedChunk]:
        """Compute `chunks`, or fewer of them if there is no room. Raises EngineDied."""
        while chunks:
            self._cache.make_room(sum(chunk.count + len(chunk.draft) for chunk in chunks))
            computed = self._fill(chunks)
            status, seconds = self._decode()
            if status != NO_ROOM:
                self.note_computed(chunks, seconds)
                return computed
            chunks = self._shrink_batch(chunks)
        return []

    def _decode(self) -> tuple[int, float]:
        """Compute the model's batch: 0 or NO_ROOM, and the seconds it took. Raises EngineDied."""
        began = perf_counter()
        status = self._model.decode()
        self._model.wait()
        seconds = perf_counter() - began
        self._recorder.llama.add(seconds)
        self.check(status)
        if self.on_computed is not None and status == 0:
            self.on_computed()
        return status, seconds

    def check(self, status: int) -> None:
        """Raises EngineDied if a batch of the model ended with this status, neither 0 nor NO_ROOM."""
        if status not in (0, NO_ROOM):
            raise self._decode_error(status)

    def note_computed(self, chunks: list[Chunk], seconds: float) -> None:
        """Record the chunks of a step that took `seconds` in sequences, cache, stats and policies."""
        n_decode = n_prefill = n_drafted = 0
        for chunk in chunks:
            chunk.sequence.n_cached += chunk.count
            n_drafted += len(chunk.draft)
            is_prompt = chunk.start < chunk.sequence.n_prompt
            if chunk.count == 1 and not is_prompt:
                n_decode += 1
                continue
            n_prefill += chunk.count
            if is_prompt:
                self._cache.publish(chunk.sequence)
        self._recorder.note_steps(1, n_decode + n_prefill, len(chunks))
        self._recorder.n_prompt_tokens += n_prefill
        self._costs.observe(n_decode, n_prefill, n_drafted, seconds)

    def _fill(self, chunks: list[Chunk]) -> list[ComputedChunk]:
        """Fill the model's batch with `chunks`. Single rows come first."""
        batch = self._model.batch
        batch.clear()
        filled: list[ComputedChunk] = []
        tokens, positions, slots, wanted = [], [], [], []
        for chunk in chunks:
            if chunk.count == 1 and not chunk.draft:
                row, n_outputs = len(filled), chunk.n_outputs
                tokens.append(chunk.sequence.tokens[chunk.start])
                positions.append(chunk.sequence.position(chunk.start))
                slots.append(chunk.sequence.slot)
                wanted.append(n_outputs)
                filled.append(ComputedChunk(chunk, range(row, row + n_outputs)))
        batch.add_singles(tokens, positions, slots, wanted)
        if len(filled) == len(chunks):
            return filled
        for chunk in chunks:
            if chunk.count > 1 or chunk.draft:
                sequence, end = chunk.sequence, chunk.start + chunk.count
                several = [*sequence.tokens[chunk.start : end], *chunk.draft]
                start = sequence.position(chunk.start)
                last = batch.add(several, start, sequence.slot, n_outputs=chunk.n_outputs)
                filled.append(ComputedChunk(chunk, range(last + 1 - chunk.n_outputs, last + 1)))
        return filled

    def _shrink_batch(self, chunks: list[Chunk]) -> list[Chunk]:
        """A smaller batch, or the same with more free cells, after llama.cpp found no room."""
        if any(chunk.draft for chunk in chunks):
            return [Chunk(c.sequence, c.start, c.count) for c in chunks]
        if self._cache.evict():
            return chunks
        if any(chunk.count > 1 for chunk in chunks):
            return [Chunk(c.sequence, c.start, (c.count + 1) // 2) for c in chunks]
        if not self._scheduler.preempt():
            raise self._decode_error(NO_ROOM)
        return [chunk for chunk in chunks if chunk.sequence.slot >= 0]

    def _decode_error(self, status: int) -> EngineDied:
        n_rows = self._model.batch.n_rows
        return EngineDied(f"llama.cpp could not run a batch of {n_rows} tokens (code {status})")
