"""Fair shares of the engine between clients: whose turn it is, and how many sequences each may run.

Deficit round robin with a token as its quantum: a client's counter is the number of prompt and generated
tokens computed for it, divided by its weight, and the client with the lowest counter is next. A client that
comes back starts no lower than the lowest of the others, so that nobody saves up turns (virtual token
counters; Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024). A client keeps its share for
some steps after its last sequence: many ask again at once. Policy only: no clock.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from vram_llm.engine.sequence import Sequence

_MAX_REMEMBERED = 1024  # counters of clients without sequences
_LINGER_STEPS = 16


class OfClient(Protocol):
    """A sequence, or texts to embed."""

    @property
    def client(self) -> str: ...
    @property
    def weight(self) -> float: ...
    @property
    def arrival(self) -> int: ...


@dataclass(slots=True)
class FairShares:
    """The clients of at most `parallel` sequences that run at once."""

    parallel: int
    _served: dict[str, float] = field(default_factory=dict)  # tokens / weight
    _weights: dict[str, float] = field(default_factory=dict)  # of clients with shares
    _n_sequences: dict[str, int] = field(default_factory=dict)  # running and waiting
    _leaving: dict[str, int] = field(default_factory=dict)  # clients without sequences: steps left
    _total_weight: float = 0.0

    @property
    def is_shared(self) -> bool:
        """True if several clients have shares."""
        return len(self._weights) > 1

    @property
    def clients(self) -> Collection[str]:
        """The clients with shares."""
        return self._weights.keys()

    def arrive(self, sequence: OfClient) -> None:
        """Count a new sequence for its client."""
        client = sequence.client
        if client not in self._weights:
            lowest = min((self._served[other] for other in self._weights), default=0.0)
            if len(self._served) - len(self._weights) >= _MAX_REMEMBERED:
                self._served = {other: self._served[other] for other in self._weights}
            self._served[client] = max(self._served.get(client, 0.0), lowest)
        self._leaving.pop(client, None)
        self._total_weight += sequence.weight - self._weights.get(client, 0.0)
        self._weights[client] = sequence.weight
        self._n_sequences[client] = self._n_sequences.get(client, 0) + 1

    def leave(self, sequence: OfClient) -> None:
        """A sequence has ended."""
        client = sequence.client
        self._n_sequences[client] -= 1
        if self._n_sequences[client]:
            return
        del self._n_sequences[client]
        self._leaving[client] = _LINGER_STEPS
        if not self._n_sequences:  # nobody is kept waiting
            self.note_steps(_LINGER_STEPS)

    def note_steps(self, n: int) -> None:
        """The engine has made `n` more steps."""
        if not self._leaving:
            return
        self._leaving = {client: left - n for client, left in self._leaving.items()}
        for client in [client for client, left in self._leaving.items() if left <= 0]:
            del self._leaving[client], self._weights[client]
        self._total_weight = sum(self._weights.values())
        if not self.is_shared:  # a client that is alone takes nothing from others, and is not charged
            self._served = {client: self._served[client] for client in self._weights}

    def charge(self, sequence: OfClient, n_tokens: int) -> None:
        """`n_tokens` of a sequence are computed."""
        if len(self._weights) > 1:
            self._served[sequence.client] += n_tokens / sequence.weight

    def order(self, sequence: OfClient) -> tuple[float, int]:
        """Sequences are computed in ascending order of this: by their clients' counters, then by arrival."""
        return self._served[sequence.client], sequence.arrival

    def share(self, client: str) -> float:
        """The share of a client, between 0 and 1."""
        return self._weights[client] / self._total_weight

    def slots(self, client: str) -> int:
        """The number of sequences that a client may run while others have sequences; at least 1."""
        return max(int(self.parallel * self.share(client)), 1)

    def may_run_more(self, n_running: Mapping[str, int]) -> set[str]:
        """The clients that may run another sequence; `n_running` are those that each runs.

        Slots that division leaves over are for the client with the lowest counter.
        """
        lowest = min(self._served[client] for client in self._weights)
        return {
            client
            for client in self._weights
            if n_running[client] < self.slots(client) or self._served[client] <= lowest
        }

    def is_short_of_slots(self, n_running: Mapping[str, int]) -> bool:
        """Whether a client has sequences that wait, and runs fewer than its share; see `may_run_more`."""
        return any(n_running[client] < min(n, self.slots(client)) for client, n in self._n_sequences.items())

    def cells_held(self, running: Iterable[Sequence]) -> dict[str, float]:
        """The tokens of each client's `running` sequences, divided by its weight."""
        held = dict.fromkeys(self._weights, 0.0)
        for sequence in running:
            held[sequence.client] += len(sequence.tokens) / sequence.weight
        return held
