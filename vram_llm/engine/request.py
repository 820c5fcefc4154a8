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
    """How the next token is chosen. The defaults are OpenAI's; 0 or 1 turns a filter off.

    At a temperature of 0 the most likely token is taken that bias, penalties and DRY leave. Penalties count
    generated tokens, not the prompt's; DRY counts both. A `last_n` of -1 is the whole context.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    top_n_sigma: float = -1.0  # below 0: off
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_last_n: int = 1024
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0  # 1 or 2: in place of the filters
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: dict[int, float] | None = None
    seed: int | None = None

    @property
    def has_penalties(self) -> bool:
        """True where tokens already generated are weakened or strengthened."""
        return self.repeat_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def changes_logits(self) -> bool:
        """True where the most likely token may not be the model's own."""
        return self.has_penalties or self.dry_multiplier > 0 or bool(self.logit_bias)

    @property
    def is_greedy(self) -> bool:
        """True where the most likely token is taken as it stands."""
        return self.temperature <= 0 and not self.changes_logits


class GrammarKind(StrEnum):
    """The language a grammar is written in."""

    JSON_SCHEMA = "json_schema"
    GBNF = "gbnf"  # llama.cpp's, or Lark
    REGEX = "regex"
    CHOICE = "choice"  # a JSON list of strings
    MARKED = "marked"  # Lark over marks of the model's own (marked.py)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """What an answer has to be. `field` is the request's, for the error where the grammar is bad.

    A MARKED text names `marks` by their number, and `answer` as `@answer`; `never` are marks that its free
    text does not hold. `tools` are the functions whose arguments its rules arguments_I and value_I_K hold.
    """

    kind: GrammarKind
    text: str
    field: str
    lenient: bool = False  # of a schema, ignore what cannot be enforced
    marks: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    answer: "Grammar | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningBudget:
    """How long the model may think: after `n_tokens` the engine writes `closing`, and the answer begins.

    Marks are text, special tokens parsed. `opened`: the prompt has ended with the opening mark; otherwise
    thinking begins where the answer does, with `opening`. `again`: it may also begin later.
    """

    n_tokens: int
    opening: str
    closing: str
    opened: bool
    again: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """A picture's file, and the character of the prompt that it stands before. `field` is the request's."""

    at: int
    data: bytes
    field: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sequence to generate.

    `prompt` is text (tokenised by the engine, special tokens parsed) or token ids. `add_bos` puts the
    beginning-of-sequence token before a text prompt where the model wants one; off for a chat template that
    has written its own. `marks` are special tokens that the text is to show. `adapters` are the LoRA adapters
    to compute it with, by their number in the plan; None: all. With a `suffix`, what is written fills the
    gap between the prompt and that. `images`, by their places ascending, stand in a text prompt. The answer
    ends with a token of `stop_token_ids`, which is not shown; before `min_tokens` neither such a token nor
    the model's own end can come. With `reports_progress` events come when the request is accepted and after
    each step that computes a part of its prompt.
    """

    id: str
    prompt: str | tuple[int, ...]
    add_bos: bool = True
    max_tokens: int | None = None  # None: to the end of the context
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    marks: tuple[str, ...] = ()
    skip_special_tokens: bool = True  # in the text
    sampling: SamplingParams = SamplingParams()
    grammar: Grammar | None = None
    reasoning_budget: ReasoningBudget | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    adapters: tuple[int, ...] | None = None
    suffix: str | None = None
    images: tuple[Image, ...] = ()
    reports_progress: bool = False

    @property
    def is_steered(self) -> bool:
        """True where some tokens are ruled out or prescribed for a time, whatever the sampler."""
        budget, most = self.reasoning_budget, self.max_tokens
        can_be_spent = budget is not None and (most is None or budget.n_tokens < most)
        return can_be_spent or self.min_tokens > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """Texts to embed, each as text (tokenised by the engine, special tokens parsed) or token ids.

    With a `query`, a reranker scores each of them as an answer to it.
    """

    id: str
    inputs: tuple[str | tuple[int, ...], ...]
    query: str | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token, the bytes it is written with, and the natural logarithm of its probability."""

    token: int
    piece: bytes
    logprob: float | None


@dataclass(frozen=True, slots=True)
class Likelihood:
    """What the model thought at one place, before penalties, temperature and grammar.

    `chosen` is the token that stands there; a logprob of None, at a prompt's first token, says that nothing
    was predicted. `top` are the most likely ones, best first.
    """

    chosen: Candidate
    top: tuple[Candidate, ...] = ()


class TokenEvent(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """News of one request: text that became final, and at the end why it ended.

    `text` may be empty (a UTF-8 character or a stop string is still open) and may hold several tokens'
    worth. `prompt_tokens` and `completion_tokens` are totals, and of the former `cached_tokens` were computed
    for an earlier request: right in the first and the last news of a request, and in between perhaps 0.
    `prompt_done` is set in progress events alone, which hold no text: the prompt's tokens computed so far.
    `error` (with `error_code`, and `error_param` where a field is at fault) is set where `finish_reason` is
    ERROR. A msgspec structure: one is made and packed for every token.
    """

    id: str
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[Likelihood, ...] = ()  # of token_ids, where asked for
    prompt_logprobs: tuple[Likelihood, ...] = ()  # of the next tokens of the prompt
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    finish_reason: FinishReason | None = None
    stop: str | None = None  # the stop string that ended it
    error: str | None = None
    error_code: str | None = None
    error_param: str | None = None
    error_n_ctx: int | None = None  # of a prompt that has too many tokens: how many fit
    prompt_done: int | None = None


class Tick(msgspec.Struct, tag=True, omit_defaults=True):
    """News of a step that gave each of several requests a token and did nothing else, in columns.

    `ids` are the requests'; where there are none, they are those of the last Tick that had some.
    """

    texts: list[str]  # that became final
    tokens: list[int]
    ids: list[str] = []
