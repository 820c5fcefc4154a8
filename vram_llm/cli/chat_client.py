"""One streamed answer of a chat endpoint, piece by piece, with its tokens and times."""

import json
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import httpx

from vram_llm.cli.server_address import base_url, is_of_this_computer
from vram_llm.errors import RequestError, ServerUnreachable

_DATA, _DONE = "data: ", "[DONE]"
_UNAVAILABLE = "unavailable_error"  # the type of errors while a server is not ready
_ASK_S = 10.0


class AnswerLost(ServerUnreachable):
    """The server went away in the middle of an answer."""


@dataclass(frozen=True, slots=True)
class AnswerPiece:
    """Some text of the answer, or of the thought before it."""

    text: str
    is_thought: bool = False


@dataclass(slots=True)
class StreamedAnswer:
    """The part of an answer received so far. Times are of this computer's clock; unknown is None."""

    text: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    first_piece_s: float | None = None
    seconds: float = 0.0
    pieces: int = 0

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens of the answer per second of its whole time, the prompt included; None if unknown."""
        if self.completion_tokens is None or not self.seconds:
            return None
        return self.completion_tokens / self.seconds


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A server's first model. `takes_images` is None if the server does not report it."""

    name: str
    takes_images: bool | None


class ChatClient:
    """An OpenAI endpoint to chat with, at "HOST:PORT" or a URL."""

    def __init__(self, address: str, api_key: str | None) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.url = base_url(address)
        self._client = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(_ASK_S, read=None),
            verify=httpx.create_ssl_context()
            if self.url.startswith("https:")
            else True,  # $SSL_CERT_FILE too
            trust_env=not is_of_this_computer(self.url),
        )

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def model(self) -> ServedModel:
        """The server's first model. Raises ServerUnreachable, RequestError."""
        try:
            reply = self._client.get(f"{self.url}/models", timeout=_ASK_S)
            _check(reply)
            card = reply.json()["data"][0]
            return ServedModel(str(card["id"]), _takes_images(card))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServerUnreachable(
                f"no server answers at {self.url}: {error}; start one with `vram-llm serve`"
            ) from None
        except (ValueError, LookupError, TypeError):
            raise ServerUnreachable(
                f"the program at {self.url} is not an OpenAI endpoint; the address ends in /v1"
            ) from None

    def is_up(self) -> bool:
        """Whether the server answers and has a model."""
        try:
            self.model()
        except (ServerUnreachable, RequestError):
            return False
        return True

    def stream(self, request: dict[str, Any], answer: StreamedAnswer) -> Generator[AnswerPiece, None, None]:
        """Yield the pieces of an answer, and add them to `answer`. Closing the generator stops the server's
        work.

        Raises RequestError; ServerUnreachable if the server may answer the same request later; AnswerLost if
        the answer had begun.
        """
        try:
            yield from self._stream(request, answer)
        except ServerUnreachable as error:
            if answer.pieces:
                raise AnswerLost(str(error)) from None
            raise

    def _stream(self, request: dict[str, Any], answer: StreamedAnswer) -> Generator[AnswerPiece, None, None]:
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
        except httpx.ConnectError:
            raise ServerUnreachable(f"no server answers at {self.url}") from None
        except httpx.HTTPError as error:
            raise ServerUnreachable(f"the connection to {self.url} is lost: {error}") from None


def _takes_images(card: dict[str, Any]) -> bool | None:
    """Whether the card lists images among the inputs, as OpenRouter's cards and ours do."""
    inputs = (card.get("architecture") or {}).get("input_modalities")
    return None if inputs is None else "image" in inputs


def _events(reply: httpx.Response) -> Generator[dict[str, Any], None, None]:
    is_complete = False
    for line in reply.iter_lines():
        is_complete = is_complete or line == _DATA + _DONE
        if not line.startswith(_DATA) or line == _DATA + _DONE:
            continue
        event = json.loads(line[len(_DATA) :])
        if "error" in event:
            raise _error_of(event["error"])
        yield event
    if not is_complete:
        raise ServerUnreachable("the server closed the stream before the end of the answer")


def _pieces(event: dict[str, Any]) -> Generator[AnswerPiece, None, None]:
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        if thought := delta.get("reasoning_content"):
            yield AnswerPiece(thought, is_thought=True)
        if text := delta.get("content"):
            yield AnswerPiece(text)


def _error_of(error: dict[str, Any]) -> RequestError | ServerUnreachable:
    message = str(error.get("message"))
    return ServerUnreachable(message) if error.get("type") == _UNAVAILABLE else RequestError(message)


def _check(reply: httpx.Response) -> None:
    """Raises RequestError with the server's own sentence, or ServerUnreachable if it is not ready."""
    if not reply.is_error:
        return
    try:
        error = _error_of(reply.json()["error"])
    except (ValueError, LookupError, TypeError, AttributeError):
        error = RequestError(f"the server answers {reply.status_code}")
    if isinstance(error, ServerUnreachable) and reply.headers.get("x-should-retry") == "false":
        error = RequestError(str(error))
    raise error
