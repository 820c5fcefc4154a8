"""A fleet's plan goes to JSON and back, and a file with a contradiction is refused."""

import dataclasses

import pytest

from tests.planner.saved import local, saved_plan
from vram_llm.errors import BadPlan
from vram_llm.machine.types import Source
from vram_llm.planner.fleet.fleet_json import fleet_from_json, fleet_to_json
from vram_llm.planner.fleet.types import FLEET_VERSION, FleetModelSpec, FleetPlan, PackedModel, PlacedReplica
from vram_llm.planner.overrides import Override
from vram_llm.planner.tensor_split import TensorSplit
from vram_llm.planner.types import HOST, Workload
from vram_llm.units import GIB

_CARD = local(0)


def _fleet_plan() -> FleetPlan:
    workload = Workload(
        n_ctx=4096,
        tensor_split=TensorSplit.parse("1"),
        overrides=(Override(pattern=r"blk\.0\.ffn_up", device=HOST),),
    )
    replica = PlacedReplica(
        devices=("GPU0",),
        uses={"GPU0": 4 * GIB, HOST: 2 * GIB},
        tokens_per_s=40.0,
        throughput_tokens_per_s=100.0,
        load_s=3.5,
        load_basis=Source.ASSUMED,
        plan=saved_plan([_CARD], [4]),
    )
    spec = FleetModelSpec(name="chat", source="/srv/chat.gguf", workload=workload, replicas=None)
    return FleetPlan(
        version=FLEET_VERSION,
        models=(PackedModel(spec=spec, replicas=(replica,), why="it is the only model"),),
        devices=(_CARD,),
        budgets={"GPU0": 23 * GIB, HOST: 30 * GIB},
        resident_at_start=("chat",),
        sets=(frozenset({"chat"}),),
    )


def test_a_fleet_plan_goes_to_json_and_back() -> None:
    plan = _fleet_plan()
    assert fleet_from_json(fleet_to_json(plan), "fleet.json") == plan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 99}, "version 99, this program writes"),
        ({"sets": (frozenset({"chat", "coder"}),)}, "no model 'coder'"),
        ({"resident_at_start": ("gone",)}, "no model 'gone'"),
        ({"devices": ()}, "no device 'GPU0'"),
    ],
)
def test_a_contradiction_is_refused(changes: dict[str, object], message: str) -> None:
    data = fleet_to_json(dataclasses.replace(_fleet_plan(), **changes))  # type: ignore[arg-type]  # any field
    with pytest.raises(BadPlan, match=message):
        fleet_from_json(data, "fleet.json")


def test_what_is_no_fleet_plan_is_refused() -> None:
    with pytest.raises(BadPlan, match=r"x\.json is not a fleet's plan"):
        fleet_from_json(b"{}", "x.json")
