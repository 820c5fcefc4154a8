"""/status, /metrics, /slots, /props, /health and / of several models, over a fake fleet."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.server.fleet.fake_fleet import FleetUnderTest
from vram_llm.fleet.snapshots import ModelState
from vram_llm.units import GIB


async def test_metrics_have_the_model_as_a_label(client: httpx.AsyncClient, served: FleetUnderTest) -> None:
    served.fleet.states["embedder"] = ModelState.UNLOADED
    text = (await client.get("/metrics")).text
    heads = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads))
    seen: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            seen.setdefault(sample.name, set()).add(sample.labels.get("model", ""))
    two, three = {"chat", "coder"}, {"chat", "coder", "embedder"}
    for name in (
        "vllm:num_requests_running", "vllm:time_to_first_token_seconds_bucket", "llamacpp:n_decode_total",
        "vram_llm:engine_state", "vram_llm:device_planned_bytes",
    ):  # fmt: skip
        assert seen[name] == two, name
    assert seen["vram_llm:model_state"] == seen["vram_llm:model_loads_total"] == three
    assert seen["vram_llm:device_total_bytes"] == seen["vram_llm:build_info"] == {""}
    assert 'llamacpp:n_decode_total{model="coder"}' in (await client.get("/metrics?model=coder")).text
    assert "chat" not in (await client.get("/metrics?model=coder")).text
    served.fleet.were_loaded.add("embedder")
    text = (await client.get("/metrics")).text
    assert 'vllm:generation_tokens_total{engine="0",model="embedder"' in text
    assert 'vram_llm:engine_state{model="embedder"' not in text


async def test_openmetrics(client: httpx.AsyncClient) -> None:
    reply = await client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    assert reply.text.endswith("# EOF\n")
    assert [line for line in reply.text.splitlines() if "n_decode_total{" in line and 'model="coder"' in line]


async def test_status(client: httpx.AsyncClient, served: FleetUnderTest) -> None:
    served.fleet.states["embedder"] = ModelState.UNLOADED
    status = (await client.get("/status")).json()
    assert status["model"]["id"] == "chat"
    assert status["engine"]["state"] == "ready"
    assert [(d["id"], d["planned"]["weights_bytes"], d["layers"]) for d in status["devices"]] == [
        ("GPU0", 4 * GIB, [0, 3]), ("GPU1", 4 * GIB, [0, 3]),
    ]  # fmt: skip
    assert status["host"]["planned"]["weights_bytes"] == 4 * GIB
    assert [(m["id"], m["state"], m["engine"] is None) for m in status["models"]] == [
        ("chat", "resident", False), ("coder", "resident", False), ("embedder", "unloaded", True),
    ]  # fmt: skip
    assert status["models"][1]["device_bytes"] == {"GPU1": 4 * GIB, "host": 2 * GIB}
    served.fleet.states["coder"] = ModelState.UNLOADED
    devices = (await client.get("/status")).json()["devices"]
    assert devices[1]["planned"]["weights_bytes"] == 0


async def test_slots(client: httpx.AsyncClient, served: FleetUnderTest) -> None:
    slots = (await client.get("/slots?model=coder")).json()
    assert [(slot["id"], slot["model"]) for slot in slots] == [(i, "coder") for i in range(4)]
    assert len((await client.get("/slots")).json()) == 12
    served.fleet.states["coder"] = ModelState.UNLOADED
    assert (await client.get("/slots?model=coder")).status_code == 503
    assert (await client.get("/slots?model=none")).status_code == 404


async def test_props(client: httpx.AsyncClient, served: FleetUnderTest) -> None:
    assert (await client.get("/props")).json()["role"] == "router"
    props = (await client.get("/props?model=gpt-4o")).json()
    assert (props["model_alias"], props["total_slots"], props["is_sleeping"]) == ("chat", 4, False)
    served.fleet.states["chat"] = ModelState.UNLOADED
    refused = await client.get("/props?model=chat")
    assert (refused.status_code, served.fleet.leases) == (503, [])


async def test_health(client: httpx.AsyncClient, served: FleetUnderTest) -> None:
    assert (await client.get("/health")).json() == {"status": "ok"}
    served.fleet.engines["chat"].warnings = ("less memory",)
    assert (await client.get("/health")).json()["warnings"] == ["chat: less memory"]
    served.readiness.stop()
    assert (await client.get("/v1/health")).status_code == 503
    served.readiness.phase = "loading"
    assert (await client.get("/health")).status_code == 503


async def test_root(client: httpx.AsyncClient) -> None:
    reply = (await client.get("/")).json()
    assert (reply["name"], reply["model"]) == ("vram-llm", "chat")
    assert reply["models"] == ["chat", "coder", "embedder"]
    assert "<!doctype html>" in (await client.get("/", headers={"accept": "text/html"})).text


async def test_cancel(client: httpx.AsyncClient, served: FleetUnderTest) -> None:
    served.fleet.engines["coder"].in_flight.add("abc")
    assert (await client.delete("/requests/abc")).json() == {"id": "abc", "cancelled": True}
    assert (await client.delete("/requests/none")).status_code == 404


async def test_document(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert {"/models/load", "/models/sse", "/v1/chat/completions", "/status"} <= set(paths)
