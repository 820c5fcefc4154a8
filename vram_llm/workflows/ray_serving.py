"""Serve a fleet on the machines of a Ray cluster."""

import asyncio
import dataclasses
import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from vram_llm.planner.smaller_plan import workload_with
from vram_llm.units import MIB
from vram_llm.workflows import detection, planning

if TYPE_CHECKING:
    import socket

    from vram_llm.fleet.ray.cluster import RayCluster
    from vram_llm.fleet.ray.deployments import ModelNeeds
    from vram_llm.fleet.ray.ray_fleet import RayFleet
    from vram_llm.fleet.snapshots import FleetModel
    from vram_llm.machine.types import Device, Machine
    from vram_llm.planner.fleet.types import FleetModelSpec, FleetPlan, FleetSpec
    from vram_llm.planner.smaller_plan import PlanReductions
    from vram_llm.planner.types import Plan
    from vram_llm.server.config import ServerConfig
    from vram_llm.server.fleet.reloading import ReadSettings
    from vram_llm.server.fleet.routed_models import FleetSettings

RAY_PORT = 6379  # Ray's own
STORE_BYTES = 100 * MIB  # for Ray's objects, of which there are next to none


def plan_on_node(spec: "FleetModelSpec", reductions: "PlanReductions") -> "Plan":
    """The plan of a model for the devices of this computer, as Ray's nodes call it.

    `spec.devices` are ids, numbers, or parts of names. Raises the errors of `planning.plan`.
    """
    machine = detection.detect()
    if spec.devices is not None:
        allowed = tuple(d for i, d in enumerate(machine.devices) if _is_named(d, i, spec.devices))
        machine = dataclasses.replace(machine, devices=allowed)
    return planning.plan(spec.source, machine, workload_with(spec.workload, reductions))


def _is_named(device: "Device", number: int, names: tuple[str, ...]) -> bool:
    return any(
        name == str(number) or name.lower() == device.id.lower() or name.lower() in device.name.lower()
        for name in names
    )


def own_resources(machine: "Machine | None" = None) -> dict[str, float]:
    """The resources that this computer lends to a cluster."""
    from vram_llm.fleet.ray.node_resources import node_resources

    return node_resources(machine or detection.detect())


def node_command(address: str, resources: "Mapping[str, float]") -> list[str]:
    """The command that makes this computer a node of the cluster at `address`; "head": its first one.

    Ray gives cards to nobody else on this node. Raises MissingExtra.
    """
    from vram_llm.fleet.ray.ray_package import import_ray

    import_ray()
    where = ["--head", f"--port={RAY_PORT}"] if address == "head" else [f"--address={address}"]
    return [
        sys.executable, "-m", "ray.scripts.scripts", "start", *where, "--block", "--disable-usage-stats",
        "--include-dashboard=false", "--num-gpus=0", f"--object-store-memory={STORE_BYTES}",
        f"--resources={json.dumps(dict(resources))}",
    ]  # fmt: skip


def plan_cluster(cluster: "RayCluster", spec: "FleetSpec", before: "FleetPlan | None" = None) -> "FleetPlan":
    """The plan of a fleet, by plans that each node makes for itself. Waits for the nodes.

    Models with the same spec keep their place in `before`. Raises DoesNotFit if a model fits on no node.
    """
    from vram_llm.fleet.ray.placement import NodePlans, plan_of_cluster

    kept = {} if before is None else {model.spec.name: model for model in before.models}
    asked = [model for model in spec.models if model.name not in kept or kept[model.name].spec != model]
    nodes = cluster.nodes()
    answers = cluster.plans(nodes, plan_on_node, asked) if asked else [[] for _ in nodes]
    planned = [
        NodePlans(node=node.name, answers={spec.name: plan for spec, plan in zip(asked, plans, strict=True)})
        for node, plans in zip(nodes, answers, strict=True)
    ]
    return plan_of_cluster(
        spec, planned, {name: kept[name] for name in kept if name not in {m.name for m in asked}}
    )


def needs_of(
    plan: "FleetPlan", configs: "Mapping[str, ServerConfig]", n_nodes: int
) -> "dict[str, ModelNeeds]":
    """The needs of each model for Ray, by its name."""
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


async def needs_on(cluster: "RayCluster", settings: "FleetSettings") -> "dict[str, ModelNeeds]":
    """The needs of each model on the cluster as it is now. Raises ServerUnreachable."""
    nodes = await asyncio.to_thread(cluster.nodes)
    return needs_of(settings.plan, settings.configs, len(nodes))


@asynccontextmanager
async def fleet_on(
    cluster: "RayCluster",
    settings: "FleetSettings",
    *,
    on_change: "Callable[[FleetModel], None]" = lambda _: None,
) -> "AsyncIterator[RayFleet]":
    """A fleet on a cluster, which can be started; its models are gone with the block."""
    from vram_llm.fleet.ray.deployments import RayModels
    from vram_llm.fleet.ray.links import Switchboard
    from vram_llm.fleet.ray.ray_fleet import RayFleet

    needs = await needs_on(cluster, settings)
    switchboard = Switchboard()
    address = await switchboard.start(cluster.own_address)
    try:
        models = RayModels(cluster, switchboard, address, plan_on_node, needs)
        fleet = RayFleet(settings.plan, models, on_change)
        try:
            yield fleet
        finally:
            await fleet.stop()
    finally:
        switchboard.close()


def serve_on_ray(
    cluster: "RayCluster",
    settings: "FleetSettings",
    config: "ServerConfig",
    socks: "Sequence[socket.socket]",
    *,
    read: "ReadSettings | None" = None,
    on_ready: "Callable[[int], None]" = lambda _port: None,
) -> None:
    """Load the models of `settings` on a cluster, and serve them on `socks` until SIGINT or SIGTERM.

    The arguments and the errors are those of `fleet_serving.serve_fleet`.
    """
    from vram_llm.server.fleet.run import FleetService, serve_fleet
    from vram_llm.workflows.fleet_serving import StateLog
    from vram_llm.workflows.listening import run_listening
    from vram_llm.workflows.what_if.planner import PlanningProcess

    async def main(bound: "list[socket.socket]") -> None:
        port: int = bound[0].getsockname()[1]
        async with fleet_on(cluster, settings, on_change=StateLog()) as fleet:

            async def apply(later: "FleetSettings") -> None:
                await fleet.exchange_all(later.plan, await needs_on(cluster, later))

            planning = PlanningProcess()
            service = FleetService(
                fleet=fleet, settings=settings, apply=apply, read=read, on_ready=lambda: on_ready(port),
                about=planning.about,
            )  # fmt: skip
            try:
                await serve_fleet(service, bound, config)
            finally:
                await planning.close()

    run_listening(main, config, socks)
