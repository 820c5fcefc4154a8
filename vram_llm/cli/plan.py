"""vram-llm plan: which layers go on which device, and how many bytes each device holds."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource, augment_usage_errors

from vram_llm.cli import terminal
from vram_llm.cli.complete_model import complete_model, same_model
from vram_llm.cli.fleet_export import FLEET_FORMATS, with_whole_path
from vram_llm.cli.next_command import given_words, next_command
from vram_llm.cli.option_types import CountOrAllType
from vram_llm.cli.plan_options import PLAN_OPTIONS, PlanOptions, built_in, one_model, plan_options
from vram_llm.cli.short_flags import ShortFlagsCommand
from vram_llm.cli.ways_table import FEW
from vram_llm.planner.export.formats import FORMATS

if TYPE_CHECKING:
    from vram_llm.llama.dryrun.client import DryRun
    from vram_llm.machine.types import Machine
    from vram_llm.planner.types import Plan, Workload


class _PlanCommand(ShortFlagsCommand):
    """Plans one model; with --config, the models of a file."""

    def invoke(self, ctx: click.Context) -> None:
        form = ctx.params["form"]
        if ctx.params["config_file"] is not None:
            from vram_llm.cli.plan_fleet import plan_configured_fleet

            with augment_usage_errors(ctx):
                plan_configured_fleet(ctx)
            return
        if form in FLEET_FORMATS:
            raise click.UsageError(f"--emit {form} is for several models: --config FILE lists them", ctx)
        del ctx.params["config_file"]
        super().invoke(ctx)


@click.command("plan", cls=_PlanCommand)
@click.argument("model", required=False, shell_complete=complete_model)
@same_model
@click.option("--json", "as_json", is_flag=True, help="Print JSON; `serve --plan FILE` reads it.")
@click.option(
    "--emit",
    "form",
    type=click.Choice((*FORMATS, *FLEET_FORMATS)),
    help=(
        "Print the plan for another program: a command line, a Python script, shell variables, a compose "
        "file, or the plan itself. With --config: llama-swap's config.yaml, or the file of llama-server's "
        "--models-preset."
    ),
)
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    help=(
        "Plan all models of this file of `vram-llm serve`: which fit together, and which are unloaded for "
        "others."
    ),
)
@click.option(
    "--check",
    "plan_file",
    metavar="FILE",
    help=(
        "Check whether a plan saved with --json fits this machine now; --rpc HOST:PORT@SIZE changes the "
        "limit of one of its workers."
    ),
)
@click.option(
    "--compare",
    "others",
    multiple=True,
    metavar="RIG|MODEL",
    help=("Compare with this rig, written as for --gpu, or this model: a line for each. Repeat for more."),
)
@click.option(
    "--explain", is_flag=True, help="Explain the split, idle devices, what is on the CPU and the speed."
)
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Add bytes by kind, llama.cpp's flags and its own split, time shares.",
)
@click.option(
    "--ways",
    "n_ways",
    type=CountOrAllType(),
    default=FEW,
    show_default=True,
    metavar="N|all",
    help="Number of changes to list below the plan, each by its flags with its gain and its cost.",
)
@click.option(
    "--floor",
    "wants_floor",
    is_flag=True,
    help=(
        "Print the least memory in which MODEL runs: each step from everything on the cards down to the CPU "
        "alone, with what it saves and costs, and the memory by context and KV type."
    ),
)
@click.option("--plot", "picture", type=click.Path(path_type=Path), metavar="FILE", help=(
    "Draw the plan too, as FILE.svg or FILE.png: the memory of each device, memory by context and KV type, "
    "the memory floor, speed by depth. Needs the extra vram-llm[plot]."
))  # fmt: skip
@plan_options
def command(
    options: PlanOptions,
    model: str | None,
    model_option: str | None,
    as_json: bool,
    form: str | None,
    plan_file: str | None,
    others: tuple[str, ...],
    explain: bool,
    n_ways: int | None,
    verbose: bool,
    wants_floor: bool,
    picture: Path | None,
) -> None:
    """Plan MODEL over this machine's devices, RPC workers or other cards.

    Exits with 2 if no plan fits; the message names changes that would fit. If MODEL is a repository
    (hf:ORG/REPO) or a folder with several models: print a table of all and name the best. Without MODEL:
    print the machine with its usable memory, and a plan for the built-in model; with --json print only the
    machine.
    """
    from vram_llm.cli.floor_table import show_floor
    from vram_llm.cli.quantization_table import only_model
    from vram_llm.workflows import planning

    name = one_model(model, model_option)
    about_report = _flags_of_the_report(explain=explain, verbose=verbose)
    _refuse_contradictions(name, form, plan_file, others, about_report, as_json=as_json)
    if wants_floor:
        _refuse_with_floor(name, form, plan_file, others, about_report)
    _check_picture(picture, name, plan_file, others, wants_floor=wants_floor)
    if plan_file is not None:
        _check(plan_file, options, as_json)
        return
    if name is not None and others:
        _compare(name, others, options, as_json)
        return
    if name is None and as_json:
        _show_machine(options.machine(), options.workload.reserve_bytes, as_json)
        return
    with planning.dry_run() as dry:
        machine = options.machine()
        if name is None:
            _show_machine(machine, options.workload.reserve_bytes, as_json)
            name = built_in("planning")
        given = {"--emit": form, "--floor": wants_floor, "--plot": picture}
        flags = [*about_report, *(flag for flag, value in given.items() if value)]
        if (name := only_model(name, options, machine, dry, as_json=as_json, flags=flags)) is None:
            return
        if wants_floor:
            show_floor(name, options, machine, dry, as_json=as_json)
            return
        compares = form in (None, "json")  # other formats do not have the alternatives
        plan = planning.plan(name, machine, options.workload, dry, compares=compares)
        _draw(picture, name, machine, options.workload, plan, dry)
    if as_json or form is not None:
        _emit(plan, form)
    else:
        _show_plan(plan, name, n_ways=n_ways, verbose=verbose, explain=explain)


def _refuse_contradictions(
    model: str | None,
    form: str | None,
    plan_file: str | None,
    others: tuple[str, ...],
    about_report: list[str],
    *,
    as_json: bool,
) -> None:
    """Raises UsageError for flags that contradict each other; `about_report` change only a plan's report."""
    if about_report and (plan_file is not None or others):
        other = "--check" if plan_file is not None else "--compare"
        raise click.UsageError(f"{about_report[0]} changes the report of one plan: leave it or {other} out")
    if plan_file is not None and (model is not None or form is not None or others):
        raise click.UsageError("--check takes the saved plan and no model; nothing is planned or emitted")
    if others and (model is None or form is not None):
        raise click.UsageError("--compare takes a model, and prints a table or --json: nothing else")
    if about_report and (as_json or form is not None):
        raise click.UsageError(f"{about_report[0]} changes the table: leave --json and --emit out")
    if form is not None and as_json:
        raise click.UsageError("--json and --emit are two forms of output: give one of them")
    if form is not None and model is None and plan_file is None:
        raise click.UsageError(f"give the model to plan for: `vram-llm plan MODEL --emit {form}`")


def _refuse_with_floor(
    model: str | None,
    form: str | None,
    plan_file: str | None,
    others: tuple[str, ...],
    about_report: list[str],
) -> None:
    """Raises UsageError for what --floor does not go with."""
    if model is None:
        raise click.UsageError("give the model: `vram-llm plan MODEL --floor`")
    others_given = {"--emit": form, "--check": plan_file, "--compare": others}
    if given := [*about_report, *(flag for flag, value in others_given.items() if value)]:
        raise click.UsageError(f"--floor prints tables of its own: leave {given[0]} out")


def _check_picture(
    picture: Path | None,
    model: str | None,
    plan_file: str | None,
    others: tuple[str, ...],
    *,
    wants_floor: bool,
) -> None:
    """Raises UsageError for what --plot does not go with, and the errors of `check_picture`."""
    if picture is None:
        return
    from vram_llm.pictures.canvas import check_picture

    given = {"--check": plan_file, "--compare": others, "--floor": wants_floor}
    if other := next((flag for flag, value in given.items() if value), None):
        raise click.UsageError(f"--plot draws one plan, its memory floor included: leave {other} out")
    if model is None:
        raise click.UsageError("give the model: `vram-llm plan MODEL --plot FILE.svg`")
    check_picture(picture)


def _draw(
    picture: Path | None, name: str, machine: "Machine", workload: "Workload", plan: "Plan", dry: "DryRun"
) -> None:
    if picture is None:
        return
    from vram_llm.pictures.draw_plan import draw_plan
    from vram_llm.workflows.pictures import plan_picture

    draw_plan(plan_picture(name, machine, workload, plan, dry), picture)
    terminal.say(f"picture: {picture}", err=True)


def _emit(plan: "Plan", form: str | None) -> None:
    """Print the plan for another program; None: as JSON."""
    from vram_llm.cli.ssh_workers import tunnel_commands
    from vram_llm.planner.export.formats import emit

    click.echo(emit(with_whole_path(plan), form or "json").encode())
    for line in tunnel_commands(plan) if form is not None else ():
        terminal.say(f"first, and for as long as it runs: {line}", err=True)


def _show_plan(plan: "Plan", model: str, *, n_ways: int | None, verbose: bool, explain: bool) -> None:
    from vram_llm.cli.tables import print_plan, print_reasons

    words = given_words(click.get_current_context(), {option.name for option in PLAN_OPTIONS})
    print_plan(plan, next_command(plan, model, words), n_ways=n_ways, verbose=verbose)
    if explain:
        print_reasons(plan)


def _flags_of_the_report(*, explain: bool, verbose: bool) -> list[str]:
    """The flags on the command line that change only the report of one plan."""
    source = click.get_current_context().get_parameter_source("n_ways")
    given = {"--explain": explain, "--verbose": verbose, "--ways": source is ParameterSource.COMMANDLINE}
    return [flag for flag, is_given in given.items() if is_given]


def _check(plan_file: str, options: PlanOptions, as_json: bool) -> None:
    from vram_llm.planner.recheck import worker_limits
    from vram_llm.workflows import saved_plans

    options.refuse_with_a_saved_plan(but=("--gpu", "--rpc", "--ram", "--cpu", "--reserve-mib"))
    plan = saved_plans.with_tunnels(saved_plans.load_plan(plan_file))
    device_fits = saved_plans.check(
        plan,
        gpus=options.gpus,
        ram=options.ram,
        cpu=options.cpu,
        rpc=_workers(worker_limits(plan), options.rpc),
        host_reserve_bytes=options.workload.reserve_bytes,
    )
    if as_json:
        from vram_llm.cli.json_document import document
        from vram_llm.cli.json_types import CheckedPlan

        click.echo(document(CheckedPlan(fits=True, devices=device_fits)))
    else:
        from vram_llm.cli.fit_table import print_device_fits

        print_device_fits(plan, device_fits)


def _compare(name: str, others: tuple[str, ...], options: PlanOptions, as_json: bool) -> None:
    from vram_llm.cli.compare import compare, print_compared

    rows = compare(name, others, options)
    if as_json:
        from vram_llm.cli.json_document import document
        from vram_llm.cli.json_types import ComparedPlans

        click.echo(document(ComparedPlans(plans=rows)))
    else:
        print_compared(rows)


def _workers(limits: dict[str, int | None], given: tuple[str, ...]) -> tuple[str, ...]:
    """The plan's workers with the plan's limits, or with new limits in `given`. Raises UsageError."""
    specs = {
        endpoint: endpoint if limit is None else f"{endpoint}@{limit}" for endpoint, limit in limits.items()
    }
    for spec in given:
        endpoint = spec.partition("@")[0]
        if endpoint not in specs:
            known = ", ".join(specs) or "none"
            raise click.UsageError(f"the plan uses no worker at {endpoint}; its workers: {known}")
        specs[endpoint] = spec
    return tuple(specs.values())


def _show_machine(machine: "Machine", reserve_bytes: int, as_json: bool) -> None:
    if as_json:
        from vram_llm.cli.json_document import document

        click.echo(document(machine))
    else:
        from vram_llm.cli.tables import print_machine

        print_machine(machine, reserve_bytes)
