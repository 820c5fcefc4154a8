"""POST /tokenize, /detokenize and /apply-template, with the fields and replies llama-server gives them."""

import asyncio

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from vram_llm.errors import RequestError
from vram_llm.server.chat import turn_of
from vram_llm.server.document import body_route
from vram_llm.server.schemas import ChatCompletionRequest, parse
from vram_llm.server.served import Served

MAX_CHARS = 2**20  # the engine reads them between two tokens of everybody else


class TokenizeFields(BaseModel):
    """POST /tokenize. `content` may hold `parse_special`'s special tokens."""

    model_config = ConfigDict(extra="allow", strict=True)

    content: str
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None


class DetokenizeFields(BaseModel):
    """POST /detokenize."""

    model_config = ConfigDict(extra="allow", strict=True)

    tokens: list[int]


class ApplyFields(ChatCompletionRequest):
    """POST /apply-template: a chat as POST /v1/chat/completions takes it; `model` may be absent."""

    model: str = ""


class Piece(BaseModel):
    """A token and what it is written with: text, or bytes where they are no text on their own."""

    id: int
    piece: str | list[int]


class Tokenized(BaseModel):
    """The reply to POST /tokenize: ids, or pieces where they were asked for."""

    tokens: list[int] | list[Piece]


class Detokenized(BaseModel):
    """The reply to POST /detokenize."""

    content: str


class Applied(BaseModel):
    """The reply to POST /apply-template."""

    prompt: str


def tokens_router(served: Served) -> APIRouter:
    """Routes that show what the engine makes of text."""
    router = APIRouter(tags=["tokens"])

    @router.post("/tokenize", **body_route("The tokens of a text", TokenizeFields, Tokenized))
    async def tokenize(http: Request) -> Tokenized:
        fields = parse(TokenizeFields, await http.body())
        served.check_ready()
        if len(fields.content) > MAX_CHARS:
            raise RequestError(
                f"'content' has {len(fields.content):,} characters; {MAX_CHARS:,} is the most", "content"
            )
        tokens = await served.engine.tokenize(
            fields.content,
            add_special=bool(fields.add_special),
            parse_special=fields.parse_special is not False,
        )
        if not fields.with_pieces:
            return Tokenized(tokens=tokens)
        pieces = await served.engine.pieces(tokens)
        return Tokenized(tokens=[Piece(id=t, piece=_shown(p)) for t, p in zip(tokens, pieces, strict=True)])

    @router.post("/detokenize", **body_route("The text of tokens", DetokenizeFields, Detokenized))
    async def detokenize(http: Request) -> Detokenized:
        fields = parse(DetokenizeFields, await http.body())
        n_vocab = served.model(None).n_vocab
        if len(fields.tokens) > MAX_CHARS:
            raise RequestError(f"'tokens' has {len(fields.tokens):,}; {MAX_CHARS:,} is the most", "tokens")
        for i, token in enumerate(fields.tokens):
            if not 0 <= token < n_vocab:
                raise RequestError(
                    f"Token {token} is not in the vocabulary: the last is {n_vocab - 1}", f"tokens[{i}]"
                )
        pieces = await served.engine.pieces(fields.tokens)
        return Detokenized(content=b"".join(pieces).decode("utf-8", "replace"))

    @router.post("/apply-template", **body_route("The prompt of a chat", ApplyFields, Applied))
    async def apply_template(http: Request) -> Applied:
        fields = parse(ApplyFields, await http.body())
        turn = await asyncio.to_thread(turn_of, served.model(fields.model), fields)
        return Applied(prompt=turn.prompt)

    return router


def _shown(piece: bytes) -> str | list[int]:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)
