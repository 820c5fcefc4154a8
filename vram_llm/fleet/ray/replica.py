"""The part that runs on the nodes, in Ray's processes: planning there, and a model's replica."""

import asyncio
import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vram_llm.engine.model_info import EngineState
from vram_llm.errors import EngineDied, VramLLMError
from vram_llm.fleet.ray.relay import EngineRelay
from vram_llm.planner.fleet.types import FleetModelSpec
from vram_llm.planner.smaller_plan import PlanReductions
from vram_llm.planner.types import Plan

PlanHere = Callable[[FleetModelSpec, PlanReductions], Plan]
"""Plans a model for the devices of the node on which it is called, as they are now.

Ray sends it by its name, so it is a function of a module. Raises the errors of `workflows.planning.plan`.
"""

_ORPHAN_S = 60.0  # without a server, a replica ends
_LOCK = Path(tempfile.gettempdir()) / f"vram-llm-{os.getuid()}-node.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaOrder:
    """All that a replica has to know."""

    app: str  # its application in Ray Serve
    spec: FleetModelSpec
    plan_here: PlanHere
    address: tuple[str, int]  # of the server
    token: str
    watchdog_s: float | None = None
    grace_s: float = 10.0  # for its requests to end when it is replaced


def plan_models(plan_here: PlanHere, specs: Sequence[FleetModelSpec]) -> list[Plan | str]:
    """A plan for this node for each model alone, or the reason why there is none."""
    answers: list[Plan | str] = []
    for spec in specs:
        try:
            answers.append(plan_here(spec, PlanReductions()))
        except VramLLMError as error:
            answers.append(str(error))
    return answers


def node_name() -> str:
    """This node as messages call it."""
    import socket

    import ray

    return f"{socket.gethostname()} ({ray.get_runtime_context().get_node_id()[:6]})"


class ModelReplica:
    """A model on one node, as a deployment of Ray Serve. Serve calls all methods in one event loop."""

    async def __init__(self, order: ReplicaOrder) -> None:  # type: ignore[misc]  # Serve awaits it
        """Plan, load, and connect to the server. Raises the errors of the plan and of the load."""
        self._order = order
        self._relay: EngineRelay | None = None
        async with _alone_on_node():
            plan = await asyncio.to_thread(order.plan_here, order.spec, PlanReductions())
            self._relay = relay = EngineRelay(
                plan, order.spec.name, order.address, token=order.token, node=node_name(),
                watchdog_s=order.watchdog_s,
                replan=lambda _, reductions: order.plan_here(order.spec, reductions),
            )  # fmt: skip
            relay.start()
            try:
                await relay.ready()
            except BaseException:  # cancelled too: no engine is left behind
                await relay.stop()
                raise

    async def check_health(self) -> None:
        """Serve replaces the replica if this raises: its engine is not started again."""
        relay = self._relay
        if relay is not None and relay.state is EngineState.DEAD:
            raise relay.failure or EngineDied("the engine is stopped")
        since = None if relay is None else relay.unlinked_since
        if since is not None and time.monotonic() - since > _ORPHAN_S:
            await asyncio.to_thread(_delete_application, self._order.app)

    async def __del__(self) -> None:
        """Serve awaits it before it ends the replica: requests that it has are answered."""
        relay, self._relay = self._relay, None
        if relay is not None:
            await relay.leave(self._order.grace_s)
            await relay.stop()


def _delete_application(app: str) -> None:
    from ray import serve

    serve.delete(app, _blocking=False)


@contextlib.asynccontextmanager
async def _alone_on_node() -> AsyncIterator[None]:
    """One replica at a time plans and loads on a node, so that each sees the memory that the others take."""
    # the folder is everybody's: a link that another user has put there is not followed, and nothing is cut
    file = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
