"""The policy of residency: tables, and simulated fleets under any load."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fleet.simulated import STOP_S, Arrival, SimulatedFleet
from vram_llm.fleet.residency import Fits, Phase, Standing, decide

NOW = 1000.0
LONG_AGO = 0.0


def by_size(sizes: dict[str, int], budget: int) -> Fits:
    return lambda names: sum(sizes[name] for name in names) <= budget


def at_most(n: int) -> Fits:
    return lambda names: len(names) <= n


def resident(name: str, **fields: object) -> Standing:
    values = {"phase": Phase.RESIDENT, "loaded_at": LONG_AGO, "last_used": LONG_AGO} | fields
    return Standing(name=name, **values)  # type: ignore[arg-type]  # names of fields


def wanted(name: str, since: float = NOW, **fields: object) -> Standing:
    return Standing(name=name, waiting_since=since, **fields)  # type: ignore[arg-type]  # names of fields


@pytest.mark.parametrize(
    ("models", "n", "load", "drain", "look_at"),
    [
        pytest.param([wanted("a")], 1, ["a"], [], None, id="there is room"),
        pytest.param([resident("a"), wanted("b")], 2, ["b"], [], None, id="room beside another"),
        pytest.param([resident("a"), wanted("b")], 1, [], ["a"], None, id="an idle one leaves"),
        pytest.param(
            [resident("a", last_used=NOW - 0.1, loaded_at=NOW - 5), wanted("b")], 1, [], [], NOW + 0.15,
            id="a follow-up request is awaited for a quarter of a load",
        ),
        pytest.param(
            [resident("a", n_leases=1, loaded_at=NOW - 4), wanted("b")], 1, [], [], NOW + 6,
            id="a busy one stays for ten loads",
        ),
        pytest.param(
            [resident("a", n_leases=1, loaded_at=NOW - 4, load_s=20), wanted("b")], 1, [], [], NOW + 26,
            id="thirty seconds at most",
        ),
        pytest.param(
            [resident("a", n_leases=1, loaded_at=NOW - 4, min_residency_s=5), wanted("b")], 1, [], [],
            NOW + 1, id="its own minimum",
        ),
        pytest.param([resident("a", n_leases=1), wanted("b")], 1, [], ["a"], None, id="then it drains"),
        pytest.param(
            [resident("a", last_used=NOW - 9), resident("b", last_used=NOW - 5), wanted("c")], 2, [], ["a"],
            None, id="the one used longest ago leaves",
        ),
        pytest.param(
            [resident("a", last_used=NOW - 9, load_s=60), resident("b", last_used=NOW - 5), wanted("c")],
            2, [], ["b"], None, id="unless its load takes long",
        ),
        pytest.param(
            [resident("a", priority=1), resident("b", last_used=NOW - 5), wanted("c")], 2, [], ["b"], None,
            id="a lower priority leaves first",
        ),
        pytest.param(
            [resident("a", n_leases=1), resident("b", last_used=NOW - 5), wanted("c")], 2, [], ["b"], None,
            id="an idle one before a busy one",
        ),
        pytest.param(
            [resident("a"), resident("b"), wanted("c"), wanted("d", NOW - 1)], 2, [], ["a", "b"], None,
            id="two leave for two",
        ),
        pytest.param(
            [resident("a"), wanted("b"), wanted("c", NOW - 1)], 1, [], ["a"], None,
            id="the older request comes first, and the other waits",
        ),
        pytest.param(
            [Standing(name="a", phase=Phase.STOPPING), wanted("b")], 1, [], [], None,
            id="memory is only given when it is free",
        ),
        pytest.param(
            [resident("a", phase=Phase.DRAINING, n_leases=1)], 1, [], [], None, id="nobody waits any more"
        ),
        pytest.param(
            [resident("a", phase=Phase.DRAINING, n_leases=1), resident("b", last_used=1), wanted("c")], 2,
            [], ["a"], None, id="a drain goes on",
        ),
        pytest.param([resident("a", is_ordered_out=True)], 1, [], ["a"], None, id="by order"),
        pytest.param([resident("a", ttl_s=900)], 1, [], ["a"], None, id="its time to live is over"),
        pytest.param([resident("a", ttl_s=1100)], 1, [], [], 1100, id="its time to live is not over"),
        pytest.param([resident("a", ttl_s=900, n_leases=1)], 1, [], [], None, id="it lives while it is used"),
        pytest.param(
            [wanted("a", partners=frozenset("b")), Standing(name="b", partners=frozenset("a"))], 2,
            ["a", "b"], [], None, id="partners are loaded together",
        ),
        pytest.param(
            [resident("a", partners=frozenset("b")), resident("b", partners=frozenset("a")), wanted("c")],
            2, [], ["a", "b"], None, id="and unloaded together",
        ),
        pytest.param(
            [Standing(name="a", phase=Phase.LOADING, waiting_since=NOW - 1), wanted("b")], 1, [], [], None,
            id="a load is not interrupted",
        ),
    ],
)  # fmt: skip
def test_next_steps(
    models: list[Standing], n: int, load: list[str], drain: list[str], look_at: float | None
) -> None:
    decision = decide(models, at_most(n), NOW)
    assert list(decision.load) == load
    assert sorted(decision.drain) == drain
    assert decision.look_again_at == (None if look_at is None else pytest.approx(look_at))


def test_memory_that_an_older_request_claims_is_not_given_to_a_later_one() -> None:
    fits = by_size({"big": 3, "busy": 2, "small": 1}, 4)
    busy = resident("busy", n_leases=1, loaded_at=NOW - 1)
    decision = decide([busy, wanted("big", NOW - 2), wanted("small")], fits, NOW)
    assert decision.load == ("small",)  # it fits beside both
    decision = decide([busy, wanted("big", NOW - 2), wanted("small", partners=frozenset())],
                      by_size({"big": 3, "busy": 2, "small": 2}, 4), NOW)  # fmt: skip
    assert decision.load == ()


# -- simulated fleets ------------------------------------------------------------------------------

MODELS = "abcd"


@st.composite
def loads(draw: st.DrawFn) -> tuple[dict[str, Standing], Fits, list[Arrival]]:
    sizes = {name: draw(st.integers(1, 4)) for name in MODELS}
    models = {
        name: Standing(
            name=name,
            load_s=draw(st.floats(0.1, 20)),
            priority=draw(st.integers(0, 2)),
            min_residency_s=draw(st.floats(0, 20)),
            ttl_s=draw(st.none() | st.floats(1, 50)),
        )
        for name in MODELS
    }
    arrivals = draw(
        st.lists(
            st.builds(Arrival, st.floats(0, 200), st.sampled_from(MODELS), st.floats(0.1, 15)), max_size=40
        )
    )
    return models, by_size(sizes, draw(st.integers(4, 8))), arrivals


@settings(max_examples=60, deadline=None)
@given(loads())
def test_every_request_is_answered_within_its_bound(
    load: tuple[dict[str, Standing], Fits, list[Arrival]],
) -> None:
    models, fits, arrivals = load
    fleet = SimulatedFleet(dict(models), fits)
    fleet.run(arrivals)
    assert sorted(arrival for arrival, _ in fleet.waits) == sorted(arrivals)
    answer_s = max((arrival.answer_s for arrival in arrivals), default=0.0)
    bound_s = sum(
        2 * model.load_s + _residency_s(model) + 2 * answer_s + 2 * STOP_S for model in models.values()
    )
    assert all(wait <= bound_s for _, wait in fleet.waits)
    for at, model in fleet.unloads:
        is_expired = model.expires_at is not None and model.expires_at <= at
        assert is_expired or at >= model.protected_until - 1e-6, f"{model.name} left too early"


def _residency_s(model: Standing) -> float:
    return min(10 * model.load_s, model.min_residency_s)


def test_two_models_that_exclude_each_other_alternate_fairly() -> None:
    models = {name: Standing(name=name, load_s=2.0) for name in "ab"}
    fleet = SimulatedFleet(models, at_most(1))
    fleet.run([Arrival(i / 2, "ab"[i % 2], 3.0) for i in range(2000)])  # both are always wanted
    names = [name for _, name in fleet.loads]
    assert all(one != other for one, other in pairwise(names))
    periods = [later - earlier for (earlier, _), (later, _) in pairwise(fleet.loads[1:])]
    assert all(22 <= period <= 26 for period in periods)  # a load, a residency of ten loads, the last answer
    waits = {name: max(wait for arrival, wait in fleet.waits if arrival.model == name) for name in "ab"}
    assert max(waits.values()) <= 30
    assert max(waits.values()) / min(waits.values()) < 1.2


def test_follow_up_requests_of_one_client_cost_no_loads() -> None:
    models = {name: Standing(name=name, load_s=4.0) for name in "ab"}
    fleet = SimulatedFleet(models, at_most(1))
    chat = [Arrival(1.2 * i, "a", 1.0) for i in range(100)]  # 200 ms between an answer and the next request
    fleet.run([*chat, Arrival(20.0, "b", 5.0)])
    assert [name for _, name in fleet.loads] == ["a", "b", "a"]


@settings(max_examples=60, deadline=None)
@given(loads())
def test_the_forecast_of_a_wait_comes_true(
    load: tuple[dict[str, Standing], Fits, list[Arrival]],
) -> None:
    """Within a half, if no other request comes later."""
    models, fits, arrivals = load
    fleet = SimulatedFleet(dict(models), fits)
    fleet.run(arrivals, forecasts=True)
    if not arrivals or not fleet.forecasts:
        return
    last = max(arrivals)
    waited = dict(fleet.waits)
    for arrival, forecast in fleet.forecasts:
        if arrival == last:
            assert forecast.known_s == pytest.approx(waited[arrival], rel=0.5, abs=0.2)
