"""The option --model, and what a shell offers for a model: GGUF files."""

import glob
from pathlib import Path

import click
from click.shell_completion import CompletionItem


def complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The GGUF files whose path begins like this; without any, the shell offers files and folders."""
    found = sorted(glob.glob(f"{glob.escape(incomplete)}*.gguf"))
    models = [path for path in found if Path(path).is_file()]
    return [CompletionItem(path) for path in models] or [CompletionItem(incomplete, type="file")]


same_model = click.option(
    "--model",
    "-m",
    "model_option",
    metavar="MODEL",
    shell_complete=complete_model,
    help="The same as the argument.",
)
