"""Serve the models of a fleet over HTTP."""

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

    from vram_llm.engine.engine_protocol import Engine
    from vram_llm.fleet.engines import FleetEngine, MakeEngine
    from vram_llm.fleet.load_plans import FreeBytes
    from vram_llm.fleet.snapshots import FleetModel
    from vram_llm.machine.types import Machine
    from vram_llm.planner.fleet.types import FleetModelSpec, FleetPlan, FleetSpec, PackedModel
    from vram_llm.planner.types import Plan
    from vram_llm.server.config import ServerConfig
    from vram_llm.server.fleet.reloading import ReadSettings
    from vram_llm.server.fleet.routed_models import FleetSettings

log = logging.getLogger("vram_llm.fleet")


def serve_fleet(
    settings: "FleetSettings",
    config: "ServerConfig | None" = None,
    *,
    socks: "Sequence[socket.socket] | None" = None,
    read: "ReadSettings | None" = None,
    installed: Callable[[], object] | None = None,
    on_ready: Callable[[int], None] = lambda _port: None,
) -> None:
    """Load the models of `settings` that are resident at the start, and serve all until SIGINT or SIGTERM.

    `config` is the server's; None: all defaults. `socks` are bound to its address and closed at the end.
    `read` reads the configuration again at SIGHUP and by API; `installed`: see FleetService. `on_ready` gets
    the port when the models of the start are loaded.

    Raises PortInUse, KeyRequired, BadKeysFile, BadCertificate, BrokenTemplate, RequestError for chat template
    variables, and the errors of loads if no model of the start can be loaded.
    """
    import asyncio

    from vram_llm.fleet.load_plans import LoadPlans
    from vram_llm.fleet.manager import Fleet
    from vram_llm.server import run, sockets
    from vram_llm.server.config import ServerConfig
    from vram_llm.server.fleet.run import FleetService
    from vram_llm.server.fleet.run import serve_fleet as serve
    from vram_llm.server.host_check import check_exposure

    config = config or ServerConfig()
    check_settings(settings)
    bound = list(socks) if socks is not None else sockets.bind_all(config.host, config.port)

    async def main() -> None:
        port: int = bound[0].getsockname()[1]
        fleet = Fleet(
            settings.plan,
            make_engine=make_engine(config.watchdog_s),
            load_plans=LoadPlans(free_bytes=free_bytes_of(settings.plan)),
            on_change=_StateLog(),
        )
        service = FleetService(
            fleet=fleet, settings=settings, read=read, installed=installed, on_ready=lambda: on_ready(port)
        )
        await serve(service, bound, config)

    with contextlib.ExitStack() as stack, asyncio.Runner(loop_factory=run.new_event_loop) as runner:
        for sock in bound:
            stack.enter_context(sock)
        check_exposure(bound, config)
        sockets.start_listening(bound)
        runner.run(main())


def fleet_settings(
    spec: "FleetSpec",
    machine: "Machine",
    configs: "Mapping[str, ServerConfig]",
    *,
    on_model: Callable[[str], None] = lambda _: None,
) -> "FleetSettings":
    """The plan of a fleet and its models' settings, which are checked. Raises the errors of `plan_fleet`."""
    from vram_llm.server.fleet.routed_models import FleetSettings
    from vram_llm.workflows.fleet_planning import plan_fleet

    settings = FleetSettings(plan=plan_fleet(spec, machine, on_model=on_model), configs=configs)
    check_settings(settings)
    return settings


def fleet_settings_beside(
    before: "FleetPlan", spec: "FleetSpec", machine: "Machine", configs: "Mapping[str, ServerConfig]"
) -> "FleetSettings":
    """The settings of a changed fleet, in which models with an unchanged spec stay where `before` has them.

    If the new ones do not fit beside them, all models are placed anew. Raises the errors of `plan_fleet`.
    """
    from vram_llm.errors import DoesNotFit

    old = {model.spec.name: model for model in before.models}
    pinned, wanted = [], {model.name: model for model in spec.models}
    for model in spec.models:
        packed = old.get(model.name)
        stays = packed is not None and packed.spec == model
        pinned.append(_in_place(packed) if packed is not None and stays else model)
    try:
        settings = fleet_settings(replace(spec, models=tuple(pinned)), machine, configs)
    except DoesNotFit:
        return fleet_settings(spec, machine, configs)
    models = tuple(replace(model, spec=wanted[model.spec.name]) for model in settings.plan.models)
    return replace(settings, plan=replace(settings.plan, models=models))


def _in_place(packed: "PackedModel") -> "FleetModelSpec":
    """The spec of a model that keeps its devices. One that is on the host alone may be anywhere."""
    devices = tuple(dict.fromkeys(device for way in packed.ways for device in way.devices))
    return replace(packed.spec, devices=devices or packed.spec.devices, replicas=len(packed.ways))


def check_settings(settings: "FleetSettings") -> None:
    """Raises BadPlan for a model that cannot be loaded, BrokenTemplate, RequestError."""
    from vram_llm.chat.template import check_template
    from vram_llm.server.template_variables import check_variables
    from vram_llm.workflows.saved_plans import check_loadable

    for model in settings.plan.models:
        for way in model.ways:
            check_loadable(way.plan)
        config = settings.configs[model.spec.name]
        check_variables(config.chat_template_kwargs)
        if config.chat_template is not None:
            check_template(config.chat_template, f"the chat template of {model.spec.name}")


def make_engine(watchdog_s: float | None) -> "MakeEngine":
    """Makes engines in processes of their own; a model with several plans has one for each."""
    from vram_llm.engine.client import EngineClient
    from vram_llm.fleet.replicas import ReplicaSet

    def make(plans: "tuple[Plan, ...]", name: str, on_state: "Callable[[Engine], None]") -> "FleetEngine":
        if len(plans) == 1:
            return EngineClient(plans[0], name, on_state, watchdog_s=watchdog_s)
        return ReplicaSet([EngineClient(plan, name, watchdog_s=watchdog_s) for plan in plans], on_state)

    return make


def free_bytes_of(plan: "FleetPlan") -> "FreeBytes":
    """Reads the free memory of the plan's cards, as their driver knows it, and of the host."""
    from vram_llm.machine.device_readings import DeviceReader
    from vram_llm.machine.host import read_host_memory
    from vram_llm.planner.types import HOST
    from vram_llm.server.metrics.system_readings import SystemReading

    reader = DeviceReader()

    def read() -> Mapping[str, int]:
        reading = SystemReading(reader.read(), read_host_memory(None))
        cards = {device.id: reading.card(device) for device in plan.devices}
        free = {i: card.free_bytes for i, card in cards.items() if card is not None}
        known = {i: n_bytes for i, n_bytes in free.items() if n_bytes is not None}
        return known | {HOST: reading.host.available_bytes}

    return read


class _StateLog:
    """Logs loads and unloads as they are done."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}

    def __call__(self, model: "FleetModel") -> None:
        from vram_llm.fleet.snapshots import ModelState

        if self._states.get(model.name) == model.state.value:
            return
        self._states[model.name] = model.state.value
        where = ", ".join(model.devices) or "the host"
        if model.state is ModelState.LOADING:
            log.info("%s is loaded on %s", model.name, where)
        elif model.state is ModelState.RESIDENT:
            seconds = "" if model.load_s is None else f" after {model.load_s:.1f} s"
            log.info("%s is ready%s", model.name, seconds)
