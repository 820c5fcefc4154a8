"""The engine's step over one loaded model: schedule, run, deliver."""

from collections.abc import Callable
from functools import partial

from vram_llm.engine import wire
from vram_llm.engine.batch_runner import BatchRunner, StepCosts
from vram_llm.engine.generation import Generation, SampledTokens, progress_event
from vram_llm.engine.image_runner import ImageRunner
from vram_llm.engine.inputs.text_tokenizer import TokenizerThreads
from vram_llm.engine.kv_cache.offload_store import OffloadStore
from vram_llm.engine.kv_cache.prefix_cache import PrefixCache
from vram_llm.engine.kv_cache.slots import most_recent
from vram_llm.engine.memory_guard import MemoryGuard
from vram_llm.engine.memory_readings import reserves
from vram_llm.engine.new_requests import NewRequests, NewSequence
from vram_llm.engine.prefill_budget import PrefillBudget
from vram_llm.engine.request import DecodeTick, FinishReason, Request, TokenEvent
from vram_llm.engine.sampling.device_slots import DeviceSamplerSlots
from vram_llm.engine.scheduler import Scheduler
from vram_llm.engine.sequence import Chunk, Sequence, by_adapters
from vram_llm.engine.slot_actions import SlotActions
from vram_llm.engine.speculative.draft_budget import DraftCostModel
from vram_llm.engine.speculative.draft_model import DraftModelRunner
from vram_llm.engine.speculative.draft_scheduler import DraftScheduler
from vram_llm.engine.speculative.drafter import Drafter
from vram_llm.engine.speculative.mtp_runner import MtpRunner
from vram_llm.engine.speculative.row_cost import RowCost
from vram_llm.engine.stats import EngineStats
from vram_llm.engine.stats_recorder import StatsRecorder
from vram_llm.engine.steady_decode import SteadyDecode, steady_decode_after
from vram_llm.errors import RequestTimeout
from vram_llm.llama.cells import MAX_SLOTS
from vram_llm.llama.model import LoadedModel

StepOutput = tuple[DecodeTick | None, list[TokenEvent]]
"""The results of one step: a token for each stream of a steady step, else None; and events.

Events are those of all other sequences that have any, and of streams that ended.
"""


class Loop:
    """Continuous batching over `model`. Not thread-safe: one thread submits, cancels and steps.

    `draft` is a model with the same vocabulary that drafts tokens; `model` must be able to rewind. Without it
    the model's own MTP head drafts, if it is loaded.
    `send` gets Waiting before each step where other requests wait, SlotStates where the numbered slots have
    changed, and SlotDone from any thread. `post`, if given, gets SlotStates that can wait for the next
    message.
    """

    def __init__(
        self,
        model: LoadedModel,
        draft: LoadedModel | None = None,
        send: Callable[[wire.FromEngine], None] = lambda _: None,
        post: Callable[[wire.FromEngine], None] | None = None,
    ) -> None:
        context, target_s = model.plan.context, model.plan.serving.itl_target_ms / 1000
        self.recorder = StatsRecorder()
        self._model = model
        self._device_slots = DeviceSamplerSlots(model) if context.backend_sampling else None
        self._cache = _prefix_cache(model, self._device_slots)
        row_cost = RowCost()
        costs = StepCosts(
            prefill=PrefillBudget(target_s, model.n_batch, model.n_ubatch),
            rows=row_cost,
            drafts=DraftCostModel(row_cost, target_s) if draft or model.mtp_head else None,
        )
        self._costs = costs
        self._scheduler = Scheduler(
            self._cache, costs.prefill, context.parallel, model.n_batch, context.n_outputs,
            lambda ids: send(wire.Waiting(ids)),
        )  # fmt: skip
        self.slot_actions = SlotActions(model, self._cache, self._scheduler.slots, send, post or send)
        self._runner = BatchRunner(model, self._cache, self._scheduler, costs, self.recorder)
        self.threads = TokenizerThreads()
        self._new = NewRequests(model, self._device_slots, row_cost, costs.drafts, self.threads)
        self.count_tokens = self._new.count_tokens  # thread-safe
        drafter = _drafter(model, draft, costs.drafts, self.recorder)
        self._mtp = drafter if isinstance(drafter, MtpRunner) else None
        self._runner.on_computed = self._mtp.note_step if self._mtp is not None else None
        self._draft_scheduler = DraftScheduler(
            self._scheduler,
            row_cost,
            drafter,
            max_rows=model.n_ubatch,
            most_rewound=model.cells.most_rewound,
        )
        self._images = ImageRunner(model, self._cache, self._scheduler, self.recorder)
        self._generations: dict[str, Generation] = {}
        self._steady: SteadyDecode | None = None
        self.memory_guard = partial(  # sheds what the loop can do without; wants `readings`
            MemoryGuard,
            self._cache,
            self._scheduler,
            reserves=reserves(model.plan),
            commit=self._commit_steady,
        )

    @property
    def is_idle(self) -> bool:
        """True if a step would have nothing to do."""
        return not (self._generations or self._new.waiting or self.slot_actions.orders)

    def stats(self) -> EngineStats:
        """Costs of all steps so far, and the current state."""
        if self._steady is not None:
            self._steady.count(self.recorder)
        return self.recorder.stats(self._scheduler, self._cache, self._device_slots)

    def submit(self, request: Request) -> TokenEvent | None:
        """Accept a request. Returns the event that refuses it, or the first of its progress events."""
        new = self._new.add(request)
        return self._begin(new) if isinstance(new, tuple) else new

    def cancel(self, request_id: str) -> None:
        """Drop a request and free its slot; no event follows. An unknown id is no error."""
        self._commit_steady()
        self._new.cancel(request_id)
        sequence = self._scheduler.find(request_id)
        if sequence is not None:
            self._release(sequence)

    def finish(self, request_id: str) -> TokenEvent:
        """End a request with the tokens that it has. Returns its last event: without a token, an error."""
        self._commit_steady()
        sequence = self._scheduler.find(request_id)
        if sequence is None or not sequence.n_generated:
            self.cancel(request_id)
            return TokenEvent(
                id=request_id, finish_reason=FinishReason.ERROR, error_code=RequestTimeout.code, error=""
            )
        event = self._generations[request_id].cut_off(self._model, sequence)
        self._release(sequence)
        return event

    def step(self) -> StepOutput:
        """Run one batch. Raises EngineDied if llama.cpp fails."""
        steady = self._steady
        if steady is not None and not steady.n_left:
            steady = self._renew(steady)
        new, scheduler, slots = self._new.waiting, self._scheduler, self.slot_actions
        waits = new or scheduler.waiting or slots.orders  # mostly not, and these are quick to look at
        if steady is None or (waits and (new or scheduler.may_admit or slots.is_due)):
            return None, self._full_step()
        tick = steady.step()
        if tick is not None and not steady.watched:
            return tick, []
        return self._finish_steady(steady, tick)

    # -- steady steps ----------------------------------------------------------------------------

    def _renew(self, steady: SteadyDecode) -> SteadyDecode | None:
        """The steady decode after one that has no steps left; None if a full step has to come first."""
        self._commit_steady()
        chunks = steady.chunks()
        self._draft_scheduler.add_drafts(chunks, self._generations)
        if not any(chunk.draft for chunk in chunks):
            self._steady = self._steady_after(chunks)
        return self._steady

    def _finish_steady(self, steady: SteadyDecode, tick: DecodeTick | None) -> StepOutput:
        """End a steady decode after a step in which a text may end, or none was computed."""
        if steady.status != 0:
            self._runner.check(steady.status)
            return None, self._full_step()
        if tick is None:
            self._commit_steady()
            chunks = steady.chunks()
            self._runner.note_computed(chunks, steady.last_s)
            pairs = zip(chunks, steady.tokens, strict=True)
            events = [self._deliver(chunk, SampledTokens([token])) for chunk, token in pairs]
        else:
            if not (stopped := steady.stopped):
                return tick, []
            self._commit_steady()
            chunks = [Chunk(sequence, sequence.n_cached, 1) for sequence in stopped]
            events = [self._deliver(chunk, SampledTokens()) for chunk in chunks]
        self.slot_actions.report(at_once=False)
        return tick, events

    def _steady_after(self, chunks: list[Chunk]) -> SteadyDecode | None:
        """The steady decode after a step that computed `chunks`, those of all running sequences."""
        n_free = self._cache.n_cells - self._cache.n_used
        steady = steady_decode_after(self._model, chunks, self._generations.get, n_free)
        if steady is not None and self._mtp is not None:
            self._mtp.rest()
        return steady

    def _commit_steady(self) -> None:
        """End the steady decode, if there is one, and count its steps."""
        steady, self._steady = self._steady, None
        if steady is not None and (n_steps := steady.commit(self.recorder)):
            self._costs.observe_decode(len(steady.streams), n_steps, steady.seconds)
            for sequence, _ in steady.streams:
                self._scheduler.charge(sequence, n_steps)
            self._scheduler.shares.note_steps(n_steps)

    # -- full steps ------------------------------------------------------------------------------

    def _full_step(self) -> list[TokenEvent]:
        """Schedule, and run one batch for each set of adapters. Returns the events of all sequences."""
        self._commit_steady()
        if self.slot_actions.orders:
            self.slot_actions.run(is_idle=not self._generations and not self._new.waiting)
        begun = self._begin_ready() if self._new.waiting else []
        self._scheduler.make_room()
        groups = by_adapters(self._scheduler.schedule())
        self._scheduler.report_waiting()
        n_rows = sum(chunk.count for chunks in groups for chunk in chunks)
        self.slot_actions.report(at_once=not self._costs.prefill.is_brief(n_rows))
        events = begun + [event for chunks in groups for event in self._run_group(chunks)]
        if len(groups) == 1 and len(groups[0]) == len(self._scheduler.running):
            self._steady = self._steady_after(groups[0])
        self.slot_actions.report(at_once=False)
        return events

    def _begin(self, new: NewSequence) -> TokenEvent | None:
        """Queue a sequence. Returns its first progress event; None if its request wants none."""
        sequence, generation = new
        self._generations[sequence.id] = generation
        self._scheduler.submit(sequence)
        if not self._scheduler.may_admit:
            self._scheduler.report_waiting()
        return progress_event(sequence) if sequence.reports_progress else None

    def _begin_ready(self) -> list[TokenEvent]:
        """Queue the requests that no longer wait. Returns the events that accept or refuse them."""
        found = self._new.ready(is_idle=not self._generations)
        events = [self._begin(new) if isinstance(new, tuple) else new for new in found]
        return [event for event in events if event is not None]

    def _run_group(self, chunks: list[Chunk]) -> list[TokenEvent]:
        """Run the batch of chunks that are computed with the same adapters."""
        chunks = [chunk for chunk in chunks if chunk.sequence.slot >= 0]  # others were preempted meanwhile
        if chunks and self._model.plan.companions:
            self._model.use_adapters(chunks[0].sequence.adapters)
        if self._device_slots is not None:
            _bind_samplers(self._device_slots, chunks, self._generations, self.recorder)
        with_text = [chunk for chunk in chunks if chunk.image is None]
        if self._mtp is not None:
            stats = (self._generations[sequence.id].draft_stats for sequence in self._scheduler.running)
            may_draft = any(each is not None and not each.idle_steps for each in stats)
            self._mtp.begin(with_text, may_draft=may_draft)
        self._draft_scheduler.add_drafts(with_text, self._generations)
        computed = self._runner.run(with_text)
        with self.recorder.sampling:
            sampled = [(chunk, self._sample(chunk, rows)) for chunk, rows in computed if rows]
        events = [
            progress_event(c.sequence) for c, _ in computed if c.sequence.reports_progress and not c.samples
        ]
        events += [self._deliver(chunk, tokens) for chunk, tokens in sampled if chunk.samples]
        return events + self._run_images([chunk for chunk in chunks if chunk.image is not None])

    def _run_images(self, chunks: list[Chunk]) -> list[TokenEvent]:
        """Run chunks of images. Returns an event for each sequence whose image the projector failed on."""
        events = []
        for chunk in chunks:
            sequence = chunk.sequence
            if sequence.slot >= 0 and not self._images.run(chunk):
                self._release(sequence)
                why = "the projector failed on an image of this request"
                events.append(TokenEvent(id=sequence.id, finish_reason=FinishReason.ERROR, error=why))
        return events

    # -- delivering ------------------------------------------------------------------------------

    def _sample(self, chunk: Chunk, rows: range) -> SampledTokens:
        """The next tokens of a chunk's sequence; none if its prompt is not computed to the end."""
        sequence = chunk.sequence
        generation = self._generations[sequence.id]
        if sequence.prompt_logprobs_pending:
            generation.note_prompt_logprobs(self._model, sequence, chunk.start, rows)
            rows = rows[-1:]
        if sequence.max_tokens == 0 or not chunk.samples:
            return SampledTokens()
        return generation.sample(self._model, rows, chunk.draft, by_draft_model=chunk.by_draft_model)

    def _deliver(self, chunk: Chunk, sampled: SampledTokens) -> TokenEvent:
        """Write sampled tokens into the answer. Returns the event for the client."""
        sequence, generation = chunk.sequence, self._generations[chunk.sequence.id]
        event = generation.write(self._model, sequence, sampled)
        n_written = len(event.token_ids)
        self.recorder.n_generated_tokens += n_written
        if sequence.n_generated == n_written:  # the answer begins
            self.recorder.n_begun_prompt_tokens += sequence.n_prompt
            self.recorder.n_begun_cached_tokens += sequence.n_reused
        if sequence.device_sampler is not None:
            self.recorder.n_device_tokens += n_written
        if chunk.draft:
            self._rollback_rejected(chunk, n_written)
        if event.finish_reason is not None:
            self._release(sequence)
        return event

    def _rollback_rejected(self, chunk: Chunk, n_written: int) -> None:
        """Remove the cells of rejected draft tokens."""
        sequence, n_accepted = chunk.sequence, max(n_written - 1, 0)
        sequence.n_cached += n_accepted
        if n_accepted < len(chunk.draft):
            self._model.cells.cut(sequence.slot, sequence.position(sequence.n_cached))
        self._scheduler.charge(sequence, len(chunk.draft))
        self.recorder.n_drafts += 1
        self.recorder.n_drafted_tokens += len(chunk.draft)
        self.recorder.n_accepted_tokens += n_accepted
        if chunk.by_draft_model:
            self.recorder.n_model_drafted_tokens += len(chunk.draft)
            self.recorder.n_model_accepted_tokens += n_accepted

    def _release(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        generation = self._generations.pop(sequence.id)
        if self._device_slots is not None:
            self._device_slots.release(generation)
        generation.sampler.close()


def _prefix_cache(model: LoadedModel, device_slots: DeviceSamplerSlots | None) -> PrefixCache:
    """The prefix cache over a model's cells, as its plan asks for it."""
    context, serving = model.plan.context, model.plan.serving
    can_park = context.kv_unified and not model.cells.is_stateful
    return PrefixCache(
        memory=model.cells,
        n_cells=model.n_ctx,
        n_slots=context.parallel,
        n_parked=min(context.parallel, MAX_SLOTS - 1 - context.parallel) if can_park else 0,
        min_prefix_tokens=serving.cache_reuse,
        can_share=context.kv_unified,
        store=OffloadStore(serving.slots_ram_bytes or 0, serving.slots_disk_bytes),
        max_idle_cells=serving.idle_tokens,
        pick_slot=most_recent if device_slots is None else device_slots.pick_slot,
    )


def _drafter(
    model: LoadedModel, draft: LoadedModel | None, cost_model: DraftCostModel | None, recorder: StatsRecorder
) -> Drafter | None:
    """The drafter of `model`: a draft model, else the model's own MTP head, if it is loaded."""
    if cost_model is None:
        return None
    if draft is not None:
        return DraftModelRunner(draft, model.vocab.n_tokens, cost_model, recorder)
    assert model.mtp_head is not None
    return MtpRunner(model, model.mtp_head, cost_model, recorder)


def _bind_samplers(
    device_slots: DeviceSamplerSlots,
    chunks: list[Chunk],
    generations: dict[str, Generation],
    recorder: StatsRecorder,
) -> None:
    """Bind each sequence's device sampler to its slot."""
    changes = [device_slots.bind(chunk.sequence, generations[chunk.sequence.id]) for chunk in chunks]
    if any(changes):
        with recorder.llama:
            device_slots.reserve()
