"""Events of a response with the prompt's progress and the answer's timings, as llama-server sends them."""

from vram_llm.server.parsed_stream import ParsedChunk
from vram_llm.server.responses.writer import ResponseWriter
from vram_llm.server.sse import with_member
from vram_llm.server.timings import ChoiceClock


class TimedResponse:
    """A writer of a response's events that adds progress and timings.

    `progress`: a "response.in_progress" with `prompt_progress` for each part of the prompt. `timings`: every
    event from the first text on has `timings`.
    """

    def __init__(self, writer: ResponseWriter, clock: ChoiceClock, *, progress: bool, timings: bool) -> None:
        self._writer = writer
        self._clock = clock
        self._progress = progress
        self._timings = timings
        self.opening, self.failure = writer.opening, writer.failure

    def event(self, index: int, item: ParsedChunk) -> bytes:
        """The next events."""
        before = b""
        if self._progress and item.token.prompt_tokens:
            reports = self._clock.progress(item.token)
            before = b"".join(self._writer.progress(report) for report in reports)
        return before + self._timed(self._writer.event(index, item))

    def closing(self) -> bytes:
        """The last events, with the complete response."""
        return self._timed(self._writer.closing())

    def _timed(self, events: bytes) -> bytes:
        return with_member(events, "timings", self._clock.timings()) if self._timings and events else events
