"""vram-llm tune: measure the best few plans on this machine, and keep the fastest."""

import click

from vram_llm.cli import terminal
from vram_llm.cli.complete_model import complete_model, same_model
from vram_llm.cli.plan_options import PlanOptions, built_in, one_model, plan_options
from vram_llm.cli.short_flags import ShortFlagsCommand
from vram_llm.model.quants import KV_TYPES
from vram_llm.planner.tuning.halving import MINUTES

EXIT_INTERRUPTED = 130


@click.command("tune", cls=ShortFlagsCommand)
@click.argument("model", required=False, shell_complete=complete_model)
@same_model
@click.option(
    "--minutes",
    type=click.FloatRange(0.1, 24 * 60),
    default=MINUTES,
    show_default=True,
    metavar="N",
    help="Time for loading and measuring.",
)
@click.option("--allow-kv-type", "kv_types", multiple=True, type=click.Choice(sorted(KV_TYPES)), help=(
    "A type of the KV cache that the plan may take instead of --kv-type. Repeat for more."
))  # fmt: skip
@click.option("--compare", type=click.Choice(["llama-server"]), help=(
    "Measure the placement that llama-server chooses by itself (--fit) too. Its program is on PATH, or built."
))  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON, in tokens a second and seconds.")
@plan_options
@click.pass_context
def command(
    ctx: click.Context,
    options: PlanOptions,
    model: str | None,
    model_option: str | None,
    minutes: float,
    kv_types: tuple[str, ...],
    compare: str | None,
    as_json: bool,
) -> None:
    """Measure the best few plans of MODEL on this machine, and keep the fastest for `plan` and `serve`.

    Each plan fits to the byte before it is loaded. The plans are loaded one after the other and measured at
    --expect-depth and with --expect-streams; round after round the faster half is measured for longer, and at
    last the best one in turns with the planner's own choice. Ctrl+C keeps what was learned. Run nothing else
    on the devices meanwhile. Without MODEL: the built-in model.
    """
    from vram_llm.cli.tune_table import TuneScreen, print_tuned
    from vram_llm.workflows.tuning.run import tune

    name = one_model(model, model_option) or built_in("tuning")
    with TuneScreen(60 * minutes) as screen:
        result = tune(
            name,
            options.machine(),
            options.workload,
            minutes=minutes,
            kv_types=kv_types,
            compares_llama_server=compare is not None,
            on_progress=screen.show,
        )
    if as_json:
        from vram_llm.cli.json_document import document

        click.echo(document(result))
    else:
        print_tuned(result)
    for note in result.notes:
        terminal.say(f"note: {note}", err=True)
    if result.is_interrupted:
        kept = "the measurements are kept, and the next run starts from them"
        terminal.say(f"interrupted: {kept if result.is_stored else 'nothing is kept'}", err=True)
        ctx.exit(EXIT_INTERRUPTED)
