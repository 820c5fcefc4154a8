"""Whole replies: OpenAI's objects, and those of other servers."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from vram_llm.engine.request import TokenEvent
from vram_llm.server.logprobs import ChatLogprobs, CompletionLogprobs

Ending = Literal["stop", "length"]
ChatEnding = Literal["stop", "length", "tool_calls", "function_call"]  # "function_call": older clients
Verbose = Annotated[  # llama-server's; only its `prompt`
    dict[str, Any] | None, Field(serialization_alias="__verbose", exclude_if=lambda value: value is None)
]
PRESENT = Field(exclude_if=lambda value: value is None)  # omitted if None, as OpenAI does


@dataclass(frozen=True, slots=True)
class ReplyHead:
    """The fields at the beginning of every object and chunk of a reply. `created` is in Unix seconds."""

    id: str
    created: int
    model: str
    system_fingerprint: str


class PromptTokensDetails(BaseModel):
    """Details of the prompt's tokens: `cached_tokens` of them were computed for an earlier request.

    `dropped_messages`: of the chat, so that it fits the context; only if the request asks for that.
    """

    cached_tokens: int = 0
    dropped_messages: Annotated[int | None, PRESENT] = None


class CompletionTokensDetails(BaseModel):
    """Details of the answer's tokens; of drafts, if there were any, how many were accepted and rejected."""

    reasoning_tokens: int = 0
    accepted_prediction_tokens: Annotated[int | None, PRESENT] = None
    rejected_prediction_tokens: Annotated[int | None, PRESENT] = None


class Usage(BaseModel):
    """Tokens of one reply. A prompt counts once, however many choices it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()
    completion_tokens_details: CompletionTokensDetails = CompletionTokensDetails()


class CalledFunction(BaseModel):
    """The name of a called function, and the JSON text of its arguments as the model wrote it."""

    name: str
    arguments: str


class ToolCall(BaseModel):
    """A function call for the client to run."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class CalledCustom(BaseModel):
    """The name of a called custom tool, and its text."""

    name: str
    input: str


class CustomToolCall(BaseModel):
    """A custom tool's call for the client to run."""

    id: str
    type: Literal["custom"] = "custom"
    custom: CalledCustom


class AssistantMessage(BaseModel):
    """The answer to a chat. Missing thinking and calls are omitted."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    annotations: list[None] = []
    reasoning_content: Annotated[str | None, PRESENT] = None
    tool_calls: Annotated[list[ToolCall | CustomToolCall] | None, PRESENT] = None
    function_call: Annotated[CalledFunction | None, PRESENT] = None


class ChatChoice(BaseModel):
    """One of `n` answers."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: ChatEnding


class ChatCompletion(BaseModel):
    """The reply to POST /v1/chat/completions."""

    model_config = ConfigDict(serialize_by_alias=True)

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    timings: Annotated[dict[str, Any] | None, PRESENT] = None  # llama-server's, on request
    verbose: Verbose = None


class CompletionChoice(BaseModel):
    """One of `n` continuations of one prompt."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Ending


class Completion(BaseModel):
    """The reply to POST /v1/completions."""

    model_config = ConfigDict(serialize_by_alias=True)

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage
    timings: Annotated[dict[str, Any] | None, PRESENT] = None
    verbose: Verbose = None


class EmbeddingUsage(BaseModel):
    """Tokens of the embedded or ranked texts."""

    prompt_tokens: int
    total_tokens: int


class Embedding(BaseModel):
    """The vector of one input: numbers, or base64 of them as little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingList(BaseModel):
    """The reply to POST /v1/embeddings."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class RankedText(BaseModel):
    """The text of a returned document."""

    text: str


class RankedDocument(BaseModel):
    """The document's index in the request, and the classifier's raw score: higher is better."""

    index: int
    relevance_score: float
    document: Annotated[RankedText | None, PRESENT] = None


class Ranking(BaseModel):
    """The reply to POST /v1/rerank, best first."""

    object: Literal["list"] = "list"
    model: str
    results: list[RankedDocument]
    usage: EmbeddingUsage


class ScoredText(BaseModel):
    """TEI's form of a document's index and score."""

    index: int
    score: float
    text: Annotated[str | None, PRESENT] = None


class RerankReply(RootModel[Ranking | list[ScoredText]]):
    """The reply to POST /v1/rerank; a list if the request has `texts`."""


class ModelFacts(BaseModel):
    """The loaded model, with llama-server's names. `size` is in bytes, `n_ctx` the context of one request."""

    vocab_type: int
    n_vocab: int
    n_ctx: int
    n_ctx_train: int
    n_embd: int
    n_params: int
    size: int


class Modalities(BaseModel):
    """A model's kinds of input and output, with OpenRouter's names."""

    input_modalities: list[str]
    output_modalities: list[str]


class ModelCard(BaseModel):
    """A served model. vLLM calls its context `max_model_len`, OpenRouter `context_length`."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["vram-llm"] = "vram-llm"
    max_model_len: int
    context_length: int
    architecture: Modalities
    tags: list[str]  # of --tags, as in llama-server
    meta: ModelFacts


class ModelCapabilities(BaseModel):
    """The abilities of a model: llama-server's addition to OpenAI's list."""

    name: str
    model: str  # the same
    capabilities: list[Literal["completion", "multimodal", "embedding", "rerank"]]


class ModelList(BaseModel):
    """The reply to GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
    models: list[ModelCapabilities]


class AnthropicModel(BaseModel):
    """A model as Anthropic's GET /v1/models lists it."""

    type: Literal["model"] = "model"
    id: str
    display_name: str
    created_at: str  # RFC 3339
    max_input_tokens: int


class AnthropicModelList(BaseModel):
    """Anthropic's reply to GET /v1/models: one page holds all."""

    data: list[AnthropicModel]
    has_more: Literal[False] = False
    first_id: str | None
    last_id: str | None


class Health(BaseModel):
    """The reply to GET /health when the engine takes requests."""

    status: Literal["ok"] = "ok"
    warnings: list[str] | None = None  # such as a change of the model's file; absent if there are none


class ErrorObject(BaseModel):
    """The error, and the field at fault if known. A prompt that is too long adds its number of tokens."""

    message: str
    type: str
    param: str | None
    code: str | int | None
    n_prompt_tokens: Annotated[int | None, PRESENT] = None
    n_ctx: Annotated[int | None, PRESENT] = None


class ErrorReply(BaseModel):
    """The body of every error."""

    error: ErrorObject


@dataclass(slots=True)
class UsageCounter:
    """Counts the tokens of a reply whose prompts have `n` choices each."""

    n: int
    dropped_messages: int | None = None
    _prompts: dict[int, int] = field(default_factory=dict)
    _completion_tokens: int = 0
    _reasoning_tokens: int = 0
    _cached: dict[int, int] = field(default_factory=dict)
    _drafted_tokens: int = 0
    _accepted_tokens: int = 0

    def add(self, index: int, last: TokenEvent, reasoning_tokens: int = 0) -> None:
        """Count choice `index` by its last event."""
        self._reasoning_tokens += reasoning_tokens
        self._prompts[index // self.n] = last.prompt_tokens
        prompt = index // self.n  # of its choices, the first to compute it reports the fewest
        self._cached[prompt] = min(self._cached.get(prompt, last.cached_tokens), last.cached_tokens)
        self._completion_tokens += last.completion_tokens
        self._drafted_tokens += last.drafted_tokens
        self._accepted_tokens += last.accepted_tokens

    def usage(self) -> Usage:
        prompt_tokens = sum(self._prompts.values())
        return Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=self._completion_tokens,
            total_tokens=prompt_tokens + self._completion_tokens,
            prompt_tokens_details=PromptTokensDetails(
                cached_tokens=sum(self._cached.values()), dropped_messages=self.dropped_messages
            ),
            completion_tokens_details=CompletionTokensDetails(
                reasoning_tokens=self._reasoning_tokens,
                accepted_prediction_tokens=self._accepted_tokens if self._drafted_tokens else None,
                rejected_prediction_tokens=(
                    self._drafted_tokens - self._accepted_tokens if self._drafted_tokens else None
                ),
            ),
        )
