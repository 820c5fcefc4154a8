"""llama-server's POST /tokenize, /detokenize, /apply-template and /chat/completions/input_tokens.

The first two also take vLLM's fields, and GET /tokenizer_info is vLLM's: evaluation harnesses use them to
count tokens.
"""

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, WithJsonSchema

from vram_llm.engine.engine_protocol import MAX_CHARS
from vram_llm.errors import RequestError
from vram_llm.server.chat import prepare_chat_request
from vram_llm.server.client_fields import IGNORED
from vram_llm.server.errors import MissingField, NotSupported
from vram_llm.server.known_fields import Fields, Neutral
from vram_llm.server.native.prompts import tokens_of_mixed
from vram_llm.server.openapi import body_route, refusals
from vram_llm.server.read_body import read_fields
from vram_llm.server.replies import PRESENT
from vram_llm.server.schemas import ChatCompletionRequest
from vram_llm.server.serving_context import ServingContext
from vram_llm.server.truncation import n_prompt_tokens

TextOrMixed = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "string"}]}},
                {"type": "null"},
            ]
        }
    ),
]


class TokenizeFields(Fields):
    """POST /tokenize. With `parse_special`, the text may contain special tokens.

    llama-server's `content` is a text, or a list of texts and token ids; the tokens of all come in one list.
    vLLM's `prompt` is a text, and its `add_special_tokens` defaults to true.
    """

    ignored: ClassVar[frozenset[str]] = IGNORED

    not_yet: ClassVar[Neutral] = {"return_token_strs": (False,)}

    model: str | None = None
    content: TextOrMixed = None
    prompt: str | None = None
    add_special: bool | None = None
    add_special_tokens: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None


class DetokenizeFields(Fields):
    """POST /detokenize."""

    ignored: ClassVar[frozenset[str]] = IGNORED

    model: str | None = None
    tokens: list[int]


class ApplyTemplateFields(ChatCompletionRequest):
    """POST /apply-template: a chat as POST /v1/chat/completions takes it."""


class TokenPiece(BaseModel):
    """A token and its text, or its bytes if they are not valid UTF-8."""

    id: int
    piece: str | list[int]


class Tokenized(BaseModel):
    """The reply to POST /tokenize: ids, or pieces on request. vLLM's form has their number too."""

    tokens: list[int] | list[TokenPiece]
    count: Annotated[int | None, PRESENT] = None
    max_model_len: Annotated[int | None, PRESENT] = None


class Detokenized(BaseModel):
    """The reply to POST /detokenize."""

    content: str
    prompt: str  # the same, by vLLM's name


class TokenizerInfo(BaseModel):
    """The reply to GET /tokenizer_info."""

    bos_token: str
    eos_token: str
    chat_template: str | None


class AppliedTemplate(BaseModel):
    """The reply to POST /apply-template."""

    prompt: str


class TokenCount(BaseModel):
    """The reply to POST /v1/chat/completions/input_tokens, in OpenAI's form for responses."""

    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int


def tokens_router(serving: ServingContext) -> APIRouter:
    """Routes between texts, chats and tokens."""
    router = APIRouter(tags=["tokens"])

    @router.post("/tokenize", **body_route("The tokens of a text", TokenizeFields, Tokenized))
    async def tokenize(http: Request) -> Response:
        return await _tokenize(serving, await read_fields(TokenizeFields, http))

    @router.post("/detokenize", **body_route("The text of tokens", DetokenizeFields, Detokenized))
    async def detokenize(http: Request) -> Detokenized:
        return await _detokenize(serving, await read_fields(DetokenizeFields, http))

    @router.get("/tokenizer_info", summary="Special tokens and chat template", responses=refusals(404, 503))
    async def tokenizer_info() -> TokenizerInfo:
        info = serving.model(None)
        return TokenizerInfo(
            bos_token=info.bos_token, eos_token=info.eos_token, chat_template=info.chat_template
        )

    @router.post(
        "/apply-template", **body_route("The prompt of a chat", ApplyTemplateFields, AppliedTemplate)
    )
    async def apply_template(http: Request) -> AppliedTemplate:
        fields = await read_fields(ApplyTemplateFields, http)
        prepared = await prepare_chat_request(serving, serving.generation_model(fields.model), fields)
        if prepared.images:
            raise NotSupported(
                "A prompt with images is not only text; send the messages without images", "messages"
            )
        return AppliedTemplate(prompt=prepared.prompt)

    @router.post(
        "/chat/completions/input_tokens",
        **body_route("Count the tokens of a chat's prompt", ChatCompletionRequest, TokenCount),
    )
    async def count(http: Request) -> TokenCount:
        fields = await read_fields(ChatCompletionRequest, http)
        prepared = await prepare_chat_request(serving, serving.generation_model(fields.model), fields)
        return TokenCount(input_tokens=await n_prompt_tokens(serving, prepared))

    return router


async def _tokenize(serving: ServingContext, fields: TokenizeFields) -> Response:
    """A Tokenized, written without pydantic: it would hold up streams for a million tokens."""
    info = serving.model(fields.model)
    name, text = ("content", fields.content) if fields.prompt is None else ("prompt", fields.prompt)
    if text is None:
        raise MissingField("Missing required parameter: 'content'", "content")
    with_special = bool(fields.add_special) if name == "content" else fields.add_special_tokens is not False
    tokens = await _tokens_of(
        text, name, info.n_vocab, serving,
        add_special=with_special, parse_special=fields.parse_special is not False,
    )  # fmt: skip
    reply: dict[str, Any] = {"tokens": tokens}
    if name == "prompt":
        reply |= {"count": len(tokens), "max_model_len": info.n_ctx}
    elif fields.with_pieces:
        pieces = await serving.engine.pieces(tokens)
        reply["tokens"] = [{"id": t, "piece": _shown(p)} for t, p in zip(tokens, pieces, strict=True)]
    return Response(msgspec.json.encode(reply), media_type="application/json")


async def _tokens_of(
    given: Any, name: str, n_vocab: int, serving: ServingContext, *, add_special: bool, parse_special: bool
) -> list[int]:
    """The tokens of the field `name`. Raises RequestError."""
    is_text = isinstance(given, str)
    if not is_text and not (isinstance(given, list) and all(type(part) in (int, str) for part in given)):
        raise RequestError(f"'{name}' must be a string, or a list of strings and token ids", name)
    if len(given) > MAX_CHARS:
        parts = "characters" if is_text else "strings and token ids"
        raise RequestError(f"'{name}' has {len(given):,} {parts}; {MAX_CHARS:,} is the most", name)
    if is_text:
        return await serving.engine.tokenize(given, add_special=add_special, parse_special=parse_special)
    return await tokens_of_mixed(
        given, name, n_vocab, serving, add_special=add_special, parse_special=parse_special
    )


async def _detokenize(serving: ServingContext, fields: DetokenizeFields) -> Detokenized:
    n_vocab = serving.model(fields.model).n_vocab
    if len(fields.tokens) > MAX_CHARS:
        raise RequestError(f"'tokens' has {len(fields.tokens):,}; {MAX_CHARS:,} is the most", "tokens")
    if fields.tokens and not (min(fields.tokens) >= 0 and max(fields.tokens) < n_vocab):
        i, token = next((i, t) for i, t in enumerate(fields.tokens) if not 0 <= t < n_vocab)
        raise RequestError(
            f"Token {token} is not in the vocabulary: the last is {n_vocab - 1}", f"tokens[{i}]"
        )
    pieces = await serving.engine.pieces(fields.tokens)
    text = b"".join(pieces).decode("utf-8", "replace")
    return Detokenized(content=text, prompt=text)


def _shown(piece: bytes) -> str | list[int]:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)
