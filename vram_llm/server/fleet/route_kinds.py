"""Routes that a model answers, and the kind of model that each needs."""

from enum import Enum, auto


class RouteKind(Enum):
    """The ability of a model that a route needs."""

    TEXT = auto()
    EMBEDDINGS = auto()
    RANKS = auto()
    ANY = auto()


_KINDS = {
    ("POST", "/chat/completions"): RouteKind.TEXT,
    ("POST", "/chat/completions/input_tokens"): RouteKind.TEXT,
    ("POST", "/completions"): RouteKind.TEXT,
    ("POST", "/completion"): RouteKind.TEXT,
    ("POST", "/infill"): RouteKind.TEXT,
    ("POST", "/responses"): RouteKind.TEXT,
    ("POST", "/responses/input_tokens"): RouteKind.TEXT,
    ("POST", "/messages"): RouteKind.TEXT,
    ("POST", "/messages/count_tokens"): RouteKind.TEXT,
    ("POST", "/apply-template"): RouteKind.TEXT,
    ("POST", "/audio/transcriptions"): RouteKind.TEXT,
    ("POST", "/embeddings"): RouteKind.EMBEDDINGS,
    ("POST", "/embedding"): RouteKind.EMBEDDINGS,
    ("POST", "/rerank"): RouteKind.RANKS,
    ("POST", "/reranking"): RouteKind.RANKS,
    ("POST", "/tokenize"): RouteKind.ANY,
    ("POST", "/detokenize"): RouteKind.ANY,
    ("GET", "/tokenizer_info"): RouteKind.ANY,
    ("GET", "/lora-adapters"): RouteKind.ANY,
    ("POST", "/lora-adapters"): RouteKind.TEXT,
}


def route_kind(method: str, path: str) -> RouteKind | None:
    """The kind of the route at `path`, with or without /v1; None: it needs no engine."""
    if method == "POST" and path.startswith("/slots/"):
        return RouteKind.TEXT
    return _KINDS.get((method, path.removeprefix("/v1")))
