"""A Ray cluster: its nodes, and the deployments of Ray Serve. All functions wait: call them in a thread."""

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vram_llm.errors import ServerUnreachable
from vram_llm.fleet.ray.node_resources import HOST_MIB
from vram_llm.fleet.ray.ray_package import import_ray
from vram_llm.fleet.ray.replica import ModelReplica, PlanHere, ReplicaOrder, plan_models
from vram_llm.planner.fleet.types import FleetModelSpec
from vram_llm.planner.types import Plan
from vram_llm.units import MIB

log = logging.getLogger("vram_llm.fleet")

LOCAL = "local"
_STORE_BYTES = 100 * MIB  # for Ray's objects, of which there are next to none
_RETRIES = 2  # of a replica that cannot plan or load
_MORE_GRACE_S = 10.0  # for an engine to end, after its requests


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A node that lends its devices."""

    id: str
    name: str
    resources: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class AppState:
    """The state of a model's deployment, in Serve's words."""

    has_failed: bool
    n_running: int
    message: str


class RayCluster:
    """A connection to a cluster. `close` ends a cluster that it has started."""

    def __init__(self, *, is_own: bool) -> None:
        self._ray = import_ray()
        self._is_own = is_own
        self._turn = threading.Lock()  # Serve makes deployments by a setting of the whole process

    @property
    def own_address(self) -> str:
        """The address of this machine that the nodes reach."""
        address: str = self._ray.util.get_node_ip_address()
        return address

    def nodes(self) -> tuple[ClusterNode, ...]:
        """The nodes that lend their devices. Raises ServerUnreachable."""
        with _asking():
            known = self._ray.nodes()
        found = (node for node in known if node["Alive"] and HOST_MIB in node["Resources"])
        return tuple(
            ClusterNode(
                node["NodeID"], f"{node['NodeManagerHostname']} ({node['NodeID'][:6]})", node["Resources"]
            )
            for node in found
        )

    def plans(
        self, nodes: Sequence[ClusterNode], plan_here: PlanHere, specs: Sequence[FleetModelSpec]
    ) -> list[list[Plan | str]]:
        """For each node the answers of `plan_models` there. Raises ServerUnreachable."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        task = self._ray.remote(plan_models)
        with _asking():
            asked = [
                task.options(
                    num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
                ).remote(plan_here, specs)
                for node in nodes
            ]
            answers: list[list[Plan | str]] = self._ray.get(asked)
        return answers

    # -- deployments -----------------------------------------------------------------------------

    def deploy(
        self, order: ReplicaOrder, needs: Mapping[str, float], *, replicas: int, most_per_node: int
    ) -> None:
        """Begin to deploy a model, or to replace the replicas of an earlier order one after the other."""
        from ray import serve

        with self._turn:
            deployment = serve.deployment(ModelReplica).options(
                name="model",
                num_replicas=replicas,
                max_replicas_per_node=most_per_node,
                ray_actor_options={"num_cpus": 0, "resources": dict(needs)},
                max_constructor_retry_count=_RETRIES,
                health_check_period_s=2,
                graceful_shutdown_wait_loop_s=0.1,
                graceful_shutdown_timeout_s=order.grace_s + _MORE_GRACE_S,
            )
            target = serve.RunTarget(deployment.bind(order), name=order.app, route_prefix=None)
            serve.run_many(
                [target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False
            )

    def delete(self, app: str) -> None:
        """End a model's deployment, and wait until its replicas are gone."""
        from ray import serve

        serve.delete(app, _blocking=True)

    def states(self) -> dict[str, AppState]:
        """The states of all applications, by name."""
        from ray import serve

        return {name: _state(app) for name, app in serve.status().applications.items()}

    def close(self) -> None:
        """Leave the cluster, and end it if this process has started it."""
        if self._is_own:
            from ray import serve

            with contextlib.suppress(Exception):  # the end of its processes ends the rest
                serve.shutdown()
        self._ray.shutdown()


@contextlib.contextmanager
def _asking() -> Iterator[None]:
    """Raises ServerUnreachable for the errors of Ray, which are of many kinds."""
    try:
        yield
    except Exception as error:  # as the line above says
        raise ServerUnreachable(f"the Ray cluster does not answer: {last_line(str(error))}") from error


def _state(app: Any) -> AppState:
    deployments = app.deployments.values()
    messages = [app.message, *(each.message for each in deployments)]
    n_running = sum(each.replica_states.get("RUNNING", 0) for each in deployments)
    return AppState(
        has_failed=app.status.value == "DEPLOY_FAILED",
        n_running=n_running,
        message=next((text for text in map(last_line, messages) if text), ""),
    )


def last_line(message: str) -> str:
    """The reason at the end of a traceback: its last line with text, without the exception's module."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    text = lines[-1] if lines else ""
    kind, colon, rest = text.partition(": ")
    return rest if colon and kind.startswith("vram_llm.errors.") else text


@contextlib.contextmanager
def joined(address: str, resources: Mapping[str, float], *, n_cpus: int = 1) -> Iterator[RayCluster]:
    """The cluster at `address`, of which this machine is a node; "local": one of this machine alone.

    `resources` are those of the local cluster's node. Raises MissingExtra, ServerUnreachable.
    """
    ray = import_ray()
    from ray import serve

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "namespace": "vram-llm"}
    if address == LOCAL:
        options |= {
            "address": LOCAL, "num_cpus": n_cpus, "num_gpus": 0, "resources": dict(resources),
            "object_store_memory": _STORE_BYTES, "include_dashboard": False,
        }  # fmt: skip
    else:
        options["address"] = address
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ServerUnreachable(
            f"the Ray cluster at {address} cannot be joined: {last_line(str(error))}; this machine has to be "
            "one of its nodes: `vram-llm worker --ray ADDRESS`"
        ) from error
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.WARNING)
    cluster = RayCluster(is_own=address == LOCAL)
    try:
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
        yield cluster
    finally:
        cluster.close()
