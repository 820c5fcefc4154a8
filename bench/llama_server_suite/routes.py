"""Which tests count: all but those of features that are left out on purpose; or those of the API alone.

The plugin records each test's requests to the control and its options; there is no list of tests.
"""

from collections.abc import Callable, Collection, Iterable

Parts = Callable[[Collection[str], Iterable[str]], list[str]]
"""Names the parts of llama-server for which a test does not count, by its requests and its options."""

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


# Options of features that this server leaves out on purpose.
_LEFT_OUT = {
    "--tools": "built-in tools",
    "--tools-runtime": "built-in tools",
    "--agent": "built-in tools",
    "--mcp-servers-config": "MCP servers",
    "--mcp-servers-json": "MCP servers",
    "--ui-mcp-proxy": "the proxy of its web page",
    "--context-shift": "the context shift",
    "--spec-synth-len": "made-up drafts",
    "--spec-synth-rates": "made-up drafts",
}


def parts_left_out(_requests: Collection[str], options: Iterable[str]) -> list[str]:
    """Features that a test uses and this server leaves out on purpose, by its options."""
    return sorted({_LEFT_OUT[option] for option in options if option in _LEFT_OUT})
