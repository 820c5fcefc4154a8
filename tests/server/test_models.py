"""The models, and the names they answer to."""

from dataclasses import replace

import httpx
import pytest

from tests.server.conftest import Connect
from tests.server.fake_engine import INFO, FakeEngine
from vram_llm.engine.info import EngineState


async def test_list(connect: Connect) -> None:
    reply = (await connect(aliases=("gpt-4o", "tiny")).get("/v1/models")).json()
    assert reply["object"] == "list"
    assert [card["id"] for card in reply["data"]] == ["tiny", "gpt-4o"]
    assert reply["data"][0] == {
        "id": "tiny",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "vram-llm",
    }


async def test_adapters_by_name(connect: Connect, engine: FakeEngine) -> None:
    engine.info = replace(INFO, adapters=("french", "legal"))
    client = connect()
    cards = (await client.get("/v1/models")).json()["data"]
    assert [card["id"] for card in cards] == ["tiny", "french", "legal", "tiny:base"]
    assert (await client.get("/v1/models/legal")).status_code == 200
    asked = {"tiny": None, "": None, "french": (0,), "legal": (1,), "tiny:base": ()}
    for name in asked:
        reply = (await client.post("/v1/completions", json={"model": name, "prompt": "x"})).json()
        assert reply["model"] == (name or "tiny")
    said = [{"role": "user", "content": "hi"}]
    await client.post("/v1/chat/completions", json={"model": "legal", "messages": said})
    await client.post("/v1/responses", json={"model": "legal", "input": "hi"})
    await client.post("/v1/messages", json={"model": "legal", "messages": said, "max_tokens": 5})
    assert [request.adapters for request in engine.requests] == [*asked.values(), (1,), (1,), (1,)]
    engine.info = INFO
    assert (await client.get("/v1/models/legal")).status_code == 404
    assert (await client.post("/v1/completions", json={"model": "legal", "prompt": "x"})).status_code == 404


@pytest.mark.parametrize("name", ["tiny", "org/alias", "tiny-Q8_0.gguf", "tiny-Q8_0"])
async def test_names(connect: Connect, name: str) -> None:
    client = connect(aliases=("org/alias",))
    assert (await client.get(f"/v1/models/{name}")).json()["id"] == name
    reply = await client.post("/v1/completions", json={"model": name, "prompt": "x"})
    assert reply.json()["model"] == "tiny"


@pytest.mark.parametrize("model", [None, ""])
async def test_no_name_means_the_one_there_is(client: httpx.AsyncClient, model: str | None) -> None:
    reply = await client.post("/v1/completions", json={"model": model, "prompt": "x"})
    assert reply.json()["model"] == "tiny"


async def test_unknown(client: httpx.AsyncClient) -> None:
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
