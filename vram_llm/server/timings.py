"""Times of prompts and answers, in llama-server's fields: at the end, and on request of each choice."""

import time
from contextlib import aclosing
from typing import Any

from vram_llm.engine.request import TokenEvent
from vram_llm.server.generation import TokenEvents
from vram_llm.server.request_record import RequestRecord
from vram_llm.server.schemas import GenerationFields


class ChoiceClock:
    """Measures one choice, from its construction on, in this process. Results are in milliseconds."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._first: float | None = None  # time of the first token
        self._processed: int | None = None  # tokens of the prompt, in the last report
        self._last = self._began
        self._prompt_tokens = self._cached_tokens = self._n_tokens = 0
        self._drafted_tokens = self._accepted_tokens = 0

    def observe(self, event: TokenEvent) -> None:
        """Record an event and its time."""
        self._last = time.perf_counter()
        self._prompt_tokens = event.prompt_tokens or self._prompt_tokens
        self._cached_tokens = event.cached_tokens or self._cached_tokens
        self._n_tokens += len(event.token_ids)
        self._drafted_tokens = event.drafted_tokens or self._drafted_tokens
        self._accepted_tokens = event.accepted_tokens or self._accepted_tokens
        if self._first is None and event.prompt_done is None:
            self._first = self._last

    def timings(self) -> dict[str, Any]:
        """llama-server's `timings`. The prompt's time includes its wait for a free sequence."""
        first = self._last if self._first is None else self._first
        times = _timings(
            cached=self._cached_tokens,
            n_prompt=self._prompt_tokens - self._cached_tokens,
            prompt_s=first - self._began,
            n_predicted=self._n_tokens,
            n_after_first=max(self._n_tokens - 1, 0),
            predicted_s=self._last - first,
        )
        return times | _drafts(self._drafted_tokens, self._accepted_tokens)

    def progress(self, event: TokenEvent) -> list[dict[str, Any]]:
        """llama-server's `prompt_progress` objects for an event, after `observe`.

        `processed` counts from the cached tokens, once their number is known, to `total`.
        """
        if self._processed == event.prompt_tokens or event.prompt_done == 0 == event.cached_tokens:
            return []
        steps = [event.prompt_tokens if event.prompt_done is None else event.prompt_done]
        if self._processed is None:
            steps.insert(0, self._cached_tokens)
        self._processed = steps[-1]
        time_ms = round(1000 * (self._last - self._began))
        return [
            {
                "total": event.prompt_tokens,
                "cache": self._cached_tokens,
                "processed": processed,
                "time_ms": time_ms,
            }
            for processed in steps
        ]


Clocks = list[ChoiceClock]  # one per choice; empty if no client asks


def clocks_of(fields: GenerationFields, n_choices: int) -> Clocks:
    """The clocks of a request's choices; empty if it asks for no times."""
    wanted = fields.timings_per_token or (fields.stream and fields.return_progress)
    return [ChoiceClock() for _ in range(n_choices)] if wanted else []


def timed(token_events: TokenEvents, clocks: Clocks) -> TokenEvents:
    """`token_events`, each recorded by the clock of its choice."""
    return _observed(token_events, clocks) if clocks else token_events


async def _observed(token_events: TokenEvents, clocks: Clocks) -> TokenEvents:
    async with aclosing(token_events):
        async for index, event in token_events:
            clocks[index].observe(event)
            yield index, event


def timings_of(record: RequestRecord) -> dict[str, Any]:
    """llama-server's `timings` of a request that has ended: of all its choices together."""
    began = record.began_at if record.submitted_at is None else record.submitted_at
    last = began if record.last_token_at is None else record.last_token_at
    first = last if record.first_token_at is None else record.first_token_at
    times = _timings(
        cached=record.cached_tokens,
        n_prompt=record.prompt_tokens - record.cached_tokens,
        prompt_s=first - began,
        n_predicted=record.completion_tokens,
        n_after_first=max(record.completion_tokens - record.n_sequences, 0),
        predicted_s=last - first,
    )
    return times | _drafts(record.drafted_tokens, record.accepted_tokens)


def _drafts(n_drafted: int, n_accepted: int) -> dict[str, int]:
    return {"draft_n": n_drafted, "draft_n_accepted": n_accepted} if n_drafted else {}


def _timings(
    *, cached: int, n_prompt: int, prompt_s: float, n_predicted: int, n_after_first: int, predicted_s: float
) -> dict[str, Any]:
    prompt_ms, predicted_ms = 1000 * prompt_s, 1000 * predicted_s
    return {
        "cache_n": cached,
        "prompt_n": n_prompt,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": _per(prompt_ms, n_prompt),
        "prompt_per_second": _per(1000 * n_prompt, prompt_ms),
        "predicted_n": n_predicted,
        "predicted_ms": predicted_ms,
        "predicted_per_token_ms": _per(predicted_ms, n_after_first),
        "predicted_per_second": _per(1000 * n_after_first, predicted_ms),
    }


def _per(amount: float, count: float) -> float:
    """As llama-server: 0 in place of a rate of nothing, so that each value is a number."""
    return amount / count if count else 0.0
