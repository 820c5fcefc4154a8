"""When the draft model drafts, and how many tokens: tables, and whole simulated answers."""

import random

import pytest

from vram_llm.engine.speculative.draft_budget import (
    FREE_ROWS,
    MAX_DRAFTED,
    TRIAL_ROWS,
    DraftCostModel,
    SequenceDraftStats,
)
from vram_llm.engine.speculative.row_cost import RowCost

PLAIN_S = 0.010


def seen(n_streams: int = 1, row_s: float = 0.001, draft_s: float | None = 0.002) -> DraftCostModel:
    """A cost model after steps of 10 ms, with these times for a row and a draft token, and good drafts.

    The first run of each kind took long: a device loaded kernels.
    """
    cost = RowCost()
    cost.observe(n_streams, 0, PLAIN_S)
    cost.observe(n_streams, 4, 100 * PLAIN_S)
    cost.observe(n_streams, 4, PLAIN_S + 4 * row_s)
    cost_model = DraftCostModel(cost, 0.1)
    cost_model.observe(MAX_DRAFTED, MAX_DRAFTED)
    if draft_s is not None:
        cost_model.observe_drafting(n_streams, 100 * PLAIN_S)
        cost_model.observe_drafting(n_streams, n_streams * draft_s)
    return cost_model


@pytest.mark.parametrize(
    ("rate", "draft_ms", "row_ms", "n_streams", "n"),
    [
        (0.8, 2, 1, 1, 5),  # a price of 0.3 tokens, and 0.8**5 is 0.33
        (0.5, 2, 1, 1, 1),
        (0.3, 2, 1, 1, 0),
        (0.8, 9, 1, 1, 0),  # the draft model is as slow as the model
        (0.98, 0.1, 0.1, 1, MAX_DRAFTED),
        (0.8, 0.5, 1, 8, 0),  # eight streams: a token takes 1.25 ms, a draft token 1.5
        (0.9, 0.2, 0.2, 8, 10),
    ],
)
def test_as_many_tokens_as_pay(rate: float, draft_ms: float, row_ms: float, n_streams: int, n: int) -> None:
    cost_model = seen(n_streams, row_ms / 1000, draft_ms / 1000)
    assert cost_model.length(rate, 100) == min(n, MAX_DRAFTED)
    assert cost_model.length(rate, 2) == min(n, 2)
    assert cost_model.length(rate, 0) == 0


@pytest.mark.parametrize(
    ("n_behind", "n_left", "pays"),
    [(4, 1, True), (FREE_ROWS, 1, True), (1000, 10, False), (1000, 2000, True), (100_000, 2000, False)],
)
def test_a_long_prompt_is_read_if_many_tokens_may_follow(n_behind: int, n_left: int, pays: bool) -> None:
    """At an acceptance rate of 0.8 and 0.1 ms a row, drafts save about 3 ms per token."""
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


class Play:
    """Simulated answers in one engine, if the model accepts a `share` of the draft tokens."""

    def __init__(self, share: float, draft_s: float, row_s: float = 0.004, seed: int = 1) -> None:
        self.share, self.draft_s, self.row_s = share, draft_s, row_s
        self.pick, self.cost = random.Random(seed), RowCost()
        self.cost_model = DraftCostModel(self.cost, 0.1)

    def answer(self, n_tokens: int) -> tuple[float, int]:
        """The time of an answer relative to one without drafts, and the number of its drafted tokens."""
        stats, done, seconds, n_drafted = SequenceDraftStats(self.cost_model), 0, 0.0, 0
        while done < n_tokens:
            n, pays = stats.length(8) if self.cost.is_fresh(1) else (0, False)
            n_accepted = next((i for i in range(n) if self.pick.random() > self.share), n)
            took = PLAIN_S + n * self.row_s
            if n:
                self.cost_model.observe_drafting(1, self.draft_s)
                if not pays:
                    self.cost_model.spend(n, n * self.draft_s)
                stats.observe(n, n_accepted)
            self.cost.observe(1, n, took)
            self.cost_model.earn(took)
            done, seconds, n_drafted = done + 1 + n_accepted, seconds + took + n * self.draft_s, n_drafted + n
        return seconds / (n_tokens * PLAIN_S), n_drafted


@pytest.mark.parametrize("draft_s", [0.0005, 0.002, 0.008])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
def test_the_cost_of_useless_drafts_is_bounded(share: float, draft_s: float) -> None:
    for seed in range(5):
        play = Play(share, draft_s, seed=seed)
        assert play.answer(150)[0] < 1.05
        assert play.answer(1500)[0] < 1.03


def test_good_drafts_pay() -> None:
    assert Play(0.95, 0.0005, 0.0005).answer(1000)[0] < 0.35
    assert Play(0.8, 0.001, 0.001).answer(1000)[0] < 0.6


def test_a_useless_draft_model_is_tried_ever_more_rarely_over_requests() -> None:
    play = Play(0.0, 0.002)
    assert 2 <= play.answer(64)[1] <= 5
    assert sum(play.answer(64)[1] for _ in range(15)) <= 6
    assert 1 <= play.answer(20_000)[1] < 40


def test_a_draft_model_that_becomes_useful_is_used_again() -> None:
    play = Play(0.0, 0.002, 0.001)
    play.answer(2000)
    play.share = 0.95
    play.answer(2000)  # a trial comes
    assert play.answer(300)[0] < 0.6


def test_the_first_draft_of_all_is_one_token() -> None:
    cost_model = DraftCostModel(RowCost(), 0.1)
    stats = SequenceDraftStats(cost_model)
    assert stats.length(8) == (1, True)
    stats.observe(1, 1)
    assert stats.length(8) == (2, True)


def test_steps_until_a_trial() -> None:
    cost_model = seen()
    stats = SequenceDraftStats(cost_model)
    assert (stats.idle_steps, stats.length(8)[1]) == (0, True)
    cost_model.earn(PLAIN_S)
    for _ in range(60):
        stats.observe(1, 0)
    idle = stats.idle_steps
    assert 10 < idle < 60
    cost_model.earn(PLAIN_S * idle, idle)
    assert (stats.idle_steps, stats.length(8)) == (0, (0, False))  # the head may read, for a trial
    cost_model.earn(PLAIN_S * TRIAL_ROWS, TRIAL_ROWS)
    assert stats.length(8) == (1, False)
    cost_model.spend(1, 0.002)
    stats.observe(1, 0)
    once = cost_model.steps_until_trial
    cost_model.earn(PLAIN_S * once, once)
    assert stats.length(8) == (1, False)
    cost_model.spend(1, 0.002)
    stats.observe(1, 0)
    assert cost_model.steps_until_trial > 1.8 * once
    stats.is_over = True
    assert stats.idle_steps > 10**6


def test_neither_a_long_prompt_nor_a_slow_first_step_puts_off_trials() -> None:
    cost = RowCost()
    cost_model = DraftCostModel(cost, 0.1)
    cost_model.earn(100 * PLAIN_S)  # a prompt
    cost.observe(1, 0, 50 * PLAIN_S)
    cost_model.earn(50 * PLAIN_S)
    for _ in range(40):
        cost.observe(1, 0, PLAIN_S)
        cost_model.earn(PLAIN_S)
    assert cost_model.steps_until_trial < 60


def test_a_step_without_drafts_is_measured_now_and_then() -> None:
    cost = RowCost()
    assert not cost.is_fresh(1)
    cost.observe(2, 0, PLAIN_S)
    assert (cost.is_fresh(2), cost.is_fresh(1)) == (True, False)
    for _ in range(40):
        cost.observe(2, 2, 2 * PLAIN_S)
    assert not cost.is_fresh(2)


def test_one_disturbed_step_does_not_end_drafts() -> None:
    cost_model = seen()
    before = cost_model.length(0.8, 8)
    cost_model.observe_drafting(1, 1.0)
    cost_model._cost.observe(1, 1, PLAIN_S + 1.0)
    assert before - 2 <= cost_model.length(0.8, 8) < before


def test_a_disturbed_step_is_soon_forgotten() -> None:
    """Another program makes rows and drafts look expensive, once."""
    cost_model = seen(row_s=0.5, draft_s=0.5)
    assert cost_model.length(0.8, 8) == 0
    cost_model.earn(PLAIN_S)
    cost_model.spend(1, 5.0)
    for _ in range(10):
        cost_model.observe_drafting(1, 0.001)
        cost_model._cost.observe(1, 1, PLAIN_S + 0.001)
    assert cost_model.length(0.8, 8) >= 3
    for _ in range(500):
        cost_model.earn(PLAIN_S)
    assert cost_model.may_try
