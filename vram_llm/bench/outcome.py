"""The outcome of one request of the load: when it was sent, and when its tokens came."""

import itertools
from dataclasses import dataclass, field


@dataclass(slots=True)
class RequestOutcome:
    """One request. Times are seconds of one monotonic clock; `error` is empty if the answer is complete."""

    prompt_tokens: int
    arrived_at: float = 0.0
    """When the request was due; it may have waited here for --max-concurrency."""
    asked_at: float = 0.0
    """When it was sent."""
    token_times: list[float] = field(default_factory=list)
    """When each piece of the answer came. A piece usually is one token."""
    output_tokens: int | None = None
    """By the server's count; None if it gives none."""
    text_parts: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether the answer arrived to its end, and had a token."""
        return not self.error and bool(self.token_times)

    @property
    def n_output(self) -> int:
        """Tokens of the answer: the server's count, else the number of pieces; 0 if the request failed."""
        if not self.is_complete:
            return 0
        return self.output_tokens or len(self.token_times)

    @property
    def ttft_s(self) -> float:
        """Seconds from sending to the first token; 0 without one."""
        return self.token_times[0] - self.asked_at if self.token_times else 0.0

    @property
    def latency_s(self) -> float:
        """Seconds from sending to the last token; 0 without one."""
        return self.token_times[-1] - self.asked_at if self.token_times else 0.0

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between pieces: one fewer than pieces."""
        return [after - before for before, after in itertools.pairwise(self.token_times)]

    @property
    def tpot_s(self) -> float | None:
        """Seconds per token after the first; None for an answer of one token."""
        if self.n_output < 2:
            return None
        return (self.latency_s - self.ttft_s) / (self.n_output - 1)

    @property
    def queue_s(self) -> float:
        """Seconds that the request waited in this program before it was sent."""
        return self.asked_at - self.arrived_at

    @property
    def text(self) -> str:
        """The answer."""
        return "".join(self.text_parts)
