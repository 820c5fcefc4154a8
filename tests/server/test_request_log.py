"""The line of each request, and its id in every answer."""

import asyncio
import logging
from dataclasses import replace
from typing import Any

import httpx
import msgspec
import pytest

from tests.conftest import PlanOnCpu
from tests.patience import until
from tests.server.conftest import Connect
from tests.server.fake_engine import FakeEngine, fails, says
from tests.server.live import app_of, http_client, listening, listening_with
from vram_llm.engine.model_info import EngineState
from vram_llm.engine.stats import EngineStats
from vram_llm.model.pooling import Pooling
from vram_llm.server.load_log import report_load
from vram_llm.server.request_record import RequestRecord

HI = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
CHAT = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def with_notices(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vram_llm")


def figures(record: logging.LogRecord) -> dict[str, Any]:
    """The figures of a line."""
    found: dict[str, Any] = getattr(record, "fields", {})
    return found


def own(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    """Message and figures of the lines of vram_llm."""
    return [(line.getMessage(), figures(line)) for line in caplog.records if line.name.startswith("vram_llm")]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_line_a_request(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    reply = await client.post(CHAT, json={**HI, "stream": stream, "n": 2})
    ((message, shown),) = own(caplog)
    assert message == f"POST {CHAT} 200"
    assert {name: shown[name] for name in shown if not name.endswith("_s")} == {
        "request_id": reply.headers["x-request-id"],
        "client": "127.0.0.1",
        "model": "tiny",
        "prompt_tokens": 5,
        "cached_tokens": 0,
        "completion_tokens": 4,
        "finish_reason": "stop",
    }
    assert 0 <= shown["ttft_s"] <= shown["duration_s"]


async def test_embeddings_too(engine: FakeEngine, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    assert engine.info is not None
    engine.info = replace(engine.info, pooling=Pooling.MEAN, n_pooled=4)
    await connect().post("/v1/embeddings", json={"input": ["abc", "de"]})
    ((message, shown),) = own(caplog)
    assert (message, shown["prompt_tokens"]) == ("POST /v1/embeddings 200", 5)


async def test_refusals_and_failures(
    client: httpx.AsyncClient, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    refused = await client.post(CHAT, json={**HI, "n": 0})
    engine.script = fails("a", error="the projector failed")
    whole = await client.post(CHAT, json=HI)
    begun = await client.post(CHAT, json={**HI, "stream": True})
    texts = [shown.get("error") for _, shown in own(caplog)]
    assert texts == [refused.json()["error"]["message"], "the projector failed", "the projector failed"]
    assert [message[-3:] for message, _ in own(caplog)] == ["400", "500", "200"]
    assert [shown["request_id"] for _, shown in own(caplog)] == [
        reply.headers["x-request-id"] for reply in (refused, whole, begun)
    ]


async def test_probes_have_no_line(
    client: httpx.AsyncClient, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    await client.get("/health")
    await client.get("/v1/models")
    engine.state, engine.info = EngineState.LOADING, None
    assert (await client.get("/health")).status_code == 503
    assert own(caplog) == []


async def test_a_client_that_leaves(engine: FakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    engine.script = lambda request: [*says("a")(request)[:-1], asyncio.Event()]
    async with listening(engine) as url, http_client() as client:
        async with client.stream("POST", f"{url}{CHAT}", json={**HI, "stream": True}) as reply:
            await anext(reply.aiter_bytes())
        await until(lambda: bool(own(caplog)), "a line")
    ((_, shown),) = own(caplog)
    assert shown["finish_reason"] == "disconnected"


async def test_prompts_only_if_asked_for(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    await connect().post("/v1/completions", json={"prompt": "secret", "max_tokens": 2})
    shows = connect(log_prompts=True)
    await shows.post("/v1/completions", json={"prompt": "secret" + " a" * 100, "max_tokens": 2})
    await shows.post("/v1/completions", json={"prompt": [1, 2, 3], "max_tokens": 2})
    prompts = [shown.get("prompts") for _, shown in own(caplog)]
    assert prompts == [None, ["secret" + " a" * 100], ["3 token ids"]]


def test_a_long_prompt_is_cut() -> None:
    record = RequestRecord(prompts=["x" * 30_000])
    assert record.prompt_texts() == ["x" * 20_000 + "… (10,000 more characters)"]


async def test_every_route_answers_with_the_id(engine: FakeEngine) -> None:
    app = app_of(engine, cors_origins=("https://a.example",), hosts=frozenset({"test"}), api_keys=("k",))
    schema = app.openapi()
    paths = [(method.upper(), path) for path, item in schema["paths"].items() for method in item]
    assert len(paths) > 15
    asked = [*paths, ("GET", "/nothing"), ("PUT", CHAT), ("OPTIONS", CHAT)]
    async with http_client("http://test", transport=httpx.ASGITransport(app)) as client:
        for key in ("k", "wrong"):
            for method, path in asked:
                headers = {
                    "x-request-id": "id-1",
                    "authorization": f"Bearer {key}",
                    "origin": "https://a.example",
                }
                headers |= {"access-control-request-method": "POST"} if method == "OPTIONS" else {}
                reply = await client.request(method, path, headers=headers)
                assert reply.headers.get_list("x-request-id") == ["id-1"], (method, path)
        reply = await client.get("/v1/models", headers={"host": "evil.example", "x-request-id": "a b"})
        assert reply.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("head", "own_id"),
    [
        (b"GET / HTTP/1.1\r\nhost: a\r\nx-request-id: id-1\r\na: " + b"x" * 70_000, b"id-1"),
        (b"\x16\x03\x01\x02", b"req_"),
    ],
)
async def test_refusals_of_the_protocol(
    engine: FakeEngine, caplog: pytest.LogCaptureFixture, head: bytes, own_id: bytes
) -> None:
    async with listening(engine) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(head + b"\r\n\r\n")
        reply = await reader.read()
        writer.close()
    assert b"x-request-id: " + own_id in reply
    ((_, shown),) = own(caplog)
    assert shown["request_id"].startswith(own_id.decode())


# -- load ----------------------------------------------------------------------------------------


class Moments:
    """Totals of a fake engine that change at each pause; then the reporter is cancelled."""

    def __init__(self, engine: FakeEngine, *totals: EngineStats) -> None:
        self.now = 0.0
        self._engine, self._totals = engine, list(totals)

    async def pause(self, seconds: float) -> None:
        self.now += seconds
        if not self._totals:
            raise asyncio.CancelledError
        self._engine.totals = self._totals.pop(0)


async def test_a_line_while_busy(engine: FakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    busy = EngineStats(
        n_steps=9, n_prompt_tokens=300, n_generated_tokens=50, n_begun_prompt_tokens=400, n_cells=1000,
        n_begun_cached_tokens=100, n_cells_used=600, n_cells_idle=100,
    )  # fmt: skip
    later = msgspec.structs.replace(busy, n_steps=20, n_generated_tokens=150)
    moments = Moments(engine, EngineStats(), busy, busy, later)
    with pytest.raises(asyncio.CancelledError):
        await report_load(engine, moments.pause, lambda: moments.now)
    first, second = (shown for _, shown in own(caplog))
    assert first == {
        "running": 0,
        "waiting": 0,
        "kv_usage": 0.5,
        "prompt_tokens_per_s": 30,
        "generation_tokens_per_s": 5,
        "prefix_hit_rate": 0.25,
    }
    assert (second["prompt_tokens_per_s"], second["generation_tokens_per_s"]) == (0, 10)
    assert "prefix_hit_rate" not in second


@pytest.mark.process
async def test_lines_of_a_real_engine(plan_on_cpu: PlanOnCpu, caplog: pytest.LogCaptureFixture) -> None:
    async with listening_with(plan_on_cpu(n_ctx=1024), "tiny") as url, http_client(url) as client:
        for _ in range(2):
            body = {"prompt": [*range(10, 200)], "max_tokens": 8, "ignore_eos": True}
            usage = (await client.post("/v1/completions", json=body)).json()["usage"]
    _, shown = own(caplog)[-1]
    assert shown["prompt_tokens"] == usage["prompt_tokens"] == 190
    assert shown["cached_tokens"] == usage["prompt_tokens_details"]["cached_tokens"] > 0
    assert shown["completion_tokens"] == usage["completion_tokens"] == 8
    assert shown["tokens_per_s"] > 0
    assert shown["finish_reason"] == "length"
