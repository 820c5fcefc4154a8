"""Which model a request reaches, over a fake fleet: by name, by alias, by kind of route, by key."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.patience import soon, until
from tests.server.fleet.fake_fleet import THREE, FleetUnderTest
from tests.server.live import async_openai_sdk, in_process
from vram_llm.errors import RequestError
from vram_llm.fleet.snapshots import ModelState
from vram_llm.server.errors import BodyTooLarge
from vram_llm.server.fleet.front import model_of
from vram_llm.server.fleet.route_kinds import route_kind
from vram_llm.server.keys_file import KeyScope, add_key
from vram_llm.server.read_body import LARGE_BYTES

HI: Any = [{"role": "user", "content": "hi"}]


async def _chat(client: httpx.AsyncClient, model: str | None = None, **more: Any) -> httpx.Response:
    named = {} if model is None else {"model": model}
    return await soon(client.post("/v1/chat/completions", json={"messages": HI, **named, **more}))


@pytest.mark.parametrize(
    ("asked", "answered", "name"),
    [
        ("chat", "chat", "chat"),
        ("coder", "coder", "coder"),
        ("gpt-4o", "chat", "gpt-4o"),
        ("coder-Q8_0.gguf", "coder", "coder"),
        ("coder-Q8_0", "coder", "coder"),
        ("", "chat", "chat"),
        (None, "chat", "chat"),
    ],
)
async def test_names(client: httpx.AsyncClient, asked: str | None, answered: str, name: str) -> None:
    reply = (await _chat(client, asked)).json()
    assert reply["choices"][0]["message"]["content"] == f"I am {answered}"
    assert reply["model"] == name


async def test_the_model_of_a_form(client: httpx.AsyncClient, served: FleetUnderTest) -> None:
    """It is found among a form's fields; these models do not hear, which they say themselves."""
    reply = await client.post(
        "/v1/audio/transcriptions", files={"file": ("a.wav", b"RIFF")}, data={"model": "coder"}
    )
    assert served.fleet.leases == ["coder"]
    assert "'coder' does not hear" in reply.json()["error"]["message"]


async def test_unknown_model(client: httpx.AsyncClient, served: FleetUnderTest) -> None:
    refused = await _chat(client, "gpt-9")
    assert refused.status_code == 404
    names = "'chat', 'gpt-4o', 'coder', 'embedder'"
    assert refused.json()["error"] == {
        "message": f"The model 'gpt-9' does not exist here; this server has {names}",
        "type": "invalid_request_error", "param": "model", "code": "model_not_found",
    }  # fmt: skip
    assert served.fleet.leases == []


async def test_first_model_of_a_kind(client: httpx.AsyncClient, served: FleetUnderTest) -> None:
    """Without a name, embeddings come from the first embedder; there is no reranker."""
    reply = await client.post("/v1/embeddings", json={"input": "hello"})
    assert reply.json()["model"] == "embedder"
    assert served.fleet.leases == ["embedder"]
    refused = await client.post("/v1/rerank", json={"query": "q", "documents": ["d"]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "model_not_supported")


async def test_wrong_kind_is_refused_before_a_load(client: httpx.AsyncClient, served: FleetUnderTest) -> None:
    served.fleet.states["embedder"] = ModelState.UNLOADED
    refused = await _chat(client, "embedder")
    assert refused.status_code == 400
    assert "'embedder' writes no text" in refused.json()["error"]["message"]
    assert not served.fleet.waiting


async def test_every_route_of_a_model_is_given_an_engine(served: FleetUnderTest) -> None:
    """A route that is missing in route_kinds would have none."""
    of_models = {
        "completions", "responses", "messages", "embeddings", "rerank", "tokens", "chat", "audio", "slots",
        "adapters",
    }  # fmt: skip
    stored = {"/v1/responses/{response_id}"}
    for path, methods in served.app.openapi()["paths"].items():
        for method, operation in methods.items():
            needs = bool(of_models & set(operation.get("tags", ()))) and path not in stored
            assert (route_kind(method.upper(), path) is not None) == needs, (method, path, operation["tags"])


async def test_streams_of_sdks(served: FleetUnderTest) -> None:
    transport = httpx.ASGITransport(served.app)
    http = httpx.AsyncClient(transport=transport)
    async with async_openai_sdk("http://test", http_client=http) as sdk:
        for name in ("chat", "coder"):
            stream: Any = await sdk.chat.completions.create(model=name, messages=HI, stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
            assert text == f"I am {name}"
        vectors = await sdk.embeddings.create(model="embedder", input=["a", "bb"])
        assert len(vectors.data) == 2
        answer = await sdk.responses.create(model="coder", input="hi")
        again = await sdk.responses.create(model="chat", input="and?", previous_response_id=answer.id)
        assert (answer.output_text, again.output_text) == ("I am coder", "I am chat")
        assert (await sdk.responses.retrieve(answer.id)).id == answer.id
    assert served.fleet.held == []


async def test_anthropics_form(client: httpx.AsyncClient) -> None:
    asked = {"model": "coder", "messages": HI, "max_tokens": 8}
    assert (await client.post("/v1/messages", json=asked)).json()["content"][0]["text"] == "I am coder"
    reply = await client.post("/v1/messages", json={"model": "none", "messages": HI, "max_tokens": 8})
    assert reply.json()["type"] == "error"
    assert reply.json()["error"]["type"] == "not_found_error"


async def test_waits_for_a_load_and_ends_with_its_client(
    client: httpx.AsyncClient, served: FleetUnderTest
) -> None:
    fleet = served.fleet
    fleet.states["coder"] = ModelState.LOADING
    waiting = asyncio.create_task(_chat(client, "coder"))
    await until(lambda: fleet.waiting == ["coder"], "a request that waits")
    assert (await _chat(client, "chat")).status_code == 200  # others are answered meanwhile
    fleet.change("coder", ModelState.RESIDENT)
    assert (await waiting).json()["choices"][0]["message"]["content"] == "I am coder"
    assert fleet.held == []


async def test_client_leaves_the_queue(served: FleetUnderTest) -> None:
    fleet = served.fleet
    fleet.states["coder"] = ModelState.LOADING
    gone = asyncio.Event()
    body = json.dumps({"model": "coder", "messages": HI}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(f"an answer: {message}")

    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "headers": [],
        "client": ("127.0.0.1", 1), "server": ("test", 80), "scheme": "http", "http_version": "1.1",
        "root_path": "", "raw_path": b"",
    }  # fmt: skip
    serving = asyncio.create_task(served.app(scope, receive, send))
    await until(lambda: fleet.waiting == ["coder"], "a request that waits")
    gone.set()
    await soon(serving)
    assert (fleet.waiting, fleet.leases) == ([], [])


async def test_time_of_a_request_includes_the_load() -> None:
    served = FleetUnderTest(request_timeout_s=0.05)
    served.fleet.states["coder"] = ModelState.LOADING
    async with in_process(served.app) as client:
        reply = await _chat(client, "coder")
    assert reply.status_code == 408
    assert "0.05 s, was over before 'coder' was loaded" in reply.json()["error"]["message"]
    assert served.fleet.waiting == []


async def test_without_autoload(client: httpx.AsyncClient, served: FleetUnderTest) -> None:
    """llama-server's switch in the address."""
    served.fleet.states["coder"] = ModelState.UNLOADED
    path = "/v1/chat/completions?autoload=false"
    refused = await client.post(path, json={"model": "coder", "messages": HI})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")
    assert (await client.post(path, json={"model": "chat", "messages": HI})).status_code == 200
    unclear = await client.post("/v1/chat/completions?autoload=maybe", json={"model": "chat", "messages": HI})
    assert (unclear.status_code, unclear.json()["error"]["message"]) == (
        400,
        "autoload is true or false, not 'maybe'",
    )


async def test_keys_with_models(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    key = add_key(path, "ann", (KeyScope.INFERENCE,), ["coder"])
    served = FleetUnderTest(keys_file=path)
    async with in_process(served.app) as client:
        assert (await _chat(client, "coder")).status_code == 401
        client.headers["authorization"] = f"Bearer {key}"
        for name, status in (("coder", 200), (None, 200), ("chat", 403), ("gpt-4o", 403), ("x", 404)):
            assert (await _chat(client, name)).status_code == status, name
        assert served.fleet.leases == ["coder", "coder"]
        listed = (await client.get("/v1/models")).json()["data"]
        assert [card["id"] for card in listed] == ["coder"]
        assert (await client.get("/v1/models/chat")).status_code == 404
        assert (await client.post("/models/unload", json={"model": "coder"})).status_code == 403


async def test_tokens(client: httpx.AsyncClient, served: FleetUnderTest) -> None:
    await client.post("/tokenize", json={"model": "coder", "content": "hi"})
    await client.post("/detokenize", json={"model": "embedder", "tokens": [65]})
    await client.get("/tokenizer_info?model=coder")
    await client.post("/apply-template", json={"messages": HI})
    assert served.fleet.leases == ["coder", "embedder", "coder", "chat"]


async def test_request_lines_name_the_model(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vram_llm")
    await _chat(client, "coder")
    (line,) = [record for record in caplog.records if record.name == "vram_llm.requests"]
    assert line.__dict__["fields"]["model"] == "coder"


async def test_request_ids(client: httpx.AsyncClient) -> None:
    reply = await client.post("/v1/completions", json={"prompt": "a"}, headers={"x-request-id": "mine"})
    assert reply.headers.get_list("x-request-id") == ["mine"]


async def test_large_bodies(client: httpx.AsyncClient, served: FleetUnderTest) -> None:
    """The name may be behind a text of many bytes; the engine gets the whole text."""
    text = "x" * (2 * LARGE_BYTES)
    served.fleet.engines["coder"].info = None
    body = json.dumps({"prompt": text, "max_tokens": 1, "model": "embedder"}).encode()
    assert len(body) > LARGE_BYTES
    refused = await client.post("/v1/completions", content=body)
    assert "'embedder' writes no text" in refused.json()["error"]["message"]
    reply = await client.post("/v1/embeddings", json={"input": text, "model": "embedder"})
    assert reply.status_code in (200, 400)
    assert served.fleet.leases == ["embedder"]


async def test_body_limit() -> None:
    served = FleetUnderTest(max_body_bytes=1000)
    async with in_process(served.app) as client:
        reply = await client.post("/v1/completions", json={"prompt": "x" * 2000})
    assert reply.status_code == 413


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (b'{"model": "a", "messages": [{"model": "b"}]}', "a"),
        (b'{"messages": [{"model": "b"}], "model": "a"}', "a"),
        (b'{"model": "b", "model": "a"}', "a"),
        (b'\xef\xbb\xbf{"model": "a"}', "a"),
        (b'{"model": null}', ""),
        (b'{"m\\u006fdel": "a"}', "a"),
        (b"{}", ""),
    ],
)
def test_model_of_a_body(body: bytes, model: str) -> None:
    assert model_of(body) == model


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "The body is not valid JSON"),
        (b"[]", "The body must be a JSON object"),
        (b'{"model": 5}', "'model' must be a string, got 5"),
        (b'{"model": "a", ', "The body is not valid JSON"),
        (b'{"a": ' + b"[" * 100_000, "The body is not valid JSON"),
    ],
)
def test_bodies_without_a_model(body: bytes, sentence: str) -> None:
    with pytest.raises(RequestError) as refusal:
        model_of(body)
    assert str(refusal.value).startswith(sentence)


async def test_too_many_values(client: httpx.AsyncClient) -> None:
    body = b'{"model": "chat", "prompt": [' + b"1," * 1_000_001 + b"1]}"
    reply = await client.post("/v1/completions", content=body)
    assert reply.status_code == 413
    assert reply.json()["error"]["code"] == BodyTooLarge.code


async def test_one_model_alone() -> None:
    """A fleet of one model behaves as a fleet: it refuses other names."""
    served = FleetUnderTest(THREE[:1])
    async with in_process(served.app) as client:
        assert (await _chat(client)).status_code == 200
        assert (await _chat(client, "other")).status_code == 404


async def test_compressed_bodies(client: httpx.AsyncClient, served: FleetUnderTest) -> None:
    import gzip

    body = gzip.compress(json.dumps({"model": "coder", "messages": HI}).encode())
    reply = await client.post("/v1/chat/completions/", content=body, headers={"content-encoding": "gzip"})
    assert reply.json()["model"] == "coder"
