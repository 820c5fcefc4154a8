"""POST /v1/rerank, as Jina, Cohere and llama-server have it."""

from typing import Annotated, Any, ClassVar
from uuid import uuid4

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field, WithJsonSchema

from vram_llm.engine.request import EmbeddingRequest
from vram_llm.errors import RequestError
from vram_llm.server.client_names import IGNORED
from vram_llm.server.document import body_route
from vram_llm.server.generation import while_connected
from vram_llm.server.known_fields import Fields
from vram_llm.server.replies import EmbeddingUsage, RankedDocument, RankedText, Ranking
from vram_llm.server.schemas import parse
from vram_llm.server.served import Served

MAX_DOCUMENTS = 2048

_STRING = {"type": "string"}
_TEXT = {"type": "object", "properties": {"text": _STRING}, "required": ["text"]}
_DOCUMENTS = {
    "type": "array", "items": {"anyOf": [_STRING, _TEXT]}, "minItems": 1, "maxItems": MAX_DOCUMENTS,
}  # fmt: skip


class RerankFields(Fields):
    """POST /v1/rerank. A document is a string, or an object with its `text`."""

    ignored: ClassVar[frozenset[str]] = IGNORED

    model: str | None = None
    query: str
    documents: Annotated[Any, WithJsonSchema(_DOCUMENTS)]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = None


def rerank_router(served: Served) -> APIRouter:
    """The route that scores documents as answers to a query."""
    router = APIRouter(tags=["rerank"])

    @router.post("/rerank", **body_route("Documents by how well they answer", RerankFields, Ranking))
    async def rerank(http: Request) -> Response:
        fields = parse(RerankFields, await http.body())
        info = served.ranking_model(fields.model)
        documents = _texts(fields.documents)
        request = EmbeddingRequest(id=f"rank-{uuid4().hex}", inputs=tuple(documents), query=fields.query)
        answer = await while_connected(http.receive, served.engine.embed(request))
        if answer is None:
            return Response(status_code=499)  # nobody reads it
        scores = np.frombuffer(answer.vectors, np.float32).reshape(len(documents), -1)[:, 0]
        best = np.argsort(-scores, kind="stable")[: fields.top_n]
        n_tokens = sum(answer.n_tokens)
        ranking = Ranking(
            model=info.name,
            results=[
                RankedDocument(
                    index=i,
                    relevance_score=float(scores[i]),
                    document=RankedText(text=documents[i]) if fields.return_documents else None,
                )
                for i in map(int, best)
            ],
            usage=EmbeddingUsage(prompt_tokens=n_tokens, total_tokens=n_tokens),
        )
        return Response(ranking.model_dump_json(), media_type="application/json")

    return router


def _texts(documents: object) -> list[str]:
    """The documents' texts. Raises RequestError."""
    given = documents if isinstance(documents, list) else []
    said = (each.get("text") if isinstance(each, dict) else each for each in given)
    texts = [text for text in said if isinstance(text, str)]
    if not texts or len(texts) < len(given):
        raise RequestError(
            "'documents' must be a list of strings, or of objects with a 'text', and not empty", "documents"
        )
    if len(texts) > MAX_DOCUMENTS:
        raise RequestError(f"'documents' has {len(texts):,}; {MAX_DOCUMENTS:,} is the most", "documents")
    return texts
