"""Server-sent events of a completion or chat, read into a RequestOutcome: which pieces are tokens, and when.

A sink that raises would end the connection, so faults of a stream become the outcome's error.
"""

from typing import Any

import msgspec

from vram_llm.bench.outcome import RequestOutcome

_DATA, _DONE = b"data:", b"[DONE]"


class ChunkUsage(msgspec.Struct):
    """Tokens of a request by the server's count."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class ChunkDelta(msgspec.Struct):
    """The part that a chunk of a chat adds."""

    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None  # DeepSeek's name, llama-server's and ours
    reasoning: str | None = None  # vLLM's and OpenRouter's
    tool_calls: Any = None


class ChunkChoice(msgspec.Struct):
    """One answer of a chunk."""

    text: str | None = None
    delta: ChunkDelta | None = None
    finish_reason: str | None = None


class StreamChunk(msgspec.Struct):
    """An event of POST /v1/completions or /v1/chat/completions."""

    choices: list[ChunkChoice] | None = None
    usage: ChunkUsage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(StreamChunk).decode


class AnswerStream:
    """Reads one streamed answer: `feed` takes pieces of its body."""

    def __init__(self, outcome: RequestOutcome) -> None:
        self._outcome = outcome
        self._rest = b""
        self.is_done = False  # whether [DONE] has come

    def feed(self, data: bytes, read_at: float) -> None:
        """Read the events in `data`, which came at `read_at`."""
        lines = (self._rest + data if self._rest else data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if line.startswith(_DATA):
                self._event(line[len(_DATA) :].strip(), read_at)

    def _event(self, payload: bytes, read_at: float) -> None:
        if payload == _DONE:
            self.is_done = True
            return
        try:
            chunk = _decode(payload)
        except msgspec.MsgspecError as error:
            self._outcome.error = f"the server sends an event that is no chunk of a completion: {error}"
            return
        if chunk.error is not None:
            self._outcome.error = error_text(msgspec.json.encode(chunk.error))
        if chunk.usage is not None:
            self._outcome.output_tokens = chunk.usage.completion_tokens or self._outcome.output_tokens
            self._outcome.prompt_tokens = chunk.usage.prompt_tokens or self._outcome.prompt_tokens
        if chunk.choices:
            self._choice(chunk.choices[0], read_at)

    def _choice(self, choice: ChunkChoice, read_at: float) -> None:
        """Count a chunk as a token, unless it has no text and only begins or ends the answer."""
        delta = choice.delta
        if delta is None:
            text, begins, has_call = choice.text, False, False
        else:
            text = delta.content or delta.reasoning_content or delta.reasoning
            begins, has_call = delta.role is not None, delta.tool_calls is not None
        if text:
            self._outcome.text_parts.append(text)
        elif not has_call and (begins or choice.finish_reason is not None):
            return
        self._outcome.token_times.append(read_at)


def error_text(body: bytes) -> str:
    """The message of an error: OpenAI's object or its content, FastAPI's `detail`, or the text itself."""
    try:
        found = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        return body.decode(errors="replace").strip()
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    return found if isinstance(found, str) else msgspec.json.encode(found).decode()
