"""POST /v1/rerank, in the forms of Jina, Cohere, llama-server and TEI."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field, WithJsonSchema

from vram_llm.engine.request import EmbeddingRequest
from vram_llm.errors import RequestError
from vram_llm.server.client_fields import IGNORED
from vram_llm.server.errors import MissingField
from vram_llm.server.generation import while_connected
from vram_llm.server.known_fields import Fields, Neutral, check_names
from vram_llm.server.openapi import body_route
from vram_llm.server.read_body import read_fields
from vram_llm.server.replies import (
    EmbeddingUsage,
    RankedDocument,
    RankedText,
    Ranking,
    RerankReply,
    ScoredText,
)
from vram_llm.server.routes import RequestRoute
from vram_llm.server.serving_context import ServingContext

if TYPE_CHECKING:  # it takes a tenth of the time in which a server starts
    import numpy as np
    import numpy.typing as npt

MAX_DOCUMENTS = 2048

_OF_DOCUMENTS = frozenset({"text", "id", "_id", "index", "title", "url", "source", "metadata", "score"})
_STRING = {"type": "string"}
_TEXT = {"type": "object", "properties": {"text": _STRING}, "required": ["text"]}
_DOCUMENTS = {
    "type": "array", "items": {"anyOf": [_STRING, _TEXT]}, "minItems": 1, "maxItems": MAX_DOCUMENTS,
}  # fmt: skip


class RerankFields(Fields):
    """POST /v1/rerank. A document is a string, or an object with its `text`; its title is not ranked.

    `texts` in place of `documents` means the form of Hugging Face's Text Embeddings Inference (TEI): the
    answer is a list, its scores are between 0 and 1 unless `raw_scores` is true, and `return_text` adds the
    texts.
    """

    ignored: ClassVar[frozenset[str]] = IGNORED
    not_yet: ClassVar[Neutral] = {
        "truncation_direction": ("right", "Right"), "truncate_prompt_tokens": (),
        "max_chunks_per_doc": (), "max_tokens_per_doc": (), "rank_fields": ([], ["text"]),
    }  # fmt: skip

    model: str | None = None
    query: str
    documents: Annotated[Any, WithJsonSchema(_DOCUMENTS)] = None
    texts: Annotated[Any, WithJsonSchema(_DOCUMENTS)] = None
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = None
    raw_scores: bool | None = None
    return_text: bool | None = None
    truncate: bool | None = None  # leave out the end of a document that is too long

    def given(self) -> tuple[str, list[str]]:
        """The name of the field with the texts, and the texts. Raises RequestError."""
        if self.texts is not None and self.documents is not None:
            raise RequestError("'texts' is TEI's name of 'documents'; send one of them", "texts")
        if self.texts is not None:
            return "texts", _texts(self.texts, "texts")
        if "documents" not in self.model_fields_set:
            raise MissingField("Missing required parameter: 'documents'", "documents")
        return "documents", _texts(self.documents, "documents")


def rerank_router(serving: ServingContext) -> APIRouter:
    """The route that scores documents as answers to a query."""
    router = APIRouter(tags=["rerank"], route_class=RequestRoute)

    @router.post("/reranking", include_in_schema=False)
    @router.post("/rerank", **body_route("Rank documents by relevance", RerankFields, RerankReply))
    async def rerank(http: Request) -> Response:
        fields = await read_fields(RerankFields, http)
        info = serving.reranking_model(fields.model)
        field, documents = fields.given()
        request = EmbeddingRequest(
            id=f"rank-{uuid4().hex}",
            inputs=tuple(documents),
            query=fields.query,
            truncates=bool(fields.truncate),
        )
        answer = await while_connected(http.receive, serving.embed(request))
        if answer is None:
            return Response(status_code=499)  # the client is gone
        import numpy as np

        scores = np.frombuffer(answer.vectors, np.float32).reshape(len(documents), -1)[:, 0]
        best = np.argsort(-scores, kind="stable")[: fields.top_n]
        if field == "texts":
            return Response(
                RerankReply(_scored(fields, documents, scores, best)).model_dump_json(),
                media_type="application/json",
            )
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


def _scored(
    fields: RerankFields, texts: list[str], scores: "npt.NDArray[np.float32]", best: "npt.NDArray[np.intp]"
) -> list[ScoredText]:
    """TEI's answer. Scores pass a sigmoid, as in a reranker's training."""
    import numpy as np

    shown = scores if fields.raw_scores else 1 / (1 + np.exp(-scores.astype(np.float64)))
    return [
        ScoredText(index=i, score=float(shown[i]), text=texts[i] if fields.return_text else None)
        for i in map(int, best)
    ]


def _texts(documents: object, field: str) -> list[str]:
    """The documents' texts. Raises RequestError."""
    given = documents if isinstance(documents, list) else []
    texts_given = (document.get("text") if isinstance(document, dict) else document for document in given)
    texts = [text for text in texts_given if isinstance(text, str)]
    if not texts or len(texts) < len(given):
        raise RequestError(
            f"'{field}' must be a list of strings, or of objects with a 'text', and not empty", field
        )
    if len(texts) > MAX_DOCUMENTS:
        raise RequestError(f"'{field}' has {len(texts):,}; {MAX_DOCUMENTS:,} is the most", field)
    for i, document in enumerate(given):
        if isinstance(document, dict):
            check_names(document, f"{field}[{i}]", _OF_DOCUMENTS, {"type": ("text",)})
    return texts
