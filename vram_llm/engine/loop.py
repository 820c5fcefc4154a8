"""Schedule, run, deliver: the engine's step, over one loaded model."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from vram_llm.engine.request import FinishReason, Request, TokenEvent
from vram_llm.engine.scheduler import Chunk, Scheduler, Sequence
from vram_llm.errors import ContextExceeded, EngineDied, RequestError
from vram_llm.llama.model import LoadedModel
from vram_llm.llama.sampling import SamplerChain
from vram_llm.llama.vocab import TextStream

_MOST_CHARS_PER_TOKEN = 64  # over a whole prompt; runs of spaces come nearest
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
        self._model = model
        self._scheduler = Scheduler(
            n_cells=model.n_ctx,
            parallel=model.plan.context.parallel,
            max_rows=model.n_batch,
            prefill_budget=model.n_ubatch,
        )
        self._generations: dict[str, _Generation] = {}
        self._tokenized: tuple[str, bool, list[int]] = (
            "",
            False,
            [],
        )  # the last prompt: `n` choices share it

    @property
    def is_idle(self) -> bool:
        """True where a step would have nothing to do."""
        return not self._generations

    def submit(self, request: Request) -> TokenEvent | None:
        """Take a request in; the event that refuses it where it cannot be served."""
        prompt = request.prompt
        vocab, n_ctx = self._model.vocab, self._model.n_ctx_seq
        if isinstance(prompt, str) and len(prompt) > n_ctx * _MOST_CHARS_PER_TOKEN:
            return _refusal(  # before the time is spent in which no other request gets a token
                request,
                f"the prompt has {len(prompt):,} characters, far more than the context's {n_ctx:,} tokens",
                ContextExceeded.code,
            )
        tokens = self._tokenize(prompt, request.add_bos) if isinstance(prompt, str) else list(prompt)
        if not tokens:
            tokens = [vocab.bos if vocab.bos >= 0 else vocab.eos]
        if (bad := next((t for t in tokens if not 0 <= t < vocab.n_tokens), None)) is not None:
            return _refusal(
                request,
                f"token id {bad} is outside the vocabulary of {vocab.n_tokens} tokens",
                RequestError.code,
                "prompt",
            )
        if len(tokens) >= n_ctx:
            return _refusal(
                request,
                f"the prompt has {len(tokens):,} tokens and the context holds {n_ctx:,}; "
                "shorten the prompt, or serve with a larger --n-ctx",
                ContextExceeded.code,
            )
        room = n_ctx - len(tokens)
        wanted = room if request.max_tokens is None else min(request.max_tokens, room)
        self._generations[request.id] = _Generation(
            request, TextStream(vocab, request.stop), self._chain_for(request)
        )
        self._scheduler.waiting.append(Sequence(request.id, tokens, len(tokens), wanted))
        return None

    def _tokenize(self, prompt: str, add_bos: bool) -> list[int]:
        if self._tokenized[:2] != (prompt, add_bos):
            tokens = self._model.vocab.tokenize(prompt, add_special=add_bos)
            self._tokenized = (prompt, add_bos, tokens)
        return list(self._tokenized[2])

    def _chain_for(self, request: Request) -> SamplerChain | None:
        if request.sampling.is_greedy:
            return None
        return SamplerChain(self._model.vocab.n_tokens, **asdict(request.sampling))

    def cancel(self, request_id: str) -> None:
        """Drop a request and free its cells; no news of it follows. An unknown id is no error."""
        sequence = self._scheduler.find(request_id)
        if sequence is not None:
            self._release(sequence)

    def step(self) -> list[TokenEvent]:
        """Run one batch; news of every sequence that got a token. Raises EngineDied where llama.cpp fails."""
        self._forget(self._scheduler.make_room())
        chunks = self._scheduler.schedule()
        rows = self._run(chunks)
        return [self._deliver(chunk.sequence, row) for chunk, row in rows if chunk.samples]

    def _run(self, chunks: list[Chunk]) -> list[tuple[Chunk, int]]:
        """Decode; the chunks that were computed, each with its last row."""
        while chunks:
            batch = self._model.batch
            batch.clear()
            rows = []
            for chunk in chunks:
                sequence = chunk.sequence
                tokens = sequence.tokens[chunk.start : chunk.start + chunk.count]
                row = batch.add(tokens, chunk.start, sequence.slot, last_logits=chunk.samples)
                rows.append((chunk, row))
            status = self._model.decode()
            if status == 0:
                for chunk in chunks:
                    chunk.sequence.n_cached += chunk.count
                return rows
            slot = self._scheduler.preempt() if status == NO_ROOM else None
            if slot is None:
                raise EngineDied(f"llama.cpp could not run a batch of {batch.n_rows} tokens (code {status})")
            self._forget([slot])
            chunks = [chunk for chunk in chunks if chunk.sequence.slot >= 0]
        return []

    def _deliver(self, sequence: Sequence, row: int) -> TokenEvent:
        generation = self._generations[sequence.id]
        chain = generation.chain
        if sequence.max_tokens == 0:  # only the prompt was asked for
            return self._finish(sequence, FinishReason.LENGTH, "")
        token = int(self._model.logits(row).argmax()) if chain is None else chain.sample(self._model.ctx, row)
        sequence.tokens.append(token)
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
            finish_reason=reason,
        )

    def _release(self, sequence: Sequence) -> None:
        slot = self._scheduler.remove(sequence)
        if slot is not None:
            self._forget([slot])
        generation = self._generations.pop(sequence.id)
        if generation.chain is not None:
            generation.chain.close()

    def _forget(self, slots: Iterable[int]) -> None:
        for slot in slots:
            self._model.forget(slot)


def _refusal(request: Request, message: str, code: str, param: str | None = None) -> TokenEvent:
    return TokenEvent(
        id=request.id,
        finish_reason=FinishReason.ERROR,
        error=message,
        error_code=code,
        error_param=param,
    )
