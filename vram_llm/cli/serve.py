"""vram-llm serve: an OpenAI endpoint over a planned model."""

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from vram_llm.cli.options import Wishes, one_model, wishes

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from vram_llm.engine.client import EngineClient
    from vram_llm.engine.info import ModelInfo
    from vram_llm.plan.types import Plan


@click.command("serve")
@click.argument("model", required=False)
@click.option("--model", "model_option", metavar="MODEL", help="The same as the argument.")
@click.option("--plan", "plan_file", metavar="FILE", help="Use a plan saved with `vram-llm plan --json`.")
@click.option("--smart-split", is_flag=True, help="Plan the split from the model file. This is the default.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Port to listen on."
)
@click.option(
    "--api-key",
    "api_keys",
    multiple=True,
    envvar="VRAM_LLM_API_KEY",
    help=("Key that clients must send. Repeat for more; $VRAM_LLM_API_KEY is read too."),
)
@click.option("--verbose", is_flag=True, help="Show the engine's own log.")
@wishes
def command(
    wishes: Wishes,
    model: str | None,
    model_option: str | None,
    plan_file: str | None,
    smart_split: bool,
    host: str,
    port: int,
    api_keys: tuple[str, ...],
    verbose: bool,
) -> None:
    """Plan MODEL over this machine's devices and workers, load it, and serve it until Ctrl+C."""
    from vram_llm import api

    name = one_model(model, model_option)
    if smart_split and wishes.workload.tensor_split is not None:
        raise click.UsageError(
            "--smart-split plans the split and --tensor-split dictates it: give one of them"
        )
    if (name is None) == (plan_file is None):
        raise click.UsageError(
            "give a model, `vram-llm serve MODEL`, or a saved plan, `vram-llm serve --plan FILE`"
        )
    _set_up_log(verbose)
    if plan_file is not None:
        plan = api.load_plan(plan_file)
    else:
        plan = api.plan(name or "", api.detect(wishes.gpus, wishes.rpc), wishes.workload)
    reporter = _Reporter(plan, host, port)
    try:
        api.serve(
            plan, host=host, port=port, api_keys=api_keys,
            on_state=reporter.on_state, on_ready=reporter.on_ready,
        )  # fmt: skip
    finally:
        reporter.close()


def _set_up_log(verbose: bool) -> None:
    from rich.console import Console
    from rich.logging import RichHandler

    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False)],
    )
    for noisy in ("asyncio", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


@dataclass(slots=True)
class _Reporter:
    """Tells the person at the terminal how the load goes, and when the server is up."""

    plan: "Plan"
    host: str
    port: int
    _progress: "Progress | None" = field(default=None, init=False)
    _task: "TaskID | None" = field(default=None, init=False)

    def on_state(self, engine: "EngineClient") -> None:
        """Move the bar while the first load is under way."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        if engine.info is not None:
            return
        if self._progress is None:
            columns = (
                TextColumn("loading {task.fields[name]}"),
                BarColumn(),
                TextColumn("{task.percentage:.0f} %"),
            )
            self._progress = Progress(
                *columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True
            )
            self._task = self._progress.add_task("load", total=1.0, name=self.plan.model.name)
            self._progress.start()
        assert self._task is not None
        self._progress.update(self._task, completed=engine.load_fraction)

    def on_ready(self, info: "ModelInfo") -> None:
        """Show plan against reality, and where to send requests."""
        from vram_llm.cli.tables import print_certificate

        self.close()
        print_certificate(self.plan, info.memory)
        where = f"[{self.host}]" if ":" in self.host else self.host
        click.echo(
            f"serving {info.name} at http://{where}:{self.port}/v1 ({info.n_ctx:,} tokens of context for "
            f"{info.parallel} sequences); Ctrl+C ends it",
            err=True,
        )

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
