"""The requests in flight of a model's replicas: where each is, how much of it is left, how long answers are.

Facts for `replica_choice.py`. No clock, no engine.
"""

from collections import Counter
from collections.abc import Set
from dataclasses import dataclass, field, replace
from itertools import islice

from vram_llm.engine.request import EmbeddingRequest, Request, TokenEvent
from vram_llm.fleet.prefix_index import NOTHING_HELD, HeldPrefix, PrefixKey, prefix_keys
from vram_llm.fleet.replica_choice import ReplicaLoad, RequestSize, StepCost

_WEIGHT = 0.1  # of the newest observation
_CHARS_PER_TOKEN = 4.0  # assumed, before the first prompt was tokenized
_ANSWER_TOKENS = 128.0  # assumed, before the first answer without a limit has ended
_LEAST_EXPECTED = 64  # cached tokens; fewer say nothing about the engine's cache
_LEAST_LEFT = 0.1  # of an answer that is longer than expected already


@dataclass(slots=True, eq=False)
class ReplicatedRequest:
    """A request in flight. `asked` is what is submitted next: it has the tokens that are written."""

    asked: Request | EmbeddingRequest
    size: RequestSize
    unit_tokens: float  # tokens of a character of its prompt; 1 if the prompt is given in tokens
    keys: tuple[PrefixKey, ...] = ()
    replica: int = -1  # that answers it, or is to answer it next
    is_moving: bool = False  # it leaves its replica for `replica`
    is_cancelled: bool = False
    left_by: set[int] = field(default_factory=set)  # replicas that work and gave it back
    n_deaths: int = 0
    held: HeldPrefix = NOTHING_HELD  # of its prompt, by its replica, as the index had it
    prompt_left: float = 0.0  # tokens to compute before the answer begins
    n_written: int = 0
    is_counted: bool = False  # `size` has the prompt's true tokens
    text: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    @property
    def cached_tokens(self) -> int:
        """Tokens of its prompt that its replica was expected to hold."""
        return int(self.held.length * self.unit_tokens)

    @property
    def answer_left(self) -> float:
        """The expected tokens that its answer still gets."""
        return max(self.size.answer_tokens - self.n_written, _LEAST_LEFT * self.n_written)

    @property
    def left(self) -> RequestSize:
        """Its size for another replica: the tokens that are written are computed like a prompt."""
        n_given = len(self.asked.written) if isinstance(self.asked, Request) else 0
        return RequestSize(self.size.prompt_tokens + n_given, self.answer_left)

    @property
    def later_keys(self) -> tuple[PrefixKey, ...]:
        """The keys of its prompt with its answer: what its replica holds at the end."""
        if not isinstance(self.asked, Request):
            return ()
        return prefix_keys(self.asked, "".join(self.text), self.tokens)

    def hand_over(self, written: tuple[int, ...], n_deaths: int) -> None:
        """Its engine gave it back with the tokens of its answer."""
        self.n_deaths = n_deaths
        if isinstance(self.asked, Request):
            progress = self.asked.reports_progress and not written
            self.asked = replace(self.asked, written=written, n=0, reports_progress=progress)

    def note(self, event: TokenEvent) -> None:
        """An event of its answer."""
        if event.prompt_done is not None:
            self.prompt_left = max(event.prompt_tokens - event.prompt_done, 0)
        if event.token_ids:
            self.prompt_left = 0.0
            self.n_written += len(event.token_ids)
            self.tokens.extend(event.token_ids)
        if event.text:
            self.text.append(event.text)


@dataclass(slots=True)
class ReplicatedRequests:
    """All requests in flight, by arrival, and averages of those before."""

    chars_per_token: float = _CHARS_PER_TOKEN
    used_share: float = 1.0  # of the limit of an answer
    answer_tokens: float = _ANSWER_TOKENS  # of an answer without a limit
    in_flight: dict[str, ReplicatedRequest] = field(default_factory=dict)

    def begin(self, asked: Request | EmbeddingRequest) -> ReplicatedRequest:
        """A new request, without a replica."""
        keys: tuple[PrefixKey, ...] = ()
        if isinstance(asked, EmbeddingRequest):
            prompts, answer = asked.inputs, 0.0
        else:
            prompts, answer = (asked.prompt,), self._expected_tokens(asked.max_tokens)
            if asked.prompt_logprobs is None:  # whose prompts are computed whole
                keys = prefix_keys(asked)
        n_tokens = sum(len(prompt) * self._unit_tokens(prompt) for prompt in prompts)
        size = RequestSize(max(n_tokens, 1.0), answer)
        found = ReplicatedRequest(asked, size, self._unit_tokens(prompts[0] if prompts else ""), keys)
        self.in_flight[asked.id] = found
        return found

    def end(self, request: ReplicatedRequest, *, is_whole: bool) -> None:
        """A request has ended; `is_whole`: with its whole answer."""
        del self.in_flight[request.asked.id]
        asked = request.asked
        if not is_whole or not isinstance(asked, Request):
            return
        if asked.max_tokens:
            self.used_share = _mean(self.used_share, min(request.n_written / asked.max_tokens, 1))
        else:
            self.answer_tokens = _mean(self.answer_tokens, request.n_written)

    def place(self, request: ReplicatedRequest, replica: int, held: HeldPrefix) -> None:
        """A replica, which holds a part of the prompt, is to answer a request."""
        request.replica, request.held = replica, held
        request.prompt_left = max(request.left.prompt_tokens - request.cached_tokens, 1.0)

    def count_prompt(self, request: ReplicatedRequest, event: TokenEvent) -> bool:
        """The first event with the counts of a prompt. Returns False if less was cached than expected."""
        asked, expected = request.asked, request.cached_tokens
        request.is_counted = True
        request.size = RequestSize(event.prompt_tokens, request.size.answer_tokens)
        if isinstance(asked, Request) and isinstance(asked.prompt, str) and asked.prompt:
            self.chars_per_token = _mean(self.chars_per_token, len(asked.prompt) / event.prompt_tokens)
            request.unit_tokens = event.prompt_tokens / len(asked.prompt)
        return expected < _LEAST_EXPECTED or event.cached_tokens >= expected / 2

    def load(
        self,
        replica: int,
        cost: StepCost,
        parallel: int,
        asks: ReplicatedRequest,
        cached_tokens: int,
        *,
        n_ahead: int | None = None,
    ) -> ReplicaLoad:
        """A replica's load as the request `asks` finds it, behind the first `n_ahead` of all requests."""
        ahead = [
            request
            for request in islice(self.in_flight.values(), n_ahead)
            if request.replica == replica and request is not asks
        ]
        client = asks.asked.client
        own = [request for request in ahead if request.asked.client == client]
        return ReplicaLoad(
            cost=cost,
            parallel=parallel,
            cached_tokens=cached_tokens,
            n_in_flight=len(ahead),
            prompt_tokens=sum(request.prompt_left for request in ahead),
            answer_tokens=sum(request.answer_left for request in ahead),
            n_clients=len({client, *(request.asked.client for request in ahead)}),
            n_own=len(own),
            own_prompt_tokens=sum(request.prompt_left for request in own),
            own_answer_tokens=sum(request.answer_left for request in own),
        )

    def n_at(self, replica: int) -> int:
        """The number of a replica's requests."""
        return sum(request.replica == replica for request in self.in_flight.values())

    def by_turn(self, waiting: Set[str]) -> list[ReplicatedRequest]:
        """The requests of these ids: clients with fewest running requests for their weight first."""
        running = Counter(r.asked.client for i, r in self.in_flight.items() if i not in waiting)
        found = [request for i, request in self.in_flight.items() if i in waiting]
        return sorted(found, key=lambda request: running[request.asked.client] / request.asked.weight)

    def _expected_tokens(self, limit: int | None) -> float:
        return self.answer_tokens if limit is None else limit * self.used_share

    def _unit_tokens(self, prompt: str | tuple[int, ...]) -> float:
        return 1 / self.chars_per_token if isinstance(prompt, str) else 1.0


def _mean(before: float, observed: float) -> float:
    return (1 - _WEIGHT) * before + _WEIGHT * observed
