"""Which models are unloaded for another one, against all subsets; and the table of swaps."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.planner.fleet.cases import fleet_plan
from vram_llm.planner.fleet.limits import FittingModels
from vram_llm.planner.fleet.unloading import ResidentValue, least_valuable, swap_table, unload_for

_NAMES = ("a", "b", "c", "d", "e")
_CARDS = ("GPU0", "GPU1")
_USES = st.dictionaries(st.sampled_from(_CARDS), st.integers(1, 8), min_size=1)
_VALUES = st.builds(
    ResidentValue, priority=st.integers(0, 2), idle_s=st.floats(0, 500), load_s=st.floats(0.1, 60)
)


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries(dict.fromkeys(_NAMES, _USES)),
    st.fixed_dictionaries(dict.fromkeys(_CARDS, st.integers(8, 16))),
    st.fixed_dictionaries(dict.fromkeys(_NAMES, _VALUES)),
    st.data(),
)
def test_unloading_equals_brute_force(
    uses: dict[str, dict[str, int]],
    budgets: dict[str, int],
    values: dict[str, ResidentValue],
    data: st.DataObject,
) -> None:
    plan = fleet_plan(uses, budgets)
    fitting = FittingModels.of(plan)
    wanted = data.draw(st.sampled_from(_NAMES))
    resident = data.draw(st.sampled_from(plan.sets)) - {wanted}
    keep = data.draw(st.sets(st.sampled_from(sorted(resident)), max_size=1)) if resident else set[str]()

    def worth(names: frozenset[str]) -> tuple[float, ...]:
        return (
            *(
                sum(
                    (values[name].load_s or 0) / (values[name].idle_s + 0.1)
                    for name in names
                    if values[name].priority == priority
                )
                for priority in (2, 1, 0)
            ),
            len(names),
        )

    subsets = (
        frozenset(some)
        for n in range(len(resident) + 1)
        for some in itertools.combinations(sorted(resident - keep), n)
    )
    able = [worth(names) for names in subsets if fitting.fit({*(resident - names), wanted})]
    unloaded = unload_for(plan, resident, wanted, values, keep)
    if not able:
        assert unloaded is None
        return
    assert unloaded is not None
    assert not unloaded & keep
    assert fitting.fit({*(resident - unloaded), wanted})
    assert worth(unloaded) == pytest.approx(min(able))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(0, 60), st.randoms())
def test_many_groups_are_enough_and_none_is_too_many(sizes, needed, random) -> None:  # type: ignore[no-untyped-def]  # hypothesis' types
    weights = {str(i): size for i, size in enumerate(sizes)}
    values = {name: ResidentValue(load_s=random.randint(1, 5)) for name in weights}

    def total(names: frozenset[str]) -> int:
        return sum(weights[name] for name in names)

    found = least_valuable(
        [frozenset({name}) for name in weights], lambda names: total(names) >= needed, values
    )
    assert (found is None) == (sum(sizes) < needed)
    if found is not None:
        assert total(found) >= needed
        assert all(total(found - {name}) < needed for name in found)


def test_of_equal_priorities_the_one_that_may_leave_sooner_is_unloaded() -> None:
    values = {"a": ResidentValue(load_s=1.0, free_in_s=5.0), "b": ResidentValue(load_s=60.0)}
    groups = [frozenset({name}) for name in values]
    assert least_valuable(groups, lambda names: len(names) > 0, values) == frozenset({"b"})


def test_only_models_on_the_devices_needed_are_unloaded() -> None:
    plan = fleet_plan(
        {"chat": {"GPU0": 8}, "embed": {"GPU1": 2}, "coder": {"GPU0": 9}}, {"GPU0": 10, "GPU1": 10}
    )
    values = {"embed": ResidentValue(idle_s=1e6), "chat": ResidentValue(idle_s=0)}
    assert unload_for(plan, {"chat", "embed"}, "coder", values) == frozenset({"chat"})


@pytest.mark.parametrize(
    ("values", "unloaded"),
    [
        ({}, "b"),  # it loads faster
        ({"a": ResidentValue(idle_s=100.0, load_s=10.0)}, "a"),  # asked for long ago
        ({"a": ResidentValue(idle_s=100.0, load_s=10.0, priority=1)}, "b"),  # priority counts first
    ],
)
def test_the_least_valuable_is_unloaded(values: dict[str, ResidentValue], unloaded: str) -> None:
    plan = fleet_plan({name: {"GPU0": 5} for name in "abc"}, {"GPU0": 10}, load_s={"a": 10.0})
    assert unload_for(plan, {"a", "b"}, "c", values) == frozenset(unloaded)


def test_models_of_a_group_are_unloaded_together() -> None:
    uses = {"a": {"GPU0": 5}, "b": {"GPU1": 5}, "c": {"GPU0": 8}}
    plan = fleet_plan(uses, {"GPU0": 10, "GPU1": 10}, together=[frozenset({"a", "b"})])
    assert unload_for(plan, {"a", "b"}, "c") == frozenset({"a", "b"})
    assert unload_for(plan, {"c"}, "a") == frozenset({"c"})
    assert unload_for(plan, {"a", "b"}, "c", keep={"b"}) is None


def test_a_worker_serves_one_program_at_a_time() -> None:
    plan = fleet_plan({"a": {"RPC0": 1}, "b": {"RPC0": 1}}, {"RPC0": 10}, one_program=[frozenset({"RPC0"})])
    assert set(plan.sets) == {frozenset({"a"}), frozenset({"b"})}
    assert unload_for(plan, {"a"}, "b") == frozenset({"a"})


def test_the_table_of_swaps() -> None:
    uses = {"chat": {"GPU0": 8}, "embed": {"GPU1": 2}, "coder": {"GPU0": 9}}
    plan = fleet_plan(uses, {"GPU0": 10, "GPU1": 10}, load_s={"coder": 20.0, "chat": 15.0})
    rows = {(swap.asked, swap.resident): (swap.unloaded, swap.seconds) for swap in swap_table(plan)}
    assert rows == {
        ("coder", frozenset({"chat", "embed"})): (frozenset({"chat"}), 20.0),
        ("chat", frozenset({"coder", "embed"})): (frozenset({"coder"}), 15.0),
    }
