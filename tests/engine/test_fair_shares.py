"""Clients share the engine by the tokens computed for them; with one client nothing changes."""

from collections import Counter

import pytest

from tests.conftest import PlanOnCpu
from tests.engine.fake_memory import FakeMemory
from tests.engine.fixed_prefill import FixedPrefill
from tests.engine.harness import any_steps, loaded, make_request, tokens_of
from vram_llm.engine.fair_shares import FairShares
from vram_llm.engine.kv_cache.offload_store import OffloadStore
from vram_llm.engine.kv_cache.prefix_cache import PrefixCache
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import TokenEvent
from vram_llm.engine.scheduler import Scheduler
from vram_llm.engine.sequence import Sequence

LONG = 1000


def _scheduler(parallel: int, n_cells: int = 100_000, budget: int = 8) -> Scheduler:
    cache = PrefixCache(
        FakeMemory(n_cells, parallel, is_stateful=False, can_share=True),
        n_cells=n_cells,
        n_slots=parallel,
        n_parked=parallel,
        min_prefix_tokens=0,
        store=OffloadStore(0),
    )
    return Scheduler(cache, FixedPrefill(budget, alone=budget), parallel, 64, 64)


def _submit(
    scheduler: Scheduler,
    client: str,
    n: int = 1,
    n_prompt: int = 2,
    max_tokens: int = LONG,
    weight: float = 1,
) -> None:
    for _ in range(n):
        number = scheduler._n_arrived
        tokens = [number * LONG + i for i in range(n_prompt)]  # no prompt begins like another
        sequence = Sequence(f"{client}{number}", tokens, n_prompt, max_tokens, client=client, weight=weight)
        scheduler.submit(sequence)


def _steps(scheduler: Scheduler, n: int) -> Counter[str]:
    """Run `n` steps. Returns the tokens computed for each client."""
    computed: Counter[str] = Counter()
    for _ in range(n):
        scheduler.make_room()
        for chunk in scheduler.schedule():
            sequence, samples = chunk.sequence, chunk.samples
            sequence.n_cached += chunk.count
            computed[sequence.client] += chunk.count
            if samples:
                sequence.tokens.append(0)
                if sequence.n_generated >= sequence.max_tokens:
                    scheduler.remove(sequence)
    return computed


def _running(scheduler: Scheduler) -> dict[str, int]:
    return dict(Counter(sequence.client for sequence in scheduler.running))


def test_one_client_may_use_everything() -> None:
    scheduler = _scheduler(parallel=8)
    _submit(scheduler, "a", 20)
    _steps(scheduler, 3)
    assert (_running(scheduler), scheduler.n_preemptions) == ({"a": 8}, 0)
    assert not scheduler.may_admit


def test_a_flood_runs_no_more_than_its_share() -> None:
    scheduler = _scheduler(parallel=16)
    for key in range(9):
        _submit(scheduler, f"key{key}")
    _steps(scheduler, 5)
    _submit(scheduler, "flood", 128)
    _steps(scheduler, 50)
    assert _running(scheduler) == {**{f"key{key}": 1 for key in range(9)}, "flood": 1}
    assert not scheduler.may_admit  # steps may be steady


@pytest.mark.parametrize("weight", [1, 3])
def test_a_client_that_comes_late_gets_its_share_of_the_slots(weight: float) -> None:
    scheduler = _scheduler(parallel=8)
    _submit(scheduler, "a", 20)
    _steps(scheduler, 5)
    _submit(scheduler, "b", 20, weight=weight)
    assert scheduler.may_admit
    _steps(scheduler, 20)
    slots = int(8 * weight / (1 + weight))
    assert _running(scheduler) == {"a": 8 - slots, "b": slots}
    assert scheduler.n_preemptions == slots


def test_those_preempted_for_another_client_come_back() -> None:
    scheduler = _scheduler(parallel=4)
    _submit(scheduler, "a", 4)
    _steps(scheduler, 3)
    _submit(scheduler, "b", max_tokens=5)
    _steps(scheduler, 3)
    assert _running(scheduler) == {"a": 3, "b": 1}
    _steps(scheduler, 30)
    assert _running(scheduler) == {"a": 4}


def test_a_client_keeps_its_share_until_it_asks_again() -> None:
    scheduler = _scheduler(parallel=4)
    _submit(scheduler, "flood", 50)
    _submit(scheduler, "b", max_tokens=5)
    _steps(scheduler, 10)
    for _ in range(10):
        assert "flood" not in scheduler.shares.may_run_more(Counter(flood=2))
        _submit(scheduler, "b", max_tokens=5)
        _steps(scheduler, 10)
    assert _running(scheduler) == {"flood": 2}
    assert scheduler.n_preemptions <= 2
    _steps(scheduler, 30)
    assert _running(scheduler) == {"flood": 4}


@pytest.mark.parametrize("weight", [1, 2])
def test_short_requests_share_tokens_by_weight(weight: float) -> None:
    scheduler = _scheduler(parallel=2)
    _submit(scheduler, "a", 300, n_prompt=20, max_tokens=5, weight=weight)
    _submit(scheduler, "b", 300, n_prompt=2, max_tokens=9)
    _submit(scheduler, "c", 300, n_prompt=2, max_tokens=9)
    computed = _steps(scheduler, 600)
    assert computed["a"] / computed["b"] == pytest.approx(weight, rel=0.1)
    assert computed["c"] / computed["b"] == pytest.approx(1, rel=0.1)


def test_slots_left_over_are_used_in_turn() -> None:
    scheduler = _scheduler(parallel=4)
    for client in "abc":
        _submit(scheduler, client, 100, max_tokens=7)
    computed = _steps(scheduler, 300)
    assert sum(computed.values()) > 0.95 * 300 * 4 * 8 / 7  # 4 slots, 8 tokens a request in 7 steps
    assert max(computed.values()) / min(computed.values()) < 1.1


def test_a_short_prompt_goes_before_the_rest_of_a_long_one() -> None:
    scheduler = _scheduler(parallel=4)
    _submit(scheduler, "a", n_prompt=500)
    _steps(scheduler, 2)
    _submit(scheduler, "b", n_prompt=8)
    _steps(scheduler, 1)  # their counters were equal
    assert [(c.sequence.client, c.count) for c in scheduler.schedule()] == [("b", 8)]


def test_long_prompts_take_turns() -> None:
    scheduler = _scheduler(parallel=4)
    _submit(scheduler, "a", n_prompt=500)
    _submit(scheduler, "b", n_prompt=500)
    computed = _steps(scheduler, 60)
    assert computed["a"] == computed["b"] == 240


def test_nobody_saves_up_turns() -> None:
    shares = FairShares(4)
    a, b, c = (Sequence(name, [1], 1, 1, client=name) for name in "abc")
    shares.arrive(a)
    shares.arrive(c)
    shares.charge(a, 1000)
    shares.charge(c, 2000)
    shares.arrive(b)
    assert shares.order(b) == shares.order(a)
    shares.charge(b, 50)
    shares.leave(b)
    shares.charge(a, 10)
    shares.arrive(b)
    assert shares.order(b) > shares.order(a)  # nor loses what it owes


def test_clients_that_left_are_forgotten() -> None:
    shares = FairShares(4)
    stays = Sequence("stays", [1], 1, 1, client="stays")
    shares.arrive(stays)
    for i in range(3000):
        sequence = Sequence(f"{i}", [1], 1, 1, client=f"{i}")
        shares.arrive(sequence)
        shares.leave(sequence)
        shares.note_steps(1)
    assert len(shares._served) < 1100


def test_cells_are_freed_for_a_client_with_less_than_its_share() -> None:
    scheduler = _scheduler(parallel=4, n_cells=120, budget=64)
    _submit(scheduler, "a", 3, n_prompt=30, max_tokens=40)
    _steps(scheduler, 3)
    _submit(scheduler, "b", n_prompt=40, max_tokens=5)
    _steps(scheduler, 3)
    assert _running(scheduler) == {"a": 2, "b": 1}


def test_a_clients_last_sequence_runs_on() -> None:
    scheduler = _scheduler(parallel=4, n_cells=120, budget=120)
    _submit(scheduler, "a", n_prompt=100, max_tokens=15)
    _steps(scheduler, 3)
    _submit(scheduler, "b", n_prompt=40, max_tokens=5)
    _steps(scheduler, 5)
    assert (_running(scheduler), scheduler.n_preemptions) == ({"a": 1}, 0)
    _steps(scheduler, 60)
    assert not scheduler.running


def test_steady_steps_are_counted(plan_on_cpu: PlanOnCpu) -> None:
    with loaded(plan_on_cpu(n_ctx=512, parallel=4)) as model:
        loop = Loop(model)
        for i, client in enumerate("aaaab"):
            loop.submit(make_request(f"{i}", prompt=(1, 50 + i), max_tokens=40, client=client))
        order: list[str] = []
        events: dict[str, list[TokenEvent]] = {}
        for event in any_steps(loop):
            events.setdefault(event.id, []).append(event)
            if event.finish_reason is not None:
                order.append(event.id)
        assert {len(tokens_of(each)) for each in events.values()} == {40}
        assert order.index("4") < 4  # it took the place of one of the four
        assert loop.recorder.n_generated_tokens == 200
        assert not loop._scheduler.shares.clients
        assert not loop._scheduler.shares._leaving
