"""Embeds texts with one loaded model, in batches that take a text of each request in turn.

A text with images is alone, computed a part a step (mixed_input.py); their rows count as its tokens.
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
from vram_llm.engine.inputs.embedding_tokens import EmbeddingTokens, MixedInput, Tokens
from vram_llm.engine.inputs.text_tokenizer import Cancellation, Job, TextTokenizer, TokenizerThreads
from vram_llm.engine.mixed_input import MixedRun, pool
from vram_llm.engine.request import EmbeddingRequest
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
    texts: list[Tokens]
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
        self._pooling = model.plan.context.pooling
        self._is_by_token = self._pooling is Pooling.NONE
        self._pools_here = self._is_by_token or model.plan.context.pools_in_engine
        self._parallel = model.plan.context.parallel
        self.threads = TokenizerThreads()
        self._tokens = EmbeddingTokens(model)
        self._mixed: tuple[_Job, int, MixedRun] | None = None  # a request, the input that is computed
        self._tokenizing: dict[str, tuple[EmbeddingRequest, Job[list[Tokens]]]] = {}
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
        if any(request.images):
            if self._tokens.images is None:
                error = RequestError("this model is served without a projector, so it takes no images")
                return _refusal(request, error)
            cancellation = Cancellation()
            reading = self._tokens.images.submit(partial(self._tokens.of, request, cancellation))
            self._tokenizing[request.id] = request, Job(reading, cancellation)
            return None
        if TextTokenizer.is_short(*texts):
            return self._begin(request, partial(self._tokens.of, request, Cancellation()))
        job = self.threads.submit(partial(self._tokens.of, request))
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
        if self._mixed is None:
            chosen = self._next_texts()
            (job, i) = chosen[0]
            if isinstance(given := job.texts[i], MixedInput):
                self._mixed = job, i, MixedRun(self._model, self._recorder, given)
            else:
                self._embed(chosen)
        if self._mixed is not None and (ended := self._advance(*self._mixed)) is not None:
            return refused + ended
        return refused + self._complete()

    def _embed(self, chosen: list[tuple[_Job, int]]) -> None:
        """Compute texts of jobs, none with images."""
        texts = [job.texts[i] for job, i in chosen]
        found = self._run([text for text in texts if isinstance(text, list)])
        for slot, (job, i) in enumerate(chosen):
            if self._pools_here:
                self._put(job, i, np.concatenate(found[slot]))
            else:
                job.vectors[i] = self._model.pooled(slot)
            self._model.forget(slot)

    def _advance(self, job: _Job, i: int, run: MixedRun) -> list[Embedded] | None:
        """Compute a part of an input with images; None if it is done, else the answers of this step."""
        try:
            vectors = run.step()
        except RequestError as error:
            self._remove(job)
            return [_refusal(job.request, error)]
        if vectors is None:
            return []
        self._mixed = None
        self._put(job, i, vectors)
        return None

    def _put(self, job: _Job, i: int, vectors: npt.NDArray[np.float32]) -> None:
        """Keep the vectors of all tokens of a text, or their pooled vector."""
        at = sum(map(len, job.texts[:i])) if self._is_by_token else i
        rows = pool(vectors, self._pooling)
        job.vectors[at : at + len(rows)] = rows

    def _complete(self) -> list[Embedded]:
        """The answers of the jobs whose texts are all computed."""
        complete = [job for job in self._jobs if job.is_complete]
        for job in complete:
            self._recorder.n_begun_prompt_tokens += sum(map(len, job.texts))
            self._remove(job)
        self._shares.note_steps(1)
        self._jobs.rotate(-1)  # another request is first in the next step
        return [
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

    def _begin(self, request: EmbeddingRequest, tokenized: Callable[[], list[Tokens]]) -> Embedded | None:
        """Queue a request with its tokens. Returns the answer that refuses it if they are refused."""
        try:
            texts = tokenized()
            n_rows = self._n_rows(texts)
        except RequestError as error:
            return _refusal(request, error)
        vectors = np.empty((n_rows, self._width), np.float32)
        self._n_arrived += 1
        self._jobs.append(_Job(request, texts, vectors, self._n_arrived))
        self._shares.arrive(self._jobs[-1])
        return None

    def _n_rows(self, texts: list[Tokens]) -> int:
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
        if self._mixed is not None and self._mixed[0] is job:
            self._mixed[2].end()
            self._mixed = None
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
            is_mixed = isinstance(job.texts[job.n_taken], MixedInput)
            if not chosen or (n_tokens <= room and not is_mixed):
                chosen.append((job, job.n_taken))
                self._shares.charge(job, n_tokens)
                job.n_taken += 1
                room = 0 if is_mixed else room - n_tokens
                if not job.is_complete:
                    waiting[client].append(job)
            if not waiting[client]:
                del waiting[client]
        return chosen

    def _run(self, texts: list[list[int]]) -> list[list[npt.NDArray[np.float32]]]:
        """Compute texts, the i-th in slot i; a text longer than a batch in several batches.

        The vectors of each text's tokens, in parts; none if llama.cpp pools.
        """
        found: list[list[npt.NDArray[np.float32]]] = [[] for _ in texts]
        batch, capacity = self._model.batch, self._model.n_batch
        n_done = 0
        while n_done < max(map(len, texts), default=0):
            batch.clear()
            parts = [text[n_done : n_done + capacity] for text in texts]
            for slot, part in enumerate(parts):
                batch.add(part, n_done, slot, n_outputs=len(part))
            with self._recorder.llama:
                status = self._model.decode()
                self._model.wait()
            if status != 0:
                raise EngineDied(f"llama.cpp could not embed {batch.n_rows} tokens (code {status})")
            self._recorder.note_steps(1, batch.n_rows, len(texts))
            n_done += capacity
            row = 0
            for slot, part in enumerate(parts if self._pools_here else ()):
                found[slot].append(self._model.token_vectors(row, len(part)))
                row += len(part)
        return found


def _refusal(request: EmbeddingRequest, error: RequestError) -> Embedded:
    longer = error if isinstance(error, ContextExceeded) else None
    return Embedded(
        request.id,
        n_tokens=[longer.n_prompt_tokens] if longer and longer.n_prompt_tokens else [],
        error=str(error),
        error_code=error.code,
        error_param=error.param,
        error_n_ctx=longer.n_ctx if longer else None,
    )
