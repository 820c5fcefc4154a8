"""A fleet's models as deployments of a Serve that only notes its orders. `bench/ray_nodes.py` has Ray's."""

import sys
from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.patience import soon, until
from tests.planner.saved import local, saved_plan
from vram_llm.engine.engine_protocol import Engine
from vram_llm.engine.model_info import EngineState
from vram_llm.errors import EngineDied, MissingExtra, ServerUnreachable
from vram_llm.fleet.ray import deployments
from vram_llm.fleet.ray.cluster import AppState, joined, last_line
from vram_llm.fleet.ray.deployments import ModelNeeds, RayModels
from vram_llm.fleet.ray.links import Switchboard
from vram_llm.fleet.ray.placement import NodePlans, plan_of_cluster
from vram_llm.fleet.ray.ray_fleet import RayFleet
from vram_llm.fleet.ray.remote_engine import RemoteEngine
from vram_llm.fleet.ray.replica import ReplicaOrder
from vram_llm.fleet.replicas import ReplicaSet
from vram_llm.planner.fleet.types import FleetModelSpec, FleetPlan, FleetSpec
from vram_llm.planner.smaller_plan import PlanReductions
from vram_llm.planner.types import Plan

SPEC = FleetModelSpec(name="m", source="m.gguf")


class NotedServe:
    """Does nothing, and has the state that a test gives it."""

    def __init__(self) -> None:
        self.deployed: list[tuple[str, int]] = []
        self.deleted: list[str] = []
        self.state = AppState(False, 0, "")
        self.refused = ""

    def deploy(
        self, order: ReplicaOrder, needs: Mapping[str, float], *, replicas: int, most_per_node: int
    ) -> None:
        if order.spec.source == self.refused:
            raise RuntimeError("Traceback\n  somewhere\nthe head is gone")
        self.deployed.append((order.spec.source, replicas))

    def delete(self, app: str) -> None:
        self.deleted.append(app)

    def states(self) -> dict[str, AppState]:
        return {APP.format(token=self.token): self.state}

    token = ""


APP = "vram-llm-{token}-m"


def plan_here(spec: FleetModelSpec, reductions: PlanReductions) -> Plan:
    raise NotImplementedError  # nothing here plans


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> NotedServe:
    monkeypatch.setattr(deployments, "_LOOK_EVERY_S", 0.01)
    return NotedServe()


def models_on(serve: NotedServe) -> RayModels:
    switchboard = Switchboard()
    serve.token = switchboard.token[:8]
    return RayModels(serve, switchboard, ("127.0.0.1", 1), plan_here, {"m": needs(SPEC)})


def needs(spec: FleetModelSpec) -> ModelNeeds:
    return ModelNeeds(spec=spec, resources={}, most_per_node=1)


def plan_of(spec: FleetModelSpec) -> FleetPlan:
    return plan_of_cluster(
        FleetSpec(models=(spec,)), [NodePlans(node="n", answers={"m": saved_plan([local(0)], [4])})]
    )


def ignore(_: Engine) -> None: ...


async def test_a_model_is_deployed_while_it_is_loaded(serve: NotedServe) -> None:
    engine = models_on(serve)((saved_plan([local(0)], [4]),), "m", ignore)
    engine.start()
    await until(lambda: serve.deployed == [("m.gguf", 1)], "the deployment")
    serve.state = AppState(False, 0, "no node has 7 MiB left")
    await until(lambda: engine.detail == "no node has 7 MiB left", "the reason of the wait")
    await soon(engine.stop())
    assert serve.deleted == [APP.format(token=serve.token)]
    assert engine.state is EngineState.DEAD


async def test_a_deployment_that_fails_ends_its_engine(serve: NotedServe) -> None:
    engine = models_on(serve)((saved_plan([local(0)], [4]),), "m", ignore)
    serve.state = AppState(True, 0, "it lacks 3 MiB")
    engine.start()
    with pytest.raises(EngineDied, match="it lacks 3 MiB"):
        await soon(engine.ready())
    await soon(engine.stop())
    assert len(serve.deleted) == 1


async def test_a_replica_that_begins_again_counts_once(serve: NotedServe) -> None:
    engine = models_on(serve)((saved_plan([local(0)], [4]),) * 2, "m", ignore)
    assert isinstance(engine, ReplicaSet)
    first = engine.replicas[0].engine
    assert isinstance(first, RemoteEngine)
    engine.start()
    source = first._source
    assert isinstance(source, deployments.ModelDeployment)
    source.begin(first)
    assert len(source._engines) == 2
    await soon(engine.stop())
    assert len(serve.deleted) == 1


async def test_only_a_model_that_has_changed_is_deployed_again(serve: NotedServe) -> None:
    models = models_on(serve)
    fleet = RayFleet(plan_of(SPEC), models)
    await fleet.start()
    await until(lambda: len(serve.deployed) == 1, "the first deployment")
    await fleet.exchange_all(plan_of(SPEC), {"m": replace(needs(SPEC), watchdog_s=7.0)})
    assert len(serve.deployed) == 1
    assert models.needs["m"].watchdog_s == 7.0  # of its next load
    other = replace(SPEC, source="other.gguf")
    await fleet.exchange_all(plan_of(other), {"m": needs(other)})
    assert serve.deployed[1:] == [("other.gguf", 1)]
    assert serve.deleted == []
    await soon(fleet.stop())


async def test_a_deployment_that_ray_refuses_changes_nothing(serve: NotedServe) -> None:
    models = models_on(serve)
    fleet = RayFleet(plan_of(SPEC), models)
    await fleet.start()
    await until(lambda: len(serve.deployed) == 1, "the first deployment")
    serve.refused = "other.gguf"
    other = replace(SPEC, source="other.gguf")
    with pytest.raises(
        ServerUnreachable, match=r"Ray did not take the new deployment of m: the head is gone$"
    ):
        await fleet.exchange_all(plan_of(other), {"m": needs(other)})
    assert serve.deployed[1:] == [("m.gguf", 1)]  # as before, in case that Ray has begun with the other
    assert fleet.plan == plan_of(SPEC)
    assert models.needs["m"].spec == SPEC
    await soon(fleet.stop())


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("", ""),
        ("It failed\nTraceback:\n  x\nvram_llm.errors.DoesNotFit: it lacks 3 MiB\n\n", "it lacks 3 MiB"),
        ("no node: none has 3 MiB", "no node: none has 3 MiB"),
    ],
)  # fmt: skip
def test_the_reason_is_the_end_of_a_traceback(message: str, shown: str) -> None:
    assert last_line(message) == shown


def test_ray_has_to_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'vram-llm\[ray\]'"), joined("local", {}):
        pass
