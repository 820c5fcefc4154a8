"""Sets of models that fit together, against all subsets."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from vram_llm.planner.fleet.limits import MOST_SETS, FittingModels, Limits, united

_NAMES = ("a", "b", "c", "d", "e", "f")
_CARDS = ("GPU0", "GPU1", "GPU2")
_GROUPS = st.lists(st.sets(st.sampled_from(_NAMES), min_size=2, max_size=3).map(frozenset), max_size=2)


@settings(max_examples=30, deadline=None)
@given(
    st.fixed_dictionaries(
        {name: st.dictionaries(st.sampled_from(_CARDS), st.integers(1, 9)) for name in _NAMES}
    ),
    st.fixed_dictionaries({card: st.integers(3, 12) for card in _CARDS}),
    _GROUPS,
    _GROUPS,
    st.booleans(),
)
def test_maximal_sets_equal_brute_force(
    uses: dict[str, dict[str, int]],
    budgets: dict[str, int],
    apart: list[frozenset[str]],
    together: list[frozenset[str]],
    is_worker: bool,
) -> None:
    one_program = (frozenset(_CARDS[:2]),) if is_worker else ()
    limits = Limits(budgets=budgets, apart=tuple(apart), one_program=one_program)
    fitting = FittingModels(limits, {name: [own] for name, own in uses.items()})
    unions = united(together, _NAMES)

    def fit(names: frozenset[str]) -> bool:
        fits = all(
            sum(uses[name].get(card, 0) for name in names) <= budget for card, budget in budgets.items()
        )
        alone = all(len(group & names) <= 1 for group in apart)
        programs = all(sum(bool(group & uses[name].keys()) for name in names) <= 1 for group in one_program)
        return fits and alone and programs and all(unions[name] <= names for name in names)

    subsets = [frozenset(some) for n in range(1, 7) for some in itertools.combinations(_NAMES, n)]
    fits = [names for names in subsets if fit(names)]
    maximal = {names for names in fits if not any(names < other for other in fits)}
    found = fitting.maximal_sets(together)
    assert set(found) == maximal
    assert len(found) == len(maximal)


def test_the_excess_is_said_by_device_and_group() -> None:
    limits = Limits(budgets={"GPU0": 10}, apart=(frozenset({"a", "b"}),))
    fitting = FittingModels(limits, {"a": [{"GPU0": 7}], "b": [{"GPU0": 6}]})
    assert fitting.excess(["a", "b"]) == {"GPU0": 3, "one of a, b": 1}
    assert fitting.fit(["a"])


def test_only_so_many_sets_are_listed() -> None:
    """Any six of eighteen models fit together."""
    fitting = FittingModels(Limits(budgets={"GPU0": 6}), {f"m{i}": [{"GPU0": 1}] for i in range(18)})
    sets = fitting.maximal_sets()
    assert len(set(sets)) == MOST_SETS
    assert {len(names) for names in sets} == {6}


def test_groups_with_a_common_member_are_one() -> None:
    unions = united((frozenset({"a", "b"}), frozenset({"b", "c"})), "abcd")
    assert unions == {
        **dict.fromkeys("abc", frozenset({"a", "b", "c"})),
        "d": frozenset({"d"}),
    }
