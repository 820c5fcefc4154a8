"""Several rigs, several models, side by side: what `plan --compare` does."""

from collections.abc import Sequence
from pathlib import Path

from vram_llm.cli import terminal
from vram_llm.errors import UnknownDevice
from vram_llm.machine.what_if import parse_gpus
from vram_llm.model.location import is_kept, is_remote
from vram_llm.planner.compare import Compared
from vram_llm.planner.types import Workload
from vram_llm.units import format_bytes, format_count

JOIN = "+"
_WIDE = 96  # columns; below it the time to the first token is left out


def compare(
    model: str, others: Sequence[str], gpus: tuple[str, ...], rpc: tuple[str, ...], workload: Workload
) -> tuple[Compared, ...]:
    """Every model on every rig, in the order given, `model` and the machine itself first.

    Of `others` those that name a model are models and the rest rigs, written as --gpu takes them. The machine
    itself is left out where other rigs are given and it has no devices. Raises what planning raises, except
    DoesNotFit.
    """
    from vram_llm.workflows import detection, planning

    rigs = [each for each in others if _is_rig(each)]
    models = [model, *(each for each in others if each not in rigs)]
    own = detection.detect(gpus, rpc)
    machines = [(_own_name(gpus, rpc), own)] if own.devices or not rigs else []
    machines += [(rig, detection.detect(rig)) for rig in rigs]
    with planning.dry_run() as dry:
        return tuple(
            planning.compare(name, machine, workload, rig, dry)
            for name in models
            for rig, machine in machines
        )


def print_compared(rows: Sequence[Compared]) -> None:
    """A line for each, and why where one does not fit."""
    from rich.table import Table
    from rich.text import Text

    from vram_llm.cli.tables import rate

    console = terminal.console()
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    several = len({row.model for row in rows}) > 1
    streams = next((row.speed.streams for row in rows if row.speed is not None), 1)
    if several:
        table.add_column("model", overflow="fold")
    table.add_column("rig", overflow="fold")
    table.add_column("fits")
    wide = ("first token",) if console.width >= _WIDE else ()
    for name in ("headroom", "tok/s", f"{streams} streams", "prompt", *wide):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("basis", no_wrap=True)
    for row in rows:
        cells = [*([row.model] if several else []), row.rig, _fits(row)]
        cells.append("" if row.headroom_bytes is None else format_bytes(row.headroom_bytes))
        if (speed := row.speed) is None:
            cells += ["?" if row.fits else ""] * (3 + len(wide)) + [""]
        else:
            known = (speed.tokens_per_s, speed.streams_tokens_per_s, speed.prompt_tokens_per_s)
            cells += ["?" if each is None else rate(each) for each in known]
            if wide:
                cells.append("?" if speed.prompt_s is None else f"{speed.prompt_s:.2g} s")
            cells.append(speed.basis)
        table.add_row(*map(Text, cells))
    console.print(table)
    console.print(Text(_legend(rows), style="dim"))
    for row in rows:
        if row.refusal is not None:
            console.print(Text(f"{row.rig}: {row.refusal}", style="dim"))


def _fits(row: Compared) -> str:
    if not row.fits:
        return "no"
    return f"{row.cpu_layers} of {row.n_layers} layers on the CPU" if row.cpu_layers else "yes"


def _legend(rows: Sequence[Compared]) -> str:
    speed = next((row.speed for row in rows if row.speed is not None), None)
    said = "headroom: memory left on all of a rig's devices"
    if speed is not None:
        said += (
            f"; tok/s: of one stream with {format_count(speed.depth)} tokens behind it, and of several "
            f"together; prompt: tok/s, first token after {format_count(speed.prompt_tokens)}"
        )
        if speed.prompt_basis is not None:
            said += f" ({speed.prompt_basis})"
    return said


def _own_name(gpus: tuple[str, ...], rpc: tuple[str, ...]) -> str:
    return f" {JOIN} ".join((*gpus, *(f"worker {each}" for each in rpc))) if gpus or rpc else "this machine"


def _is_rig(text: str) -> bool:
    """Whether a value of --compare is a rig and not a model. Raises UnknownDevice where it is neither."""
    from vram_llm.model import library
    from vram_llm.workflows.model_names import DEMO

    if text == DEMO or is_remote(text) or is_kept(text) or text.endswith(".gguf") or Path(text).is_file():
        return False
    try:
        parse_gpus([text])
    except UnknownDevice as error:
        if library.matching(text):
            return False
        raise UnknownDevice(f"{error}; no model on this disk is called so either") from None
    return True
