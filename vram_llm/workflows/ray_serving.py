"""Serve a fleet on the machines of a Ray cluster."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from vram_llm.planner.smaller_plan import workload_with
from vram_llm.workflows import detection, planning

if TYPE_CHECKING:
    from vram_llm.fleet.ray.cluster import RayCluster
    from vram_llm.fleet.ray.deployments import ModelNeeds
    from vram_llm.fleet.ray.ray_fleet import RayFleet
    from vram_llm.fleet.snapshots import FleetModel
    from vram_llm.machine.types import Device, Machine
    from vram_llm.planner.fleet.types import FleetModelSpec, FleetPlan, FleetSpec
    from vram_llm.planner.smaller_plan import Less
    from vram_llm.planner.types import Plan
    from vram_llm.server.config import ServerConfig


def plan_on_node(spec: "FleetModelSpec", less: "Less") -> "Plan":
    """The plan of a model for the devices of this computer, as Ray's nodes call it.

    `spec.devices` are ids, numbers, or parts of names. Raises the errors of `planning.plan`.
    """
    machine = detection.detect()
    if spec.devices is not None:
        allowed = tuple(d for i, d in enumerate(machine.devices) if _is_named(d, i, spec.devices))
        machine = dataclasses.replace(machine, devices=allowed)
    return planning.plan(spec.source, machine, workload_with(spec.workload, less))


def _is_named(device: "Device", number: int, names: tuple[str, ...]) -> bool:
    return any(
        name == str(number) or name.lower() == device.id.lower() or name.lower() in device.name.lower()
        for name in names
    )


def own_resources(machine: "Machine | None" = None) -> dict[str, float]:
    """The resources that this computer lends to a cluster."""
    from vram_llm.fleet.ray.node_resources import node_resources

    return node_resources(machine or detection.detect())


def plan_cluster(cluster: "RayCluster", spec: "FleetSpec") -> "FleetPlan":
    """The plan of a fleet, by plans that each node makes for itself. Waits for the nodes.

    Raises DoesNotFit if a model fits on no node.
    """
    from vram_llm.fleet.ray.placement import NodePlans, plan_of_cluster

    nodes = cluster.nodes()
    names = [model.name for model in spec.models]
    answers = cluster.plans(nodes, plan_on_node, spec.models)
    return plan_of_cluster(
        spec,
        [
            NodePlans(node=node.name, answers=dict(zip(names, plans, strict=True)))
            for node, plans in zip(nodes, answers, strict=True)
        ],
    )


def needs_of(
    plan: "FleetPlan", configs: "Mapping[str, ServerConfig]", n_nodes: int
) -> "dict[str, ModelNeeds]":
    """What Ray has to know of each model, by its name."""
    from vram_llm.fleet.ray.deployments import ModelNeeds
    from vram_llm.fleet.ray.placement import most_per_node, resources_of

    return {
        packed.spec.name: ModelNeeds(
            spec=packed.spec,
            resources=resources_of(packed),
            most_per_node=most_per_node(packed, n_nodes),
            watchdog_s=configs[packed.spec.name].watchdog_s,
            grace_s=configs[packed.spec.name].drain_timeout_s,
        )
        for packed in plan.models
    }


@asynccontextmanager
async def fleet_on(
    cluster: "RayCluster",
    plan: "FleetPlan",
    configs: "Mapping[str, ServerConfig]",
    *,
    on_change: "Callable[[FleetModel], None]" = lambda _: None,
) -> "AsyncIterator[RayFleet]":
    """A fleet on a cluster, which begins to load and is gone with the block."""
    from vram_llm.fleet.ray.deployments import RayModels
    from vram_llm.fleet.ray.links import Switchboard
    from vram_llm.fleet.ray.ray_fleet import RayFleet

    switchboard = Switchboard()
    address = await switchboard.start(cluster.own_address)
    try:
        n_nodes = len(await asyncio.to_thread(cluster.nodes))
        models = RayModels(cluster, switchboard, address, plan_on_node, needs_of(plan, configs, n_nodes))
        fleet = RayFleet(plan, models, on_change)
        try:
            await fleet.start()
            yield fleet
        finally:
            await fleet.stop()
    finally:
        switchboard.close()
