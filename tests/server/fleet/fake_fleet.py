"""A fleet of scripted engines, in place of the real one, which test_real_fleet.py has."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from fastapi import FastAPI

from tests.planner.saved import CONTEXT, local, saved_plan
from tests.server.fake_engine import INFO, FakeEngine, says
from vram_llm.engine.activity import EngineActivity
from vram_llm.engine.engine_protocol import Engine
from vram_llm.errors import UnknownModel
from vram_llm.fleet.snapshots import FleetEvent, FleetModel, ModelState
from vram_llm.machine.types import Source
from vram_llm.model.pooling import Pooling
from vram_llm.planner.fleet.types import FLEET_VERSION, FleetModelSpec, FleetPlan, PackedModel, PlacedReplica
from vram_llm.server.config import ServerConfig
from vram_llm.server.fleet.app import FleetParts, create_fleet_app
from vram_llm.server.fleet.model_events import ModelEvents
from vram_llm.server.fleet.readiness import Readiness
from vram_llm.server.fleet.reloading import ReadSettings, Reloader
from vram_llm.server.fleet.routed_models import FleetSettings, RoutedModels
from vram_llm.server.fleet.what_if_routes import AskAbout
from vram_llm.units import GIB

CARDS = (local(0), local(1))


def packed(name: str, device: int, pooling: Pooling | None = None, **spec: Any) -> PackedModel:
    """A model whose four layers are on one card."""
    counts = [4 if number == device else 0 for number in range(len(CARDS))]
    context = replace(CONTEXT, pooling=pooling)
    plan = saved_plan(CARDS, counts, path=f"/models/{name}-Q8_0.gguf", context=context)
    device_id = CARDS[device].id
    replica = PlacedReplica(
        devices=(device_id,), uses={device_id: 4 * GIB, "host": 2 * GIB}, tokens_per_s=10.0,
        throughput_tokens_per_s=20.0, load_s=3.0, load_basis=Source.ASSUMED, plan=plan,
    )  # fmt: skip
    asked = FleetModelSpec(name=name, source=plan.model.path, **spec)
    return PackedModel(spec=asked, replicas=(replica,), why="it fits there")


def plan_of(*models: PackedModel) -> FleetPlan:
    names = [model.spec.name for model in models]
    return FleetPlan(
        version=FLEET_VERSION, models=models, devices=CARDS,
        budgets={"host": 32 * GIB, **{card.id: 24 * GIB for card in CARDS}},
        resident_at_start=tuple(names), sets=(frozenset(names),),
    )  # fmt: skip


def settings_of(*models: PackedModel, **configs: Any) -> FleetSettings:
    """`configs` are ServerConfig's fields of all models."""
    return FleetSettings(
        plan=plan_of(*models),
        configs={m.spec.name: ServerConfig(aliases=m.spec.aliases, **configs) for m in models},
    )


class FakeFleet:
    """Every model is resident but those of `unloaded`, for which requests wait until `load` is called."""

    def __init__(self, plan: FleetPlan) -> None:
        self.engines: dict[str, FakeEngine] = {}
        self.states: dict[str, ModelState] = {}
        self.leases: list[str] = []
        self.waiting: list[str] = []
        self.held: list[str] = []
        self.orders: list[tuple[str, str | None]] = []
        self.were_loaded: set[str] = set()
        self._gates: dict[str, asyncio.Event] = {}
        self._readers: list[asyncio.Queue[FleetEvent | None]] = []
        self.set_plan(plan)

    def set_plan(self, plan: FleetPlan) -> None:
        self.plan = plan
        for model in plan.models:
            name, replica = model.spec.name, model.replicas[0]
            if name in self.engines:
                continue
            pooling = replica.plan.context.pooling
            info = replace(INFO, name=name, pooling=pooling, n_pooled=0 if pooling is None else 4)
            engine = FakeEngine(says("I am ", name), info)
            engine.plan = replica.plan
            self.engines[name], self.states[name] = engine, ModelState.RESIDENT

    async def apply(self, plan: FleetPlan) -> None:
        self.set_plan(plan)

    def change(self, name: str, state: ModelState, **more: Any) -> None:
        self.states[name] = state
        if state is ModelState.RESIDENT:
            self._gates.setdefault(name, asyncio.Event()).set()
        for queue in self._readers:
            queue.put_nowait(FleetEvent(time=1.0, model=name, state=state, **more))

    @asynccontextmanager
    async def lease(self, model: str) -> AsyncIterator[Engine]:
        if self.states[model] is not ModelState.RESIDENT:
            self.waiting.append(model)
            try:
                await self._gates.setdefault(model, asyncio.Event()).wait()
            finally:
                self.waiting.remove(model)
        self.leases.append(model)
        self.held.append(model)
        try:
            yield self.engines[model]
        finally:
            self.held.remove(model)

    async def load(self, model: str) -> None:
        self.orders.append(("load", model))
        self.change(model, ModelState.RESIDENT)

    async def unload(self, model: str) -> None:
        self.orders.append(("unload", model))
        self.change(model, ModelState.UNLOADED)

    async def sleep(self, model: str | None = None) -> None:
        self.orders.append(("sleep", model))

    def snapshot(self, model: str) -> FleetModel:
        found = next((each for each in self.plan.models if each.spec.name == model), None)
        if found is None:
            raise UnknownModel(f"there is no model '{model}'", "model")
        state = self.states[model]
        return FleetModel(
            name=model, aliases=found.spec.aliases, state=state, why=found.why,
            devices=found.replicas[0].devices,
            bytes_by_device=found.uses, waiting=self.waiting.count(model), in_flight=self.held.count(model),
            n_loads=1, load_s=2.0,
            info=self.engines[model].info if state is ModelState.RESIDENT else None,
        )  # fmt: skip

    def snapshots(self) -> tuple[FleetModel, ...]:
        return tuple(self.snapshot(model.spec.name) for model in self.plan.models)

    def engine(self, model: str) -> Engine | None:
        return self.engines[model] if self.states[model] is ModelState.RESIDENT else None

    def activity(self, model: str) -> EngineActivity | None:
        was_loaded = self.states[model] is ModelState.RESIDENT or model in self.were_loaded
        return self.engines[model].activity if was_loaded else None

    async def events(self) -> AsyncIterator[FleetEvent]:
        queue: asyncio.Queue[FleetEvent | None] = asyncio.Queue()
        self._readers.append(queue)
        while (event := await queue.get()) is not None:
            yield event


THREE = (
    packed("chat", 0, aliases=("gpt-4o",)),
    packed("coder", 1),
    packed("embedder", 1, Pooling.MEAN),
)


class FleetUnderTest:
    """A fleet of three models, and its application. `options` are ServerConfig's, of server and models."""

    def __init__(
        self,
        models: Sequence[PackedModel] = THREE,
        read: ReadSettings | None = None,
        about: AskAbout | None = None,
        **options: Any,
    ) -> None:
        of_models = ("request_timeout_s", "slot_save_path")
        settings = settings_of(*models, **{k: v for k, v in options.items() if k in of_models})
        self.config = ServerConfig(**options)
        self.fleet = FakeFleet(settings.plan)
        self.models = RoutedModels(self.fleet, settings)
        self.readiness = Readiness()
        self.readiness.become_ready()
        self.events = ModelEvents(self.fleet, 10.0)
        self.reloader = Reloader(
            self.models, self.config, read=read, apply=self.apply, on_reload=self.events.announce_reload
        )
        self.app: FastAPI = create_fleet_app(
            FleetParts(
                fleet=self.fleet, models=self.models, readiness=self.readiness, reloader=self.reloader,
                events=self.events, about=about,
            ),
            self.config,
            clock=lambda: 1234.5,
        )  # fmt: skip

    async def apply(self, settings: FleetSettings) -> None:
        await self.fleet.apply(settings.plan)
