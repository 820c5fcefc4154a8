"""POST /v1/embeddings, and llama-server's own form: POST /embedding and /embeddings."""

import base64
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from uuid import uuid4

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field, RootModel, WithJsonSchema

from vram_llm.engine.request import EmbeddingRequest
from vram_llm.errors import RequestError
from vram_llm.model.pooling import Pooling
from vram_llm.server.client_fields import IGNORED
from vram_llm.server.embedding_inputs import MAX_INPUTS, embedding_inputs
from vram_llm.server.errors import MissingField
from vram_llm.server.generation import while_connected
from vram_llm.server.known_fields import Fields, Neutral
from vram_llm.server.openapi import body_route
from vram_llm.server.read_body import read_fields
from vram_llm.server.replies import EmbeddingList
from vram_llm.server.routes import RequestRoute
from vram_llm.server.sampling_fields import WHOLE
from vram_llm.server.serving_context import ServingContext

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float32]

_MOST_INT16 = 32760.0  # llama.cpp's

_STRING = {"type": "string"}
_TOKENS = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
_OBJECTS = (
    {
        "type": "object",
        "properties": {"prompt_string": _STRING, "multimodal_data": {"type": "array", "items": _STRING}},
        "required": ["prompt_string"],
    },
    {"type": "object", "properties": {"content": {"type": "array"}}, "required": ["content"]},
)
_INPUT = {
    "anyOf": [
        _STRING,
        _TOKENS,
        *_OBJECTS,
        {"type": "array", "items": {"anyOf": [_STRING, _TOKENS, *_OBJECTS]}, "minItems": 1},
    ]
}


class EmbeddingFields(Fields):
    """POST /v1/embeddings. `dimensions`: keep this many leading numbers, and scale them again.

    `embd_normalize` is llama-server's: -1 scales nothing, 0 makes the largest number 32760, 1 the sum of all
    1, 2 the length 1, and a larger one that norm. `content` is its name of `input`, and means its form of
    the reply.
    """

    ignored: ClassVar[frozenset[str]] = IGNORED
    not_yet: ClassVar[Neutral] = {
        "truncate_prompt_tokens": (), "normalize": (True,), "add_special_tokens": (True,), "options": ({},),
    }  # fmt: skip

    model: str | None = None
    input: Annotated[Any, WithJsonSchema(_INPUT)] = None
    content: Annotated[Any, WithJsonSchema(_INPUT)] = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    embd_normalize: Annotated[int, WHOLE, Field(ge=-1, lt=2**31)] | None = None
    truncate: bool | None = None  # leave out the end of a text that is too long
    user: str | None = None  # has no effect

    def given(self) -> tuple[str, object]:
        """The name of the field with the inputs, and its value. Raises RequestError."""
        if {"input", "content"} <= self.model_fields_set:
            raise RequestError("'content' is llama-server's name of 'input'; send one of them", "content")
        if "content" in self.model_fields_set:
            return "content", self.content
        if "input" not in self.model_fields_set:
            raise MissingField("Missing required parameter: 'input'", "input")
        return "input", self.input


class NativeEmbedding(BaseModel):
    """The vectors of one input: one, or with --pooling none one for each of its tokens."""

    index: int
    embedding: list[list[float]]


class NativeEmbeddings(RootModel[list[NativeEmbedding]]):
    """The reply to POST /embedding and /embeddings, as llama-server's."""


def embeddings_router(serving: ServingContext) -> APIRouter:
    """OpenAI's route."""
    router = APIRouter(tags=["embeddings"], route_class=RequestRoute)

    @router.post("/embeddings", **body_route("Embed texts", EmbeddingFields, EmbeddingList))
    async def embed(http: Request) -> Response:
        return await _embed(serving, http, native=False)

    return router


def native_embeddings_router(serving: ServingContext) -> APIRouter:
    """llama-server's routes."""
    router = APIRouter(tags=["embeddings"], route_class=RequestRoute)

    @router.post("/embedding", **body_route("Embed texts (native)", EmbeddingFields, NativeEmbeddings))
    @router.post("/embeddings", **body_route("Embed texts (native)", EmbeddingFields, NativeEmbeddings))
    async def embed_natively(http: Request) -> Response:
        return await _embed(serving, http, native=True)

    return router


async def _embed(serving: ServingContext, http: Request, *, native: bool) -> Response:
    """The reply in OpenAI's form, or in llama-server's if `native`, or if the inputs are in `content`."""
    fields = await read_fields(EmbeddingFields, http)
    info = serving.embedding_model(fields.model)
    field, given = fields.given()
    native = native or field == "content"
    by_token = info.pooling is Pooling.NONE
    _check_form(fields, native=native, by_token=by_token)
    n = info.n_pooled if fields.dimensions is None else fields.dimensions
    if n > info.n_pooled:
        raise RequestError(
            f"'dimensions' is {n} and the model's embeddings have {info.n_pooled} numbers", "dimensions"
        )
    media = serving.request_images(info)
    found = await embedding_inputs(given, info.n_vocab, serving.engine, field, media)
    inputs, images = found.prompts, found.images
    if len(inputs) > MAX_INPUTS:
        raise RequestError(f"'{field}' has {len(inputs):,} texts; {MAX_INPUTS:,} is the most", field)
    empty = (i for i, given in enumerate(inputs) if given == "" and not (images and images[i]))
    if (i := next(empty, None)) is not None:
        raise RequestError(f"'{field}[{i}]' is empty", field)
    if images and fields.truncate:
        raise RequestError("'truncate' shortens texts without images alone; leave it out", "truncate")
    request = EmbeddingRequest(
        id=f"embd-{uuid4().hex}", inputs=inputs, images=images, truncates=bool(fields.truncate)
    )
    answer = await while_connected(http.receive, serving.embed(request))
    if answer is None:
        return Response(status_code=499)  # the client is gone
    norm = serving.config.embd_normalize if fields.embd_normalize is None else fields.embd_normalize
    rows = scaled_rows(answer.vectors, info.n_pooled, n, -1 if by_token else norm)
    if native:
        ends = accumulate(answer.n_tokens if by_token else [1] * len(inputs))
        starts = (0, *accumulate(answer.n_tokens)) if by_token else range(len(inputs))
        body: Any = [
            {"index": i, "embedding": rows[start:end].tolist()}
            for i, (start, end) in enumerate(zip(starts, ends, strict=False))
        ]
    else:
        body = _openai_body(rows, fields.encoding_format, info.name, sum(answer.n_tokens))
    return Response(msgspec.json.encode(body), media_type="application/json")


def _check_form(fields: EmbeddingFields, *, native: bool, by_token: bool) -> None:
    """Raises RequestError if the reply cannot have the form that a request asks for."""
    if by_token and not native:
        raise RequestError(
            "this model is served with --pooling none, a vector for each token, which OpenAI's form has no "
            "place for; send the request to /embeddings"
        )
    if by_token and fields.embd_normalize not in (None, -1):
        raise RequestError(
            "with --pooling none vectors are as the model gives them; leave 'embd_normalize' out",
            "embd_normalize",
        )
    if native and fields.encoding_format == "base64":
        raise RequestError(
            "llama-server's form of embeddings has numbers only; base64 is for /v1/embeddings with 'input'",
            "encoding_format",
        )


def _openai_body(rows: "Rows", encoding: str | None, model: str, n_tokens: int) -> dict[str, Any]:
    vectors: list[Any] = (
        [base64.b64encode(row.tobytes()).decode() for row in rows] if encoding == "base64" else rows.tolist()
    )
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }


def scaled_rows(float32: bytes, width: int, n: int, norm: int) -> "Rows":
    """The first `n` of each row's `width` numbers, little-endian, scaled as common_embd_normalize does it.

    `norm` is EmbeddingFields.embd_normalize. Rows of zeros stay zeros.
    """
    import numpy as np  # not above: it takes a tenth of the time in which a server starts

    rows = np.frombuffer(float32, np.float32).reshape(-1, width)[:, :n]
    if norm < 0:
        return rows.astype("<f4")
    exact = rows.astype(np.float64)
    most = np.abs(exact).max(axis=1, keepdims=True)
    most = np.where(most == 0, 1, most)
    if norm == 0:
        return (exact * (_MOST_INT16 / most)).astype("<f4")
    lengths = most * ((np.abs(exact) / most) ** norm).sum(axis=1, keepdims=True) ** (1 / norm)
    return (exact / np.where(lengths == 0, 1, lengths)).astype("<f4")
