"""Delays between starts, and the budget of crashes."""

import pytest

from vram_llm.engine.restart_policy import CALM_S, CRASH_WINDOW_S, MAX_CRASHES, RestartPolicy

LOST = "engine process ended with signal 6: ggml-rpc.cpp:354: Remote RPC server crashed or returned"


def test_failed_loads_are_tried_for_ever_with_delays_of_at_most_30_s() -> None:
    policy = RestartPolicy()
    policy.note_death("signal 9", 0.0, served_s=5.0)
    delays = [policy.delay_s]
    for i in range(2000):
        policy.note_death("no worker answers", i * 30.0, served_s=None)
        delays.append(policy.delay_s)
    assert delays[1:10:2] == pytest.approx([0.5, 1, 2, 4, 8])
    assert delays[-1] == 30
    assert not policy.is_spent


def test_calm_ends_the_delays() -> None:
    policy = RestartPolicy()
    for _ in range(5):
        policy.note_death("signal 9", 0.0, served_s=None)
    policy.note_death("signal 9", 1.0, served_s=CALM_S - 1)
    assert policy.delay_s > 0
    policy.note_death("signal 9", 100.0, served_s=CALM_S)
    assert (policy.n_attempts, policy.delay_s) == (1, 0)


def test_crashes_while_serving_spend_the_budget_of_ten_minutes() -> None:
    policy = RestartPolicy()
    for i in range(MAX_CRASHES):
        policy.note_death("signal 11", float(i), served_s=1.0)
    assert not policy.is_spent
    policy.note_death("signal 11", CRASH_WINDOW_S + 2.5, served_s=1.0)  # three are too old by now
    assert (policy.n_crashes, policy.is_spent) == (MAX_CRASHES + 1 - 3, False)
    for _ in range(3):
        policy.note_death("signal 11", CRASH_WINDOW_S + 2.6, served_s=1.0)
    assert policy.is_spent


def test_without_a_budget_an_engine_is_always_started_again_ever_later() -> None:
    policy = RestartPolicy(max_crashes=None)
    delays = []
    for i in range(100):
        policy.note_death("signal 9", float(i), served_s=0.1)
        delays.append(policy.delay_s)
    assert not policy.is_spent
    assert delays == sorted(delays)
    assert (delays[0], delays[-1]) == (0, 30)


def test_lost_workers_spend_nothing() -> None:
    policy = RestartPolicy()
    for i in range(100):
        policy.note_death(LOST, float(i), served_s=1.0)
    assert (policy.n_crashes, policy.is_spent) == (0, False)
