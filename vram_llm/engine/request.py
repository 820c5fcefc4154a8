"""What is asked of the engine, and what it says back."""

from dataclasses import dataclass
from enum import StrEnum

import msgspec


class FinishReason(StrEnum):
    """Why a request ended."""

    STOP = "stop"  # an end-of-generation token or a stop string
    LENGTH = "length"  # max_tokens, or the end of the context
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen. The defaults are OpenAI's; 0 or 1 turns a filter off."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] | None = None
    seed: int | None = None

    @property
    def is_greedy(self) -> bool:
        """True where the most likely token is taken as it stands."""
        return (
            self.temperature <= 0
            and self.repeat_penalty == 1
            and self.presence_penalty == 0
            and self.frequency_penalty == 0
            and not self.logit_bias
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sequence to generate.

    `prompt` is text (tokenised by the engine, special tokens parsed) or token ids. `add_bos` puts the
    beginning-of-sequence token before a text prompt where the model wants one; off for a chat template that
    has written its own.
    """

    id: str
    prompt: str | tuple[int, ...]
    add_bos: bool = True
    max_tokens: int | None = None  # None: to the end of the context
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    sampling: SamplingParams = SamplingParams()


class TokenEvent(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """News of one request: text that became final, and at the end why it ended.

    `text` may be empty (a UTF-8 character or a stop string is still open) and may hold several tokens'
    worth. `prompt_tokens` and `completion_tokens` are totals so far, and of the former `cached_tokens` were
    computed for an earlier request. `error` (with `error_code`, and `error_param` where a field is at fault)
    is set where `finish_reason` is ERROR. A msgspec structure: one is made and packed for every token.
    """

    id: str
    text: str = ""
    token_ids: tuple[int, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    finish_reason: FinishReason | None = None
    error: str | None = None
    error_code: str | None = None
    error_param: str | None = None
