"""vram-llm llama-server: llama-server's own command line, served by this program."""

import os
import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from vram_llm.cli import terminal
from vram_llm.cli.short_flags import ShortFlagsCommand

if TYPE_CHECKING:
    from vram_llm.cli.imported.imported_fleet import ImportedFleet
    from vram_llm.cli.llama_server_line.devices import LlamaDevices
    from vram_llm.cli.llama_server_line.translation import Translation

_FLEET = "vram-llm.yaml"
_RESERVE = "--reserve-mib"


@click.command("llama-server", cls=ShortFlagsCommand, context_settings={"ignore_unknown_options": True})
@click.argument("line", metavar="[FLAGS OF LLAMA-SERVER]...", nargs=-1, type=click.UNPROCESSED)
@click.option("--print", "only_prints", is_flag=True, help=(
    "Print the `vram-llm serve` command that the line becomes, with a comment for each flag that is not "
    "used, and end."
))  # fmt: skip
def command(line: tuple[str, ...], only_prints: bool) -> None:
    """Serve a model by llama-server's own command line.

    Flags and LLAMA_ARG_ variables mean what they mean for llama-server; a flag overrides its variable. Flags
    on where weights are (-ngl, -ts, -ot, -dev, ...) are obeyed, and the plan decides the rest. A line on
    stderr says what is ignored, and why. Without a model, those of --models-preset and --models-dir are
    served, or else all that are installed, or the built-in one.
    """
    from vram_llm.cli.imported.router import router_fleet, sleeping_fleet
    from vram_llm.cli.llama_server_line.model_rules import is_router
    from vram_llm.cli.llama_server_line.read_line import read_line
    from vram_llm.cli.llama_server_line.translation import translate

    found = translate(line, os.environ, lambda: _devices(line))
    read = read_line(line, os.environ)
    arguments, fleet = found.arguments(), None
    if is_router(read):
        fleet = router_fleet(read)
    elif (sleeping := sleeping_fleet(arguments)) is not None:
        fleet, arguments = sleeping
    if only_prints:
        _print(found, fleet, arguments)
        return
    for note in found.notes():
        terminal.say(note, err=True)
    os.environ.update(found.environment)
    if fleet is None:
        _pull(arguments)
        _serve_one(found)
        return
    for model in fleet.models:
        for remark in model.remarks:
            terminal.say(f"{model.name}: {remark}", err=True)
        _pull(["--model", model.source])
    with TemporaryDirectory() as folder:
        file = Path(folder) / _FLEET
        file.write_text(f"{fleet}\n", encoding="utf-8")
        _serve(["--config", str(file), *arguments])


def _print(found: "Translation", fleet: "ImportedFleet | None", arguments: Sequence[str]) -> None:
    """A shell's command, with the file it needs for several models."""
    if fleet is not None:
        terminal.say(f"cat > {_FLEET} <<'END'\n{fleet}\nEND")
        arguments = ["--config", _FLEET, *arguments]
    shown = {name: shlex.quote(value) for name, value in found.environment.items()} | found.secrets
    terminal.say(_shell_command(arguments, shown))
    for note in (*found.notes(), *found.always):
        terminal.say(f"# {note}")


def _serve_one(found: "Translation") -> None:
    """Serve a model; without memory kept free if it fits so alone, where the line places the weights."""
    from vram_llm.errors import DoesNotFit

    arguments = found.arguments()
    try:
        _serve(arguments)
    except DoesNotFit as error:
        if not found.places_weights or _RESERVE in arguments:
            raise
        terminal.say(
            f"note: {str(error).partition(';')[0]}; the line itself places the weights, so nothing is "
            "kept free, as in llama-server",
            err=True,
        )
        _serve([*arguments, _RESERVE, "0"])


def _serve(arguments: Sequence[str]) -> None:
    from vram_llm.cli import serve

    serve.command.main(list(arguments), prog_name="vram-llm serve", standalone_mode=False)


def _pull(arguments: Sequence[str]) -> None:
    """Download the models of a hub that the arguments name, as llama-server does without --offline."""
    from vram_llm.cli.pull import pull_with_bar
    from vram_llm.model.location import HUB
    from vram_llm.workflows.model_names import resolve

    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return
    for flag, name in pairwise(arguments):
        if flag in ("--model", "--draft") and name.startswith(HUB) and not isinstance(resolve(name), Path):
            pull_with_bar(name)


def _devices(line: Sequence[str]) -> "LlamaDevices":
    """llama.cpp's names of this machine's devices, and of those of the line's RPC workers."""
    from vram_llm.cli.llama_server_line.devices import LlamaDevices
    from vram_llm.cli.llama_server_line.read_line import read_line
    from vram_llm.workflows import detection

    workers = read_line(line, os.environ).last("--rpc")
    endpoints = [] if workers is None else [part.strip() for part in str(workers.value).split(",")]
    return LlamaDevices.of(detection.detect(rpc=endpoints).devices)


def _shell_command(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """The command as a shell reads it; the values of `environment` are quoted already."""
    variables = (f"{name}={value}" for name, value in environment.items())
    return " ".join([*variables, shlex.join(["vram-llm", "serve", *arguments])])
