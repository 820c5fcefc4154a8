"""vram-llm verify: load a plan, and compare its memory use with the planned bytes."""

import click

from vram_llm.cli.complete_model import complete_model, same_model
from vram_llm.cli.load_progress import LoadProgress
from vram_llm.cli.plan_options import PlanOptions, built_in, one_model, plan_options, saved_plan
from vram_llm.cli.short_flags import ShortFlagsCommand

EXIT_FAILED = 1


@click.command("verify", cls=ShortFlagsCommand)
@click.argument("model", required=False, shell_complete=complete_model)
@same_model
@click.option("--plan", "plan_file", metavar="FILE", help="Use a plan saved with `vram-llm plan --json`.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON. Every figure is bytes.")
@plan_options
@click.pass_context
def command(
    ctx: click.Context,
    options: PlanOptions,
    model: str | None,
    model_option: str | None,
    plan_file: str | None,
    as_json: bool,
) -> None:
    """Plan MODEL, load it, run a prompt and a decode, and print planned and held bytes.

    After a tensor split the layer split is loaded, and their logits are compared. Exits with 1 if a device
    holds more than its budget, or if logits differ by more than rounding. The command stores the memory that
    NVML shows outside llama.cpp's buffers, and later plans count it. Without MODEL or --plan: the built-in
    model.
    """
    from vram_llm.workflows import planning, verification

    name = one_model(model, model_option)
    if name is not None and plan_file is not None:
        raise click.UsageError("give a model, or a saved plan with --plan: not both")
    if plan_file is not None:
        plan = saved_plan(plan_file, options)
    else:
        if name is None:
            name = built_in("verifying")
        plan = planning.plan(name, options.machine(), options.workload, compares=False)
    with LoadProgress(plan.model.name, plan.model.total_bytes) as bar:
        report = verification.verify(plan, on_state=bar.on_state)
    if as_json:
        from vram_llm.cli.json_document import document

        click.echo(document(report))
    else:
        from vram_llm.cli.memory_report import print_memory_report

        print_memory_report(report)
    if not report.passed:
        ctx.exit(EXIT_FAILED)
