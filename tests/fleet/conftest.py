"""A fleet's plan for tests of several files."""

import pytest

from tests.conftest import PlanOnCpu
from tests.fleet.plans import fleet_plan, packed
from vram_llm.planner.fleet.types import FleetPlan


@pytest.fixture
def plan(plan_on_cpu: PlanOnCpu) -> FleetPlan:
    """Models a, b and c, of which two fit together; a and b are there at the start."""
    models = (packed(name, plan_on_cpu(), min_residency_s=0, aliases=(name * 2,)) for name in "abc")
    return fleet_plan(*models, budget=2, at_start="ab")
