"""Packing against brute force: every choice of layouts is tried, and its cost computed as it is defined."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.planner.fleet.cases import place
from vram_llm.planner.fleet.layouts import Layout
from vram_llm.planner.fleet.limits import Limits
from vram_llm.planner.fleet.pack import pack
from vram_llm.planner.fleet.packing_cost import ModelToPack
from vram_llm.planner.types import HOST
from vram_llm.units import GIB

_CARDS = ("GPU0", "GPU1", "GPU2")
_NAMES = ("a", "b", "c", "d")


def _subsets(names: Sequence[str]) -> list[frozenset[str]]:
    return [frozenset(some) for n in range(len(names) + 1) for some in itertools.combinations(names, n)]


def _excess(chosen: dict[str, Layout], names: frozenset[str], limits: Limits) -> dict[str, int]:
    """Bytes, programs and models above each limit."""
    layouts = [chosen[name] for name in names]
    over = {
        device_id: sum(layout.uses.get(device_id, 0) for layout in layouts) - budget
        for device_id, budget in limits.budgets.items()
    }
    for number, group in enumerate(limits.one_program):
        options = [option for layout in layouts for option in layout.options if group & option.uses.keys()]
        over[f"program {number}"] = len(options) - 1
    for number, group in enumerate(limits.apart):
        over[f"apart {number}"] = len(group & names) - 1
    return {name: excess for name, excess in over.items() if excess > 0}


def _cost(
    models: Sequence[ModelToPack], chosen: dict[str, Layout], limits: Limits, groups: Sequence[frozenset[str]]
) -> float:
    """The cost of a packing, by the definition in packing_cost.py."""
    weight = {model.name: model.weight for model in models}
    fitting = [names for names in _subsets(list(chosen)) if not _excess(chosen, names, limits)]
    whole, cost = sum(weight.values()), 0.0
    for model in models:
        layout = chosen[model.name]
        slow = layout.request_s / min(other.request_s for other in model.layouts)
        shared = sum(
            0.5 * sum(share * chosen[other].busy.get(each, 0) for each, share in layout.busy.items())
            for other in chosen
            if other != model.name and frozenset([model.name, other]) in fitting
        )
        heaviest = max(sum(weight[name] for name in names) for names in fitting if model.name in names)
        request_s = max(min(other.request_s for other in model.layouts), 1.0)
        swap = 4 * (whole - heaviest) / whole * layout.load_s / request_s
        cost += weight[model.name] * (slow * (1 + shared) + swap)
    for group in groups:
        excess = _excess(chosen, group, limits)
        if excess:
            n_bytes = sum(n for name, n in excess.items() if name in limits.budgets)
            n_others = sum(n for name, n in excess.items() if name not in limits.budgets)
            cost += 1e6 * (1 + n_bytes / GIB + n_others)
    return cost


@st.composite
def _fleets(
    draw: st.DrawFn,
) -> tuple[list[ModelToPack], Limits, list[frozenset[str]], list[frozenset[str]]]:
    """Up to four models with up to four layouts each on up to three cards, some of which are equal."""
    cards = _CARDS[: draw(st.integers(1, 3))]
    are_equal = draw(st.booleans())
    sizes = [draw(st.integers(4, 12))] * len(cards) if are_equal else draw(
        st.lists(st.integers(4, 12), min_size=len(cards), max_size=len(cards))
    )  # fmt: skip
    budgets = {card: size * GIB for card, size in zip(cards, sizes, strict=True)} | {HOST: 64 * GIB}
    models = []
    for name in _NAMES[: draw(st.integers(1, 4))]:
        if are_equal:  # the same place on each card, as the finder of places makes them
            n_gib, request_s = draw(st.integers(1, 4)), draw(st.floats(0.5, 4))
            layouts = [
                Layout((place({card: n_gib * GIB, HOST: GIB}, request_s=request_s, load_s=3.0),))
                for card in cards
            ]
        else:
            layouts = [_layout(draw, cards, budgets) for _ in range(draw(st.integers(1, 4)))]
        weight = 2.0 ** draw(st.integers(-1, 2))
        models.append(ModelToPack(name=name, layouts=tuple(layouts), weight=weight))
    names = [model.name for model in models]
    groups = st.lists(st.sets(st.sampled_from(names), min_size=2).map(frozenset), max_size=1)
    no_groups = st.just(list[frozenset[str]]())
    apart = draw(groups if len(names) > 1 else no_groups)
    must_fit = draw(groups if len(names) > 1 else no_groups)
    one_program = [frozenset(cards[:1])] if draw(st.booleans()) and not are_equal else []
    limits = Limits(budgets=budgets, one_program=tuple(one_program), apart=tuple(apart))
    return models, limits, must_fit, [frozenset(cards)] if are_equal and len(cards) > 1 else []


def _layout(draw: st.DrawFn, cards: Sequence[str], budgets: dict[str, int]) -> Layout:
    used = draw(st.lists(st.sampled_from(cards), min_size=1, max_size=2, unique=True))
    uses = {card: draw(st.integers(1, budgets[card] // GIB)) * GIB for card in used}
    request_s, load_s = draw(st.floats(0.5, 8)), draw(st.floats(0.1, 20))
    return Layout((place({**uses, HOST: GIB}, request_s=request_s, load_s=load_s),))


@settings(max_examples=40, deadline=None)
@given(_fleets())
def test_packing_equals_brute_force(
    fleet: tuple[list[ModelToPack], Limits, list[frozenset[str]], list[frozenset[str]]],
) -> None:
    models, limits, must_fit, alike = fleet
    packing = pack(models, limits, must_fit, alike)
    choices = itertools.product(*(model.layouts for model in models))
    names = [model.name for model in models]
    least = min(_cost(models, dict(zip(names, chosen, strict=True)), limits, must_fit) for chosen in choices)
    assert packing.is_proven
    assert packing.cost == pytest.approx(least)
    assert _cost(models, dict(packing.layouts), limits, must_fit) == pytest.approx(least)


def test_a_small_model_is_on_the_card_that_would_idle() -> None:
    """Though the card is slower, and the other one has room."""
    chat = ModelToPack(name="chat", layouts=(Layout((place({"GPU0": 10}, request_s=10.0),)),))
    layouts = (
        Layout((place({"GPU0": 1}, request_s=1.0),)),
        Layout((place({"GPU1": 1}, request_s=1.2),)),
    )
    embedder = ModelToPack(name="embed", layouts=layouts)
    packing = pack([chat, embedder], Limits(budgets={"GPU0": 24, "GPU1": 8}))
    assert packing.layouts["embed"] == layouts[1]


def test_a_model_takes_a_slower_card_rather_than_exclude_another() -> None:
    coder = Layout((place({"GPU1": 10}, request_s=15.0, load_s=20.0),))
    models = [
        ModelToPack(name="chat", layouts=(Layout((place({"GPU0": 10}, request_s=10.0, load_s=20.0),)),)),
        ModelToPack(
            name="coder",
            layouts=(Layout((place({"GPU0": 10}, request_s=10.0, load_s=20.0),)), coder),
        ),
    ]
    assert pack(models, Limits(budgets={"GPU0": 12, "GPU1": 12})).layouts["coder"] == coder


def test_models_apart_may_have_the_same_card() -> None:
    """A pair that is never resident together loses nothing by a common card."""
    fast = Layout((place({"GPU0": 10}, request_s=10.0),))
    slow = Layout((place({"GPU1": 10}, request_s=11.0),))
    models = [ModelToPack(name=name, layouts=(fast, slow)) for name in ("chat", "coder")]
    limits = Limits(budgets={"GPU0": 12, "GPU1": 12}, apart=(frozenset({"chat", "coder"}),))
    packing = pack(models, limits)
    assert [packing.layouts[name] for name in ("chat", "coder")] == [fast, fast]
