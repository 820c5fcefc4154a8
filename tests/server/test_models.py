"""The models, and the names they answer to."""

from dataclasses import replace
from typing import Any

import httpx
import pytest

from tests.server.conftest import Connect
from tests.server.fake_engine import INFO, FakeEngine
from vram_llm.engine.adapters import AdapterInfo
from vram_llm.engine.model_info import EngineState
from vram_llm.model.pooling import Pooling


async def test_list(connect: Connect) -> None:
    reply = (await connect(aliases=("gpt-4o", "tiny")).get("/v1/models")).json()
    assert reply["object"] == "list"
    assert [card["id"] for card in reply["data"]] == ["tiny", "gpt-4o"]
    assert reply["data"][0] == {
        "id": "tiny",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "vram-llm",
        "max_model_len": 512,
        "context_length": 512,
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
        "tags": [],
        "meta": {
            "vocab_type": 0, "n_vocab": 100, "n_ctx": 512, "n_ctx_train": 512, "n_embd": 0, "n_params": 1000,
            "size": 4000,
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "capabilities"),
    [
        ({}, ["completion"]),
        ({"takes_images": True}, ["completion", "multimodal"]),
        ({"pooling": Pooling.MEAN, "n_pooled": 4}, ["embedding"]),
        ({"pooling": Pooling.RANK, "n_pooled": 1}, ["rerank"]),
    ],
)
async def test_capabilities(
    connect: Connect, engine: FakeEngine, changes: dict[str, Any], capabilities: list[str]
) -> None:
    """Next to OpenAI's list, as in llama-server."""
    engine.info = replace(INFO, **changes)
    reply = (await connect(aliases=("gpt-4o",)).get("/models")).json()
    assert reply["models"] == [
        {"name": name, "model": name, "capabilities": capabilities} for name in ("tiny", "gpt-4o")
    ]


async def test_list_for_anthropics_clients(connect: Connect) -> None:
    client = connect(aliases=("claude-x",))
    client.headers["anthropic-version"] = "2023-06-01"
    reply = (await client.get("/v1/models")).json()
    assert {name: reply[name] for name in ("has_more", "first_id", "last_id")} == {
        "has_more": False,
        "first_id": "tiny",
        "last_id": "claude-x",
    }
    assert reply["data"][1] == (await client.get("/v1/models/claude-x")).json()
    assert reply["data"][1] == {
        "type": "model",
        "id": "claude-x",
        "display_name": "claude-x",
        "created_at": "2023-11-14T22:13:20Z",
        "max_input_tokens": 512,
    }


async def test_adapters_by_name(connect: Connect, engine: FakeEngine) -> None:
    files = (AdapterInfo(path="french.gguf"), AdapterInfo(path="legal.gguf", scale=0.5))
    engine.info = replace(INFO, adapters=("french", "legal"), adapter_files=files)
    client = connect()
    cards = (await client.get("/v1/models")).json()["data"]
    assert [card["id"] for card in cards] == ["tiny", "french", "legal", "tiny:base"]
    assert (await client.get("/v1/models/legal")).status_code == 200
    asked = {"tiny": None, "": None, "french": ((0, 1.0),), "legal": ((1, 0.5),), "tiny:base": ()}
    for name in asked:
        reply = (await client.post("/v1/completions", json={"model": name, "prompt": "x"})).json()
        assert reply["model"] == (name or "tiny")
    messages = [{"role": "user", "content": "hi"}]
    await client.post("/v1/chat/completions", json={"model": "legal", "messages": messages})
    await client.post("/v1/responses", json={"model": "legal", "input": "hi"})
    await client.post("/v1/messages", json={"model": "legal", "messages": messages, "max_tokens": 5})
    assert [request.adapters for request in engine.requests] == [*asked.values(), *[asked["legal"]] * 3]
    engine.info = INFO
    assert (await connect(strict_model=True).get("/v1/models/legal")).status_code == 404


@pytest.mark.parametrize("name", ["tiny", "org/alias", "tiny-Q8_0.gguf", "tiny-Q8_0"])
async def test_names(connect: Connect, name: str) -> None:
    client = connect(aliases=("org/alias",))
    assert (await client.get(f"/v1/models/{name}")).json()["id"] == name
    reply = await client.post("/v1/completions", json={"model": name, "prompt": "x"})
    assert reply.json()["model"] == ("org/alias" if name == "org/alias" else "tiny")


CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "x"},
    "/v1/chat/completions": CHAT,
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {**CHAT, "max_tokens": 5},
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", [{}, {"model": None}, {"model": ""}], ids=["absent", "null", "empty"])
@pytest.mark.parametrize("route", ROUTES)
async def test_no_name_means_the_model_served(
    connect: Connect, route: str, name: dict[str, str | None], strict: bool
) -> None:
    reply = await connect(strict_model=strict).post(route, json={**ROUTES[route], **name})
    assert (reply.status_code, reply.json()["model"]) == (200, "tiny")


@pytest.mark.parametrize("route", ROUTES)
async def test_another_name_means_the_model_served(client: httpx.AsyncClient, route: str) -> None:
    reply = await client.post(route, json={**ROUTES[route], "model": "local"})
    assert (reply.status_code, reply.json()["model"]) == (200, "tiny")


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/tokenize", {"content": "x"}),
        ("/detokenize", {"tokens": [5]}),
        ("/apply-template", CHAT),
        ("/v1/messages/count_tokens", CHAT),
    ],
)
async def test_other_routes_take_any_name(
    client: httpx.AsyncClient, route: str, body: dict[str, object]
) -> None:
    for model in ({}, {"model": None}, {"model": "local"}):
        assert (await client.post(route, json={**body, **model})).status_code == 200


async def test_one_model_of_another_name(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/models/local")).json()["id"] == "tiny"


async def test_unknown_name_if_names_are_strict(connect: Connect) -> None:
    client = connect(strict_model=True)
    for reply in (
        await client.get("/v1/models/gpt-9"),
        await client.post("/v1/completions", json={"model": "gpt-9", "prompt": "x"}),
    ):
        assert reply.status_code == 404
        assert reply.json()["error"]["code"] == "model_not_found"
        assert "this server has 'tiny'" in reply.json()["error"]["message"]


async def test_while_loading(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.state = EngineState.LOADING
    assert (await client.get("/v1/models")).status_code == 200
    engine.info = None
    assert (await client.get("/v1/models")).status_code == 503


@pytest.mark.parametrize(
    ("pooling", "route", "body"),
    [
        (Pooling.MEAN, "/v1/embeddings", {"input": "x"}),
        (Pooling.RANK, "/v1/rerank", {"query": "q", "documents": ["x"]}),
    ],
)
@pytest.mark.parametrize(
    ("model", "answered"),
    [({}, "tiny"), ({"model": None}, "tiny"), ({"model": "x"}, "tiny"), ({"model": "a"}, "a")],
)
async def test_embedding_models_take_any_name(
    connect: Connect,
    engine: FakeEngine,
    pooling: Pooling,
    route: str,
    body: dict[str, Any],
    model: dict[str, Any],
    answered: str,
) -> None:
    engine.info = replace(INFO, pooling=pooling, n_pooled=1)
    reply = await connect(aliases=("a",)).post(route, json={**body, **model})
    assert (reply.status_code, reply.json()["model"]) == (200, answered)
    strict = await connect(strict_model=True).post(route, json={**body, **model})
    assert strict.status_code == (404 if model.get("model") else 200)


async def test_tags_are_shown(connect: Connect) -> None:
    client = connect(tags=("code", "fast"))
    listed = (await client.get("/v1/models")).json()["data"][0]["tags"]
    assert listed == (await client.get("/v1/models/tiny")).json()["tags"] == ["code", "fast"]
