"""Schedule, run, deliver: the engine's step, over one loaded model."""

from dataclasses import asdict, dataclass
from time import perf_counter

from vram_llm.engine.cache import PrefixCache
from vram_llm.engine.figures import Figures
from vram_llm.engine.intake import Intake, refusal
from vram_llm.engine.meter import Meter
from vram_llm.engine.pace import Pace
from vram_llm.engine.request import FinishReason, Request, TokenEvent
from vram_llm.engine.scheduler import Scheduler
from vram_llm.engine.sequence import Chunk, Sequence
from vram_llm.engine.spill import SpillStore
from vram_llm.errors import EngineDied, RequestError
from vram_llm.llama.cells import MAX_SLOTS
from vram_llm.llama.model import LoadedModel
from vram_llm.llama.sampling import SamplerChain
from vram_llm.llama.vocab import TextStream

NO_ROOM = 1  # llama_decode's "could not find a KV slot for the batch"


@dataclass(slots=True)
class _Generation:
    """What the loop keeps for a sequence besides what the scheduler does."""

    request: Request
    text: TextStream
    chain: SamplerChain | None  # None: arg max


class Loop:
    """Continuous batching over `model`. Not thread-safe: one thread submits, cancels and steps."""

    def __init__(self, model: LoadedModel) -> None:
        context, serving = model.plan.context, model.plan.serving
        can_park = context.kv_unified and not model.cells.is_stateful
        self._model = model
        self._cache = PrefixCache(
            memory=model.cells,
            n_cells=model.n_ctx,
            n_slots=context.parallel,
            # more would keep more, and make every step's attention walk over more cells
            n_parked=min(context.parallel, MAX_SLOTS - 1 - context.parallel) if can_park else 0,
            least=serving.cache_reuse if context.kv_unified else 0,  # else no cells can be shared
            store=SpillStore(serving.slots_ram_bytes or 0, serving.slots_disk_bytes),
        )
        self._pace = Pace(serving.itl_target_ms / 1000, model.n_batch, model.n_ubatch)
        self._scheduler = Scheduler(self._cache, self._pace, context.parallel, model.n_batch)
        self.meter = Meter()
        self._generations: dict[str, _Generation] = {}
        self._intake = Intake(model.vocab, model.n_ctx_seq)

    @property
    def is_idle(self) -> bool:
        """True where a step would have nothing to do."""
        return not self._generations

    def figures(self) -> Figures:
        """What steps have cost so far, and what there is now."""
        return self.meter.figures(self._scheduler, self._cache)

    def submit(self, request: Request) -> TokenEvent | None:
        """Take a request in; the event that refuses it where it cannot be served."""
        try:
            tokens = self._intake.tokens(request)
        except RequestError as error:
            return refusal(request, error)
        room = self._model.n_ctx_seq - len(tokens)
        wanted = room if request.max_tokens is None else min(request.max_tokens, room)
        self._generations[request.id] = _Generation(
            request, TextStream(self._model.vocab, request.stop), self._chain_for(request)
        )
        self._scheduler.submit(Sequence(request.id, tokens, len(tokens), wanted))
        return None

    def _chain_for(self, request: Request) -> SamplerChain | None:
        if request.sampling.is_greedy:
            return None
        return SamplerChain(self._model.vocab.n_tokens, **asdict(request.sampling))

    def cancel(self, request_id: str) -> None:
        """Drop a request and free its slot; no news of it follows. An unknown id is no error."""
        sequence = self._scheduler.find(request_id)
        if sequence is not None:
            self._release(sequence)

    def step(self) -> list[TokenEvent]:
        """Run one batch; news of every sequence that got a token. Raises EngineDied where llama.cpp fails."""
        self._scheduler.make_room()
        rows = self._run(self._scheduler.schedule())
        started = perf_counter()
        chosen = [(c.sequence, self._choose(c.sequence, row)) for c, row in rows if c.samples]
        self.meter.sampling_s += perf_counter() - started
        return [self._deliver(sequence, token) for sequence, token in chosen]

    # -- running ---------------------------------------------------------------------------------

    def _run(self, chunks: list[Chunk]) -> list[tuple[Chunk, int]]:
        """Decode; the chunks that were computed, each with its last row."""
        while chunks:
            self._cache.make_room(sum(chunk.count for chunk in chunks))
            rows = self._fill(chunks)
            started = perf_counter()
            status = self._model.decode()
            self._model.wait()
            seconds = perf_counter() - started
            self.meter.llama_s += seconds
            if status == 0:
                self._computed(chunks, seconds)
                return rows
            if status != NO_ROOM:
                raise self._death(status)
            chunks = self._fewer(chunks)
        return []

    def _fill(self, chunks: list[Chunk]) -> list[tuple[Chunk, int]]:
        """The batch for `chunks`, and each with the row of its last token. Single rows come first."""
        batch = self._model.batch
        batch.clear()
        singles = [chunk for chunk in chunks if chunk.count == 1]
        batch.add_singles(
            [c.sequence.tokens[c.start] for c in singles],
            [c.start for c in singles],
            [c.sequence.slot for c in singles],
            [c.samples for c in singles],
        )
        rows = [(chunk, row) for row, chunk in enumerate(singles)]
        for chunk in chunks:
            if chunk.count > 1:
                sequence, end = chunk.sequence, chunk.start + chunk.count
                tokens = sequence.tokens[chunk.start : end]
                rows.append((chunk, batch.add(tokens, chunk.start, sequence.slot, last_logits=chunk.samples)))
        return rows

    def _computed(self, chunks: list[Chunk], seconds: float) -> None:
        n_decode = n_prefill = 0
        for chunk in chunks:
            chunk.sequence.n_cached += chunk.count
            is_prompt = chunk.start < chunk.sequence.n_prompt
            if chunk.count == 1 and not is_prompt:
                n_decode += 1
                continue
            n_prefill += chunk.count
            if is_prompt:
                self._cache.note(chunk.sequence)
        self.meter.n_steps += 1
        self._pace.observe(n_decode, n_prefill, seconds)
        self.meter.n_prompt_tokens += n_prefill

    def _fewer(self, chunks: list[Chunk]) -> list[Chunk]:
        """Less to compute, or the same with more room for it, after llama.cpp found none."""
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

    def _choose(self, sequence: Sequence, row: int) -> int | None:
        """The next token, from output row `row`; None where only the prompt was asked for."""
        if sequence.max_tokens == 0:
            return None
        chain = self._generations[sequence.id].chain
        return int(self._model.logits(row).argmax()) if chain is None else chain.sample(self._model.ctx, row)

    def _deliver(self, sequence: Sequence, token: int | None) -> TokenEvent:
        if token is None:
            return self._finish(sequence, FinishReason.LENGTH, "")
        generation = self._generations[sequence.id]
        sequence.tokens.append(token)
        self.meter.n_generated_tokens += 1
        if self._model.vocab.is_end(token) and not generation.request.ignore_eos:
            return self._finish(sequence, FinishReason.STOP, "", token)
        text = generation.text.push(token)
        if generation.text.stopped:
            return self._finish(sequence, FinishReason.STOP, text, token)
        if sequence.n_generated >= sequence.max_tokens:
            return self._finish(sequence, FinishReason.LENGTH, text, token)
        return TokenEvent(
            id=sequence.id,
            text=text,
            token_ids=(token,),
            prompt_tokens=sequence.n_prompt,
            completion_tokens=sequence.n_generated,
            cached_tokens=sequence.n_reused,
        )

    def _finish(self, sequence: Sequence, reason: FinishReason, text: str, *tokens: int) -> TokenEvent:
        stream = self._generations[sequence.id].text
        text += stream.finish()
        if stream.stopped:
            reason = FinishReason.STOP
        self._release(sequence)
        return TokenEvent(
            id=sequence.id,
            text=text,
            token_ids=tokens,
            prompt_tokens=sequence.n_prompt,
            completion_tokens=sequence.n_generated,
            cached_tokens=sequence.n_reused,
            finish_reason=reason,
        )

    def _release(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        generation = self._generations.pop(sequence.id)
        if generation.chain is not None:
            generation.chain.close()
