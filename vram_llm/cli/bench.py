"""vram-llm bench: a plan's measured speed next to its expected speed; the speed of a server under load."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vram_llm.cli import terminal
from vram_llm.cli.bench_serve import serve
from vram_llm.cli.complete_model import complete_model, same_model
from vram_llm.cli.plan_options import PlanOptions, one_model, plan_options, saved_plan
from vram_llm.cli.short_flags import ShortFlagsCommand

if TYPE_CHECKING:
    from vram_llm.planner.measured_speed import MeasuredSpeed
    from vram_llm.planner.types import Plan

SHARE_FILE = "vram-llm-speed.csv"


@click.group("bench")
def command() -> None:
    """Measure a plan's speed, or a running server under load."""


command.add_command(serve)


@command.command("model", cls=ShortFlagsCommand)
@click.argument("model", required=False, shell_complete=complete_model)
@same_model
@click.option("--plan", "plan_file", metavar="FILE", help="Use a plan saved with `vram-llm plan --json`.")
@click.option(
    "--n-prompt", type=click.IntRange(1), default=512, show_default=True, help="Tokens of a prompt."
)
@click.option("--n-gen", type=click.IntRange(1), default=128, show_default=True, help="Tokens to decode.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Rounds of every test.")
@click.option(
    "--output",
    "-o",
    type=click.Choice(["table", "md", "json"]),
    default="table",
    show_default=True,
    help="Form of the result; md: llama-bench's markdown.",
)
@click.option(
    "--share",
    "share_file",
    is_flag=False,
    flag_value=SHARE_FILE,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="[FILE.csv]",
    help=(
        "Also add the result to this file, as rows to send to the project: machine, versions, plan, measured "
        f"and predicted speeds; no user, computer or path. Without FILE.csv: {SHARE_FILE}."
    ),
)
@click.option("--json", "as_json", is_flag=True, help="The same as -o json: print JSON, in tokens a second.")
@plan_options
def model(
    options: PlanOptions,
    model: str | None,
    model_option: str | None,
    plan_file: str | None,
    n_prompt: int,
    n_gen: int,
    repeats: int,
    output: str,
    share_file: Path | None,
    as_json: bool,
) -> None:
    """Plan MODEL, load it, and measure prompt and decode speed, of one stream and of all streams.

    The tests have llama-bench's names: pp512 is a prompt of 512 tokens, tg128 decodes 128 tokens, both in an
    empty context; "x8" means eight streams at once.
    """
    from vram_llm.cli.speed_tables import progress
    from vram_llm.workflows import detection, measurement, planning

    name = one_model(model, model_option)
    if (name is None) == (plan_file is None):
        raise click.UsageError("give a model, or a saved plan with --plan")
    _check_share_file(share_file)
    if plan_file is not None:
        plan = saved_plan(plan_file, options)
    else:
        assert name is not None
        plan = planning.plan(name, options.machine(), options.workload, compares=False)
    with progress() as on_progress:
        results = measurement.bench_model(
            plan,
            n_prompt=n_prompt,
            n_gen=n_gen,
            repeats=repeats,
            on_progress=lambda share: on_progress(plan.model.name, share),
        )
    _share(plan, results, share_file)
    if output == "md":
        from vram_llm.cli.llama_bench_table import llama_bench_lines

        for line in llama_bench_lines(plan, detection.analyze(plan.model.path).parameters, results):
            terminal.say(line)
    elif as_json or output == "json":
        from vram_llm.cli.json_document import document
        from vram_llm.cli.json_types import BenchResults

        click.echo(document(BenchResults(tests=results)))
    else:
        from vram_llm.cli.speed_tables import print_results

        print_results(plan, results)


def _check_share_file(path: Path | None) -> None:
    from vram_llm.workflows.shared_speeds import check_share_file

    try:
        if path is not None:
            check_share_file(path)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _share(plan: "Plan", results: "Sequence[MeasuredSpeed]", path: Path | None) -> None:
    from vram_llm.workflows.shared_speeds import share

    if path is not None:
        share(plan, results, path)
        terminal.say(f"{path} has the result; to share it, attach it to an issue of the project", err=True)
