"""`vram-llm serve` with several models."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vram_llm.cli import terminal
from vram_llm.cli.fleet_config import ConfiguredFleet, read_serve
from vram_llm.cli.fleet_installed import installed_now, names_installed, with_installed
from vram_llm.cli.fleet_workers import FleetWorker
from vram_llm.cli.plan_options import PlanOptions
from vram_llm.cli.server_log import set_up_log
from vram_llm.cli.server_options import MODEL_FIELDS
from vram_llm.errors import BadConfig
from vram_llm.server.config import ServerConfig

if TYPE_CHECKING:
    from vram_llm.machine.types import Machine
    from vram_llm.planner.fleet.types import FleetPlan
    from vram_llm.server.fleet.routed_models import FleetSettings

_OF_MODELS = frozenset({"model_name", "aliases", *MODEL_FIELDS})
"""Settings of a ServerConfig that each model has of its own: reading the configuration again changes them."""


def serve_fleet(
    fleet: ConfiguredFleet, options: PlanOptions, server: ServerConfig, arguments: Sequence[str]
) -> None:
    """Plan the models of `fleet`, and serve them until Ctrl+C. `arguments` are those of `serve`."""
    from vram_llm.cli.fleet_lines import fleet_ready_lines
    from vram_llm.server import sockets
    from vram_llm.server.host_check import check_exposure
    from vram_llm.workflows import fleet_serving

    set_up_log(server)
    uses_installed = names_installed(fleet)
    fleet.check_sources()
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(sock) for sock in sockets.bind_all(server.host, server.port)]
        check_exposure(socks, server)
        machine = fleet_machine(options, fleet.workers)
        fleet = with_installed(fleet, machine)
        settings = fleet_serving.fleet_settings(
            fleet.on(machine),
            machine,
            fleet.servers,
            on_model=lambda name: terminal.say(f"planning {name}", err=True),
        )
        for note in settings.plan.notes:
            terminal.say(f"note: {note}", err=True)

        def say_ready(port: int) -> None:
            for line in fleet_ready_lines(settings.plan, server, port):
                terminal.say(line, err=True)

        fleet_serving.serve_fleet(
            settings,
            server,
            socks=socks,
            read=RereadFleet(tuple(arguments), fleet, server, machine),
            machine=dataclasses.replace(options, rpc=(), ssh=()).machine,
            installed=installed_now if uses_installed else None,
            on_ready=say_ready,
        )


def fleet_machine(options: PlanOptions, workers: Sequence[FleetWorker]) -> "Machine":
    """The machine to plan for, with the workers of the file. Raises WorkerUnreachable."""
    return options.machine(tuple(worker.spec for worker in workers))


@dataclass(frozen=True, slots=True)
class RereadFleet:
    """Reads the fleet's configuration again, for the machine as it was before its models were loaded."""

    arguments: tuple[str, ...]
    fleet: ConfiguredFleet  # as at the start
    server: ServerConfig
    machine: "Machine"

    def __call__(self, plan: "FleetPlan") -> "FleetSettings":
        """The settings in place of those with `plan`. Models that are the same stay where they are.

        Raises BadConfig with file and line, and the errors of `plan_fleet`.
        """
        from vram_llm.workflows.fleet_serving import fleet_settings_beside

        found = read_serve(self.arguments)
        if found.fleet is None:
            raise BadConfig("the configuration has no models: any more; start the server anew for one model")
        found.fleet.check_sources()
        fleet = with_installed(found.fleet, self.machine)
        servers = with_models_settings(self.server, fleet.servers)
        settings = fleet_settings_beside(plan, fleet.on(self.machine), self.machine, servers)
        notes = list(notes_on_server(self.server, found.server))
        if fleet.workers != self.fleet.workers:
            notes.append("other workers are used after a restart of the server only")
        return dataclasses.replace(settings, notes=tuple(notes))


def with_models_settings(server: ServerConfig, models: Mapping[str, ServerConfig]) -> dict[str, ServerConfig]:
    """The settings of models on a server that goes on with its own."""
    return {
        name: dataclasses.replace(server, **{field: getattr(model, field) for field in _OF_MODELS})
        for name, model in models.items()
    }


def notes_on_server(before: ServerConfig, now: ServerConfig) -> tuple[str, ...]:
    """A sentence on settings of the whole server that have changed, if any."""
    names = [
        field.name.replace("_", "-").removesuffix("-s")
        for field in dataclasses.fields(ServerConfig)
        if field.name not in _OF_MODELS and getattr(now, field.name) != getattr(before, field.name)
    ]
    return (f"{', '.join(names)}: used after a restart of the server only",) if names else ()
