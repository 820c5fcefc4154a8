"""Requests to the engine, and the events it answers with."""

from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from vram_llm.engine.adapters import Adapters


class FinishReason(StrEnum):
    """Why a request ended."""

    STOP = "stop"  # an end-of-generation token or a stop string
    LENGTH = "length"  # max_tokens, or the end of the context
    CANCELLED = "cancelled"
    ERROR = "error"


FILTERS = (  # of logits, by llama-server's names and in its order
    "penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are sampled. The defaults are OpenAI's; 0 or 1 turns a filter off.

    At a temperature of 0 the most likely token is taken, after bias, penalties and DRY. Penalties count
    generated tokens, not the prompt's; DRY counts both. A `last_n` of -1 is the whole context. `samplers` are
    the filters in the order in which they are applied, each as often as it is named; None: the usual order.
    With a `dynatemp_range` the temperature is at most so far from `temperature`, by the entropy of the row.
    Filters by probability leave at least `min_keep` tokens.
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
    mirostat: int = 0  # version 1 or 2, which replaces the filters
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    samplers: tuple[str, ...] | None = None  # names of FILTERS, "infill" or "adaptive_p"
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    min_keep: int = 0
    adaptive_target: float = -1.0  # probability near which "adaptive_p" samples; below 0: off
    adaptive_decay: float = 0.9

    @property
    def has_penalties(self) -> bool:
        """True if the logits of tokens already generated change."""
        return self.repeat_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def changes_logits(self) -> bool:
        """True if the most likely token may not be the model's own."""
        return self.has_penalties or self.dry_multiplier > 0 or bool(self.logit_bias)

    @property
    def may_drop_best(self) -> bool:
        """True if a filter before the temperature may drop the most likely token. Mirostat has no filters."""
        return not self.mirostat and (self.typical_p < 1 or self.xtc_probability > 0)

    @property
    def is_special(self) -> bool:
        """True if only a chain of llama.cpp's samplers will do, also at a temperature of 0."""
        has_own_temperature = self.dynatemp_range > 0 or self.samplers is not None
        return has_own_temperature or self.min_keep > 1 or self.may_drop_best

    @property
    def is_stateful(self) -> bool:
        """True if a token depends on the probabilities of earlier ones."""
        is_adaptive = self.adaptive_target >= 0 and "adaptive_p" in (self.samplers or ())
        return bool(self.mirostat) or is_adaptive

    @property
    def is_greedy(self) -> bool:
        """True if the model's most likely token is taken."""
        return self.temperature <= 0 and not self.changes_logits and not self.is_special


class GrammarKind(StrEnum):
    """The language a grammar is written in."""

    JSON_SCHEMA = "json_schema"
    GBNF = "gbnf"  # llama.cpp's, or Lark
    REGEX = "regex"
    CHOICE = "choice"  # a JSON list of strings
    MARKED = "marked"  # Lark over the model's own marks (marked_grammars.py)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """A grammar that the answer has to follow. `field` is the request's field, named in errors about it.

    A MARKED text names `marks` by their number, and `answer` as `@answer`; `never` are marks that must not
    occur in its free text. `tools` are the functions whose arguments its rules arguments_I and value_I_K
    describe.
    """

    kind: GrammarKind
    text: str
    field: str
    lenient: bool = False  # of a schema: ignore keywords that cannot be enforced
    marks: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    answer: "Grammar | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningBudget:
    """How long the model may think: after `n_tokens` the engine writes `closing`, and the answer begins.

    Marks are text, with special tokens parsed. `opened`: the prompt ends with the opening mark; else thinking
    begins with `opening` at the start of the output. `again`: it may also begin later.
    """

    n_tokens: int
    opening: str
    closing: str
    opened: bool
    again: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """An image or audio file that stands before character `at` of the prompt.

    `field` is the request's field.
    """

    at: int
    data: bytes
    field: str
    is_audio: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Infill:
    """A gap in a file, which the prompt's text begins to fill; files before it, each as name and text.

    Special tokens in these texts stay text. `suffix_first`: the suffix comes before the prefix.
    """

    prefix: str
    suffix: str
    files: tuple[tuple[str, str], ...] = ()
    suffix_first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sequence to generate.

    `prompt` is text (tokenized by the engine, special tokens parsed) or token ids. `add_bos` puts the
    beginning-of-sequence token before a text prompt if the model wants one; off for a chat template that
    writes its own. `marks` are special tokens that the answer's text shows. `adapters` are the LoRA
    adapters to compute it with; None: all, as planned. Requests share computed beginnings within one
    `namespace`, below 2**56. With a `suffix`, the answer fills the gap between prompt and suffix; with an
    `infill`, that between its prefix and suffix, after the prompt. `images`,
    in the order of `at`, stand in a text prompt. The answer ends with a token of `stop_token_ids`, which is
    not shown; the first `min_tokens` tokens are neither such a token nor the model's own end. With
    `reports_progress` there are events when the request is accepted and after each step that computes a part
    of its prompt. `whole`: the client gets the answer at its end. `written` are the tokens of the answer that
    an engine wrote before it died: the next one continues after them. `client` is the name of the API key, or
    the address of the client where there are no keys: the engine is shared between clients by their `weight`.
    After `max_time_s` the answer ends with the tokens that it has. `arrived_at` is when it came to the
    server, by its process's time.monotonic(). Its client asked for `n` answers at once; 0: another one of
    them has their number. With `post_sampling`, `logprobs` are the probabilities after all samplers. The last
    event has the prompt's text if `returns_prompt`. After the first line, the answer ends at a line that
    begins with fewer than `n_indent` spaces and tabs, and with the first line end later than `line_time_s`
    seconds after its first token.
    It runs in the slot `id_slot`, once that is free; None: in any.
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
    adapters: Adapters | None = None
    namespace: int = 0
    suffix: str | None = None
    infill: Infill | None = None
    images: tuple[Image, ...] = ()
    reports_progress: bool = False
    whole: bool = False
    written: tuple[int, ...] = ()
    client: str = ""
    weight: float = 1.0
    max_time_s: float | None = None
    post_sampling: bool = False
    returns_prompt: bool = False
    n_indent: int = 0
    line_time_s: float | None = None
    arrived_at: float | None = field(default=None, compare=False)
    n: int = field(default=1, compare=False)
    id_slot: int | None = None

    @property
    def can_resume(self) -> bool:
        """True if another engine may continue the answer: the same one, or one that nobody saw begin."""
        sampling = self.sampling
        has_xtc = sampling.xtc_probability > 0 and not sampling.mirostat
        is_repeatable = sampling.seed is not None and not (sampling.is_stateful or has_xtc)
        takes_best = sampling.temperature <= 0 and sampling.dynatemp_range <= 0 and not has_xtc
        return self.whole or takes_best or is_repeatable

    @property
    def has_token_rules(self) -> bool:
        """True if some tokens are forbidden or prescribed for a time."""
        budget, most = self.reasoning_budget, self.max_tokens
        can_be_spent = budget is not None and (most is None or budget.n_tokens < most)
        return can_be_spent or self.min_tokens > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """Texts to embed, each as text (tokenized by the engine, special tokens parsed) or token ids.

    With a `query`, a reranker scores each text as an answer to it. `images` has a tuple for each input (token
    ids have no images), or is empty. `truncates`: the end of a text without images that is too long is left
    out; else the request is refused. `client`, `weight`, `arrived_at`: see Request.
    """

    id: str
    inputs: tuple[str | tuple[int, ...], ...]
    query: str | None = None
    truncates: bool = False
    images: tuple[tuple[Image, ...], ...] = ()
    client: str = ""
    weight: float = 1.0
    arrived_at: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class TokenCandidate:
    """A token, its bytes, and the natural logarithm of its probability."""

    token: int
    piece: bytes
    logprob: float | None


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The probabilities at one position: the model's, or, with `Request.post_sampling`, after all samplers.

    `chosen` is the token at that position; its logprob is None at a prompt's first token, which no row
    predicts. `top` are the most likely tokens, best first.
    """

    chosen: TokenCandidate
    top: tuple[TokenCandidate, ...] = ()


class TokenEvent(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """An event of one request: text that became final, and at the end why it ended.

    `text` may be empty (a UTF-8 character or a stop string is still open) and may hold the text of several
    tokens. `prompt_tokens` and `completion_tokens` are totals; `cached_tokens` of the prompt's were computed
    for an earlier request. The first and the last event of a request have these counts, others perhaps 0.
    `prompt_done` is set only in progress events, which hold no text: the prompt's tokens computed so far.
    `error` (with `error_code`, and `error_param` if a field is at fault) is set if `finish_reason` is
    ERROR. `prompt` is the text of the prompt's tokens, in the last event of a request that asks for it. A
    msgspec structure, because one is made and packed for every token.
    """

    id: str
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[Likelihood, ...] = ()  # of token_ids, if requested
    prompt_logprobs: tuple[Likelihood, ...] = ()  # of the next tokens of the prompt
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    finish_reason: FinishReason | None = None
    stop: str | None = None  # the stop string that ended it
    error: str | None = None
    error_code: str | None = None
    error_param: str | None = None
    error_n_ctx: int | None = None  # if a prompt has too many tokens: how many fit
    prompt_done: int | None = None
    prompt: str | None = None
    slot: int | None = None  # the number of its slot; None: it waits
    drafted_tokens: int = 0  # so far, by prompt lookup and draft model
    accepted_tokens: int = 0  # of the drafted ones


class DecodeTick(msgspec.Struct, tag=True, omit_defaults=True):
    """The result of a step that gave each of several requests a token and did nothing else, in columns.

    `ids` are the requests; empty: the same ones as in the last DecodeTick with ids.
    """

    texts: list[str]  # that became final
    tokens: list[int]
    ids: list[str] = []
