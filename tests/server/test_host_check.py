"""Host names and web pages."""

from typing import Any

import httpx
import pytest

from tests.server.conftest import Connect
from vram_llm.errors import KeyRequired
from vram_llm.machine.worker_spec import is_loopback
from vram_llm.server.config import ServerConfig
from vram_llm.server.host_check import check_exposure
from vram_llm.server.sockets import bind_all, close_all

PAGE = "https://chat.example"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("a.localhost", True),
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("192.168.1.2", False),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 200),
        ("localhost", 200),
        ("LocalHost:1", 200),
        ("[::1]:8080", 200),
        ("gpu.lan", 200),
        ("GPU.lan.:8080", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
async def test_a_page_cannot_give_the_server_a_name_of_its_own(
    connect: Connect, host: str, status: int
) -> None:
    response = await connect(hosts=frozenset({"gpu.lan"})).get("/v1/models", headers={"host": host})
    assert response.status_code == status
    if status == 403:
        assert response.json()["error"]["code"] == "host_not_allowed"


async def test_any_name_if_names_are_not_strict(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/models", headers={"host": "evil.example"})).status_code == 200


async def test_pages_may_not_read_unless_asked_for(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/models", headers={"origin": PAGE})
    assert "access-control-allow-origin" not in response.headers
    asking = {"origin": PAGE, "access-control-request-method": "POST"}
    assert (await client.options("/v1/models", headers=asking)).status_code == 405


async def test_allowed_pages(connect: Connect) -> None:
    client = connect(cors_origins=(PAGE,), api_keys=("k",))
    asking = {"origin": PAGE, "access-control-request-method": "POST"}
    allowed = await client.options("/v1/chat/completions", headers=asking)  # comes without a key
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, PAGE)
    refused = await client.get("/v1/models", headers={"origin": PAGE})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == PAGE  # so that the page can read why
    other = await client.get("/v1/models", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize(
    ("origins", "origin", "is_allowed"),
    [
        (("*",), PAGE, True),
        (("localhost",), "http://localhost", True),
        (("localhost",), "http://localhost:3000", True),
        (("localhost",), "http://127.0.0.1:8080", True),
        (("localhost",), "http://[::1]:3000", True),
        (("localhost", PAGE), PAGE, True),
        (("localhost",), PAGE, False),
        (("localhost",), "http://notlocalhost", False),
        (("localhost",), "http://localhost.evil.com", False),
        (("localhost",), "http://[", False),
        ((PAGE,), "http://localhost", False),
    ],
)
async def test_words_for_many_pages(
    connect: Connect, origins: tuple[str, ...], origin: str, is_allowed: bool
) -> None:
    """The answer names the page that asks, before a request and after; no credentials."""
    client = connect(cors_origins=origins)
    asking = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "Authorization",
    }
    answers = [
        await client.options("/v1/chat/completions", headers=asking),
        await client.get("/v1/models", headers={"origin": origin}),
    ]
    for answer in answers:
        assert answer.status_code == 200
        assert answer.headers.get("access-control-allow-origin") == (origin if is_allowed else None)
        assert "access-control-allow-credentials" not in answer.headers
        assert "Origin" in answer.headers.get("vary", "") or not is_allowed
    if is_allowed:
        assert answers[0].headers["access-control-allow-methods"] == "GET, POST, DELETE, OPTIONS"
        assert answers[0].headers["access-control-allow-headers"] == "Authorization"


@pytest.mark.parametrize(
    ("host", "more", "refused"),
    [
        ("127.0.0.1", {}, False),
        ("127.0.0.1,127.0.0.2", {}, False),
        ("localhost", {}, False),
        ("0.0.0.0", {}, True),
        ("127.0.0.1,0.0.0.0", {}, True),
        ("0.0.0.0", {"api_keys": ("k",)}, False),
        ("0.0.0.0", {"insecure": True}, False),
    ],
)
def test_other_computers_need_a_key(host: str, more: dict[str, Any], refused: bool) -> None:
    socks = [sock for part in host.split(",") for sock in bind_all(part, 0)]
    try:
        if refused:
            with pytest.raises(KeyRequired, match=r"no API key is set: .* --insecure"):
                check_exposure(socks, ServerConfig(host=host, **more))
        else:
            check_exposure(socks, ServerConfig(host=host, **more))
    finally:
        close_all(socks)
