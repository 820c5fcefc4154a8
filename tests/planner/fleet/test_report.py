"""The report of a fleet's plan: bars, sets, swaps, at any width."""

import dataclasses

import pytest

from tests.planner.fleet.cases import fleet_plan
from tests.planner.saved import local
from vram_llm.planner.fleet.report import fleet_report
from vram_llm.planner.fleet.types import FleetPlan
from vram_llm.text.lines import plain
from vram_llm.units import GIB


def with_devices(plan: FleetPlan, n: int) -> FleetPlan:
    return dataclasses.replace(plan, devices=tuple(local(index) for index in range(n)))


def two_cards() -> FleetPlan:
    uses = {
        "chat": {"GPU0": 16 * GIB, "host": GIB},
        "coder": {"GPU0": 12 * GIB, "GPU1": 4 * GIB},
        "embed": {"GPU1": GIB // 2},
    }
    budgets = {"GPU0": 20 * GIB, "GPU1": 8 * GIB, "host": 10 * GIB}
    plan = fleet_plan(uses, budgets, load_s={"chat": 4.0, "coder": 2.4, "embed": 0.2})
    return dataclasses.replace(
        with_devices(plan, 2), resident_at_start=("chat", "embed"), notes=("cold disk",)
    )


def wide(n_models: int, n_cards: int) -> FleetPlan:
    uses = {f"a-model-with-a-long-name-{i}": {f"GPU{i % n_cards}": 5 * GIB} for i in range(n_models)}
    budgets = {f"GPU{i}": 9 * GIB for i in range(n_cards)} | {"host": GIB}
    return with_devices(fleet_plan(uses, budgets), n_cards)


def test_the_whole_report() -> None:
    text = plain(fleet_report(two_cards(), 80)).splitlines()
    assert text[:8] == [
        "3 models, of which up to 2 fit together; a request for another one unloads what",
        "is in its way.",
        "",
        "       GPU0 20.0 GiB           GPU1 8.0 GiB            host 10.0 GiB",
        "       RTX 3090 Ti             RTX 3090 Ti",
        "chat   ▇▇▇▇▇▇▇▇▇▇▇▇▇···  16.0  ················        ▇▇··············   1.0",
        "coder  ▇▇▇▇▇▇▇▇▇▇······  12.0  ▇▇▇▇▇▇▇▇········   4.0  ················",
        "embed  ················        ▇···············   0.5  ················",
    ]
    assert "fit together: chat, embed (loaded at the start)" in text
    assert "              coder, embed" in text
    swaps = [line.split() for line in text if line.endswith("assumed")]
    assert swaps == [
        ["chat", "coder,", "embed", "coder", "4.0", "s", "assumed"],
        ["coder", "chat,", "embed", "chat", "2.4", "s", "assumed"],
    ]
    assert text[-1] == "note: cold disk"


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
@pytest.mark.parametrize(("n_models", "n_cards"), [(1, 1), (3, 2), (12, 8), (5, 16)])
def test_it_fits_the_terminal(n_models: int, n_cards: int, width: int) -> None:
    lines = plain(fleet_report(wide(n_models, n_cards), width)).splitlines()
    assert max(map(len, lines)) <= width
    assert sum("▇" in line for line in lines) == n_models


def test_many_swaps_are_listed_on_demand() -> None:
    uses = {f"m{i}": {"GPU0": 5 * GIB} for i in range(6)}
    plan = with_devices(fleet_plan(uses, {"GPU0": 9 * GIB}), 1)
    few, every = (plain(fleet_report(plan, 80, all_swaps=chosen)) for chosen in (False, True))
    assert few.count("assumed") == 12
    assert "18 more: --verbose lists all" in few
    assert every.count("assumed") == 30


def test_all_fit() -> None:
    text = plain(fleet_report(wide(2, 2), 80))
    assert text.startswith("All 2 models fit together.")
    assert "asked for" not in text
