"""The requests as the server's process sees them: their states, and histograms of their times and sizes.

The histograms are vLLM's, with its names and buckets (v1/metrics/loggers.py): the time to the first token
counts from the request's arrival, before its prompt is tokenised, and the times between tokens include
preemptions and restarts. Tokens that come in one event are one observation.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from vram_llm.engine.adapters import Adapters
from vram_llm.engine.bucket_counts import BucketCounts, bounds_1_2_5
from vram_llm.engine.request import EmbeddingRequest, FinishReason, Request, TokenEvent

_FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_TOKEN_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
_REQUEST_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
)  # fmt: skip
_CHOICES = (1, 2, 5, 10, 20)
ABORT = "abort"  # vLLM's word
_ENDINGS = {FinishReason.CANCELLED: ABORT}

RequestState = Literal["waiting", "prefill", "decode"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSnapshot:
    """A request in flight. None: not known yet."""

    id: str
    client: str  # the name of its API key, or its address where there are no keys
    state: RequestState
    prompt_tokens: int | None
    cached_tokens: int | None
    generated_tokens: int
    max_tokens: int | None  # None: to the end of the context
    adapters: Adapters | None  # None: all, as planned
    age_s: float
    slot: int | None = None  # the number of its slot, once it runs

    @property
    def n_tokens(self) -> int:
        """Tokens of its sequence."""
        return (self.prompt_tokens or 0) + self.generated_tokens


@dataclass(slots=True, eq=False)
class RequestTimes:
    """Times of one request, in seconds of one clock, and its counts as the engine sent them."""

    client: str
    arrived_at: float
    submitted_at: float
    max_tokens: int | None
    adapters: Adapters | None = None
    started_at: float | None = None  # when it left the queue; None: it has not waited there
    first_at: float | None = None
    last_at: float = 0.0
    n_prompt: int = 0
    n_cached: int = 0
    n_generated: int = 0
    is_over: bool = False
    slot: int | None = None


@dataclass(slots=True)
class RequestHistograms:
    """Of requests that ended with an answer; the first two of all tokens."""

    most_tokens: int
    time_to_first_token_s: BucketCounts = field(default_factory=lambda: BucketCounts(_FIRST_TOKEN_S))
    inter_token_latency_s: BucketCounts = field(default_factory=lambda: BucketCounts(_TOKEN_S))
    time_per_output_token_s: BucketCounts = field(default_factory=lambda: BucketCounts(_TOKEN_S))
    end_to_end_s: BucketCounts = field(default_factory=lambda: BucketCounts(_REQUEST_S))
    queue_s: BucketCounts = field(default_factory=lambda: BucketCounts(_REQUEST_S))
    prefill_s: BucketCounts = field(default_factory=lambda: BucketCounts(_REQUEST_S))
    decode_s: BucketCounts = field(default_factory=lambda: BucketCounts(_REQUEST_S))
    inference_s: BucketCounts = field(default_factory=lambda: BucketCounts(_REQUEST_S))
    prompt_tokens: BucketCounts = field(init=False)
    generation_tokens: BucketCounts = field(init=False)
    max_tokens: BucketCounts = field(init=False)
    choices: BucketCounts = field(default_factory=lambda: BucketCounts(_CHOICES))

    def __post_init__(self) -> None:
        bounds = bounds_1_2_5(self.most_tokens)
        self.prompt_tokens = BucketCounts(bounds)
        self.generation_tokens = BucketCounts(bounds)
        self.max_tokens = BucketCounts(bounds)


class RequestMetrics:
    """The requests in flight, and what those before them were like. Call it with times of one clock."""

    def __init__(self, most_tokens: int) -> None:
        """`most_tokens` are those of one sequence."""
        self.histograms = RequestHistograms(most_tokens)
        self.endings: Counter[str] = Counter()  # requests by vLLM's finished_reason
        self.longest = 0  # most tokens of a sequence
        self._requests: dict[str, RequestTimes] = {}
        self._tick: list[RequestTimes] = []  # the requests of the columns of DecodeTicks
        self._waiting: frozenset[str] = frozenset()

    # -- events ----------------------------------------------------------------------------------

    def begin(self, request: Request | EmbeddingRequest, now: float) -> None:
        """A request was submitted."""
        client, arrived_at = request.client, request.arrived_at or now
        if isinstance(request, EmbeddingRequest):
            self._requests[request.id] = RequestTimes(client, arrived_at, now, max_tokens=0)
            return
        times = RequestTimes(client, arrived_at, now, request.max_tokens, request.adapters)
        self._requests[request.id] = times
        if request.n:
            self.histograms.choices.observe(request.n)

    def note_waiting(self, ids: Iterable[str], now: float) -> None:
        """`ids` are all requests that wait for a slot."""
        waiting = frozenset(ids)
        for request_id in self._waiting - waiting:
            if (times := self._requests.get(request_id)) is not None and times.first_at is None:
                times.started_at = now
        self._waiting = waiting

    def note_slots(self, running: Mapping[str, int]) -> None:
        """The slots of all requests that run."""
        for request_id, times in self._requests.items():
            times.slot = running.get(request_id)

    def note_events(self, events: Iterable[TokenEvent], now: float) -> None:
        """The events of a step."""
        for event in events:
            if (times := self._requests.get(event.id)) is None:
                continue
            if event.prompt_tokens:
                times.n_prompt, times.n_cached = event.prompt_tokens, event.cached_tokens
            if event.token_ids:
                self._note_tokens(times, len(event.token_ids), now)
            if event.finish_reason is not None:
                self.end(event.id, _ENDINGS.get(event.finish_reason, event.finish_reason.value), now)

    def note_tick(self, ids: list[str], now: float) -> None:
        """A steady step. `ids` are its requests; empty: the same ones as in the last tick with ids."""
        if ids:
            self._tick = [times for i in ids if (times := self._requests.get(i)) is not None]
        for times in self._tick:
            if not times.is_over:
                self._note_tokens(times, 1, now)

    def note_embedded(self, request_id: str, n_tokens: int, now: float) -> None:
        """Texts of `n_tokens` were embedded."""
        if (times := self._requests.get(request_id)) is not None:
            times.n_prompt, times.last_at = n_tokens, now
            self.end(request_id, FinishReason.STOP.value, now)

    def end(self, request_id: str, ending: str, now: float) -> None:
        """A request has ended; one that has ended before is no error."""
        times = self._requests.pop(request_id, None)
        if times is None:
            return
        times.is_over = True
        self.endings[ending] += 1
        self.longest = max(self.longest, times.n_prompt + times.n_generated)
        if ending in (FinishReason.STOP, FinishReason.LENGTH):
            self._observe(times, now)

    def forget(self, request_id: str) -> None:
        """Another engine answers a request: it does not count here."""
        if (times := self._requests.pop(request_id, None)) is not None:
            times.is_over = True

    def _note_tokens(self, times: RequestTimes, n: int, now: float) -> None:
        if times.first_at is None:
            times.first_at = now
            self.histograms.time_to_first_token_s.observe(now - times.arrived_at)
        else:
            self.histograms.inter_token_latency_s.observe(now - times.last_at)
        times.last_at = now
        times.n_generated += n

    def _observe(self, times: RequestTimes, now: float) -> None:
        """The histograms of whole requests."""
        found = self.histograms
        started_at = times.submitted_at if times.started_at is None else times.started_at
        first_at = now if times.first_at is None else times.first_at
        last_at = times.last_at or now
        found.end_to_end_s.observe(now - times.arrived_at)
        found.queue_s.observe(started_at - times.submitted_at)
        found.prefill_s.observe(first_at - started_at)
        found.decode_s.observe(last_at - first_at)
        found.inference_s.observe(last_at - started_at)
        found.prompt_tokens.observe(times.n_prompt)
        found.generation_tokens.observe(times.n_generated)
        if times.max_tokens:
            found.max_tokens.observe(times.max_tokens)
        if times.n_generated > 1:
            found.time_per_output_token_s.observe((last_at - first_at) / (times.n_generated - 1))

    # -- state -----------------------------------------------------------------------------------

    def snapshots(self, unsent: frozenset[str], now: float) -> Iterator[RequestSnapshot]:
        """The requests in flight, by arrival. `unsent` are those that no engine has yet."""
        for request_id, times in self._requests.items():
            yield RequestSnapshot(
                id=request_id,
                client=times.client,
                state=self._state(request_id, times, unsent),
                prompt_tokens=times.n_prompt or None,
                cached_tokens=times.n_cached if times.n_prompt else None,
                generated_tokens=times.n_generated,
                max_tokens=times.max_tokens,
                adapters=times.adapters,
                age_s=now - times.arrived_at,
                slot=times.slot,
            )

    def _state(self, request_id: str, times: RequestTimes, unsent: frozenset[str]) -> RequestState:
        if request_id in self._waiting or request_id in unsent:
            return "waiting"
        return "prefill" if times.first_at is None else "decode"
