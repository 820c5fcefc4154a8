"""Native streams: an object a chunk, and no [DONE] at the end."""

import msgspec

from vram_llm.engine.request import TokenEvent
from vram_llm.server.errors import error_body
from vram_llm.server.native.choice import NativeChoice

_encode = msgspec.json.encode


class NativeChunks:
    """Writes the chunks of one reply. See sse.Writer."""

    def __init__(self, choices: list[NativeChoice]) -> None:
        self._choices = choices

    def opening(self) -> bytes:
        """Bytes before the first event."""
        return b""

    def event(self, index: int, item: TokenEvent) -> bytes:
        """The chunks of an event of choice `index`."""
        choice = self._choices[index]
        choice.observe(item)
        objects = []
        if choice.fields.return_progress and item.prompt_tokens:
            progress = choice.clock.progress(item)
            objects += [{**choice.partial("", ()), "prompt_progress": report} for report in progress]
        if item.prompt_done is None:
            objects += choice.partials(item)
        if item.finish_reason is not None:
            objects.append(choice.final(item))
        return b"".join(_line(each) for each in objects)

    def closing(self) -> bytes:
        """Bytes after the end of all choices."""
        return b""

    def failure(self, error: Exception) -> bytes:
        """A data line with `error`."""
        return _line(error_body(error))


def _line(value: object) -> bytes:
    return b"data: " + _encode(value) + b"\n\n"
