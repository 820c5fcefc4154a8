"""A model's engine in another process, perhaps on another machine, as if it were this server's own."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Protocol

from vram_llm.engine import wire
from vram_llm.engine.client import EngineClient
from vram_llm.engine.model_info import EngineState
from vram_llm.engine.slot_order import SlotDone, SlotOrder
from vram_llm.engine.supervisor import notices
from vram_llm.errors import EngineDied, ModelChanged, RequestError, VramLLMError
from vram_llm.fleet.ray.links import Leaving, ReplicaLink, decode_from_replica, read_frame
from vram_llm.planner.types import Plan, PlannedModel

log = logging.getLogger("vram_llm.fleet")


class ReplicaSource(Protocol):
    """Starts the replicas of a model, whose connections come by `links`. Its engines share it."""

    @property
    def links(self) -> "asyncio.Queue[ReplicaLink]": ...

    def begin(self, engine: "RemoteEngine") -> None:
        """Start the replicas, if no other engine has done so."""

    async def end(self, engine: "RemoteEngine") -> None:
        """End the replicas, and wait until they are gone, if no other engine has done so."""


class RemoteEngine(EngineClient):
    """An engine that a replica runs. It takes one connection after the other from `source`.

    Between two connections requests wait, as between two engine processes: see engine/in_flight.py. `plan` is
    the expected one; each replica has its own.
    """

    def __init__(
        self,
        plan: Plan,
        model_name: str,
        source: ReplicaSource,
        on_state: Callable[[EngineClient], None] = lambda _: None,
    ) -> None:
        super().__init__(plan, model_name, on_state)
        self.detail = "waiting for a replica"
        self.node: str | None = None  # of the replica; None: there is none
        self._source = source

    def start(self) -> None:
        """Begin to wait for a replica, in the background."""
        super().start()
        self._source.begin(self)

    async def stop(self) -> None:
        """End the replicas and wait until they are gone."""
        await super().stop()
        await self._source.end(self)

    async def order_slot(self, order: SlotOrder) -> SlotDone:
        """Refused: the files are here, the state is there. Raises RequestError."""
        raise RequestError(
            "this model is on another computer, by Ray, so its slots are not saved, restored or erased",
            "id_slot",
        )

    def fail(self, error: VramLLMError) -> None:
        """The replicas do not start. Requests in flight end with `error` if none ever did, else they wait."""
        if self.info is not None:
            self.say(f"no replica starts: {error}")
            return
        self.failure = error
        self.in_flight.fail_all(error)
        self._set_state(EngineState.DEAD, str(error))

    def say(self, detail: str) -> None:
        """Show why there is no replica yet."""
        if self.node is None and detail != self.detail:
            self._set_state(EngineState.LOADING, detail)

    async def _supervise(self) -> None:
        while True:
            link = await self._source.links.get()
            self._has_other_model = self.info is not None and _differ(self.plan.model, link.hello.plan.model)
            self.plan, self.node = link.hello.plan, link.hello.node
            self._writer = link.writer
            try:
                await self._follow_replica(link.reader)
            except Exception:  # a bug must not leave requests waiting for ever: the replica dials again
                log.exception("the connection to the replica on %s is closed", link.hello.node)
            link.writer.close()
            self._note_loss(link.hello.node)

    async def _follow_replica(self, reader: asyncio.StreamReader) -> None:
        """Pass on the replica's messages until the connection ends."""
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                message = decode_from_replica(await read_frame(reader))
                match message:
                    case Leaving():
                        self.in_flight.note_end()
                        self._set_state(
                            EngineState.LOADING, f"waiting for another replica than {self.node}'s"
                        )
                    case wire.Ready(info):
                        self._note_ready(info.n_ctx, message)
                    case wire.Notice(text):
                        notices.info("%s: %s", self.node, text)
                    case wire.MemoryWarning(text):
                        self._plans.note_pressure(text)
                    case _:
                        self._receive(message)

    def _note_ready(self, n_ctx: int, ready: wire.Ready) -> None:
        self.info, self._ready_at = ready.info, time.monotonic()
        if self._has_other_model:
            name = self.plan.model.name
            self.in_flight.fail_all(
                ModelChanged(f"another model is served as {name}; send the request again")
            )
            self._has_other_model = False
        notices.info("%s is served from %s, with %d tokens of context", ready.info.name, self.node, n_ctx)
        self._set_state(EngineState.READY, "")
        self.in_flight.note_ready()

    def _note_loss(self, node: str) -> None:
        """The connection has ended: its requests wait for the next one."""
        had_loaded, self._ready_at, self.node = self._ready_at is not None, None, None
        self.in_flight.note_end()
        self._receive(None)
        self._set_state(EngineState.LOADING, f"waiting for a replica in place of the one on {node}")
        if had_loaded:
            self.n_restarts += 1
            self.in_flight.note_death(EngineDied(f"the replica on {node} is gone"))


def _differ(before: PlannedModel, after: PlannedModel) -> bool:
    """Whether two plans are for different models. Paths and times of files may differ between nodes."""
    return (before.name, before.total_bytes) != (after.name, after.total_bytes)
