"""HEAD, slashes at the end, compressed bodies."""

import gzip
import json
import zlib

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from tests.server.conftest import Connect
from vram_llm.errors import Overloaded
from vram_llm.server.normalize_request import NormalizeRequestMiddleware
from vram_llm.server.read_body import BodyBudget

CHAT = json.dumps({"model": "", "messages": [{"role": "user", "content": "hi"}]}).encode()


@pytest.mark.parametrize("path", ["/", "/health", "/v1/health", "/v1/models", "/models/", "/v1/models/tiny"])
async def test_head_is_get_without_a_body(client: httpx.AsyncClient, path: str) -> None:
    head, get = await client.head(path), await client.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"") == (200, b"")
    assert head.headers["content-length"] == str(len(get.content))


@pytest.mark.parametrize("path", ["/v1/chat/completions/", "/chat/completions//"])
async def test_a_slash_at_the_end_changes_nothing(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.post(path, content=CHAT)).status_code == 200


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(CHAT, mtime=0)),
        ("GZIP", gzip.compress(b"\xef\xbb\xbf" + CHAT, mtime=0)),
        ("gzip", gzip.compress(CHAT[:9], mtime=0) + gzip.compress(CHAT[9:], mtime=0)),
        ("deflate", zlib.compress(CHAT)),
        ("deflate", raw_deflate(CHAT)),
        ("identity", CHAT),
    ],
)
async def test_compressed_bodies_are_read(client: httpx.AsyncClient, encoding: str, body: bytes) -> None:
    reply = await client.post("/v1/chat/completions", content=body, headers={"content-encoding": encoding})
    assert reply.json()["choices"][0]["message"]["content"] == "Hello world"


async def test_a_byte_order_mark_is_passed_over(client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/chat/completions", content=b"\xef\xbb\xbf" + CHAT)).status_code == 200


@pytest.mark.parametrize(
    ("encoding", "body", "status", "message"),
    [
        (
            "br",
            CHAT,
            415,
            "The body's encoding 'br' is not supported; send it as gzip, or uncompressed",
        ),
        (
            "gzip",
            CHAT,
            400,
            "The body is not valid gzip, contrary to its Content-Encoding",
        ),
        (
            "gzip",
            gzip.compress(CHAT, mtime=0)[:-9],
            400,
            "The body is not valid gzip, contrary to its Content-Encoding",
        ),
        (
            "gzip",
            gzip.compress(b" " * 5000, mtime=0),
            413,
            "The body is larger than 4.00 KiB once decompressed, the most taken here",
        ),
    ],
)
async def test_bodies_that_are_refused(
    connect: Connect, encoding: str, body: bytes, status: int, message: str
) -> None:
    client = connect(max_body_bytes=4096)
    reply = await client.post("/v1/chat/completions", content=body, headers={"content-encoding": encoding})
    assert (reply.status_code, reply.json()["error"]["message"]) == (status, message)


async def test_the_address_itself_says_what_it_is_without_a_key(connect: Connect) -> None:
    reply = await connect(api_keys=("k",)).get("/")
    assert reply.status_code == 200
    assert (reply.json()["name"], "model" in reply.json()) == ("vram-llm", False)


async def test_decompressed_bytes_count_among_those_of_all_bodies() -> None:
    body = gzip.compress(b"0" * 2000)
    sent = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Message:
        return next(sent)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        pytest.fail("the body was taken")

    async def send(message: Message) -> None:
        pytest.fail("an answer was sent")

    headers = [(b"content-encoding", b"gzip")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
    with BodyBudget(1000).body(), pytest.raises(Overloaded, match="1000 B is the most"):
        await NormalizeRequestMiddleware(app, max_body_bytes=5000)(scope, receive, send)
