"""The models, and the names they answer to."""

import httpx
import pytest

from tests.server.conftest import Connect
from tests.server.fake_engine import FakeEngine
from vram_llm.engine.info import EngineState


async def test_list(connect: Connect) -> None:
    reply = (await connect(model_aliases=("gpt-4o", "tiny")).get("/v1/models")).json()
    assert reply["object"] == "list"
    assert [card["id"] for card in reply["data"]] == ["tiny", "gpt-4o"]
    assert reply["data"][0] == {
        "id": "tiny",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "vram-llm",
    }


@pytest.mark.parametrize("name", ["tiny", "org/alias", "tiny-Q8_0.gguf", "tiny-Q8_0"])
async def test_names(connect: Connect, name: str) -> None:
    client = connect(model_aliases=("org/alias",))
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
