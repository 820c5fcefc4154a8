"""Serve the models of a fleet over HTTP."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

    from vram_llm.engine.engine_protocol import Engine
    from vram_llm.engine.process import SpareProcess
    from vram_llm.fleet.engines import FleetEngine, MakeEngine
    from vram_llm.fleet.load_plans import LoadPlans
    from vram_llm.fleet.manager import Fleet
    from vram_llm.fleet.snapshots import FleetModel, ModelState
    from vram_llm.machine.types import Device, Machine
    from vram_llm.planner.fleet.types import FleetModelSpec, FleetPlan, FleetSpec, PackedModel
    from vram_llm.planner.types import Plan
    from vram_llm.server.config import ServerConfig
    from vram_llm.server.fleet.reloading import ReadSettings
    from vram_llm.server.fleet.routed_models import FleetSettings

log = logging.getLogger("vram_llm.fleet")
_NOTICES = logging.getLogger("vram_llm.notices")  # engine.supervisor.NOTICES, which takes time to import


def serve_fleet(
    settings: "FleetSettings",
    config: "ServerConfig | None" = None,
    *,
    socks: "Sequence[socket.socket] | None" = None,
    read: "ReadSettings | None" = None,
    installed: Callable[[], object] | None = None,
    machine: "Callable[[], Machine] | None" = None,
    on_ready: Callable[[int], None] = lambda _port: None,
) -> None:
    """Load the models of `settings` that are resident at the start, and serve all until SIGINT or SIGTERM.

    `config` is the server's; None: all defaults. `socks` are bound to its address and closed at the end.
    `read` reads the configuration again at SIGHUP and by API; `installed`: see FleetService. `machine` reads
    the machine as it is now, without its workers: a model is placed again if other programs have taken its
    memory, its engine ran out of memory, or its file has changed; without `machine` such a load is refused.
    `on_ready` gets the port when the models of the start are loaded.

    Raises PortInUse, KeyRequired, BadKeysFile, BadCertificate, BrokenTemplate, RequestError for chat template
    variables, and the errors of loads if no model of the start can be loaded.
    """
    from vram_llm.engine.process import SpareProcess
    from vram_llm.fleet.manager import Fleet
    from vram_llm.server.config import ServerConfig
    from vram_llm.server.fleet.run import FleetService
    from vram_llm.server.fleet.run import serve_fleet as serve
    from vram_llm.workflows.listening import run_listening
    from vram_llm.workflows.what_if.planner import PlanningProcess

    config = config or ServerConfig()
    check_settings(settings)

    async def main(bound: "list[socket.socket]") -> None:
        port: int = bound[0].getsockname()[1]
        spare, planning, configs = SpareProcess(log), PlanningProcess(), dict(settings.configs)

        async def apply(later: "FleetSettings") -> None:
            configs.update(later.configs)
            await fleet.apply(later.plan)

        fleet = Fleet(
            settings.plan,
            make_engine=_engines(lambda: fleet, configs, spare),
            load_plans=_load_plans(lambda: fleet, settings.plan.devices, machine),
            on_change=StateLog(),
        )
        service = FleetService(
            fleet=fleet, settings=settings, apply=apply, read=read, installed=installed,
            on_ready=lambda: on_ready(port), about=planning.about,
        )  # fmt: skip
        try:
            await serve(service, bound, config)
        finally:
            await planning.close()
            await spare.close()

    run_listening(main, config, socks)


def _engines(
    fleet: "Callable[[], Fleet]", configs: "Mapping[str, ServerConfig]", processes: "SpareProcess"
) -> "MakeEngine":
    """Makes engines of a fleet with the watchdogs of `configs`, which may change."""
    from vram_llm.fleet.replicas import make_engine

    def engine_of(plans: "Sequence[Plan]", name: str, on_state: "Callable[[Engine], None]") -> "FleetEngine":
        watchdog_s, replan = configs[name].watchdog_s, fleet().replan_of(name)
        return make_engine(plans, name, on_state, watchdog_s=watchdog_s, replan=replan, processes=processes)

    return engine_of


def _load_plans(
    fleet: "Callable[[], Fleet]", devices: "Sequence[Device]", machine: "Callable[[], Machine] | None"
) -> "LoadPlans":
    """Reads the free memory before loads; with `machine` models are placed again on it as it is now."""
    from vram_llm.fleet.load_plans import LoadPlans
    from vram_llm.workflows.fleet_planning import FleetReplanner
    from vram_llm.workflows.machine_now import MachineNow

    now = MachineNow(devices, machine)
    replanner = None if machine is None else FleetReplanner(lambda: fleet().plan, now.machine)
    return LoadPlans(now.free_bytes, replanner)


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

    return _checked(FleetSettings(plan=plan_fleet(spec, machine, on_model=on_model), configs=configs))


def fleet_settings_beside(
    before: "FleetPlan", spec: "FleetSpec", machine: "Machine", configs: "Mapping[str, ServerConfig]"
) -> "FleetSettings":
    """The settings of a changed fleet, in which models with the same spec and files stay as in `before`.

    If the new ones do not fit beside them, all models are placed anew. Raises the errors of `plan_fleet`.
    """
    from vram_llm.errors import DoesNotFit
    from vram_llm.server.fleet.routed_models import FleetSettings
    from vram_llm.workflows.fleet_planning import plan_fleet

    old, asked = {model.spec.name: model for model in before.models}, {m.name: m for m in spec.models}
    stays = {name for name, model in asked.items() if name in old and _is_same(old[name], model)}
    pinned = tuple(_in_place(old[m.name]) if m.name in stays else m for m in spec.models)
    try:
        kept = {name: old[name].replicas for name in stays}
        plan = plan_fleet(replace(spec, models=pinned), machine, kept=kept)
    except DoesNotFit:
        return fleet_settings(spec, machine, configs)
    if not any(each.issuperset(plan.resident_at_start) for each in plan.sets):
        return fleet_settings(spec, machine, configs)
    models = tuple(
        replace(model, spec=asked[model.spec.name], why=old[model.spec.name].why)
        if model.spec.name in stays
        else model
        for model in plan.models
    )
    return _checked(FleetSettings(plan=replace(plan, models=models), configs=configs))


def _is_same(packed: "PackedModel", spec: "FleetModelSpec") -> bool:
    """Whether a plan still holds: the model is asked for in the same way, and its files are the same."""
    from vram_llm.model.file_identity import change_of

    files = (file for replica in packed.replicas for file in replica.plan.files)
    return packed.spec == spec and all(change_of(file) is None for file in files)


def _in_place(packed: "PackedModel") -> "FleetModelSpec":
    """The spec of a model that keeps its devices. One that is on the host alone may be anywhere."""
    devices = tuple(dict.fromkeys(device for replica in packed.replicas for device in replica.devices))
    return replace(packed.spec, devices=devices or packed.spec.devices, replicas=len(packed.replicas))


def _checked(settings: "FleetSettings") -> "FleetSettings":
    check_settings(settings)
    return settings


def check_settings(settings: "FleetSettings") -> None:
    """Raises BadPlan for a model that cannot be loaded, BrokenTemplate, RequestError."""
    from vram_llm.chat.template import check_template
    from vram_llm.server.template_variables import check_variables
    from vram_llm.workflows.saved_plans import check_loadable

    for model in settings.plan.models:
        for replica in model.replicas:
            check_loadable(replica.plan)
        config = settings.configs[model.spec.name]
        check_variables(config.chat_template_kwargs)
        if config.chat_template is not None:
            check_template(config.chat_template, f"the chat template of {model.spec.name}")


class StateLog:
    """Logs the beginnings and ends of loads. The engine itself logs its restarts."""

    def __init__(self) -> None:
        self._states: dict[str, ModelState] = {}
        self._loading: set[str] = set()

    def __call__(self, model: "FleetModel") -> None:
        from vram_llm.fleet.snapshots import ModelState

        before = self._states.get(model.name)
        if before is model.state:
            return
        self._states[model.name] = model.state
        where = ", ".join(model.devices) or "the host"
        if model.state is ModelState.LOADING and before is not ModelState.RESIDENT:
            _NOTICES.info("%s is being loaded on %s", model.name, where)
            self._loading.add(model.name)
        elif model.state is ModelState.RESIDENT:
            is_loaded = model.name in self._loading and model.load_s is not None
            self._loading.discard(model.name)
            if before is ModelState.UNLOADING:
                _NOTICES.info("%s stays loaded", model.name)
                return
            seconds = f" after {model.load_s:.1f} s" if is_loaded else ""  # load_s is that of the last load
            _NOTICES.info("%s is ready%s", model.name, seconds)
