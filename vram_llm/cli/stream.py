"""One streamed answer of a chat endpoint, piece by piece, and what it took."""

import json
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import httpx

from vram_llm.errors import RequestError, ServerUnreachable

_DATA, _DONE = "data: ", "[DONE]"


@dataclass(frozen=True, slots=True)
class AnswerPiece:
    """Some text of the answer, or of the thought before it."""

    text: str
    is_thought: bool = False


@dataclass(slots=True)
class StreamedAnswer:
    """What has come so far of one answer. Times are of this computer's clock; unknown is None."""

    text: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    first_piece_s: float | None = None
    seconds: float = 0.0
    pieces: int = 0

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens of the answer over all of its time, the prompt's included; None where they were not told."""
        if self.completion_tokens is None or not self.seconds:
            return None
        return self.completion_tokens / self.seconds


class ChatServer:
    """An OpenAI endpoint to chat with."""

    def __init__(self, url: str, api_key: str | None) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.url = url.rstrip("/")
        self._client = httpx.Client(headers=headers, timeout=httpx.Timeout(10.0, read=None))

    def close(self) -> None:
        self._client.close()

    def model(self) -> str:
        """The first model there is. Raises ServerUnreachable, RequestError."""
        try:
            reply = self._client.get(f"{self.url}/models", timeout=10.0)
            _check(reply)
            return str(reply.json()["data"][0]["id"])
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServerUnreachable(
                f"no server answers at {self.url}: {error}; start one with `vram-llm serve`"
            ) from None
        except (ValueError, LookupError, TypeError):
            raise ServerUnreachable(
                f"what answers at {self.url} is no OpenAI endpoint; the address ends in /v1"
            ) from None

    def stream(self, request: dict[str, Any], answer: StreamedAnswer) -> Generator[AnswerPiece, None, None]:
        """The pieces of an answer, which are added to `answer` too; closing the generator stops the server's
        work. Raises RequestError, ServerUnreachable.
        """
        body = {**request, "stream": True, "stream_options": {"include_usage": True}}
        begun = time.perf_counter()
        try:
            with self._client.stream("POST", f"{self.url}/chat/completions", json=body) as reply:
                if reply.is_error:
                    reply.read()
                    _check(reply)
                for event in _events(reply):
                    answer.seconds = time.perf_counter() - begun
                    if event.get("usage"):
                        answer.prompt_tokens = event["usage"]["prompt_tokens"]
                        answer.completion_tokens = event["usage"]["completion_tokens"]
                    for piece in _pieces(event):
                        answer.first_piece_s = answer.first_piece_s or answer.seconds
                        answer.pieces += 1
                        answer.text += "" if piece.is_thought else piece.text
                        yield piece
        except httpx.HTTPError as error:
            raise ServerUnreachable(f"the server at {self.url} is gone: {error}") from None


def _events(reply: httpx.Response) -> Generator[dict[str, Any], None, None]:
    for line in reply.iter_lines():
        if not line.startswith(_DATA) or line == _DATA + _DONE:
            continue
        event = json.loads(line[len(_DATA) :])
        if "error" in event:
            raise RequestError(str(event["error"].get("message")))
        yield event


def _pieces(event: dict[str, Any]) -> Generator[AnswerPiece, None, None]:
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        if thought := delta.get("reasoning_content"):
            yield AnswerPiece(thought, is_thought=True)
        if text := delta.get("content"):
            yield AnswerPiece(text)


def _check(reply: httpx.Response) -> None:
    """Raises RequestError with the server's own sentence."""
    if not reply.is_error:
        return
    try:
        raise RequestError(str(reply.json()["error"]["message"]))
    except (ValueError, LookupError, TypeError):
        raise RequestError(f"the server answers {reply.status_code}") from None
