"""Scales of LoRA adapters: the field `lora` of requests, GET and POST /lora-adapters."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.companions import write_lora
from tests.engine.harness import write_f32
from tests.server.conftest import Connect
from tests.server.fake_engine import INFO, FakeEngine
from tests.server.fleet.fake_fleet import THREE, FleetUnderTest
from tests.server.live import in_process, serving
from vram_llm.engine.adapters import AdapterInfo
from vram_llm.model.pooling import Pooling
from vram_llm.server.keys_file import KeyScope, add_key

HI: Any = [{"role": "user", "content": "hi"}]
FILES = (
    AdapterInfo(path="/loras/french.gguf"),
    AdapterInfo(path="/loras/legal.gguf", scale=0.5, task_name="law", prompt_prefix="Judge:"),
)
ADAPTED = replace(INFO, adapters=("french", "legal"), adapter_files=FILES)


@pytest.fixture
def client(connect: Connect, engine: FakeEngine) -> httpx.AsyncClient:
    engine.info = ADAPTED
    return connect()


async def scales(client: httpx.AsyncClient) -> list[float]:
    return [each["scale"] for each in (await client.get("/lora-adapters")).json()]


async def test_the_list(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    assert (await client.get("/lora-adapters")).json() == [
        {"id": 0, "path": "/loras/french.gguf", "scale": 1.0, "task_name": "", "prompt_prefix": ""},
        {
            "id": 1, "path": "/loras/legal.gguf", "scale": 0.5, "task_name": "law", "prompt_prefix": "Judge:",
        },
    ]  # fmt: skip
    engine.info = INFO
    assert (await client.get("/lora-adapters")).json() == []


async def test_scales_of_later_requests(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    async def complete(**more: Any) -> Any:
        reply = await client.post("/v1/completions", json={"prompt": "x", **more})
        assert reply.status_code == 200, reply.text
        return engine.requests[-1].adapters

    assert await complete() is None
    changed = await client.post("/lora-adapters", json=[{"id": 1, "scale": 2}])
    assert (changed.status_code, changed.json()) == (200, {"success": True})
    assert await scales(client) == [0.0, 2.0]
    assert await complete() == ((1, 2.0),)
    assert await complete(lora=[]) == ((1, 2.0),)
    assert await complete(model="french") == ((0, 1.0),)
    assert await complete(lora=[{"id": 0, "scale": 0.25}]) == ((0, 0.25),)
    assert (await client.post("/lora-adapters", json=[])).status_code == 200
    assert (await scales(client), await complete()) == ([0.0, 0.0], ())
    planned = [{"id": 0, "scale": 1.0}, {"id": 1, "scale": 0.5}]
    assert await complete(lora=planned) is None
    await client.post("/lora-adapters", json=planned)
    assert (engine.adapters, await complete()) == (None, None)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": HI}),
        ("/v1/completions", {"prompt": "x"}),
        ("/completion", {"prompt": "x"}),
        ("/v1/responses", {"input": "x"}),
        ("/v1/messages", {"messages": HI, "max_tokens": 5}),
    ],
)
async def test_the_field(
    client: httpx.AsyncClient, engine: FakeEngine, path: str, body: dict[str, Any]
) -> None:
    given = [{"id": 1, "scale": -0.5}, {"id": 0, "scale": 1}]
    assert (await client.post(path, json={**body, "lora": given})).status_code == 200
    assert engine.requests[-1].adapters == ((0, 1.0), (1, -0.5))
    await client.post(path, json={**body, "lora": [{"id": 0, "scale": 0}]})
    assert engine.requests[1].adapters == ()


@pytest.mark.parametrize(
    ("lora", "param"),
    [
        ([{"id": 2, "scale": 1}], "lora[0].id"),
        ([{"id": 0, "scale": 1}, {"id": 0, "scale": 2}], "lora[1].id"),
        ([{"id": -1, "scale": 1}], "lora[0].id"),
        ([{"id": 0, "scale": 1e9}], "lora[0].scale"),
        ([{"id": 0, "scale": "1"}], "lora[0].scale"),
        ([{"id": 0}], "lora[0].scale"),
        ([{"scale": 1}], "lora[0].id"),
        ([{"id": 0, "scale": 1, "name": "x"}], "lora[0].name"),
        ({"0": 1}, "lora"),
    ],
)
async def test_refusals(client: httpx.AsyncClient, engine: FakeEngine, lora: Any, param: str) -> None:
    refused = await client.post("/v1/completions", json={"prompt": "x", "lora": lora})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), refused.text
    refused = await client.post("/lora-adapters", json=lora)
    assert refused.status_code == 400
    if not isinstance(lora, list):
        assert refused.json()["error"]["message"] == "The body must be a JSON list"
    assert (engine.requests, engine.adapters) == ([], None)


async def test_models_without_adapters(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.info = INFO
    body = {"prompt": "x", "lora": [{"id": 0, "scale": 1}]}
    refused = await client.post("/v1/completions", json=body)
    assert "the model has none; serve it with --lora" in refused.json()["error"]["message"]
    engine.info = replace(ADAPTED, pooling=Pooling.MEAN)
    assert (await client.post("/lora-adapters", json=[])).json()["error"]["code"] == "model_not_supported"


async def test_changing_them_needs_the_scope_admin(
    connect: Connect, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.info = ADAPTED
    keys = tmp_path / "keys.json"
    user, admin = add_key(keys, "u", (KeyScope.INFERENCE,)), add_key(keys, "a", (KeyScope.ADMIN,))
    client = connect(keys_file=keys)
    statuses = [
        (await client.post("/lora-adapters", json=[], headers={"x-api-key": key})).status_code
        for key in (user, admin)
    ]
    assert statuses == [403, 200]


async def test_a_model_among_several() -> None:
    served = FleetUnderTest(THREE)
    served.fleet.engines["coder"].info = replace(ADAPTED, name="coder")
    async with in_process(served.app) as client:
        changed = await client.post("/lora-adapters?model=coder", json=[{"id": 0, "scale": 3}])
        assert changed.status_code == 200
        listed = (await client.get("/lora-adapters?model=coder")).json()
        assert [each["scale"] for each in listed] == [3.0, 0.0]
        assert (await client.get("/lora-adapters")).json() == []
        await client.post("/v1/completions", json={"model": "coder", "prompt": "x"})
    assert served.fleet.engines["coder"].requests[-1].adapters == ((0, 3.0),)


@pytest.mark.process
def test_scales_change_the_answers_of_a_real_model(tmp_path: Path) -> None:
    """No prefix is shared between scales, and equal scales give equal answers."""
    model = write_f32(tmp_path / "f32.gguf")
    lora = write_lora(tmp_path / "lora.gguf", model)
    prompt = list(range(10, 310))

    def ask(url: str, **more: Any) -> tuple[str, int]:
        body = {"prompt": prompt, "temperature": 0, "max_tokens": 12, "ignore_eos": True, **more}
        reply = httpx.post(f"{url}/v1/completions", json=body, timeout=600).json()
        return json.dumps(reply["choices"]), reply["usage"]["prompt_tokens_details"]["cached_tokens"]

    with serving(model, "--lora", f"{lora}:0", "--n-ctx", "2048") as server:
        server.await_health()
        plain, _ = ask(server.url)
        assert ask(server.url) == (plain, len(prompt) - 1)
        asked, _ = ask(server.url, lora=[{"id": 0, "scale": 1}])
        half, cached = ask(server.url, lora=[{"id": 0, "scale": 0.5}])
        assert cached == 0
        assert len({plain, asked, half}) == 3
        assert httpx.post(f"{server.url}/lora-adapters", json=[{"id": 0, "scale": 1}]).status_code == 200
        assert ask(server.url) == (asked, len(prompt) - 1)
        assert httpx.get(f"{server.url}/lora-adapters").json()[0] == {
            "id": 0, "path": str(lora), "scale": 1.0, "task_name": "", "prompt_prefix": "",
        }  # fmt: skip
        server.engine().kill()
        assert ask(server.url) == (asked, 0)  # also by the next engine
