"""The plan of a fleet on a cluster, made of the plans that its nodes made. Pure.

Ray decides where each replica runs, by the resources that it needs, and moves it after the loss of a node.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from vram_llm.errors import DoesNotFit
from vram_llm.fleet.ray.node_resources import most_of, needed_resources
from vram_llm.machine.types import Source
from vram_llm.planner.companions import companion_only_devices
from vram_llm.planner.fleet.types import (
    FLEET_VERSION,
    FleetModelSpec,
    FleetPlan,
    FleetSpec,
    PackedModel,
    PlacedReplica,
)
from vram_llm.planner.types import HOST, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlans:
    """For each model, its plan on this node alone, or the reason why there is none."""

    node: str
    answers: Mapping[str, Plan | str]


def plan_of_cluster(
    spec: FleetSpec, nodes: Sequence[NodePlans], kept: Mapping[str, PackedModel] = MappingProxyType({})
) -> FleetPlan:
    """The fleet's plan: all models are resident, each replica on one node. Models in `kept` stay as they are.

    Ids of devices have the node's name before them. Raises DoesNotFit if a model fits on no node.
    """
    return FleetPlan(
        version=FLEET_VERSION,
        models=tuple(
            kept.get(model.name) or _packed(model, _rotated(nodes, i)) for i, model in enumerate(spec.models)
        ),
        devices=(),
        budgets={},
        resident_at_start=tuple(model.name for model in spec.models),
        sets=(frozenset(model.name for model in spec.models),),
        notes=(
            "Ray places the replicas: a node has to have as much free memory as a replica needs, and the "
            "replica plans again there",
        ),
    )


def resources_of(packed: PackedModel) -> dict[str, float]:
    """The resources that each replica takes: those of its most expensive plan."""
    return most_of(needed_resources(replica.plan) for replica in packed.replicas)


def most_per_node(packed: PackedModel, n_nodes: int) -> int:
    """The most replicas on one node, so that they are spread evenly."""
    return -(-len(packed.replicas) // max(n_nodes, 1))


def _rotated(nodes: Sequence[NodePlans], by: int) -> Sequence[NodePlans]:
    """The nodes in another order for each model: Ray spreads models over the nodes."""
    first = by % len(nodes) if nodes else 0
    return (*nodes[first:], *nodes[:first])


def _packed(model: FleetModelSpec, nodes: Sequence[NodePlans]) -> PackedModel:
    plans = [(node.node, plan) for node in nodes if isinstance(plan := node.answers[model.name], Plan)]
    if not plans:
        reasons = "; ".join(f"on {node.node}: {node.answers[model.name]}" for node in nodes)
        raise DoesNotFit(
            f"{model.name} fits on no node of the cluster. {reasons or 'No node lends its devices'}"
        )
    n_replicas = model.replicas or len(plans)
    replicas = (_replica(*plans[i % len(plans)]) for i in range(n_replicas))
    fits = f"it fits on {len(plans)} of {len(nodes)} nodes"
    why = fits if model.replicas is not None else f"{fits}, and each has a replica"
    return PackedModel(spec=model, replicas=tuple(replicas), why=why)


def _replica(node: str, plan: Plan) -> PlacedReplica:
    speed = plan.speed
    held = (*plan.estimate.devices, *companion_only_devices(plan))
    uses = {f"{node}:{use.id}": use.total_bytes for use in held if use.id in plan.used}
    uses[f"{node}:{HOST}"] = plan.estimate.host.total_bytes
    return PlacedReplica(
        devices=tuple(f"{node}:{device_id}" for device_id in plan.used),
        uses=uses,
        tokens_per_s=None if speed is None else speed.tokens_per_s,
        throughput_tokens_per_s=None,
        load_s=None,
        load_basis=Source.ASSUMED,
        plan=plan,
    )
