"""Requests as bytes, and what came back in a few words."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

_PATIENCE_S = 60.0


def post(path: str, body: bytes | dict[str, Any], *headers: str) -> bytes:
    """A POST request that closes its connection."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    lines += [f"Content-Length: {len(data)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode() + data


async def send(port: int, *parts: bytes, pause_s: float = 0.0) -> str:
    """Send parts with pauses between them; the status and the error's code, or "closed"."""
    writer = None
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
        for i, part in enumerate(parts):
            if i and pause_s:
                await asyncio.sleep(pause_s)  # the client sends slowly
            writer.write(part)
            with contextlib.suppress(ConnectionError):  # refused meanwhile: the answer is there
                await writer.drain()
        answer = await asyncio.wait_for(reader.read(), _PATIENCE_S)
    except (ConnectionError, asyncio.IncompleteReadError):
        return "closed"
    except TimeoutError:
        return "silent"
    finally:
        if writer is not None:
            writer.close()
    return _in_words(answer)


def tally(outcomes: Iterable[str]) -> str:
    """How often each came."""
    found = Counter(outcomes)
    several = sum(found.values()) > 1
    return ", ".join(f"{n}x {text}" if several else text for text, n in found.most_common())


def _in_words(answer: bytes) -> str:
    if not answer.startswith(b"HTTP/1.1 "):
        return "closed" if not answer else "no HTTP"
    status = answer[9:12].decode()
    _, _, body = answer.partition(b"\r\n\r\n")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return f"{status} {json.loads(body[body.index(b'{') : body.rindex(b'}') + 1])['error']['code']}"
    return status
