"""Lists of models, orders of the operator, and events, in llama-server's form, over a fake fleet."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.patience import soon, until
from tests.server.fleet.fake_fleet import THREE, FakeFleet, FleetUnderTest, packed, plan_of, settings_of
from tests.server.live import in_process
from vram_llm.errors import BadConfig, ServerUnreachable
from vram_llm.fleet.snapshots import ModelState
from vram_llm.planner.fleet.types import FleetPlan
from vram_llm.server.api_keys import ANYBODY
from vram_llm.server.fleet.routed_models import FleetSettings
from vram_llm.server.keys_file import KeyScope, add_key
from vram_llm.units import GIB


async def _cards(client: httpx.AsyncClient, path: str = "/v1/models") -> dict[str, dict[str, Any]]:
    reply = await client.get(path)
    assert reply.status_code == 200
    return {card["id"]: card for card in reply.json()["data"]}


async def test_list(client: httpx.AsyncClient, served: FleetUnderTest) -> None:
    served.fleet.states["coder"] = ModelState.LOADING
    served.fleet.states["embedder"] = ModelState.FAILED
    cards = await _cards(client)
    assert list(cards) == ["chat", "gpt-4o", "coder", "embedder"]
    assert cards == await _cards(client, "/models")
    chat, coder = cards["chat"], cards["coder"]
    assert chat["status"] == {"value": "loaded", "state": "resident"}
    assert coder["status"] == {"value": "loading", "state": "loading"}
    assert cards["embedder"]["status"] == {"value": "unloaded", "state": "failed", "failed": True}
    assert chat["device_bytes"] == {"GPU0": 4 * GIB, "host": 2 * GIB}
    assert (chat["context_length"], chat["meta"]["n_ctx"]) == (512, 512)  # the loaded model's
    assert (coder["context_length"], "meta" in coder) == (8192, False)  # the plan's
    assert (chat["created"], coder["created"]) == (1_700_000_000, 1234)
    assert chat["aliases"] == ["gpt-4o"]
    assert cards["embedder"]["architecture"]["output_modalities"] == ["embeddings"]


async def test_one_model(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/models/gpt-4o")).json()["id"] == "gpt-4o"
    assert (await client.get("/v1/models/coder-Q8_0.gguf")).json()["id"] == "coder"
    assert (await client.get("/v1/models/none")).status_code == 404


async def test_lists_of_other_clients(client: httpx.AsyncClient, served: FleetUnderTest) -> None:
    served.fleet.states["coder"] = ModelState.UNLOADED
    abilities = (await client.get("/models")).json()["models"]
    assert [each["capabilities"] for each in abilities] == [["completion"]] * 3 + [["embedding"]]
    reply = await client.get("/v1/models", headers={"anthropic-version": "2023-06-01"})
    assert (reply.json()["first_id"], reply.json()["last_id"]) == ("chat", "embedder")
    assert [each["max_input_tokens"] for each in reply.json()["data"]] == [512, 512, 8192, 512]


async def test_orders(client: httpx.AsyncClient, served: FleetUnderTest) -> None:
    """Their replies and refusals are llama-server's."""
    reply = await client.post("/models/unload", json={"model": "gpt-4o"})
    assert (reply.status_code, reply.json()) == (200, {"success": True})
    await until(lambda: served.fleet.orders == [("unload", "chat")], "an order")
    for path, name, status in (("load", "coder", 400), ("unload", "chat", 400), ("load", "none", 404)):
        assert (await client.post(f"/models/{path}", json={"model": name})).status_code == status
    await client.post("/models/load", json={"model": "chat"})
    await client.post("/models/sleep", json={})
    await client.post("/models/sleep")
    await until(lambda: len(served.fleet.orders) == 4, "orders")
    assert served.fleet.orders[1:] == [("load", "chat"), ("sleep", None), ("sleep", None)]


async def test_an_order_to_load_that_waits_is_taken_back(
    client: httpx.AsyncClient, served: FleetUnderTest
) -> None:
    served.fleet.states["coder"] = ModelState.QUEUED
    reply = await client.post("/models/unload", json={"model": "coder"})
    assert (reply.status_code, reply.json()) == (200, {"success": True})
    await until(lambda: served.fleet.orders == [("unload", "coder")], "an order")


async def test_orders_need_an_operator(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    keys = {scope: add_key(path, scope.value, (scope,)) for scope in KeyScope}
    for scope, status in ((KeyScope.INFERENCE, 403), (KeyScope.METRICS, 403), (KeyScope.ADMIN, 200)):
        async with in_process(FleetUnderTest(keys_file=path).app) as client:
            client.headers["authorization"] = f"Bearer {keys[scope]}"
            assert (await client.post("/models/unload", json={"model": "chat"})).status_code == status
            reply = await client.get("/models?reload=1")  # of a route that all keys may ask
            assert (reply.status_code == 403) is (status == 403)
    async with in_process(FleetUnderTest(insecure=True).app) as client:
        assert (await client.post("/models/unload", json={"model": "chat"})).status_code == 403
        assert (await client.get("/models?reload=1")).status_code == 403


async def test_events(served: FleetUnderTest) -> None:
    """A client reads changes as they happen; a key sees its own models alone."""
    stream = served.events.stream(served.models, ANYBODY)
    assert await soon(anext(stream)) == b": waiting\n\n"
    await until(lambda: bool(served.fleet._readers), "a reader")
    served.fleet.change("coder", ModelState.LOADING, load_fraction=0.5, detail="loading, 50 %")
    served.fleet.change("coder", ModelState.RESIDENT)
    found = [json.loads((await soon(anext(stream))).removeprefix(b"data: ")) for _ in range(2)]
    served.events.announce_reload(["embedder"])
    found += [json.loads((await soon(anext(stream))).removeprefix(b"data: ")) for _ in range(2)]
    assert found == [
        {
            "model": "coder",
            "event": "model_status",
            "data": {
                "status": "loading",
                "state": "loading",
                "progress": {"stages": ["text_model"], "current": "text_model", "value": 0.5},
                "detail": "loading, 50 %",
            },
        },
        {"model": "coder", "event": "model_status", "data": {"status": "loaded", "state": "resident"}},
        {"model": "embedder", "event": "model_remove"},
        {"model": "*", "event": "models_reload"},
    ]
    served.events.end()
    with pytest.raises(StopAsyncIteration):
        await soon(anext(stream))


async def test_events_over_http(client: httpx.AsyncClient, served: FleetUnderTest) -> None:
    asking = asyncio.create_task(client.get("/models/sse"))
    await until(lambda: bool(served.fleet._readers), "a reader")
    served.fleet.change("chat", ModelState.SLEEPING)
    await asyncio.sleep(0)  # the reader has its turn
    served.events.end()
    reply = await soon(asking)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert b'"status":"sleeping"' in reply.content


class _Configuration:
    """A configuration that the test changes; `read` is what a reading of it gives."""

    def __init__(self) -> None:
        self.error: BadConfig | None = None
        self.settings = settings_of(*THREE)
        self.plans: list[FleetPlan] = []

    def read(self, before: FleetPlan) -> FleetSettings:
        self.plans.append(before)
        if self.error is not None:
            raise self.error
        return self.settings


async def test_reload() -> None:
    """New models answer, models that are gone do not, and the engines of others stay."""
    configuration = _Configuration()
    served = FleetUnderTest(read=configuration.read)
    chat = served.fleet.engines["chat"]
    configuration.settings = settings_of(THREE[0], packed("newest", 1))
    async with in_process(served.app) as client:
        assert (await client.post("/models/reload")).json() == {"success": True}
        assert list(await _cards(client)) == ["chat", "gpt-4o", "newest"]
        body = {"model": "newest", "messages": [{"role": "user", "content": "hi"}]}
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
        assert (await client.post("/v1/embeddings", json={"input": "a"})).status_code == 400
    assert served.fleet.engines["chat"] is chat
    assert configuration.plans == [plan_of(*THREE)]


async def test_models_are_listed_once_the_fleet_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fleet on a cluster takes seconds to go on with another plan."""
    configuration, may_go_on = _Configuration(), asyncio.Event()
    monkeypatch.setattr(FakeFleet, "apply", lambda fleet, plan: _applied(fleet, plan, may_go_on))
    served = FleetUnderTest(read=configuration.read)
    configuration.settings = settings_of(THREE[0], packed("newest", 1))
    async with in_process(served.app) as client:
        reloading = asyncio.create_task(client.post("/models/reload"))
        await until(lambda: bool(configuration.plans), "the configuration was read")
        assert "coder" in await _cards(client)
        may_go_on.set()
        await soon(reloading)
        assert list(await _cards(client)) == ["chat", "gpt-4o", "newest"]


async def _applied(fleet: FakeFleet, plan: FleetPlan, may_go_on: asyncio.Event) -> None:
    await may_go_on.wait()
    fleet.set_plan(plan)


async def test_a_broken_configuration_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    configuration = _Configuration()
    configuration.error = BadConfig("fleet.yaml:7: 'n-ctx' must be a size, got 'many'")
    served = FleetUnderTest(read=configuration.read)
    async with in_process(served.app) as client:
        reply = await client.get("/models?reload=1")
        assert reply.status_code == 400
        assert "fleet.yaml:7" in reply.json()["error"]["message"]
        assert list(await _cards(client)) == ["chat", "gpt-4o", "coder", "embedder"]
    assert any("stays as it is: fleet.yaml:7" in record.getMessage() for record in caplog.records)


async def test_a_list_reads_the_configuration_only_if_it_is_asked_to() -> None:
    configuration = _Configuration()
    configuration.error = BadConfig("fleet.yaml:7: 'n-ctx' must be a size, got 'many'")
    async with in_process(FleetUnderTest(read=configuration.read).app) as client:
        switches = ("", "0", "false", "1", "true", "maybe")
        replies = [await client.get(f"/models?reload={switch}") for switch in switches]
    assert [reply.status_code for reply in replies] == [200, 200, 200, 400, 400, 400]
    errors = [reply.json()["error"]["message"] for reply in replies[3:]]
    assert ["fleet.yaml:7" in error for error in errors] == [True, True, False]
    assert "reload is true or false, not 'maybe'" in errors[2]


async def test_a_configuration_that_cannot_be_applied_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where Ray refuses a deployment."""

    async def refuse(_: FakeFleet, plan: FleetPlan) -> None:
        raise ServerUnreachable("Ray did not take the new deployment of newest: the head is gone")

    configuration = _Configuration()
    monkeypatch.setattr(FakeFleet, "apply", refuse)
    served = FleetUnderTest(read=configuration.read)
    configuration.settings = settings_of(THREE[0], packed("newest", 1))
    async with in_process(served.app) as client:
        reply = await client.post("/models/reload")
        assert reply.status_code == 400
        assert reply.json()["error"]["message"].endswith("newest: the head is gone")
        assert list(await _cards(client)) == ["chat", "gpt-4o", "coder", "embedder"]


async def test_without_a_configuration(client: httpx.AsyncClient) -> None:
    assert (await client.post("/models/reload")).status_code == 400
