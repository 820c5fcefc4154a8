"""The body of POST /completion (llama-server's server-schema.cpp and README.md)."""

from typing import Annotated, Any, ClassVar

from pydantic import Field, WithJsonSchema

from vram_llm.server.known_fields import Fields, Neutral
from vram_llm.server.sampling_fields import WHOLE
from vram_llm.server.schemas import OpenAIFields

MAX_PROBS = 128  # candidates per token
MAX_RESPONSE_FIELDS = 64
MAX_EXTRAS = 1024

_TOKEN_OR_TEXT = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
_ONE = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": _TOKEN_OR_TEXT},
        {
            "type": "object",
            "properties": {
                "prompt_string": {"type": "string"},
                "multimodal_data": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["prompt_string"],
        },
    ]
}
NativePrompt = Annotated[Any, WithJsonSchema({"anyOf": [_ONE, {"type": "array", "items": _ONE}]})]
NumberOfProbs = Annotated[int, WHOLE, Field(ge=0, le=MAX_PROBS)] | None


class NativeFields(OpenAIFields):
    """The fields of both native routes. A field that is null counts as absent.

    `t_max_prompt_ms` has no effect: llama-server does not read it either. Neither have `n_keep` and
    `n_discard`: no context is shifted.
    """

    ignored: ClassVar[frozenset[str]] = frozenset({"oaicompat", "include_reasoning", "reasoning_format"})
    not_yet: ClassVar[Neutral] = {
        "add_special_tokens": (True,), "echo": (False,), "best_of": (1,),
        "image_data": ([],),  # of servers before multimodal_data; clients send it empty
    }  # fmt: skip

    max_completion_tokens: Annotated[int, WHOLE] | None = None
    n_probs: NumberOfProbs = None
    logprobs: NumberOfProbs = None
    post_sampling_probs: bool | None = None
    return_tokens: bool | None = None
    response_fields: Annotated[list[str], Field(max_length=MAX_RESPONSE_FIELDS)] | None = None

    @property
    def n_top(self) -> int | None:
        """The number of candidates to give per token; None: none."""
        return (self.n_probs if self.n_probs is not None else self.logprobs) or None

    def check_context(self, n_ctx: int) -> None:
        """`num_ctx` is Ollama's, and has no effect here: SillyTavern sends the size that its user has set."""

    def wants(self, name: str) -> bool:
        """Whether a field of the reply is wanted."""
        wanted = self.response_fields
        return not wanted or any(path.partition("/")[0] == name for path in wanted)


class InputExtra(Fields):
    """A file, or a part of one, that may help to fill the gap. `time` is llama.vim's own."""

    ignored: ClassVar[frozenset[str]] = frozenset({"time"})

    filename: str | None = None
    text: str


class InfillFields(NativeFields):
    """POST /infill. The answer continues `prompt`, which stands after the prefix."""

    input_prefix: str
    input_suffix: str
    input_extra: Annotated[list[InputExtra], Field(max_length=MAX_EXTRAS)] | None = None
    prompt: str | None = None


class CompletionFields(NativeFields):
    """POST /completion, and POST /completions without /v1."""

    prompt: NativePrompt
