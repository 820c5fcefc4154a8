"""When answers in flight will end, by the times of those that have ended: for Retry-After.

Policy only: the caller reports events and their times, in seconds of one clock.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heapify, heapreplace

_WEIGHT = 0.1  # of the newest observation
_LEAST_LEFT = 0.1  # of an answer that is longer than expected already


@dataclass(slots=True)
class AnswerProgress:
    """An answer in flight, which has at most `limit` tokens; None: no limit is known."""

    client: str
    limit: int | None
    started_at: float  # when it left the queue; before that, when it came
    queue_s: float = 0.0  # how long it has waited in the queue
    waits: bool = False
    n_tokens: int = 0
    first_at: float = 0.0  # when its first token came


@dataclass(slots=True)
class _Average:
    """A moving average; None before the first observation."""

    value: float | None = None

    def add(self, observed: float) -> None:
        before = self.value
        self.value = observed if before is None else (1 - _WEIGHT) * before + _WEIGHT * observed


class AnswerTimes:
    """The answers in flight, of which `parallel` run at once."""

    def __init__(self, parallel: int) -> None:
        self._parallel = parallel
        self._answers: dict[str, AnswerProgress] = {}  # by arrival
        self._n_of_clients: Counter[str] = Counter()
        self._first_token_s, self._token_s = _Average(), _Average()
        self._n_tokens, self._used_share = _Average(), _Average()  # of an answer; of its limit

    def n_of(self, client: str) -> int:
        """The number of a client's answers in flight."""
        return self._n_of_clients[client]

    def n_clients(self, client: str) -> int:
        """The number of clients with answers in flight, `client` included."""
        return len(self._n_of_clients) + (client not in self._n_of_clients)

    # -- events ----------------------------------------------------------------------------------

    def begin(self, request_id: str, client: str, limit: int | None, now: float) -> None:
        """A request was submitted."""
        self._answers[request_id] = AnswerProgress(client, limit, now)
        self._n_of_clients[client] += 1

    def note_waiting(self, ids: Iterable[str], now: float) -> None:
        """`ids` are all requests that wait for a slot."""
        waiting = frozenset(ids)
        for request_id, answer in self._answers.items():
            waits = request_id in waiting
            if answer.waits and not waits and not answer.n_tokens:
                answer.queue_s += now - answer.started_at
                answer.started_at = now
            answer.waits = waits

    def queue_s(self, request_id: str) -> float:
        """How long a request in flight waited in the queue before its first token."""
        return self._answers[request_id].queue_s

    def note_tokens(self, request_id: str, n_tokens: int, now: float) -> None:
        """An answer has `n_tokens` more; one that has ended meanwhile does not count."""
        if (answer := self._answers.get(request_id)) is None:
            return
        if not answer.n_tokens and n_tokens:
            answer.first_at = now
            self._first_token_s.add(now - answer.started_at)
        answer.n_tokens += n_tokens

    def end(self, request_id: str, now: float, *, is_whole: bool) -> None:
        """A request has ended; `is_whole`: with its whole answer."""
        answer = self._answers.pop(request_id)
        self._n_of_clients[answer.client] -= 1
        if not self._n_of_clients[answer.client]:
            del self._n_of_clients[answer.client]
        if not is_whole:
            return
        if not answer.n_tokens:  # texts that were embedded
            self._first_token_s.add(now - answer.started_at)
            return
        self._n_tokens.add(answer.n_tokens)
        if answer.n_tokens > 1:
            self._token_s.add((now - answer.first_at) / (answer.n_tokens - 1))
        if answer.limit:
            self._used_share.add(min(answer.n_tokens / answer.limit, 1))

    # -- prediction ------------------------------------------------------------------------------

    def seconds_until_done(self, n: int, now: float, client: str | None = None) -> float | None:
        """The time until `n` answers have ended, of `client` or of anybody; None if it is unknown."""
        ends = sorted(end for of, end in self._ends(now) if client is None or of == client)
        return ends[min(n, len(ends)) - 1] if ends and n > 0 else None

    def _ends(self, now: float) -> list[tuple[str, float]]:
        """For each answer its client and the seconds until it ends. Those that wait begin as others end."""
        answers = self._answers.values()
        ends = [(answer.client, self._running_s(answer, now)) for answer in answers if not answer.waits]
        slots = [0.0] * max(self._parallel - len(ends), 0) + [end for _, end in ends]
        heapify(slots)
        for answer in answers:
            if answer.waits:
                end = slots[0] + self._whole_s(answer)
                heapreplace(slots, end)
                ends.append((answer.client, end))
        return ends

    def _running_s(self, answer: AnswerProgress, now: float) -> float:
        """The seconds until an answer that runs ends."""
        if not answer.n_tokens:
            whole = self._whole_s(answer)
            return max(whole - (now - answer.started_at), _LEAST_LEFT * whole)
        expected = self._expected_tokens(answer)
        left = max(expected - answer.n_tokens, _LEAST_LEFT * answer.n_tokens)
        average_s = self._token_s.value
        if answer.n_tokens < 2:
            return left * (average_s or 0.0)
        own_s = (now - answer.first_at) / (answer.n_tokens - 1)
        if average_s is None:
            return left * own_s
        done = min(answer.n_tokens / expected, 1.0)  # tokens become slower as the context grows
        return left * (done * own_s + (1 - done) * average_s)

    def _whole_s(self, answer: AnswerProgress) -> float:
        """The seconds that an answer takes from its beginning."""
        return (self._first_token_s.value or 0.0) + self._expected_tokens(answer) * (self._token_s.value or 0)

    def _expected_tokens(self, answer: AnswerProgress) -> float:
        """The number of tokens of a whole answer: of its limit as large a share as others use."""
        if answer.limit:
            used = self._used_share.value
            return answer.limit * (1.0 if used is None else used)
        return self._n_tokens.value or 2 * answer.n_tokens
