"""Which tests count: tests that use only routes of the OpenAI and Anthropic API.

The plugin records each test's requests to the control and its options; there is no list of tests.
"""

from collections.abc import Collection, Iterable

# Method and path, as llama-server binds them (tools/server/server.cpp) to a handler of OpenAI's or
# Anthropic's form, or to one that both servers have. There /completions and /embeddings without /v1 are
# native forms.
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


# Options that turn llama-server into something else; each is a feature of its own routes.
_FEATURES = {
    "--mcp-servers-config": "MCP servers",
    "--mcp-servers-json": "MCP servers",
    "--sleep-idle-seconds": "sleeping",
    "--slot-save-path": "slots saved to files",
    "--tools": "built-in tools",
    "--ui-mcp-proxy": "the proxy of its web page",
}
_MODELS = frozenset(("--model", "--hf-repo", "--model-url"))


def native_parts(requests: Collection[str], options: Iterable[str]) -> list[str]:
    """llama-server's own features that a test uses, by its requests ("GET /slots 200") and options."""
    routes = {request.rpartition(" ")[0] for request in requests}
    found = routes - _API
    given = set(options)
    found |= {name for option, name in _FEATURES.items() if option in given}
    if not given & _MODELS and routes - {"GET /health"}:
        found.add("a router of several models")
    if not requests:
        found.add("nothing over HTTP")
    return sorted(found)
