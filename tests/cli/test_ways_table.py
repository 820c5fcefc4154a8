"""The rows of the table of ways: their order and their layout."""

import dataclasses
from pathlib import Path

import pytest

from tests import zoo
from tests.planner.cases import DESKTOP, LAPTOP, machine, profile_of, speed, with_speeds
from vram_llm.cli.ways_table import ways_lines
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.placed_parts import on_host
from vram_llm.planner.search.candidate import uses_host
from vram_llm.planner.types import Plan, Workload
from vram_llm.planner.ways import ranked_ways, useful_ways
from vram_llm.units import GIB

RIG = with_speeds(machine([LAPTOP, DESKTOP, DESKTOP]), speed(432), speed(1008), speed(1008))


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    profile = profile_of(zoo.nemotron_49b(), tmp_path_factory.mktemp("49b"))
    return make_plan(profile, RIG, Workload(n_ctx=8192))


def joined(lines: list[str]) -> str:
    return " ".join("\n".join(lines).replace("\\\n", " ").split())


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("n_ways", [0, 1, 3, None])
def test_rows_fit_the_terminal_with_all_their_flags(plan: Plan, width: int, n_ways: int | None) -> None:
    lines = ways_lines(plan, width, n_ways)
    shown = ranked_ways(plan) if n_ways is None else useful_ways(plan)[:n_ways]
    assert (lines == []) == (n_ways == 0)
    whole = ("--tensor-split", "--override-tensor")  # flags whose values are not broken
    assert all(len(line) <= width for line in lines if not any(flag in line for flag in whole))
    text = joined(lines)
    assert all(" ".join(way.flags) in text for way in shown)


def test_what_a_row_says(plan: Plan) -> None:
    (row, *_) = [line for line in ways_lines(plan, 200, None) if "--kv-type q8_0" in line]
    assert "tok/s" in row
    assert "frees ~" in row  # no dry run was asked
    text = joined(ways_lines(plan, 80, None))
    assert "without GPU0: " in text
    assert "feed-forward weights of" in text
    assert "a sequence" in text  # separate KV caches: each has less


def test_what_fits_on_the_cards_is_first_and_what_does_not_fit_is_last(plan: Plan) -> None:
    (first, *others) = plan.alternatives
    spilling = dataclasses.replace(first, placement=dataclasses.replace(first.placement, cpu_layers=3))
    too_large = dataclasses.replace(first, fits=False)
    mixed = dataclasses.replace(plan, alternatives=(too_large, spilling, *others))
    ranks = [(not way.fits, on_host(way.placement).n_with_weights > 0) for way in ranked_ways(mixed)]
    assert ranks == sorted(ranks)
    assert spilling not in useful_ways(mixed)
    assert too_large not in useful_ways(mixed)


def test_a_way_that_only_costs_is_not_among_the_useful(plan: Plan) -> None:
    assert ("--n-outputs-max", "512") in [way.flags for way in ranked_ways(plan)]
    useful = [way.flags for way in useful_ways(plan)]
    assert ("--n-outputs-max", "512") not in useful
    assert ("--kv-type", "q8_0") in useful


def test_gains_above_twice_are_shown_as_a_factor(tmp_path: Path) -> None:
    profile = profile_of(zoo.llama(), tmp_path)
    rig = with_speeds(machine([12 * GIB]), speed(500))
    host = dataclasses.replace(rig.host, speed=speed(40))
    spilling = make_plan(profile, dataclasses.replace(rig, host=host), Workload(n_ctx=32768))
    assert uses_host(profile, spilling.placement)
    first = ways_lines(spilling, 200)[0]
    assert "x), " in first
    assert first.endswith("all layers on the cards")
