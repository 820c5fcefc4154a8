"""GET /health through the engine's life."""

import httpx
import pytest

from tests.server.fake_engine import FakeEngine
from vram_llm.engine.model_info import EngineState


async def test_ready(client: httpx.AsyncClient) -> None:
    response = await client.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("state", "detail", "message"),
    [
        (EngineState.LOADING, "loading, 43 %", "Loading model, 43 %"),
        (EngineState.LOADING, "", "Loading model"),
        (EngineState.LOADING, "restarting after a crash", "Restarting after a crash"),
        (EngineState.STOPPING, "", "The server is shutting down"),
        (EngineState.DEAD, "3 crashes", "The engine has ended and will not come back: 3 crashes"),
    ],
)
@pytest.mark.parametrize("path", ["/health", "/v1/chat/completions"])
async def test_not_ready(
    client: httpx.AsyncClient, engine: FakeEngine, path: str, state: EngineState, detail: str, message: str
) -> None:
    engine.state, engine.detail, engine.info = state, detail, None
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
    response = await (client.get(path) if path == "/health" else client.post(path, json=body))
    assert response.status_code == 503
    assert response.json() == {
        "error": {"message": message, "type": "unavailable_error", "param": None, "code": 503}
    }
    again = state is EngineState.LOADING
    assert ("retry-after" in response.headers, "x-should-retry" in response.headers) == (again, not again)


async def test_requests_during_a_restart_are_queued(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.state, engine.detail = EngineState.LOADING, "restarting in 4 s, after: signal 9 (attempt 4)"
    health = await client.get("/health")
    assert health.status_code == 503
    assert health.json()["error"]["message"] == ("Restarting in 4 s, after: signal 9 (attempt 4)")
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
    assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
