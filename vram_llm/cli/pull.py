"""vram-llm pull: a model planned from its header, then downloaded."""

from typing import TYPE_CHECKING

import click

from vram_llm.cli import terminal
from vram_llm.cli.plan_options import PlanOptions, one_model, plan_options
from vram_llm.cli.short_flags import ShortFlagsCommand

if TYPE_CHECKING:
    from pathlib import Path


@click.command("pull", cls=ShortFlagsCommand)
@click.argument("model", required=False)
@click.option("--model", "-m", "model_option", metavar="MODEL", help="The same as the argument.")
@click.option("--anyway", is_flag=True, help="Download the model even if it does not fit.")
@plan_options
def command(options: PlanOptions, model: str | None, model_option: str | None, anyway: bool) -> None:
    """Plan MODEL, hf:ORG/REPO:Q4_K_M, from its header alone, and download it if it fits.

    Of hf:ORG/REPO the best quantisation is taken, as `vram-llm plan hf:ORG/REPO` names it. Exits with 2 if
    it does not fit; the message names the missing memory and a quantisation that would fit. The file goes
    into huggingface_hub's cache; an interrupted download continues. Every command then takes the same name.
    """
    from vram_llm.cli.quantization_table import best_model
    from vram_llm.errors import DoesNotFit
    from vram_llm.model.location import HUB
    from vram_llm.workflows import planning, quantizations

    name = one_model(model, model_option)
    if name is None or not name.lower().startswith(HUB):
        raise click.UsageError(f"{name or 'MODEL'} is not a name on a hub; write hf:ORG/REPO:Q4_K_M")
    machine = options.machine()
    name = best_model(name, machine, options.workload)
    try:
        from vram_llm.cli.tables import print_plan

        print_plan(planning.plan(name, machine, options.workload))
    except DoesNotFit as error:
        if not anyway:
            other = quantizations.largest_that_fits(name, machine, options.workload)
            raise error.with_remark(f"{other.name} would fit") if other else error from None
        terminal.say(f"note: {error}", err=True)
    terminal.say(f"{pull_with_bar(name)}\nvram-llm serve {name}")


def pull_with_bar(model: str) -> "Path":
    """Download the model of an `hf:` name, and show how far it is; its first file."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    from vram_llm.workflows import planning

    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal.console(stderr=True)) as progress:
        bar = progress.add_task("", total=None)
        return planning.pull(model, lambda done, total: progress.update(bar, completed=done, total=total))
