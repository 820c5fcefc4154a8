"""What crosses between the server's process and the engine's: length-prefixed msgpack over a socket pair.

The engine sends one message a step, carrying what happened to every sequence: a `Tick` where they only went
on, or `News`.
"""

import struct

import msgspec

from vram_llm.engine.model_info import ModelInfo
from vram_llm.engine.request import EmbeddingRequest, Image, Request, Tick, TokenEvent
from vram_llm.engine.stats import Figures
from vram_llm.planner.types import Plan


class Start(msgspec.Struct, tag=True):
    """Load this plan. The first message, once."""

    plan: Plan
    model_name: str


class Submit(msgspec.Struct, tag=True):
    """A new request."""

    request: Request


class Embed(msgspec.Struct, tag=True):
    """Texts to embed. Answered by Embedded with the request's id."""

    request: EmbeddingRequest

    @property
    def id(self) -> str:
        return self.request.id


class Cancel(msgspec.Struct, tag=True):
    """Nobody wants this request's answer any more."""

    id: str


class Tokenize(msgspec.Struct, tag=True):
    """Which tokens is this text? Answered by Tokens with the same id; -1 for each row of an image."""

    id: str
    text: str
    add_special: bool
    parse_special: bool
    images: tuple[Image, ...] = ()


class Detokenize(msgspec.Struct, tag=True):
    """What are these tokens written with? Answered by Pieces with the same id."""

    id: str
    tokens: list[int]


class Stop(msgspec.Struct, tag=True):
    """Free everything and exit."""


class Loading(msgspec.Struct, tag=True):
    """How far the load is, 0 to 1."""

    fraction: float


class Ready(msgspec.Struct, tag=True):
    """Loaded; requests are served from here on."""

    info: ModelInfo


class News(msgspec.Struct, tag=True):
    """One engine step: what became of which request, and the engine's figures after it."""

    events: list[TokenEvent]
    figures: Figures


class Remark(msgspec.Struct, tag=True):
    """Something to tell whoever runs the server."""

    text: str


class Tokens(msgspec.Struct, tag=True):
    """The answer to Tokenize. `error`, with `error_param`, is set where an image cannot be read."""

    id: str
    tokens: list[int]
    error: str | None = None
    error_param: str | None = None


class Pieces(msgspec.Struct, tag=True):
    """The answer to Detokenize: the bytes of each token."""

    id: str
    pieces: list[bytes]


class Embedded(msgspec.Struct, tag=True):
    """The answer to Embed: a row of float32 for each input, one after the other, and each one's tokens.

    A score, or as many of them as the classifier has, makes a reranker's row. `error` (with `error_code`, and
    `error_param` where a field is at fault) is set where there are none.
    """

    id: str
    vectors: bytes = b""
    n_tokens: list[int] = []
    error: str | None = None
    error_code: str | None = None
    error_param: str | None = None
    error_n_ctx: int | None = None  # of a text that has too many tokens, the one of n_tokens: how many fit


class Failed(msgspec.Struct, tag=True):
    """The engine cannot go on; it exits after this. `exit_code` is the error's in errors.py."""

    message: str
    exit_code: int


ToEngine = Start | Submit | Embed | Cancel | Tokenize | Detokenize | Stop
FromEngine = Loading | Ready | News | Tick | Remark | Tokens | Pieces | Embedded | Failed

_HEADER = struct.Struct("<I")
HEADER_BYTES = _HEADER.size
_encoder = msgspec.msgpack.Encoder()
decode_to_engine = msgspec.msgpack.Decoder(ToEngine).decode
decode_from_engine = msgspec.msgpack.Decoder(FromEngine).decode


def pack(message: ToEngine | FromEngine) -> bytes:
    """A message as a frame: four bytes of little-endian length, then msgpack."""
    body = _encoder.encode(message)
    return _HEADER.pack(len(body)) + body


def body_length(header: bytes) -> int:
    """Bytes that follow a frame's first HEADER_BYTES."""
    length: int = _HEADER.unpack(header)[0]
    return length
