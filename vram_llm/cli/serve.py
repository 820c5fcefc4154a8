"""vram-llm serve: an OpenAI endpoint over a planned model."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vram_llm.cli.loading import LoadBar
from vram_llm.cli.options import Wishes, built_in, one_model, saved_plan, wishes

if TYPE_CHECKING:
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
@click.option(
    "--api-key-file",
    type=click.Path(exists=True, dir_okay=False, readable=True),
    metavar="FILE",
    help="File of keys, one a line; # begins a comment.",
)
@click.option(
    "--alias",
    "aliases",
    multiple=True,
    metavar="NAME",
    help=("Another name that clients may call the model. Repeat for more."),
)
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    metavar="ORIGIN",
    help=('Web pages from there may use the server: "https://chat.example", or "*". Repeat for more.'),
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help=(
        "Host name that requests may be sent to, besides localhost's. Without it, every name is allowed, "
        "unless --host is a loopback address. Repeat for more."
    ),
)
@click.option(
    "--image-dir",
    type=click.Path(exists=True, file_okay=False),
    metavar="DIR",
    help=(
        "With --mmproj: requests may name files in DIR as images (file://NAME). Without --image-dir, no "
        "files are read."
    ),
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
    api_key_file: str | None,
    aliases: tuple[str, ...],
    cors_origins: tuple[str, ...],
    allowed_hosts: tuple[str, ...],
    image_dir: str | None,
    verbose: bool,
) -> None:
    """Plan MODEL over this machine's devices and workers, load it, and serve it until Ctrl+C.

    Without MODEL or --plan: the built-in model.
    """
    from vram_llm import api
    from vram_llm.plan.types import CompanionKind

    name = one_model(model, model_option)
    if smart_split and wishes.workload.tensor_split is not None:
        raise click.UsageError(
            "--smart-split plans the split and --tensor-split dictates it: give one of them"
        )
    if name is not None and plan_file is not None:
        raise click.UsageError(
            "give a model, `vram-llm serve MODEL`, or a saved plan, `vram-llm serve --plan FILE`: not both"
        )
    keys = (*api_keys, *_keys_in(api_key_file)) if api_key_file is not None else api_keys
    _set_up_log(verbose)
    if plan_file is not None:
        plan = saved_plan(plan_file, wishes)
    else:
        plan = api.plan(name or built_in("serving"), api.detect(wishes.gpus, wishes.rpc), wishes.workload)
    if image_dir is not None and not any(each.kind is CompanionKind.MMPROJ for each in plan.companions):
        raise click.UsageError(
            "--image-dir is for models that take images: give their projector, --mmproj FILE"
        )
    with LoadBar(plan.model.name) as bar:
        reporter = _Reporter(plan, host, bar)
        api.serve(
            plan, host=host, port=port, api_keys=keys, aliases=aliases,
            cors_origins=cors_origins, allowed_hosts=allowed_hosts, image_dir=image_dir,
            on_state=bar.on_state, on_ready=reporter.on_ready,
        )  # fmt: skip


def _keys_in(path: str) -> tuple[str, ...]:
    """The keys in a file. Raises UsageError where there are none: the server would be open to everybody."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    keys = tuple(key for line in lines if (key := line.partition("#")[0].strip()))
    if not keys:
        raise click.UsageError(f"{path} holds no API key; write one a line")
    return keys


def _set_up_log(verbose: bool) -> None:
    from rich.console import Console
    from rich.logging import RichHandler

    from vram_llm.engine.client import REMARKS

    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False)],
    )
    logging.getLogger(REMARKS).setLevel(logging.INFO)
    for noisy in ("asyncio", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class _Reporter:
    """Tells the person at the terminal what was loaded, and where to send requests."""

    plan: "Plan"
    host: str
    bar: LoadBar

    def on_ready(self, info: "ModelInfo", port: int) -> None:
        """Show plan against reality, and the address."""
        from vram_llm.cli.certificate import print_loaded
        from vram_llm.plan.certificate import certify

        self.bar.close()
        for note in self.plan.notes:
            click.echo(f"note: {note}", err=True)
        if info.memory:
            print_loaded(certify(self.plan, info.memory, draft=info.draft_memory))
        where = f"[{self.host}]" if ":" in self.host else self.host
        click.echo(
            f"serving {info.name} at http://{where}:{port}/v1 ({info.n_ctx:,} tokens of context "
            f"{'for' if self.plan.context.kv_unified else 'for each of'} {info.parallel} sequences); "
            "Ctrl+C ends it",
            err=True,
        )
