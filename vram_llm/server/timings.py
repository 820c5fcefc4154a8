"""How long the prompt and the answer of each choice took, in llama-server's fields, where a client asks."""

import time
from contextlib import aclosing
from typing import Any

from vram_llm.engine.request import TokenEvent
from vram_llm.server.generation import TokenEvents
from vram_llm.server.schemas import GenerationFields


class ChoiceClock:
    """Follows one choice from the moment this is made. Times are this process's, in milliseconds."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._first: float | None = None  # when the first token came
        self._processed: int | None = None  # tokens of the prompt, as reported last
        self._last = self._began
        self._prompt_tokens = self._cached_tokens = self._n_tokens = 0

    def observe(self, event: TokenEvent) -> None:
        """Note what an event says, and when it came."""
        self._last = time.perf_counter()
        self._prompt_tokens = event.prompt_tokens or self._prompt_tokens
        self._cached_tokens = event.cached_tokens or self._cached_tokens
        self._n_tokens += len(event.token_ids)
        if self._first is None and event.prompt_done is None:
            self._first = self._last

    def timings(self) -> dict[str, Any]:
        """llama-server's `timings`. The prompt's time includes its wait for a free sequence."""
        prompt_ms = 1000 * ((self._first or self._last) - self._began)
        predicted_ms = 1000 * (self._last - (self._first or self._last))
        n_prompt = self._prompt_tokens - self._cached_tokens
        n_after_first = max(self._n_tokens - 1, 0)
        return {
            "cache_n": self._cached_tokens,
            "prompt_n": n_prompt,
            "prompt_ms": prompt_ms,
            "prompt_per_token_ms": _per(prompt_ms, n_prompt),
            "prompt_per_second": _per(1000 * n_prompt, prompt_ms),
            "predicted_n": self._n_tokens,
            "predicted_ms": predicted_ms,
            "predicted_per_token_ms": _per(predicted_ms, n_after_first),
            "predicted_per_second": _per(1000 * n_after_first, predicted_ms),
        }

    def progress(self, event: TokenEvent) -> list[dict[str, Any]]:
        """llama-server's `prompt_progress` objects that are due with an event, after `observe`.

        `processed` of `total` tokens, from the cached ones, once it is known how many these are, to all.
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


Clocks = list[ChoiceClock]  # one for each choice, or none where no client asks


def clocks_of(fields: GenerationFields, n_choices: int) -> Clocks:
    """The clocks that a request's choices need."""
    wanted = fields.timings_per_token or (fields.stream and fields.return_progress)
    return [ChoiceClock() for _ in range(n_choices)] if wanted else []


def timed(news: TokenEvents, clocks: Clocks) -> TokenEvents:
    """`news`, each event shown to the clock of its choice."""
    return _observed(news, clocks) if clocks else news


async def _observed(news: TokenEvents, clocks: Clocks) -> TokenEvents:
    async with aclosing(news):
        async for index, event in news:
            clocks[index].observe(event)
            yield index, event


def _per(amount: float, count: float) -> float | None:
    return amount / count if count else None
