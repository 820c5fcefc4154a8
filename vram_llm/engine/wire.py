"""Messages between the server's process and the engine's: length-prefixed msgpack over a socket pair.

The engine sends one message a step, for all sequences together: a `DecodeTick` if every stream got a token
and nothing else happened, else `StepEvents`.
"""

import struct

import msgspec

from vram_llm.engine.model_info import ModelInfo
from vram_llm.engine.request import DecodeTick, EmbeddingRequest, Image, Request, TokenEvent
from vram_llm.engine.slot_order import SlotDone, SlotOrder
from vram_llm.engine.stats import EngineStats
from vram_llm.planner.types import Plan


class Start(msgspec.Struct, tag=True):
    """Load this plan. The first message, once."""

    plan: Plan
    model_name: str
    extra_buffers: bool = True  # see llama.params.ModelParams


class Submit(msgspec.Struct, tag=True):
    """A new request."""

    request: Request

    @property
    def id(self) -> str:
        return self.request.id


class Embed(msgspec.Struct, tag=True):
    """Texts to embed. Answered by Embedded with the request's id."""

    request: EmbeddingRequest

    @property
    def id(self) -> str:
        return self.request.id


class Cancel(msgspec.Struct, tag=True):
    """End this request; no event of it follows."""

    id: str


class Finish(msgspec.Struct, tag=True):
    """End this request with the tokens that it has. Its last event follows."""

    id: str


class Tokenize(msgspec.Struct, tag=True):
    """A text to tokenize. Answered by Tokens with the same id; -1 for each row of an image."""

    id: str
    text: str
    add_special: bool
    parse_special: bool
    images: tuple[Image, ...] = ()


class Detokenize(msgspec.Struct, tag=True):
    """Tokens to spell. Answered by Pieces with the same id."""

    id: str
    tokens: list[int]


class Stop(msgspec.Struct, tag=True):
    """Free everything and exit."""


class Loading(msgspec.Struct, tag=True):
    """The part of the model that is loaded, 0 to 1."""

    fraction: float


class Ready(msgspec.Struct, tag=True):
    """The model is loaded; the engine accepts requests."""

    info: ModelInfo


class StepEvents(msgspec.Struct, tag=True):
    """Events of one engine step, and the engine's stats after it."""

    events: list[TokenEvent]
    stats: EngineStats


class Notice(msgspec.Struct, tag=True):
    """A sentence for the server's operator."""

    text: str


class MemoryWarning(msgspec.Struct, tag=True):
    """A sentence on the memory that the engine has freed, or "" if nothing is short any more."""

    text: str


class Waiting(msgspec.Struct, tag=True):
    """All requests that wait for a slot; the engine works on the others that it was sent."""

    ids: list[str]


class SlotStates(msgspec.Struct, tag=True):
    """The slot of each running request, and the tokens that each slot holds while no request runs there."""

    running: dict[str, int]
    held: list[int]


class Tokens(msgspec.Struct, tag=True):
    """Answers Tokenize. `error`, with `error_param`, is set if an image cannot be read."""

    id: str
    tokens: list[int]
    error: str | None = None
    error_param: str | None = None


class Pieces(msgspec.Struct, tag=True):
    """Answers Detokenize: the bytes of each token."""

    id: str
    pieces: list[bytes]


class Embedded(msgspec.Struct, tag=True):
    """Answers Embed: a row of float32 for each input, one after the other, and each input's token count.

    With Pooling.NONE there is a row for each token.

    A reranker's row is a score, or one score for each output of its classifier. `error` (with `error_code`,
    and `error_param` if a field is at fault) is set if the request is refused.
    """

    id: str
    vectors: bytes = b""
    n_tokens: list[int] = []
    error: str | None = None
    error_code: str | None = None
    error_param: str | None = None
    error_n_ctx: int | None = None  # if a text has too many tokens (then in n_tokens): how many fit


class Failed(msgspec.Struct, tag=True):
    """The engine has failed and exits. `exit_code` is the error's in errors.py."""

    message: str
    exit_code: int


Question = Submit | Embed | Tokenize | Detokenize | SlotOrder
Answer = Tokens | Pieces | Embedded | SlotDone
ToEngine = Start | Question | Cancel | Finish | Stop
FromEngine = (
    Loading
    | Ready
    | StepEvents
    | DecodeTick
    | Waiting
    | SlotStates
    | Notice
    | MemoryWarning
    | Answer
    | Failed
)

_HEADER = struct.Struct("<I")
HEADER_BYTES = _HEADER.size
_encoder = msgspec.msgpack.Encoder()
decode_to_engine = msgspec.msgpack.Decoder(ToEngine).decode
decode_from_engine = msgspec.msgpack.Decoder(FromEngine).decode


def pack(message: ToEngine | FromEngine) -> bytes:
    """Encode a message as a frame: four bytes of little-endian length, then msgpack."""
    body = _encoder.encode(message)
    return _HEADER.pack(len(body)) + body


def body_length(header: bytes | bytearray) -> int:
    """The number of bytes after a frame's first HEADER_BYTES."""
    length: int = _HEADER.unpack(header)[0]
    return length
