"""A server of known latencies: the first token after a time, the others at even times after it.

    python -m tests.bench.timed_server --port 8000 --ttft-ms 200 --itl-ms 20 [--in-steps]

It has no model: tokens are words, and each text of a completion is the time (time.perf_counter) at which it
was written. That clock is the system's on Linux, so a client can tell how long each piece took to arrive.
With --in-steps all streams are written together, as an engine does.
"""

import argparse
import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

_HEAD_END = b"\r\n\r\n"
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass
class TimedServer:
    """What it answers, and when. `requests` are the bodies of completions and chats that it got."""

    ttft_s: float = 0.0
    itl_s: float = 0.0
    in_steps: bool = False
    model: str = "timed"
    key: str | None = None
    has_tokenizer: bool = True
    takes_ids: bool = True
    takes_ignore_eos: bool = True
    prefix: str = ""  # of all paths
    n_added: int = 1  # tokens in front of each prompt
    n_trial: int = 1  # tokens for a request of one token
    lose_after: int | None = None  # tokens, after which the connection is closed
    requests: list[dict[str, Any]] = field(default_factory=list)
    _words: dict[str, int] = field(default_factory=dict)

    async def listen(self, port: int = 0) -> asyncio.Server:
        """Listen on 127.0.0.1."""
        return await asyncio.start_server(self.serve, "127.0.0.1", port, backlog=1024)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while head := await reader.readuntil(_HEAD_END):
                line, *headers = head.decode("latin-1").split("\r\n")
                fields = dict(header.split(": ", 1) for header in headers if header)
                body = await reader.readexactly(int(fields.get("Content-Length", "0")))
                await self._answer(line.split()[1], fields, body, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client has gone, or the loop ends
        finally:
            writer.close()

    async def _answer(
        self, path: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter
    ) -> None:
        asked = json.loads(body) if body else {}
        path = path.removeprefix(self.prefix) if path.startswith(self.prefix) else ""
        if self.key is not None and headers.get("Authorization") != f"Bearer {self.key}":
            _reply(writer, 401, _error("Incorrect API key provided."))
        elif path == "/v1/models":
            _reply(writer, 200, {"object": "list", "data": [{"id": self.model}]})
        elif path == "/tokenize" and self.has_tokenizer:
            _reply(writer, 200, {"tokens": self._ids(asked["prompt"])})
        elif path == "/detokenize" and self.has_tokenizer:
            texts = list(self._words)
            _reply(writer, 200, {"content": " ".join(texts[token] for token in asked["tokens"])})
        elif path not in ("/v1/completions", "/v1/chat/completions"):
            _reply(writer, 404, {"detail": "Not Found"})
        elif asked["model"] != self.model:
            _reply(writer, 404, _error(f"The model `{asked['model']}` does not exist."))
        elif not self.takes_ignore_eos and "ignore_eos" in asked:
            _reply(writer, 400, _error("Unrecognized request argument supplied: ignore_eos"))
        elif not self.takes_ids and not isinstance(asked.get("prompt", ""), str):
            _reply(writer, 400, _error("'prompt' must be a string"))
        else:
            self.requests.append(asked)
            await self._stream(asked, writer)

    def _ids(self, text: str) -> list[int]:
        return [self._words.setdefault(word, len(self._words)) for word in text.split()]

    async def _stream(self, asked: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        due = time.perf_counter() + self.ttft_s
        if self.in_steps and self.itl_s:
            due += -due % self.itl_s
        is_chat = "messages" in asked
        prompt = asked["messages"][-1]["content"] if is_chat else asked["prompt"]
        n_prompt = len(self._ids(prompt)) + self.n_added if isinstance(prompt, str) else len(prompt)
        n_output = asked["max_completion_tokens"] if is_chat else asked["max_tokens"]
        n_output = self.n_trial if n_output == 1 else n_output
        writer.write(
            _STREAM_HEAD + (_event(_choice({"role": "assistant", "content": ""})) if is_chat else b"")
        )
        for i in range(n_output):
            if i == self.lose_after:
                writer.transport.abort()
                return
            if (wait_s := due + i * self.itl_s - time.perf_counter()) > 0:
                await asyncio.sleep(wait_s)  # the latency that is to be found
            text = f"{time.perf_counter():.6f} "
            writer.write(_event(_choice({"content": text}) if is_chat else {"choices": [{"text": text}]}))
        last = _choice({}) if is_chat else {"choices": [{"text": ""}]}
        last["choices"][0]["finish_reason"] = "length"
        usage = {"prompt_tokens": n_prompt, "completion_tokens": n_output}
        writer.write(
            _event(last) + _event({"choices": [], "usage": usage}) + _chunk(b"data: [DONE]\n\n") + _chunk(b"")
        )


def _choice(delta: dict[str, Any]) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta}]}


def _event(fields: dict[str, Any]) -> bytes:
    return _chunk(f"data: {json.dumps(fields)}\n\n".encode())


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}


def _reply(writer: asyncio.StreamWriter, status: int, fields: dict[str, Any]) -> None:
    body = json.dumps(fields).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)


async def _main(server: TimedServer, port: int) -> None:
    async with await server.listen(port) as listening:
        await listening.serve_forever()


if __name__ == "__main__":
    import uvloop

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ttft-ms", type=float, default=0.0)
    parser.add_argument("--itl-ms", type=float, default=0.0)
    parser.add_argument("--in-steps", action="store_true")
    given = parser.parse_args()
    uvloop.run(_main(TimedServer(given.ttft_ms / 1000, given.itl_ms / 1000, given.in_steps), given.port))
