"""The plan of a fleet on a cluster, from made plans; the resources that Ray schedules by."""

from dataclasses import replace
from typing import Any

import pytest

from tests.planner.saved import local, saved_plan
from vram_llm.errors import DoesNotFit
from vram_llm.fleet.ray.node_resources import DEVICE_MIB, HOST_MIB, most_of, needed_resources, node_resources
from vram_llm.fleet.ray.placement import NodePlans, most_per_node, plan_of_cluster, resources_of
from vram_llm.machine.types import Device, DeviceKind, Host, Machine, Source
from vram_llm.planner.estimates import MemoryUse
from vram_llm.planner.fleet.types import FleetModelSpec, FleetSpec
from vram_llm.planner.types import Companion, CompanionKind, Plan
from vram_llm.units import GIB, MIB


def card(name: str, free_bytes: int, **options: Any) -> Device:
    return Device(
        id=name, name="RTX 3090", kind=DeviceKind.CUDA, total_bytes=24 * GIB, free_bytes=free_bytes,
        memory_source=Source.DRIVER, **options,
    )  # fmt: skip


def host(available_bytes: int) -> Host:
    return Host(name="box", cores=8, total_bytes=64 * GIB, available_bytes=available_bytes)


def plan_with(device_bytes: int, host_bytes: int) -> Plan:
    plan = saved_plan([local(0)], [4])
    use = replace(plan.estimate.devices[0], total_bytes=device_bytes, shared_bytes=0)
    of_host = replace(plan.estimate.host, total_bytes=host_bytes, disk_bytes=0)
    return replace(plan, estimate=replace(plan.estimate, devices=(use,), host=of_host))


def test_a_node_offers_the_free_memory_of_its_own_devices() -> None:
    devices = (
        card("a", 20 * GIB), card("b", 10 * GIB), card("shared", 8 * GIB, shares_host_memory=True),
        card("far", 16 * GIB, endpoint="10.0.0.2:50052"),
    )  # fmt: skip
    assert node_resources(Machine(devices=devices, host=host(32 * GIB))) == {
        DEVICE_MIB: 30 * 1024, HOST_MIB: 32 * 1024, "vram_llm_card:RTX_3090": 3,
    }  # fmt: skip
    assert node_resources(Machine(devices=(), host=host(GIB))) == {HOST_MIB: 1024}


def test_a_replica_takes_the_most_that_any_node_needs_for_it() -> None:
    one, other = plan_with(10 * MIB + 1, 5 * MIB), plan_with(8 * MIB, 6 * MIB)
    assert needed_resources(one) == {DEVICE_MIB: 11, HOST_MIB: 5}
    assert most_of(map(needed_resources, (one, other))) == {DEVICE_MIB: 11, HOST_MIB: 6}
    assert needed_resources(plan_with(0, 3)) == {HOST_MIB: 1}


@pytest.mark.parametrize(
    ("replicas", "n_replicas", "at_most"), [(1, 1, 1), (2, 2, 1), (3, 3, 2), (None, 2, 1)]
)
def test_replicas_are_spread_over_the_nodes_that_fit(
    replicas: int | None, n_replicas: int, at_most: int
) -> None:
    spec = FleetSpec(models=(FleetModelSpec(name="m", source="m.gguf", replicas=replicas),))
    nodes = [
        NodePlans(node="one", answers={"m": plan_with(10 * MIB, MIB)}),
        NodePlans(node="small", answers={"m": "needs 10 MiB and has 5 MiB"}),
        NodePlans(node="two", answers={"m": plan_with(12 * MIB, MIB)}),
    ]
    (packed,) = plan_of_cluster(spec, nodes).models
    assert len(packed.replicas) == n_replicas
    assert {key.partition(":")[0] for key in packed.uses} == ({"one", "two"} if n_replicas > 1 else {"one"})
    assert most_per_node(packed, 2) == at_most
    assert resources_of(packed)[DEVICE_MIB] == (12 if n_replicas > 1 else 10)


def test_a_draft_model_on_a_card_of_its_own_counts() -> None:
    """Its memory is among the resources that Ray reserves, and in `device_bytes`."""
    plan = saved_plan([local(0), local(1)], [4, 0])
    draft = Companion(
        kind=CompanionKind.DRAFT, path="d.gguf", name="d", total_bytes=GIB, device="GPU1",
        uses={"GPU1": MemoryUse(GIB)}, method="",
    )  # fmt: skip
    drafting = replace(plan, companions=(draft,))
    more_mib = needed_resources(drafting)[DEVICE_MIB] - needed_resources(plan)[DEVICE_MIB]
    assert more_mib >= 1024
    spec = FleetSpec(models=(FleetModelSpec(name="m", source="m.gguf"),))
    (packed,) = plan_of_cluster(spec, [NodePlans(node="n", answers={"m": drafting})]).models
    assert packed.uses["n:GPU1"] == more_mib * MIB


def test_a_model_that_fits_nowhere_is_refused_with_each_nodes_reason() -> None:
    spec = FleetSpec(models=(FleetModelSpec(name="m", source="m.gguf"),))
    nodes = [NodePlans(node=name, answers={"m": f"lacks {name} MiB"}) for name in ("1", "2")]
    with pytest.raises(DoesNotFit, match=r"m fits on no node of the cluster. on 1: lacks 1 MiB; on 2: lacks"):
        plan_of_cluster(spec, nodes)
    with pytest.raises(DoesNotFit, match="No node lends its devices"):
        plan_of_cluster(spec, [])
