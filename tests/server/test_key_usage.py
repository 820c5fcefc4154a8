"""Limits of a key: in flight, and by the minute; a refusal says when to come back."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.patience import soon, until
from tests.server.fake_engine import FakeEngine, says
from tests.server.test_api_keys import HI, INFERENCE, clients_of
from vram_llm.engine.request import TokenEvent
from vram_llm.errors import RequestError
from vram_llm.server.api_keys import Keyring
from vram_llm.server.config import ServerConfig
from vram_llm.server.errors import RateLimited
from vram_llm.server.key_usage import KeyUsage
from vram_llm.server.keys_file import KeyLimits, add_key, change_key


@dataclass
class Clock:
    """Seconds that only the test moves."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def _ask(usage: KeyUsage) -> None:
    """A request that ends at once."""
    with usage.request(lambda n: 4.0 * n):
        pass


def _refused(usage: KeyUsage) -> RateLimited:
    with pytest.raises(RateLimited) as refusal:
        _ask(usage)
    return refusal.value


def test_without_limits() -> None:
    usage = KeyUsage()
    for _ in range(1000):
        _ask(usage)
    with usage.sequences(1000, lambda n: 0):
        usage.spend(10**9)
    _ask(usage)


def test_requests_in_flight() -> None:
    usage = KeyUsage(KeyLimits(max_requests=2))
    with usage.request(lambda n: 0), usage.request(lambda n: 0):
        assert _refused(usage).retry_after_s == 4
    _ask(usage)
    assert usage.n_requests == 0


def test_sequences_in_flight() -> None:
    usage = KeyUsage(KeyLimits(max_sequences=128))
    with usage.sequences(100, lambda n: 0):
        with usage.sequences(28, lambda n: 0):
            pass
        with pytest.raises(RateLimited) as refusal, usage.sequences(128, lambda n: 4.0 * n):
            pass
        assert refusal.value.retry_after_s == 400  # until 100 have ended
        with pytest.raises(RequestError) as never, usage.sequences(129, lambda n: 0):
            pass
        assert never.value.param == "n"
    with usage.sequences(128, lambda n: 0):
        pass


@pytest.mark.parametrize("waited", [0.99, 1.01])
def test_requests_a_minute(waited: float) -> None:
    clock = Clock()
    usage = KeyUsage(KeyLimits(requests_per_minute=60), clock)
    for _ in range(60):
        _ask(usage)
    clock.now += 0.25
    refusal = _refused(usage)
    assert refusal.retry_after_s == pytest.approx(0.75)
    clock.now += waited * refusal.retry_after_s
    if waited < 1:
        _refused(usage)
    else:
        _ask(usage)
    clock.now += 3600  # no more than a minute's are kept
    for _ in range(60):
        _ask(usage)
    _refused(usage)


@pytest.mark.parametrize("waited", [0.99, 1.01])
def test_tokens_a_minute(waited: float) -> None:
    clock = Clock()
    usage = KeyUsage(KeyLimits(tokens_per_minute=600), clock)
    _ask(usage)
    usage.spend(1200)
    refusal = _refused(usage)
    assert refusal.retry_after_s == pytest.approx(60.1)
    assert "600 tokens a minute are used up" in str(refusal)
    clock.now += waited * refusal.retry_after_s
    if waited < 1:
        _refused(usage)
    else:
        _ask(usage)


def test_what_is_used_stays_used_when_the_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    add_key(path, "ann", INFERENCE, limits=KeyLimits(requests_per_minute=2))
    keyring = Keyring(ServerConfig(keys_file=path))
    ((_, ann),) = keyring._stored.values()
    _ask(ann.usage)
    _ask(ann.usage)
    keyring.read()
    ((_, again),) = keyring._stored.values()
    _refused(again.usage)
    change_key(path, "ann", {"requests_per_minute": 3, "weight": 2.0})
    keyring.read()
    _ask(again.usage)
    assert again.usage.limits == KeyLimits(requests_per_minute=3, weight=2)


async def _post(client: httpx.AsyncClient, path: str = "/v1/chat/completions", **more: Any) -> httpx.Response:
    return await soon(client.post(path, json={**HI, **more}))


async def test_prompts_of_clients_that_leave_are_counted(engine: FakeEngine, tmp_path: Path) -> None:
    path, gate = tmp_path / "keys", asyncio.Event()
    key = add_key(path, "ann", INFERENCE, limits=KeyLimits(tokens_per_minute=1000))
    engine.script = lambda request: (
        [
            TokenEvent(id=request.id, prompt_tokens=9000, cached_tokens=500, prompt_done=done)
            for done in (0, 500, 4000)
        ]
        + [gate]
    )
    async with clients_of(engine, path, key, sse_ping_interval_s=0.1) as (ann,):
        async with ann.stream("POST", "/v1/chat/completions", json={**HI, "stream": True}) as reply:
            assert reply.status_code == 200
            await until(lambda: bool(engine.requests), "a request")
        await soon(engine.some_cancelled.wait())
        refused = await _post(ann)
    assert refused.status_code == 429
    # of 3,500 tokens, 2,501 have to come back; some have come back where the computer is slow
    assert 60 < int(refused.headers["retry-after"]) <= 151


async def test_over_http(engine: FakeEngine, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    limits = {
        "ann": KeyLimits(requests_per_minute=2, weight=3),
        "bob": KeyLimits(max_sequences=4),
        "eve": KeyLimits(tokens_per_minute=10),
    }
    keys = [add_key(path, name, INFERENCE, limits=limit) for name, limit in limits.items()]
    engine.script = says("a", "b", "c")  # with the prompt's five tokens eight
    async with clients_of(engine, path, *keys) as (ann, bob, eve):
        for status in (200, 200, 429):
            reply = await _post(ann)
            assert reply.status_code == status
        assert reply.json()["error"]["code"] == "rate_limit_exceeded"
        assert 0 < int(reply.headers["retry-after-ms"]) <= 30_000
        assert 0 < int(reply.headers["retry-after"]) <= 30
        assert (await ann.get("/v1/models")).status_code == 200
        assert [(request.client, request.weight) for request in engine.requests] == [("ann", 3)] * 2
        statuses = [
            (await _post(bob, n=n, stream=stream)).status_code for n in (4, 5) for stream in (False, True)
        ]
        assert statuses == [200, 200, 400, 400]
        assert [(await _post(eve)).status_code for _ in range(3)] == [200, 200, 429]
        refused = await _post(eve, "/v1/messages", max_tokens=5)
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
        assert (await _post(bob)).status_code == 200
