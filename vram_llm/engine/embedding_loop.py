"""Embeds texts with one loaded model, in batches that take a text of each request in turn.

With several clients each text is one of the client with the lowest counter (fair_shares.py).
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from vram_llm.engine.fair_shares import FairShares
from vram_llm.engine.inputs.text_tokenizer import Cancellation, Job, TextTokenizer, TokenizerThreads
from vram_llm.engine.inputs.tokenize import max_prompt_bytes
from vram_llm.engine.request import EmbeddingRequest
from vram_llm.engine.rerank_prompt import TEMPLATE, rerank_tokens
from vram_llm.engine.stats import EngineStats
from vram_llm.engine.stats_recorder import StatsRecorder
from vram_llm.engine.wire import Embedded
from vram_llm.errors import ContextExceeded, EngineDied, RequestError
from vram_llm.llama.model import LoadedModel
from vram_llm.model.pooling import Pooling
from vram_llm.units import MIB

_STEP_TOKENS = 512  # of several texts: attention grows with the square, and others wait
MAX_VECTORS_BYTES = 64 * MIB  # of the tokens of a request; as JSON they take some ten times as much
_PATIENCE_S = 0.02  # the longest time that an idle engine waits before it looks for messages


@dataclass(slots=True)
class _Job:
    """A request that is being computed."""

    request: EmbeddingRequest
    texts: list[list[int]]  # tokens
    vectors: npt.NDArray[np.float32] = field(repr=False)  # a row for each text, or for each of its tokens
    arrival: int
    n_taken: int = 0

    @property
    def client(self) -> str:
        return self.request.client

    @property
    def weight(self) -> float:
        return self.request.weight

    @property
    def is_complete(self) -> bool:
        return self.n_taken == len(self.texts)


class Embedder:
    """Embeds with `model`, whose plan has a pooling. Not thread-safe."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._width = model.n_pooled
        self._is_by_token = model.plan.context.pooling is Pooling.NONE  # then a text is within one batch
        whole = min(model.n_ubatch, model.n_ctx_seq, model.n_ctx_train)
        self._max_tokens = model.n_ctx_seq if model.can_split_texts else whole
        self._parallel = model.plan.context.parallel
        self._template = model.metadata(TEMPLATE)
        self.threads = TokenizerThreads()
        self._texts = TextTokenizer(model.vocab)
        self._tokenizing: dict[str, tuple[EmbeddingRequest, Job[list[list[int]]]]] = {}
        self._jobs: deque[_Job] = deque()
        self._shares = FairShares(self._parallel)
        self._n_arrived = 0
        self._recorder = StatsRecorder()

    @property
    def is_idle(self) -> bool:
        """True if a step would have nothing to do."""
        return not self._jobs and not self._tokenizing

    def stats(self) -> EngineStats:
        """Costs of all steps so far, and the number of requests."""
        recorder = self._recorder
        return EngineStats(
            n_steps=recorder.n_steps,
            llama_s=recorder.llama.seconds,
            n_prompt_tokens=recorder.n_step_tokens,
            n_running=len(self._jobs),
            n_begun_prompt_tokens=recorder.n_begun_prompt_tokens,
            n_step_tokens=recorder.n_step_tokens,
            n_step_sequences=recorder.n_step_sequences,
            steps_by_tokens=tuple(recorder.steps_by_tokens),
        )

    def submit(self, request: EmbeddingRequest) -> Embedded | None:
        """Accept a request. Returns the answer that refuses it if it cannot be served."""
        texts = [text for text in (request.query, *request.inputs) if isinstance(text, str)]
        if self._texts.is_short(*texts):
            return self._begin(request, partial(self._tokenized, request, Cancellation()))
        job = self.threads.submit(partial(self._tokenized, request))
        self._tokenizing[request.id] = request, job
        return None

    def cancel(self, request_id: str) -> None:
        """Drop a request; an unknown id is no error."""
        if (waiting := self._tokenizing.pop(request_id, None)) is not None:
            waiting[1].cancel()
        for job in [job for job in self._jobs if job.request.id == request_id]:
            self._remove(job)

    def step(self) -> list[Embedded]:
        """Run one batch and return the answers that it completed. Raises EngineDied if llama.cpp fails."""
        refused = self._begin_tokenized() if self._tokenizing else []
        if not self._jobs:
            return refused
        chosen = self._next_texts()
        self._run([job.texts[i] for job, i in chosen])
        row = 0  # of the batch, which has the texts one after the other
        for slot, (job, i) in enumerate(chosen):
            n = len(job.texts[i])
            if self._is_by_token:
                at = sum(map(len, job.texts[:i]))
                job.vectors[at : at + n] = self._model.token_vectors(row, n)
            else:
                job.vectors[i] = self._model.pooled(slot)
            row += n
            self._model.forget(slot)
        complete = [job for job in self._jobs if job.is_complete]
        for job in complete:
            self._recorder.n_begun_prompt_tokens += sum(map(len, job.texts))
            self._remove(job)
        self._shares.note_steps(1)
        self._jobs.rotate(-1)  # another request is first in the next step
        return refused + [
            Embedded(job.request.id, job.vectors.tobytes(), [len(text) for text in job.texts])
            for job in complete
        ]

    def _begin_tokenized(self) -> list[Embedded]:
        """Accept the requests whose texts are tokenized. Returns the answers that refuse some."""
        if not self._jobs:
            wait([job.future for _, job in self._tokenizing.values()], _PATIENCE_S, "FIRST_COMPLETED")
        done = [(request, job) for request, job in self._tokenizing.values() if job.future.done()]
        for request, _ in done:
            del self._tokenizing[request.id]
        found = [self._begin(request, job.future.result) for request, job in done]
        return [refusal for refusal in found if refusal is not None]

    def _begin(self, request: EmbeddingRequest, tokenized: Callable[[], list[list[int]]]) -> Embedded | None:
        """Queue a request with its tokens. Returns the answer that refuses it if they are refused."""
        try:
            texts = tokenized()
            n_rows = self._n_rows(texts)
        except RequestError as error:
            longer = error if isinstance(error, ContextExceeded) else None
            return Embedded(
                request.id,
                n_tokens=[longer.n_prompt_tokens] if longer and longer.n_prompt_tokens else [],
                error=str(error),
                error_code=error.code,
                error_param=error.param,
                error_n_ctx=longer.n_ctx if longer else None,
            )
        vectors = np.empty((n_rows, self._width), np.float32)
        self._n_arrived += 1
        self._jobs.append(_Job(request, texts, vectors, self._n_arrived))
        self._shares.arrive(self._jobs[-1])
        return None

    def _n_rows(self, texts: list[list[int]]) -> int:
        """The number of vectors of these texts. Raises RequestError for too many vectors of tokens."""
        if not self._is_by_token:
            return len(texts)
        n_rows, most = sum(map(len, texts)), MAX_VECTORS_BYTES // (self._width * np.float32().itemsize)
        if n_rows > most:
            raise RequestError(
                f"the texts have {n_rows:,} tokens together, and a request gets the vectors of {most:,} at "
                "most; send fewer or shorter texts"
            )
        return n_rows

    def _remove(self, job: _Job) -> None:
        self._jobs.remove(job)
        self._shares.leave(job)

    def _next_texts(self) -> list[tuple[_Job, int]]:
        """The texts of the next step, one of each request of a client in turn; a long text is alone."""
        chosen: list[tuple[_Job, int]] = []
        room = min(_STEP_TOKENS, self._model.n_batch)
        waiting: dict[str, deque[_Job]] = {}  # by client
        for job in self._jobs:
            waiting.setdefault(job.client, deque()).append(job)
        while waiting and len(chosen) < self._parallel:
            client = min(waiting, key=lambda client: self._shares.order(waiting[client][0])[0])
            job = waiting[client].popleft()
            n_tokens = len(job.texts[job.n_taken])
            if not chosen or n_tokens <= room:
                chosen.append((job, job.n_taken))
                self._shares.charge(job, n_tokens)
                job.n_taken += 1
                room -= n_tokens
                if not job.is_complete:
                    waiting[client].append(job)
            if not waiting[client]:
                del waiting[client]
        return chosen

    def _run(self, texts: list[list[int]]) -> None:
        """Compute texts, the i-th in slot i; a text longer than a batch in several batches."""
        batch, capacity = self._model.batch, self._model.n_batch
        n_done = 0
        while n_done < max(map(len, texts), default=0):
            batch.clear()
            for slot, text in enumerate(texts):
                part = text[n_done : n_done + capacity]
                batch.add(part, n_done, slot, n_outputs=len(part))
            with self._recorder.llama:
                status = self._model.decode()
                self._model.wait()
            if status != 0:
                raise EngineDied(f"llama.cpp could not embed {batch.n_rows} tokens (code {status})")
            self._recorder.note_steps(1, batch.n_rows, len(texts))
            n_done += capacity

    def _tokenized(self, request: EmbeddingRequest, cancellation: Cancellation) -> list[list[int]]:
        """The tokens of each input. Raises RequestError, ContextExceeded, CancelledError."""
        return [self._tokens(request, i, cancellation) for i in range(len(request.inputs))]

    def _tokens(self, request: EmbeddingRequest, i: int, cancellation: Cancellation) -> list[int]:
        """The tokens of one input. Raises RequestError, ContextExceeded, CancelledError."""
        value, param = request.inputs[i], "documents" if request.query is not None else "input"
        name = f"'{param}[{i}]'"
        cancellation.check()
        most = max_prompt_bytes(self._model.vocab, self._max_tokens)
        if request.truncates and isinstance(value, str):
            value = value[:most]
        for text in (request.query, value):
            if isinstance(text, str) and len(text) > most:
                raise ContextExceeded(
                    f"{name} is too large: it has {len(text):,} characters and the {self._max_tokens:,} "
                    f"tokens of a text hold {most:,} bytes at most; cut it into pieces",
                    param,
                    n_prompt_tokens=len(text) * self._max_tokens // most,
                    n_ctx=self._max_tokens,
                )
        tokens = self._tokens_of(request.query, value, cancellation)
        n_vocab = self._model.vocab.n_tokens
        if (bad := next((t for t in tokens if not 0 <= t < n_vocab), None)) is not None:
            raise RequestError(f"token id {bad} in {name} is outside the vocabulary of {n_vocab}", param)
        if not tokens:
            raise RequestError(f"{name} is empty, so there is nothing to embed", param)
        if request.truncates:
            tokens = self._cut(tokens, request.query, value, cancellation)
        if len(tokens) > self._max_tokens:
            raise ContextExceeded(
                f"{name} is too large: it has {len(tokens):,} tokens and a text may have "
                f"{self._max_tokens:,}; cut it into pieces, or serve with a larger --n-ctx where the model "
                "was trained on more",
                param,
                n_prompt_tokens=len(tokens),
                n_ctx=self._max_tokens,
            )
        return tokens

    def _cut(
        self,
        tokens: list[int],
        query: str | None,
        value: str | tuple[int, ...],
        cancellation: Cancellation,
    ) -> list[int]:
        """The tokens without the end of the text, where they are too many; all if a query leaves no room."""
        if len(tokens) <= self._max_tokens:
            return tokens
        if query is not None and len(self._tokens_of(query, "", cancellation)) >= self._max_tokens:
            return tokens
        n_after = self._n_after(query, value, cancellation)
        return tokens[: self._max_tokens - n_after] + tokens[len(tokens) - n_after :]

    def _n_after(self, query: str | None, value: str | tuple[int, ...], cancellation: Cancellation) -> int:
        """How many tokens stand after a text: the model's last special token, or the end of its template."""
        if not isinstance(value, str):
            return 0
        vocab = self._model.vocab
        if query is None:
            alone = self._texts.tokens("", cancellation, add_special=True)
            return int(bool(alone) and alone[-1] in (vocab.eos, vocab.sep))
        if self._template is None:
            return int(vocab.adds_eos)
        after = self._template.rpartition("{document}")[2].replace("{query}", query)
        return len(self._texts.tokens(after, cancellation, add_special=False))

    def _tokens_of(
        self, query: str | None, value: str | tuple[int, ...], cancellation: Cancellation
    ) -> list[int]:
        if not isinstance(value, str):
            return list(value)
        if query is not None:
            tokenize = partial(self._texts.tokens, cancellation=cancellation, add_special=False)
            return rerank_tokens(self._model.vocab, tokenize, self._template, query, value)
        return self._texts.tokens(value, cancellation, add_special=True)
