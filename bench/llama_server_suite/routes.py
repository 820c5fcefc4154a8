"""Which tests count: those that ask llama-server only for routes of the OpenAI and Anthropic API.

The plugin records what each test asks of the control; no list of tests is kept.
"""

from collections.abc import Iterable

# Method and path, as llama-server binds them (tools/server/server.cpp) to a handler of OpenAI's or Anthropic's
# form, or to one that both servers have. /completions, /embeddings and /embedding are its native forms.
_API = frozenset(
    f"{method} {prefix}{path}"
    for method, prefixes, path in (
        ("GET", ("", "/v1"), "/health"),
        ("GET", ("", "/v1"), "/models"),
        ("GET", ("",), "/"),
        ("GET", ("",), "/props"),
        ("POST", ("/v1",), "/completions"),
        ("POST", ("", "/v1"), "/chat/completions"),
        ("POST", ("", "/v1"), "/chat/completions/input_tokens"),
        ("POST", ("", "/v1"), "/responses"),
        ("POST", ("", "/v1"), "/responses/input_tokens"),
        ("POST", ("/v1",), "/messages"),
        ("POST", ("/v1",), "/messages/count_tokens"),
        ("POST", ("/v1",), "/embeddings"),
        ("POST", ("", "/v1"), "/rerank"),
        ("POST", ("", "/v1"), "/reranking"),
        ("POST", ("",), "/tokenize"),
        ("POST", ("",), "/detokenize"),
        ("POST", ("",), "/apply-template"),
    )
    for prefix in prefixes
)


def native_routes(requests: Iterable[str]) -> list[str]:
    """Of requests such as "POST /completion 200" the routes that are llama-server's own, sorted.

    A request that is refused for its key, and one that asks what other origins may do (OPTIONS), never reach a
    route: they belong to no form.
    """
    found = set()
    for request in requests:
        method, path, status = request.split(" ")
        if method != "OPTIONS" and status != "401" and f"{method} {path}" not in _API:
            found.add(f"{method} {path}")
    return sorted(found)
