"""When a draft model is asked, and for how many tokens: tables, and whole answers played through."""

import random

import pytest

from vram_llm.engine.speculative.draft_budget import (
    FREE_ROWS,
    MAX_DRAFTED,
    DraftCostModel,
    SequenceDraftStats,
)
from vram_llm.engine.speculative.row_cost import RowCost

PLAIN_S = 0.010


def seen(n_streams: int = 1, row_s: float = 0.001, guess_s: float | None = 0.002) -> DraftCostModel:
    """After steps of 10 ms, in which rows and guesses took so long."""
    cost = RowCost()
    cost.observe(n_streams, 0, PLAIN_S)
    cost.observe(n_streams, 4, PLAIN_S + 4 * row_s)
    cost_model = DraftCostModel(cost, 0.1)
    if guess_s is not None:
        cost_model.observe_drafting(n_streams, n_streams * guess_s)
    return cost_model


@pytest.mark.parametrize(
    ("stands", "guess_ms", "row_ms", "n_streams", "n"),
    [
        (0.8, 2, 1, 1, 5),  # a price of 0.3 tokens, and 0.8**5 is 0.33
        (0.5, 2, 1, 1, 1),
        (0.3, 2, 1, 1, 0),
        (0.8, 9, 1, 1, 0),  # the draft model is as slow as the model
        (0.98, 0.1, 0.1, 1, MAX_DRAFTED),
        (0.8, 0.5, 1, 8, 0),  # eight streams: a token takes 1.25 ms, a guess 1.5
        (0.9, 0.2, 0.2, 8, 10),
    ],
)
def test_as_many_as_pay(stands: float, guess_ms: float, row_ms: float, n_streams: int, n: int) -> None:
    cost_model = seen(n_streams, row_ms / 1000, guess_ms / 1000)
    assert cost_model.length(stands, 100) == min(n, MAX_DRAFTED)
    assert cost_model.length(stands, 2) == min(n, 2)
    assert cost_model.length(stands, 0) == 0


@pytest.mark.parametrize(
    ("n_behind", "n_left", "pays"),
    [(4, 1, True), (FREE_ROWS, 1, True), (1000, 10, False), (1000, 2000, True), (100_000, 2000, False)],
)
def test_a_long_prompt_is_read_where_much_is_to_come(n_behind: int, n_left: int, pays: bool) -> None:
    """At 0.8, 0.1 ms a row: some 3 ms are saved a token."""
    cost_model = seen()
    cost_model.observe_read(100, 0.01)
    assert cost_model.pays_to_follow(0.8, n_behind, n_left) is pays


def test_how_much_is_read_in_a_step() -> None:
    cost_model = seen()
    assert (cost_model.rows_to_follow(2048), cost_model.rows_to_follow(32)) == (64, 32)
    cost_model.observe_read(64, 0.0064)  # 0.1 ms each, and a tenth of a second is the target
    assert cost_model.rows_to_follow(2048) == 1000
    cost_model.observe_read(64, 64.0)
    assert cost_model.rows_to_follow(2048) == FREE_ROWS


def play(
    share: float, n_tokens: int, guess_s: float, row_s: float = 0.004, seed: int = 1
) -> tuple[float, int]:
    """How long an answer takes, without guesses 1, if a `share` of them stands; and their number."""
    pick, cost = random.Random(seed), RowCost()
    cost_model = DraftCostModel(cost, 0.1)
    guesses, done, seconds, n_drafted = SequenceDraftStats(cost_model), 0, 0.0, 0
    while done < n_tokens:
        n, pays = guesses.length(8) if cost.is_fresh(1) else (0, False)
        n_accepted = next((i for i in range(n) if pick.random() > share), n)
        took = PLAIN_S + n * row_s
        if n:
            cost_model.observe_drafting(1, guess_s)
            if not pays:
                cost_model.spend(n, n * guess_s)
        cost.observe(1, n, took)
        cost_model.earn(took)
        guesses.observe(n, n_accepted)
        done, seconds, n_drafted = done + 1 + n_accepted, seconds + took + n * guess_s, n_drafted + n
    return seconds / (n_tokens * PLAIN_S), n_drafted


@pytest.mark.parametrize("guess_s", [0.0005, 0.002, 0.008])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
def test_what_useless_guesses_cost_is_bounded(share: float, guess_s: float) -> None:
    for seed in range(5):
        assert play(share, 1500, guess_s, seed=seed)[0] < 1.05
        assert play(share, 150, guess_s, seed=seed)[0] < 1.1


def test_good_guesses_pay() -> None:
    assert play(0.95, 1000, 0.0005, 0.0005)[0] < 0.35
    assert play(0.8, 1000, 0.001, 0.001)[0] < 0.6


def test_who_was_useless_is_still_tried() -> None:
    n_drafted = play(0.0, 2000, 0.002)[1]
    assert 5 < n_drafted < 130


def test_a_step_without_guesses_is_wanted_now_and_then() -> None:
    cost = RowCost()
    assert not cost.is_fresh(1)
    cost.observe(2, 0, PLAIN_S)
    assert (cost.is_fresh(2), cost.is_fresh(1)) == (True, False)
    for _ in range(40):
        cost.observe(2, 2, 2 * PLAIN_S)
    assert not cost.is_fresh(2)


def test_a_disturbed_step_is_soon_forgotten() -> None:
    """Another program in the way makes rows and guesses look dear, once."""
    cost_model = seen(row_s=0.5, guess_s=0.5)
    assert cost_model.length(0.8, 8) == 0
    cost_model.spend(1, 5.0)
    for _ in range(10):
        cost_model.observe_drafting(1, 0.001)
        cost_model._cost.observe(1, 1, PLAIN_S + 0.001)
    assert cost_model.length(0.8, 8) >= 3
    for _ in range(300):
        cost_model.earn(PLAIN_S)
    assert cost_model.may_try
