"""`plan --config FILE`: the plan of the models that a configuration file lists."""

from typing import TYPE_CHECKING, Any

import click

from vram_llm.cli import terminal
from vram_llm.cli.fleet_export import FLEET_FORMATS, emit_fleet
from vram_llm.cli.next_command import given_words
from vram_llm.cli.plan_options import PLAN_OPTIONS
from vram_llm.errors import BadConfig

if TYPE_CHECKING:
    from vram_llm.cli.fleet_config import ConfiguredFleet, ServeOptions
    from vram_llm.planner.fleet.types import FleetPlan

_TAKEN = ("as_json", "form", "verbose", "config_file")


def plan_configured_fleet(ctx: click.Context) -> None:
    """Plan and print the fleet of `plan --config FILE`, whose context is `ctx`.

    Raises BadConfig, UsageError for options that go with one model, and the errors of `plan_fleet`.
    """
    from vram_llm.cli.fleet_config import read_serve
    from vram_llm.cli.planned_fleet import planned_fleet_json
    from vram_llm.planner.fleet.report import fleet_report

    _check_options(ctx.params)
    names = {option.name for option in PLAN_OPTIONS}
    config = ctx.params["config_file"]
    read = read_serve(["--config", config, *given_words(ctx, names)])
    plan, fleet = _plan(read, config)
    if ctx.params["form"] is not None:
        click.echo(emit_fleet(plan, fleet.servers, ctx.params["form"]).encode())
    elif ctx.params["as_json"]:
        click.echo(planned_fleet_json(plan))
    else:
        terminal.show(fleet_report(plan, terminal.width(), all_swaps=ctx.params["verbose"]))


def _plan(read: "ServeOptions", config: str) -> "tuple[FleetPlan, ConfiguredFleet]":
    """The plan, and the fleet with the models of an entry `source: installed`."""
    from vram_llm.cli.fleet_installed import with_installed
    from vram_llm.workflows.fleet_planning import plan_fleet

    fleet = read.fleet
    if fleet is None:
        raise BadConfig(f"{config} lists no models: `vram-llm plan MODEL` plans one")
    fleet.check_sources()
    machine = read.options.machine(tuple(worker.spec for worker in fleet.workers))
    fleet = with_installed(fleet, machine)
    return plan_fleet(fleet.on(machine), machine), fleet


def _check_options(params: dict[str, Any]) -> None:
    """Raises UsageError for arguments and options of `plan` that are about one model."""
    if params["model"] is not None or params["model_option"] is not None:
        raise click.UsageError("--config names the models: leave MODEL out")
    if params["form"] is not None and params["form"] not in FLEET_FORMATS:
        raise click.UsageError(
            f"--emit {params['form']} is for one model; --config takes {' and '.join(FLEET_FORMATS)}"
        )
    if params["form"] is not None and params["as_json"]:
        raise click.UsageError("--json and --emit are two forms of output: give one of them")
    others = {"plan_file": "--check", "others": "--compare", "explain": "--explain", "wants_floor": "--floor",
              "picture": "--plot"}  # fmt: skip
    if given := next((flag for name, flag in others.items() if params[name]), None):
        raise click.UsageError(f"{given} is about one model: leave it or --config out")
