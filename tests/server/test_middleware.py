"""Request id, API key, body size, and the last handler of errors."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.server.conftest import Connect
from tests.server.fake_engine import FakeEngine
from tests.server.live import app_of, http_client, listening
from vram_llm.server.serving_context import ServingContext

HI = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/nothing"])
async def test_a_sane_request_id_comes_back(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path, headers={"x-request-id": "abc-1"})
    assert response.headers.get_list("x-request-id") == ["abc-1"]


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "<script>"])
async def test_any_other_is_replaced(client: httpx.AsyncClient, given: str) -> None:
    response = await client.post("/v1/chat/completions", json=HI, headers={"x-request-id": given})
    assert response.headers["x-request-id"].startswith("req_")


async def test_streams_have_one_too(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", json={**HI, "stream": True})
    assert response.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    "header", [None, "Bearer", "Bearer wrong", "Basic key-1", "key-1", "Bearer key-1x", "Bearer \xff"]
)
@pytest.mark.parametrize("path", ["/v1/models", "/nothing", "/openapi.json"])
async def test_without_the_key(connect: Connect, header: str | None, path: str) -> None:
    client = connect(api_keys=("key-1", "clé"))
    response = await client.get(path, headers=[] if header is None else [(b"Authorization", header.encode())])
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", ["key-1", "clé"])
async def test_with_the_key(connect: Connect, key: str) -> None:
    client = connect(api_keys=("key-1", "clé"))
    response = await client.get("/v1/models", headers={b"Authorization": f"bearer {key}".encode()})
    assert response.status_code == 200


async def test_health_needs_no_key(connect: Connect) -> None:
    assert (await connect(api_keys=("key-1",)).get("/health")).status_code == 200


@pytest.mark.parametrize("with_length", [True, False])
async def test_large_body(engine: FakeEngine, with_length: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(16):
            yield b" " * 100_000

    content = b" " * 1_600_000 if with_length else pieces()
    async with listening(engine, max_body_bytes=2**20) as url, http_client() as client:
        response = await client.post(f"{url}/v1/completions", content=content)
    assert response.status_code == 413
    assert "1.00 MiB" in response.json()["error"]["message"]


async def test_an_internal_error_is_logged_and_shown_without_details(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: ServingContext, name: str | None) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(ServingContext, "model", fail)
    response = await client.post("/v1/chat/completions", json=HI)
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "secret" not in response.text
    assert response.headers["x-request-id"] in caplog.text
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::odd::", "::odd::"),
    ],
)
async def test_without_keys_a_client_is_an_address(engine: FakeEngine, address: str, client: str) -> None:
    transport = httpx.ASGITransport(app_of(engine), client=(address, 5))
    async with http_client("http://test", transport=transport) as http:
        await http.post("/v1/chat/completions", json=HI)
    assert [request.client for request in engine.requests] == [client]


async def test_with_keys_a_client_is_a_key(engine: FakeEngine, connect: Connect) -> None:
    client = connect(api_keys=("one", "two"))
    for key in ("one", "two", "one"):
        await client.post("/v1/chat/completions", json=HI, headers={"x-api-key": key})
    assert [request.client for request in engine.requests] == ["#1", "#2", "#1"]
