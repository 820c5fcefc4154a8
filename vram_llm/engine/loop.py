"""Schedule, run, deliver: the engine's step, over one loaded model."""

from typing import NamedTuple

from vram_llm.engine.generation import Choices, Generation, progress
from vram_llm.engine.image_steps import ImageRuns
from vram_llm.engine.inputs.image_prompts import Pictures, Prompt
from vram_llm.engine.inputs.pending import Preparing
from vram_llm.engine.inputs.tokenize import Intake, refusal
from vram_llm.engine.kv_cache.offload_store import SpillStore
from vram_llm.engine.kv_cache.prefix_cache import PrefixCache, freed_last
from vram_llm.engine.prefill_budget import Pace
from vram_llm.engine.request import FinishReason, Image, Request, Tick, TokenEvent
from vram_llm.engine.sampling.device_slots import DeviceSamplerSlots
from vram_llm.engine.sampling.sampler import Choosers
from vram_llm.engine.sampling.steering import steering
from vram_llm.engine.sampling.structured_output import Constraint, Grammars
from vram_llm.engine.scheduler import Scheduler
from vram_llm.engine.sequence import Chunk, Sequence, by_adapters
from vram_llm.engine.speculative.draft_budget import Guesses, Worth
from vram_llm.engine.speculative.draft_model import Drafter
from vram_llm.engine.speculative.prompt_lookup import PromptLookup
from vram_llm.engine.speculative.row_cost import RowCost
from vram_llm.engine.stats import Figures
from vram_llm.engine.stats_recorder import Meter
from vram_llm.engine.steady_decode import DecodeRun, decode_run
from vram_llm.errors import EngineDied, RequestError
from vram_llm.llama.cells import MAX_SLOTS
from vram_llm.llama.model import NO_ROOM, LoadedModel
from vram_llm.llama.vocab import TextStream


class _Computed(NamedTuple):
    """A chunk that was computed, and the batch rows it has logits in."""

    chunk: Chunk
    rows: range


class Loop:
    """Continuous batching over `model`. Not thread-safe: one thread submits, cancels and steps.

    `draft` is a model of the same vocabulary that guesses tokens, where `model` can take them back.
    """

    def __init__(self, model: LoadedModel, draft: LoadedModel | None = None) -> None:
        context, serving = model.plan.context, model.plan.serving
        can_park = context.kv_unified and not model.cells.is_stateful
        self._model = model
        self._seats = (
            DeviceSamplerSlots(model) if context.backend_sampling else None
        )  # None: the host samples
        self._cache = PrefixCache(
            memory=model.cells,
            n_cells=model.n_ctx,
            n_slots=context.parallel,
            n_parked=min(context.parallel, MAX_SLOTS - 1 - context.parallel) if can_park else 0,
            least=serving.cache_reuse,
            can_share=context.kv_unified,
            store=SpillStore(serving.slots_ram_bytes or 0, serving.slots_disk_bytes),
            most_idle=serving.idle_tokens,
            choose=freed_last if self._seats is None else self._seats.choose,
        )
        self._pace = Pace(serving.itl_target_ms / 1000, model.n_batch, model.n_ubatch)
        self._scheduler = Scheduler(
            self._cache, self._pace, context.parallel, model.n_batch, context.n_outputs
        )
        self._row_cost = RowCost()
        self.meter = Meter()
        self._generations: dict[str, Generation] = {}
        self._decoding: DecodeRun | None = None
        self._choosers = Choosers(model)
        self._grammars = Grammars(model.vocab)
        self._intake = Intake(model.vocab, model.n_ctx_seq)
        self._drafter: Drafter | None = None
        if draft is not None:
            worth = Worth(self._row_cost, serving.itl_target_ms / 1000)
            self._drafter = Drafter(draft, model.vocab.n_tokens, worth, self.meter)
        self._images = ImageRuns(model, self._cache, self._scheduler, self.meter)
        reader = model.images
        self._pictures = Pictures(reader, self._intake, model.n_ubatch) if reader is not None else None
        self._preparing = Preparing(self._pictures)

    @property
    def is_idle(self) -> bool:
        """True where a step would have nothing to do."""
        return not self._generations and not self._preparing

    def figures(self) -> Figures:
        """What steps have cost so far, and what there is now."""
        return self.meter.figures(self._scheduler, self._cache, self._seats)

    def submit(self, request: Request) -> TokenEvent | None:
        """Take a request in; the event that refuses it, or that accepts it where it reports its progress."""
        try:
            prompt = self._sighted().read(request) if request.images else Prompt(self._intake.tokens(request))
        except RequestError as error:
            return refusal(request, error)
        constraint = self._grammars.compile(request.grammar) if request.grammar is not None else None
        if constraint is None and isinstance(prompt, Prompt):
            return self._begin(request, prompt, None)
        self._preparing.add(request, prompt, constraint)
        return None

    def count(self, text: str, images: tuple[Image, ...], *, add_special: bool) -> list[int]:
        """A prompt's tokens, -1 for each row of an image. Raises RequestError."""
        return self._sighted().count(text, images, add_special=add_special)

    def _sighted(self) -> Pictures:
        if self._pictures is None:
            raise RequestError("this model takes no images: it is served without a projector")
        return self._pictures

    def _begin(self, request: Request, prompt: Prompt, constraint: Constraint | None) -> TokenEvent | None:
        """Queue a request that waits for nothing; the event that accepts it where it reports its progress."""
        model, tokens = self._model, list(prompt.tokens)
        room = model.n_ctx_seq - len(tokens)
        wanted = room if request.max_tokens is None else min(request.max_tokens, room)
        self._generations[request.id] = Generation(
            request=request,
            text=TextStream(
                model.vocab,
                request.stop,
                show_special=not request.skip_special_tokens,
                marks=model.vocab.marks(request.marks),
            ),
            chooser=self._choosers.make(
                request.sampling, [t for t in tokens if t >= 0] if prompt.images else tokens
            ),
            constraint=constraint,
            lookup=PromptLookup(self._row_cost) if model.cells.can_rewind else None,
            # a draft model that cannot see what is asked about does not pay
            guesses=Guesses(self._drafter.worth) if self._drafter is not None and not prompt.images else None,
            steering=steering(model.vocab, request),
        )
        tells_prompt = request.prompt_logprobs is not None
        config = None if self._seats is None else self._seats.config_of(request)
        sequence = Sequence(
            request.id,
            tokens,
            len(tokens),
            wanted,
            request.adapters,
            tells_prompt=tells_prompt,
            images=prompt.images,
            device_sampler=config,
            may_take_host=config is not None and request.sampling.seed is None,
            reports_progress=request.reports_progress,
        )
        self._scheduler.submit(sequence)
        return progress(sequence) if request.reports_progress else None

    def _begin_prepared(self) -> list[TokenEvent]:
        """Queue the requests that wait for nothing any more; the events that accept or refuse them."""
        events = []
        for each in self._preparing.ready(is_idle=not self._generations):
            try:
                events.append(self._begin(each.request, *each.results()))
            except RequestError as error:
                events.append(refusal(each.request, error))
        return [event for event in events if event is not None]

    def cancel(self, request_id: str) -> None:
        """Drop a request and free its slot; no news of it follows. An unknown id is no error."""
        self._land()
        self._preparing.cancel(request_id)
        sequence = self._scheduler.find(request_id)
        if sequence is not None:
            self._release(sequence)

    def step(self) -> list[TokenEvent]:
        """Run one batch; news of every sequence that got a token. Raises EngineDied where llama.cpp fails."""
        self._land()
        begun = self._begin_prepared() if self._preparing else []
        self._scheduler.make_room()
        groups = by_adapters(self._scheduler.schedule())
        news = begun + [event for chunks in groups for event in self._step(chunks)]
        if len(groups) == 1 and len(groups[0]) == len(self._scheduler.running):
            self._decoding = self._run_after(groups[0])
        return news

    def decode_on(self) -> tuple[Tick | None, list[TokenEvent]] | None:
        """Run one batch of streams that do nothing but decode, by a short way; None where `step` is due.

        What is new of all, unless one of them may end; and news of those that end, or then of all. Raises
        EngineDied where llama.cpp fails.
        """
        run = self._decoding
        if run is not None and not run.n_left:
            self._land()
            chunks = self._with_drafts(run.chunks())
            run = self._decoding = self._run_after(chunks) if not any(c.draft for c in chunks) else None
        if run is None or self._preparing or self._scheduler.may_admit:
            return None
        run.fill()
        status, seconds = self._decode()
        if status == NO_ROOM:
            return None
        with self.meter.sampling:
            tokens = run.choose()
        tick = run.write(tokens, seconds)
        if tick is None:
            self._land()
            chunks = run.chunks()
            self._computed(chunks, seconds)
            return None, [self._deliver(c, Choices([token])) for c, token in zip(chunks, tokens, strict=True)]
        stopped = run.stopped
        if stopped:
            self._land()
        return tick, [self._deliver(Chunk(each, each.n_cached, 1), Choices()) for each in stopped]

    def _run_after(self, chunks: list[Chunk]) -> DecodeRun | None:
        """What may follow a step that computed `chunks`, and they all that run."""
        n_free = self._cache.n_cells - self._cache.n_used
        return decode_run(self._model, chunks, self._generations.get, n_free)

    def _land(self) -> None:
        """End the run of steps in which streams only decode, if there is one, and note what came of it."""
        run, self._decoding = self._decoding, None
        if run is not None and (n_steps := run.land(self.meter)):
            step_s, n_streams = run.seconds / n_steps, len(run.streams)
            self._pace.observe(n_streams, 0, step_s)
            self._row_cost.observe(n_streams, 0, step_s)

    def _step(self, chunks: list[Chunk]) -> list[TokenEvent]:
        """Run the batch of chunks that are computed with the same adapters."""
        chunks = [chunk for chunk in chunks if chunk.sequence.slot >= 0]  # else it gave way to those before
        if chunks and self._model.plan.companions:
            self._model.use_adapters(chunks[0].sequence.adapters)
        if self._seats is not None:
            self._seat(self._seats, chunks)
        computed = self._run(self._with_drafts([chunk for chunk in chunks if chunk.image is None]))
        with self.meter.sampling:
            chosen = [(chunk, self._choose(chunk, rows)) for chunk, rows in computed if rows]
        news = [progress(c.sequence) for c, _ in computed if c.sequence.reports_progress and not c.samples]
        news += [self._deliver(chunk, choices) for chunk, choices in chosen if chunk.samples]
        return news + self._see([chunk for chunk in chunks if chunk.image is not None])

    def _seat(self, seats: DeviceSamplerSlots, chunks: list[Chunk]) -> None:
        """See to it that every sequence is sampled where it is to be."""
        changes = [seats.seat(chunk.sequence, self._generations[chunk.sequence.id]) for chunk in chunks]
        if any(changes):
            with self.meter.llama:
                seats.reserve()

    def _with_drafts(self, chunks: list[Chunk]) -> list[Chunk]:
        """Drafts for sequences that decode, in what rows of logits are left, where no prompt is computed."""
        scheduler = self._scheduler
        spare = min(scheduler.max_outputs, self._model.n_ubatch) - len(chunks)
        spare = min(spare, scheduler.room.n_cells - scheduler.n_cells_wanted)
        if spare < 1 or any(c.count > 1 or not c.samples or c.sequence.is_telling for c in chunks):
            return chunks
        if self._drafter is not None and not self._row_cost.is_fresh(len(chunks)):
            return chunks  # what a step takes without drafts has to be seen now and then
        for i, chunk in enumerate(chunks):
            share = -(-spare // (len(chunks) - i))
            chunk.draft = tuple(self._generations[chunk.sequence.id].draft(chunk.sequence, share))
            spare -= len(chunk.draft)
        if self._drafter is not None:
            self._drafter.draft([chunk for chunk in chunks if not chunk.draft], self._generations, spare)
        return chunks

    # -- running ---------------------------------------------------------------------------------

    def _run(self, chunks: list[Chunk]) -> list[_Computed]:
        """Decode; the chunks that were computed."""
        while chunks:
            self._cache.make_room(sum(chunk.count + len(chunk.draft) for chunk in chunks))
            rows = self._fill(chunks)
            status, seconds = self._decode()
            if status != NO_ROOM:
                self._computed(chunks, seconds)
                return rows
            chunks = self._fewer(chunks)
        return []

    def _decode(self) -> tuple[int, float]:
        """Compute the batch: 0 or NO_ROOM, and the seconds it took. Raises EngineDied."""
        with self.meter.llama:
            status = self._model.decode()
            self._model.wait()
        if status not in (0, NO_ROOM):
            raise self._death(status)
        return status, self.meter.llama.last_s

    def _fill(self, chunks: list[Chunk]) -> list[_Computed]:
        """The batch for `chunks`. Single rows come first."""
        batch = self._model.batch
        batch.clear()
        filled: list[_Computed] = []
        tokens, positions, slots, wanted = [], [], [], []
        for chunk in chunks:
            if chunk.count == 1 and not chunk.draft:
                row, n_outputs = len(filled), chunk.n_outputs
                tokens.append(chunk.sequence.tokens[chunk.start])
                positions.append(chunk.sequence.position(chunk.start))
                slots.append(chunk.sequence.slot)
                wanted.append(n_outputs)
                filled.append(_Computed(chunk, range(row, row + n_outputs)))
        batch.add_singles(tokens, positions, slots, wanted)
        if len(filled) == len(chunks):
            return filled
        for chunk in chunks:
            if chunk.count > 1 or chunk.draft:
                sequence, end = chunk.sequence, chunk.start + chunk.count
                several = [*sequence.tokens[chunk.start : end], *chunk.draft]
                start = sequence.position(chunk.start)
                last = batch.add(several, start, sequence.slot, n_outputs=chunk.n_outputs)
                filled.append(_Computed(chunk, range(last + 1 - chunk.n_outputs, last + 1)))
        return filled

    def _see(self, chunks: list[Chunk]) -> list[TokenEvent]:
        """Get on with the images of chunks; news only of those that the projector failed on."""
        news = []
        for chunk in chunks:
            sequence = chunk.sequence
            if sequence.slot >= 0 and not self._images.run(chunk):
                self._release(sequence)
                why = "the projector failed on an image of this request"
                news.append(TokenEvent(id=sequence.id, finish_reason=FinishReason.ERROR, error=why))
        return news

    def _computed(self, chunks: list[Chunk], seconds: float) -> None:
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
                self._cache.note(chunk.sequence)
        self.meter.n_steps += 1
        if not n_drafted:
            self._pace.observe(n_decode, n_prefill, seconds)
        if not n_prefill:
            self._row_cost.observe(n_decode, n_drafted, seconds)
        if self._drafter is not None:
            self._drafter.worth.earn(seconds)
        self.meter.n_prompt_tokens += n_prefill

    def _fewer(self, chunks: list[Chunk]) -> list[Chunk]:
        """Less to compute, or the same with more room for it, after llama.cpp found none."""
        if any(chunk.draft for chunk in chunks):
            return [Chunk(c.sequence, c.start, c.count) for c in chunks]
        if self._cache.evict():
            return chunks
        if any(chunk.count > 1 for chunk in chunks):
            return [Chunk(c.sequence, c.start, (c.count + 1) // 2) for c in chunks]
        if not self._scheduler.preempt():
            raise self._death(NO_ROOM)
        return [chunk for chunk in chunks if chunk.sequence.slot >= 0]

    def _death(self, status: int) -> EngineDied:
        n_rows = self._model.batch.n_rows
        return EngineDied(f"llama.cpp could not run a batch of {n_rows} tokens (code {status})")

    # -- delivering ------------------------------------------------------------------------------

    def _choose(self, chunk: Chunk, rows: range) -> Choices:
        """The next tokens of a chunk's sequence; none where only its prompt was asked for."""
        sequence = chunk.sequence
        generation = self._generations[sequence.id]
        if sequence.is_telling:
            generation.read_prompt(self._model, sequence, chunk.start, rows)
            rows = rows[-1:]
        if sequence.max_tokens == 0 or not chunk.samples:
            return Choices()
        return generation.choose(self._model, rows, chunk.draft, guessed=chunk.guessed)

    def _deliver(self, chunk: Chunk, choices: Choices) -> TokenEvent:
        sequence, generation = chunk.sequence, self._generations[chunk.sequence.id]
        event = generation.tell(self._model, sequence, choices)
        n_written = len(event.token_ids)
        self.meter.n_generated_tokens += n_written
        if sequence.device_sampler is not None:
            self.meter.n_device_tokens += n_written
        if chunk.draft:
            self._settle(chunk, n_written)
        if event.finish_reason is not None:
            self._release(sequence)
        return event

    def _settle(self, chunk: Chunk, n_written: int) -> None:
        """Take back the cells of draft tokens that do not stand."""
        sequence, n_stand = chunk.sequence, max(n_written - 1, 0)
        sequence.n_cached += n_stand
        if n_stand < len(chunk.draft):
            self._model.cells.cut(sequence.slot, sequence.position(sequence.n_cached))
        self.meter.n_drafted_tokens += len(chunk.draft)
        self.meter.n_accepted_tokens += n_stand
        if chunk.guessed:
            self.meter.n_guessed_tokens += len(chunk.draft)
            self.meter.n_right_tokens += n_stand

    def _release(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        generation = self._generations.pop(sequence.id)
        if self._seats is not None:
            self._seats.release(generation)
        generation.chooser.close()
