"""POST /v1/embeddings."""

import base64
from typing import Annotated, Any, ClassVar, Literal
from uuid import uuid4

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field, WithJsonSchema

from vram_llm.engine.request import EmbeddingRequest
from vram_llm.errors import RequestError
from vram_llm.server.client_fields import IGNORED
from vram_llm.server.embedding_inputs import MAX_INPUTS, embedding_inputs
from vram_llm.server.generation import while_connected
from vram_llm.server.known_fields import Fields, Neutral
from vram_llm.server.openapi import body_route
from vram_llm.server.read_body import read_fields
from vram_llm.server.replies import EmbeddingList
from vram_llm.server.serving_context import ServingContext

_STRING = {"type": "string"}
_TOKENS = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
_OBJECTS = (
    {"type": "object", "properties": {"prompt_string": _STRING}, "required": ["prompt_string"]},
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
    """POST /v1/embeddings. `dimensions`: keep this many leading numbers, scaled to length 1 again."""

    ignored: ClassVar[frozenset[str]] = IGNORED
    not_yet: ClassVar[Neutral] = {
        "truncate": (False,), "truncate_prompt_tokens": (), "normalize": (True,), "embd_normalize": (2,),
        "add_special_tokens": (True,), "options": ({},),
    }  # fmt: skip

    model: str | None = None
    input: Annotated[Any, WithJsonSchema(_INPUT)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None  # has no effect


def embeddings_router(serving: ServingContext) -> APIRouter:
    """The route that turns texts into vectors of length 1."""
    router = APIRouter(tags=["embeddings"])

    @router.post("/embeddings", **body_route("Embed texts", EmbeddingFields, EmbeddingList))
    async def embed(http: Request) -> Response:
        fields = await read_fields(EmbeddingFields, http)
        info = serving.embedding_model(fields.model)
        n = info.n_pooled if fields.dimensions is None else fields.dimensions
        if n > info.n_pooled:
            raise RequestError(
                f"'dimensions' is {n} and the model's embeddings have {info.n_pooled} numbers", "dimensions"
            )
        inputs = await embedding_inputs(fields.input, info.n_vocab, serving.engine)
        if len(inputs) > MAX_INPUTS:
            raise RequestError(f"'input' has {len(inputs):,} texts; {MAX_INPUTS:,} is the most", "input")
        if "" in inputs:
            raise RequestError(f"'input[{inputs.index('')}]' is empty", "input")
        request = EmbeddingRequest(id=f"embd-{uuid4().hex}", inputs=tuple(inputs))
        answer = await while_connected(http.receive, serving.embed(request))
        if answer is None:
            return Response(status_code=499)  # the client is gone
        vectors = _vectors(answer.vectors, len(inputs), n, fields.encoding_format)
        body = {
            "object": "list",
            "data": [
                {"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)
            ],
            "model": info.name,
            "usage": {"prompt_tokens": sum(answer.n_tokens), "total_tokens": sum(answer.n_tokens)},
        }
        return Response(msgspec.json.encode(body), media_type="application/json")

    return router


def _vectors(float32: bytes, n_texts: int, n: int, encoding: str | None) -> list[Any]:
    """The first `n` numbers of each text's vector, at length 1."""
    import numpy as np  # not above: it takes a tenth of the time in which a server starts

    rows = np.frombuffer(float32, np.float32).reshape(n_texts, -1)[:, :n]
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = (rows / np.where(lengths == 0, 1, lengths)).astype("<f4")
    if encoding == "base64":
        return [base64.b64encode(row.tobytes()).decode() for row in rows]
    numbers: list[Any] = rows.tolist()
    return numbers
