"""Which replica a request goes to: by cached tokens, speed, queue, and whose requests are ahead."""

from typing import Any

import pytest

from vram_llm.fleet.replica_choice import (
    MARGIN,
    ReplicaLoad,
    RequestSize,
    StepCost,
    choose,
    finish_s,
    pays_to_move,
    tried_in_order,
)

FULL, HALF = StepCost(0.01, 0.001), StepCost(0.02, 0.002)
SIZE = RequestSize(100, 50)


def load(cost: StepCost = FULL, **facts: Any) -> ReplicaLoad:
    return ReplicaLoad(**{"cost": cost, "parallel": 4, **facts})


def busy(
    n: int, cost: StepCost = FULL, *, prompt: float = 0, answer: float = 50, **facts: Any
) -> ReplicaLoad:
    """`n` requests of the same client are ahead, each with so many tokens left."""
    return load(
        cost, n_in_flight=n, prompt_tokens=n * prompt, answer_tokens=n * answer,
        n_own=n, own_prompt_tokens=n * prompt, own_answer_tokens=n * answer, **facts,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("loads", "chosen"),
    [
        ([load(), load()], 0),  # the preferred one of equals
        ([load(HALF), load()], 1),
        ([busy(1), load()], 1),
        ([busy(3), load(HALF)], 0),  # a batch of four on the fast one is sooner than one on the slow one
        ([busy(4), load(HALF)], 1),  # here it would wait for a slot
        ([busy(3, prompt=900), load(HALF)], 1),  # long prompts are ahead
        ([load(), load(cached_tokens=64)], 1),
        ([load(), busy(2, cached_tokens=96)], 1),
        ([load(), busy(3, cached_tokens=16)], 0),  # another finishes sooner than the holder
        ([load(), load(HALF, cached_tokens=96)], 0),
    ],
)
def test_choice(loads: list[ReplicaLoad], chosen: int) -> None:
    assert choose(loads, SIZE) == chosen


def test_the_holder_of_the_prompt_is_left_for_a_gain_alone() -> None:
    """Another one that is a little sooner would compute the prompt again."""
    size = RequestSize(1000, 0)
    holder, other = busy(1, prompt=500, cached_tokens=500), load()
    assert finish_s(other, size) == pytest.approx(finish_s(holder, size))
    faster = load(StepCost(0.0, 0.001 * (1 - MARGIN / 2)))
    assert finish_s(faster, size) < finish_s(holder, size)
    assert choose([faster, holder], size) == 1
    assert choose([load(StepCost(0.0, 0.001 * (1 - 2 * MARGIN))), holder], size) == 0


def test_unequal_replicas_get_requests_by_their_speed() -> None:
    """Of many equal requests that come at once the slow one gets its share, in any state of the queues."""
    counts = [0, 0]
    for _ in range(90):
        counts[choose([busy(counts[0]), busy(counts[1], HALF)], SIZE)] += 1
    assert counts == pytest.approx([60, 30], abs=4)


def test_a_client_does_not_wait_for_the_queue_of_another() -> None:
    """The engine shares slots and prompts between clients."""
    flood: dict[str, Any] = {"n_in_flight": 40, "prompt_tokens": 4000, "answer_tokens": 2000, "n_clients": 2}
    alone = load(n_in_flight=3, n_own=0)
    assert finish_s(load(**flood), SIZE) < 1.5 * finish_s(alone, SIZE)
    own: dict[str, Any] = {"n_own": 40, "own_prompt_tokens": 4000, "own_answer_tokens": 2000}
    assert finish_s(load(**{**flood, "n_clients": 1}, **own), SIZE) > 5 * finish_s(alone, SIZE)


def test_when_a_waiting_request_moves() -> None:
    assert pays_to_move(busy(4), load(HALF), SIZE)
    assert not pays_to_move(busy(1), load(HALF), SIZE)
    assert not pays_to_move(load(), load(), SIZE)


@pytest.mark.parametrize(
    ("n", "tried"),
    [(0, []), (1, [0]), (2, [0, 1]), (9, [0, 1, 2, 4, 8, 8]), (100, [0, 1, 2, 4, 8, 16, 32, 64, 99])],
)
def test_a_few_of_many_that_wait_are_looked_at(n: int, tried: list[int]) -> None:
    assert list(tried_in_order(n)) == tried
