"""The app as a whole: addresses and the OpenAPI document."""

import re

import httpx
import pytest

BODIES = {
    "/chat/completions": {"model": "", "messages": [{"role": "user", "content": "hi"}]},
    "/responses": {"model": "", "input": "hi"},
    "/messages": {"model": "", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
    "/messages/count_tokens": {"model": "", "messages": [{"role": "user", "content": "hi"}]},
    "/tokenize": {"content": "hi"},
    "/detokenize": {"tokens": [65]},
    "/apply-template": {"messages": [{"role": "user", "content": "hi"}]},
}


@pytest.mark.parametrize("path", list(BODIES))
@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_paths_with_and_without_prefix(client: httpx.AsyncClient, prefix: str, path: str) -> None:
    assert (await client.post(prefix + path, json=BODIES[path])).status_code == 200
    assert (await client.get(f"{prefix}/models")).status_code == 200


@pytest.mark.parametrize(
    ("path", "form"),
    [("/v1/completions", "choices"), ("/completions", "content"), ("/completion", "content")],
)
async def test_completions_without_a_prefix_are_llama_servers(
    client: httpx.AsyncClient, path: str, form: str
) -> None:
    assert form in (await client.post(path, json={"prompt": "x"})).json()


async def test_a_body_needs_no_content_type(client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/completions", content='{"prompt": "x"}')).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/docs", 404, "unknown_url"),
        ("GET", "/v1/chat", 404, "unknown_url"),
        ("GET", "/v1/chat/completions", 405, "method_not_supported"),
        ("DELETE", "/v1/models", 405, "method_not_supported"),
    ],
)
async def test_wrong_address(
    client: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    response = await client.request(method, path)
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert ("allow" in response.headers) == (status == 405)


async def test_openapi_document(client: httpx.AsyncClient) -> None:
    response = await client.get("/openapi.json")
    document = response.json()
    assert set(document["paths"]) == {
        "/",
        "/health",
        "/v1/models",
        "/v1/models/{model_id}",
        "/v1/chat/completions",
        "/v1/stream",
        "/v1/streams/lookup",
        "/v1/completions",
        "/completion",
        "/completions",
        "/infill",
        "/v1/responses",
        "/v1/responses/{response_id}",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/responses/input_tokens",
        "/v1/embeddings",
        "/embedding",
        "/embeddings",
        "/v1/rerank",
        "/v1/audio/transcriptions",
        "/props",
        "/status",
        "/metrics",
        "/slots",
        "/slots/{id_slot}",
        "/lora-adapters",
        "/version",
        "/tokenize",
        "/detokenize",
        "/tokenizer_info",
        "/apply-template",
        "/plan",
        "/requests/{request_id}",
        "/logs",
        "/chat/completions/input_tokens",
    }
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert chat["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith(
        "ChatCompletionRequest"
    )
    assert set(chat["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    schemas = document["components"]["schemas"]
    assert schemas["ChatCompletionRequest"]["required"] == ["messages"]
    assert set(re.findall(r'"#/components/schemas/(\w+)"', response.text)) <= set(schemas)
    assert "#/$defs" not in response.text
