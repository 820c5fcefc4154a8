"""Figures of one HTTP request, collected while it is served: for its line in the log and its errors."""

import re
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from secrets import token_hex
from time import monotonic
from typing import Any

from vram_llm.engine.request import Request, TokenEvent
from vram_llm.errors import VramLLMError

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_MOST_CHARS = 20_000  # of a prompt in the log


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """Times are those of time.monotonic, in seconds. `client` is the API key's name, or the address.

    `n_sequences` is the number of choices or texts that went to the engine; 0: none, or none yet.
    """

    id: str = ""
    method: str = ""
    path: str = ""
    client: str = ""
    began_at: float = field(default_factory=monotonic)
    ended_at: float | None = None
    status: int = 0  # of the answer; 0: none has begun
    model: str = ""
    n_sequences: int = 0
    submitted_at: float | None = None  # to the engine
    queue_s: float = 0.0  # of that, until the first of its sequences had a slot
    first_token_at: float | None = None
    last_token_at: float | None = None
    completion_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0  # of the drafted ones
    finish_reasons: set[str] = field(default_factory=set)
    error: str = ""
    dropped_messages: int | None = None  # of its chat, to fit the context; None: it did not ask for that
    prompts: Sequence[str | tuple[int, ...]] = ()  # as text or token ids; of several choices the same object
    _counts: dict[int, tuple[int, int]] = field(default_factory=dict)  # of each prompt: tokens, cached ones

    def note_submission(self, n_sequences: int, prompts: Sequence[str | tuple[int, ...]]) -> None:
        """It goes to the engine."""
        self.n_sequences, self.submitted_at, self.prompts = n_sequences, monotonic(), prompts

    def note_first_token(self, queue_s: float) -> None:
        """The first token of any choice has come; `queue_s` is how long the choice waited for a slot."""
        self.first_token_at, self.queue_s = monotonic(), queue_s

    def note_end(self, request: Request, last: TokenEvent) -> None:
        """A choice has ended with event `last`."""
        self.last_token_at = monotonic()
        self.completion_tokens += last.completion_tokens
        self.drafted_tokens += last.drafted_tokens
        self.accepted_tokens += last.accepted_tokens
        self.note_prompt(id(request.prompt), last.prompt_tokens, last.cached_tokens)
        if last.finish_reason is not None:
            self.finish_reasons.add(last.finish_reason.value)

    def note_prompt(self, number: int, n_tokens: int, n_cached: int) -> None:
        """Count a prompt. Of its choices, the first to compute it has the fewest cached tokens."""
        _, fewest = self._counts.get(number, (0, n_cached))
        self._counts[number] = n_tokens, min(fewest, n_cached)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(n for n, _ in self._counts.values())

    @property
    def cached_tokens(self) -> int:
        """The number of prompt tokens that were computed for an earlier request."""
        return sum(n for _, n in self._counts.values())

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens of all choices after their first ones, by the time since the first one."""
        n_later = self.completion_tokens - self.n_sequences
        if n_later <= 0 or self.first_token_at is None or self.last_token_at is None:
            return None
        seconds = self.last_token_at - self.first_token_at
        return n_later / seconds if seconds > 0 else None

    def prompt_texts(self) -> list[str]:
        """The prompts for the log, cut if they are long; of token ids their number."""
        once = {id(prompt): prompt for prompt in self.prompts}.values()
        return [_cut(each) if isinstance(each, str) else f"{len(each):,} token ids" for each in once]

    def fields(self) -> dict[str, Any]:
        """The figures that are known, for a line of the log. `duration_s` is the time until now."""
        known: dict[str, Any] = {"request_id": self.id, "client": self.client}
        if self.model:
            known["model"] = self.model
        if self.dropped_messages:
            known["dropped_messages"] = self.dropped_messages
        if self._counts:
            known["prompt_tokens"], known["cached_tokens"] = self.prompt_tokens, self.cached_tokens
        if self.first_token_at is not None:
            known["completion_tokens"] = self.completion_tokens
            known["queue_s"] = round(self.queue_s, 4)
            known["ttft_s"] = round(self.first_token_at - self.began_at, 4)
        if (rate := self.tokens_per_s) is not None:
            known["tokens_per_s"] = round(rate, 2)
        if self.finish_reasons:
            known["finish_reason"] = ",".join(sorted(self.finish_reasons))
        if self.error:
            known["error"] = self.error
        return known | {"duration_s": round((self.ended_at or monotonic()) - self.began_at, 4)}


current_request: ContextVar[RequestRecord | None] = ContextVar("current_request", default=None)


def record_of_request() -> RequestRecord:
    """The record of the request that is served; outside of one, a record that nobody reads."""
    return current_request.get() or RequestRecord()


def note_error(error: BaseException) -> None:
    """An error ends the request that is served."""
    record_of_request().error = str(error) if isinstance(error, VramLLMError) else type(error).__name__


def request_id(given: str) -> str:
    """The id that a client gave, if it is a sane token; else a new one."""
    return given if _SANE_ID.fullmatch(given) else f"req_{token_hex(16)}"


def _cut(text: str) -> str:
    n_more = len(text) - _MOST_CHARS
    return text if n_more <= 0 else f"{text[:_MOST_CHARS]}… ({n_more:,} more characters)"
