"""`vram-llm serve --ray`: the models of a fleet on the machines of a Ray cluster."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from vram_llm.cli import terminal
from vram_llm.cli.fleet_config import INSTALLED, ConfiguredFleet, read_serve
from vram_llm.cli.plan_options import PlanOptions
from vram_llm.cli.serve_fleet import notes_on_server, with_models_settings
from vram_llm.cli.server_log import set_up_log
from vram_llm.cli.usage_errors import reason
from vram_llm.errors import BadConfig
from vram_llm.server.config import ServerConfig

if TYPE_CHECKING:
    from vram_llm.fleet.ray.cluster import RayCluster
    from vram_llm.planner.fleet.types import FleetPlan
    from vram_llm.server.fleet.routed_models import FleetSettings


def serve_ray(
    address: str,
    fleet: ConfiguredFleet | None,
    options: PlanOptions,
    server: ServerConfig,
    arguments: Sequence[str],
) -> None:
    """Serve the models of `fleet` on the cluster at `address` until Ctrl+C."""
    from vram_llm.cli.fleet_lines import fleet_ready_lines
    from vram_llm.fleet.ray.cluster import joined
    from vram_llm.server import sockets
    from vram_llm.server.host_check import check_exposure
    from vram_llm.workflows import ray_serving

    fleet = _checked(fleet, options)
    set_up_log(server)
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(sock) for sock in sockets.bind_all(server.host, server.port)]
        check_exposure(socks, server)
        resources = ray_serving.own_resources() if address == "local" else {}
        cluster = stack.enter_context(joined(address, resources))
        for node in cluster.nodes():
            terminal.say(f"node {node.name}", err=True)
        settings = ray_settings(cluster, fleet)

        def say_ready(port: int) -> None:
            for line in fleet_ready_lines(settings.plan, server, port):
                terminal.say(line, err=True)

        ray_serving.serve_on_ray(
            cluster, settings, server, socks, read=RereadRay(cluster, tuple(arguments), fleet, server),
            on_ready=say_ready,
        )  # fmt: skip


def ray_settings(
    cluster: "RayCluster", fleet: ConfiguredFleet, before: "FleetPlan | None" = None
) -> "FleetSettings":
    """The plan of a fleet on a cluster, and its models' settings. Raises DoesNotFit."""
    from vram_llm.server.fleet.routed_models import FleetSettings
    from vram_llm.workflows.fleet_serving import check_settings
    from vram_llm.workflows.ray_serving import plan_cluster

    settings = FleetSettings(plan=plan_cluster(cluster, fleet.spec, before), configs=fleet.servers)
    check_settings(settings)
    return settings


@dataclass(frozen=True, slots=True)
class RereadRay:
    """Reads the fleet's configuration again. Models that are the same stay where they are."""

    cluster: "RayCluster"
    arguments: tuple[str, ...]
    fleet: ConfiguredFleet  # as at the start
    server: ServerConfig

    def __call__(self, plan: "FleetPlan") -> "FleetSettings":
        """The settings in place of those with `plan`. Raises BadConfig, DoesNotFit, ServerUnreachable."""
        found = read_serve(self.arguments)
        try:
            fleet = _checked(found.fleet, found.options)
        except click.UsageError as error:
            raise BadConfig(reason(error)) from None
        servers = with_models_settings(self.server, fleet.servers)
        settings = ray_settings(self.cluster, replace(fleet, servers=servers), plan)
        notes = [*notes_on_server(self.server, found.server), *self._notes_on_models(fleet)]
        return replace(settings, notes=tuple(notes))

    def _notes_on_models(self, fleet: ConfiguredFleet) -> Iterator[str]:
        """Sentences on settings that the replicas which run do not take."""
        before = self.fleet.servers
        for name, now in fleet.servers.items():
            if name in before and now.watchdog_s != before[name].watchdog_s:
                yield f"the watchdog of {name}: used from its next load on"


def _checked(fleet: ConfiguredFleet | None, options: PlanOptions) -> ConfiguredFleet:
    """Raises UsageError for a command line, BadConfig for a file that a cluster cannot serve."""
    if fleet is None:
        raise click.UsageError("--ray serves named models: give NAME=MODEL, or --config FILE with models:")
    for model in fleet.spec.models:
        if model.source == INSTALLED:
            raise BadConfig(
                f"{fleet.places[model.name]}: each node has other models on its disk; with --ray name the "
                f"models in place of `source: {INSTALLED}`"
            )
    if fleet.spec.together or fleet.spec.apart:
        raise BadConfig("with --ray all models are loaded at the start, where each fits: leave groups: out")
    if fleet.workers:
        raise BadConfig(f"{fleet.workers[0].place}: RPC workers are not used with --ray: leave workers: out")
    if options.rpc or options.gpus or options.device is not None:
        raise click.UsageError(
            "--ray plans for the devices of its nodes: leave --rpc, --gpu and --device out"
        )
    return fleet
