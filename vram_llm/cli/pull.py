"""vram-llm pull: a model planned from its header, then downloaded."""

from typing import TYPE_CHECKING

import click

from vram_llm.cli.plan_options import PlanOptions, plan_options

if TYPE_CHECKING:
    from pathlib import Path


@click.command("pull")
@click.argument("model")
@click.option("--anyway", is_flag=True, help="Download also what does not fit here.")
@plan_options
def command(options: PlanOptions, model: str, anyway: bool) -> None:
    """Plan MODEL, hf:ORG/REPO:Q4_K_M, from its header alone, and download it if it fits.

    Exits with 2 where it does not fit, and says by how much and what would. It goes into huggingface_hub's
    cache; a download that broke off is taken up again. Every command then takes the same name.
    """
    from vram_llm.errors import DoesNotFit
    from vram_llm.model.location import HUB
    from vram_llm.workflows import detection, planning

    if not model.lower().startswith(HUB):
        raise click.UsageError(f"{model} is no name on a hub; write hf:ORG/REPO:Q4_K_M")
    machine = detection.detect(options.gpus, options.rpc)
    try:
        from vram_llm.cli.tables import print_plan

        print_plan(planning.plan(model, machine, options.workload))
    except DoesNotFit as error:
        if not anyway:
            other = planning.largest_fitting_variant(model, machine, options.workload)
            raise DoesNotFit(f"{error}{f'; {other} would fit' if other else ''}") from None
        click.echo(f"note: {error}", err=True)
    click.echo(f"{_pull_with_bar(model)}\nvram-llm serve {model}")


def _pull_with_bar(model: str) -> "Path":
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    from vram_llm.workflows import planning

    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=None)
        return planning.pull(model, lambda done, total: progress.update(bar, completed=done, total=total))
