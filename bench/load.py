"""A light load generator for completion endpoints, since it shares the processors with the servers.

It writes whole requests to sockets, and reads of the answers only their times.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

Prompt = Sequence[int] | str  # tokens or text


@dataclass
class Stream:
    """One streamed answer: the times of its request and of its chunks (time.perf_counter)."""

    asked_at: float
    chunks: list[float] = field(default_factory=list)
    text: bytes = b""

    @property
    def ttft_s(self) -> float:
        """Seconds to the first chunk."""
        return self.chunks[0] - self.asked_at

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between chunks."""
        return [after - before for before, after in zip(self.chunks, self.chunks[1:], strict=False)]


async def complete(
    port: int,
    prompt: Prompt,
    n_tokens: int,
    *,
    path: str = "/v1/completions",
    into: Stream | None = None,
    key: str = "none",
    model: str | None = None,
) -> Stream:
    """Stream `n_tokens` greedy tokens after `prompt`, into `into` if it is given, with an API key.

    Without `model` the server has only one.     Raises SystemExit if the server refuses.
    """
    wish: dict[str, object] = {
        "prompt": prompt if isinstance(prompt, str) else list(prompt),
        "max_tokens": n_tokens,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
    }
    if model is not None:
        wish["model"] = model
    body = json.dumps(wish).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {key}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    stream = into or Stream(0.0)
    stream.asked_at = time.perf_counter()
    writer.write(head.encode() + body)
    parts = []
    while data := await reader.read(1 << 16):
        now = time.perf_counter()
        stream.chunks += [now] * data.count(b'"text":')
        parts.append(data)
    writer.close()
    stream.text = b"".join(parts)
    if b"200 OK" not in stream.text[:20] or b"[DONE]" not in stream.text[-40:] or not stream.chunks:
        raise SystemExit(f"the server on port {port} answered: {stream.text[:600].decode(errors='replace')}")
    return stream


async def together(port: int, prompts: Sequence[Prompt], n_tokens: int) -> tuple[float, list[Stream]]:
    """Send all requests at once. Returns tokens per second of all together, and the answers."""
    started = time.perf_counter()
    streams = await asyncio.gather(*(complete(port, prompt, n_tokens) for prompt in prompts))
    return len(prompts) * n_tokens / (time.perf_counter() - started), streams
