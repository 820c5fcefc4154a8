"""Which of several engines of one model answers a request. Policy only: no clock, no engine.

A request goes to the replica that holds the longest computed beginning of its prompt, unless another one is
expected to finish sooner. The expected time follows from the replica's own cost of a step, the prompts and
answers ahead, and the slots: unequal cards get unequal shares.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

MARGIN = 0.1  # another replica has to be this much faster than the one that holds the prompt's beginning


class StepCost(NamedTuple):
    """The time of a step of an engine: `step_s`, and `token_s` for each token that it computes."""

    step_s: float
    token_s: float

    def seconds(self, n_tokens: float) -> float:
        """The time of a step of `n_tokens` tokens."""
        return self.step_s + self.token_s * n_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLoad:
    """A replica as a new request of one client finds it. Tokens of prompts count if they are to be computed.

    `own` counts are those of the request's client, which waits for its own requests alone: the engine shares
    its slots between clients.
    """

    cost: StepCost
    parallel: int  # sequences that run at once
    cached_tokens: int = 0  # of the request's prompt
    n_in_flight: int = 0
    prompt_tokens: float = 0.0  # of requests in flight
    answer_tokens: float = 0.0  # that requests in flight will still write
    n_clients: int = 1  # with requests in flight, this one included
    n_own: int = 0
    own_prompt_tokens: float = 0.0
    own_answer_tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class RequestSize:
    """The tokens of a request's prompt, and the expected ones of its answer."""

    prompt_tokens: float
    answer_tokens: float


def finish_s(load: ReplicaLoad, size: RequestSize) -> float:
    """The expected seconds until a replica has answered a new request."""
    n_new = max(size.prompt_tokens - load.cached_tokens, 1.0)
    own_prompts = load.own_prompt_tokens + n_new
    others = min(load.prompt_tokens - load.own_prompt_tokens, (load.n_clients - 1) * own_prompts)
    n_running = min(load.n_in_flight + 1, load.parallel)
    n_steps = _steps_until_slot(load) + size.answer_tokens
    return load.cost.token_s * (own_prompts + others) + n_steps * load.cost.seconds(n_running)


def _steps_until_slot(load: ReplicaLoad) -> float:
    """The steps for which the client has no free slot: its requests ahead share those that are its own."""
    if load.n_in_flight < load.parallel:
        return 0.0
    n_slots = max(load.parallel // load.n_clients, 1)
    return load.own_answer_tokens / n_slots if load.n_own >= n_slots else 0.0


def choose(loads: Sequence[ReplicaLoad], size: RequestSize) -> int:
    """The index of the replica for a request. `loads` are in order of preference among equals."""
    seconds = [finish_s(load, size) for load in loads]
    soonest = min(range(len(loads)), key=lambda i: seconds[i])
    longest = max(load.cached_tokens for load in loads)
    holders = [i for i, load in enumerate(loads) if load.cached_tokens == longest]
    holder = min(holders, key=lambda i: seconds[i])
    return soonest if longest == 0 or seconds[soonest] < (1 - MARGIN) * seconds[holder] else holder


def pays_to_move(here: ReplicaLoad, there: ReplicaLoad, size: RequestSize) -> bool:
    """Whether a request that waits would be answered sooner by another replica."""
    return finish_s(there, size) < (1 - MARGIN) * finish_s(here, size)


def tried_in_order(n_waiting: int) -> Iterator[int]:
    """Indices of the requests that wait, in order of their turn, for which a move is considered.

    The later a turn, the more a move pays: some of many are enough to find one that pays.
    """
    index = 0
    while index < n_waiting:
        yield index
        index = max(2 * index, index + 1)
    if n_waiting > 2:
        yield n_waiting - 1
