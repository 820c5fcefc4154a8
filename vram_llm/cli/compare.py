"""`plan --compare`: several rigs and several models side by side."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from vram_llm.cli import terminal
from vram_llm.cli.plan_options import PlanOptions
from vram_llm.errors import UnknownDevice
from vram_llm.machine.what_if import names_host, parse_rigs
from vram_llm.model.location import is_kept, is_remote
from vram_llm.planner.compare import ComparisonRow
from vram_llm.planner.report.figures import rate, seconds
from vram_llm.text.lines import Style, wrap
from vram_llm.text.table import Column, table
from vram_llm.units import format_bytes, format_count

JOIN = "+"
_LEAST = "first token"  # the column to leave out first


def compare(model: str, others: Sequence[str], options: PlanOptions) -> tuple[ComparisonRow, ...]:
    """Every model on every rig, in the order given, `model` and the machine of `options` first.

    `others` holds names of models, and rigs written as for --gpu. A rig that names no host has that of
    `options`. The machine itself is left out if it has no devices and other rigs are given. Raises the errors
    of planning, except DoesNotFit.
    """
    from vram_llm.workflows import detection, planning

    rigs = [other for other in others if _is_rig(other)]
    models = [model, *(other for other in others if other not in rigs)]
    own = options.machine()
    machines = [(_own_name(options), own)] if own.devices or not rigs else []
    for rig in rigs:
        machine = (
            detection.detect(rig)
            if names_host(rig)
            else dataclasses.replace(options, gpus=(rig,), rpc=(), ssh=(), device=None).machine()
        )
        machines.append((rig, machine))
    with planning.dry_run() as dry:
        return tuple(
            planning.compare(name, machine, options.workload, rig, dry)
            for name in models
            for rig, machine in machines
        )


def print_compared(rows: Sequence[ComparisonRow]) -> None:
    """Print a line for each row (several on a narrow terminal), and why a row does not fit."""
    width = terminal.width()
    several = len({row.model for row in rows}) > 1
    streams = next((row.speed.streams for row in rows if row.speed is not None), 1)
    names = ("fits", "left", "tok/s", f"{streams} together", "prompt", "first token", "basis")
    figures = [_figures(row) for row in rows]
    heads = [(row.model, row.rig) if several else (row.rig,) for row in rows]
    for left_out, is_cut in (("", False), (_LEAST, False), (_LEAST, True)):
        shown = [i for i, name in enumerate(names) if name != left_out]
        right = [Column(title=names[i], right=names[i] not in ("fits", "basis")) for i in shown]
        firsts = [Column(title="model", least=8 if is_cut else None)] if several else []
        firsts.append(Column(title="rig", least=12 if is_cut else None))
        cells = [(*head, *(of[i] for i in shown)) for head, of in zip(heads, figures, strict=True)]
        if (lines := table([*firsts, *right], cells, width)) is not None:
            break
    else:
        lines = []
        for head, of in zip(heads, figures, strict=True):
            pairs = (f"{name} {figure}" for name, figure in zip(names, of, strict=True) if figure)
            lines += wrap(", ".join(head), width, Style.STRONG)
            lines += wrap(f"  {', '.join(pairs)}", width, indent="  ")
    lines += wrap(_legend(rows), width, Style.DIM)
    for row in rows:
        if row.refusal is not None:
            lines += wrap(f"{row.rig}: {row.refusal}", width, Style.DIM, "  ")
    terminal.show(lines)


def _figures(row: ComparisonRow) -> tuple[str, ...]:
    """The cells of a row after the rig's name."""
    left = "" if row.headroom_bytes is None else format_bytes(row.headroom_bytes)
    if (speed := row.speed) is None:
        unknown = "?" if row.fits else ""
        return (_fits(row), left, *([unknown] * 4), "")
    known = (speed.tokens_per_s, speed.streams_tokens_per_s, speed.prompt_tokens_per_s)
    rates = ("?" if speed_per_s is None else rate(speed_per_s) for speed_per_s in known)
    first = "?" if speed.prompt_s is None else seconds(speed.prompt_s)
    return (_fits(row), left, *rates, first, str(speed.basis))


def _fits(row: ComparisonRow) -> str:
    if not row.fits:
        return "no"
    return f"{row.on_cpu} on the CPU" if row.on_cpu else "yes"


def _legend(rows: Sequence[ComparisonRow]) -> str:
    speed = next((row.speed for row in rows if row.speed is not None), None)
    legend = "left: memory left on all of a rig's devices"
    if speed is not None:
        legend += (
            f"; tok/s: of one stream at a depth of {format_count(speed.depth)} tokens, and of several "
            f"together; prompt: tok/s, first token after {format_count(speed.prompt_tokens)}"
        )
        if speed.prompt_basis is not None:
            legend += f" ({speed.prompt_basis})"
    return f"{legend}."


def _own_name(options: PlanOptions) -> str:
    cards = f" {JOIN} ".join((*options.gpus, *(f"worker {name}" for name in (*options.rpc, *options.ssh))))
    host = ", ".join(filter(None, (options.cpu, options.ram)))
    return " on ".join(filter(None, (cards or "these cards", host))) if cards or host else "this machine"


def _is_rig(text: str) -> bool:
    """Whether a value of --compare is a rig and not a model. Raises UnknownDevice, BadHost."""
    from vram_llm.model import library
    from vram_llm.workflows.model_names import DEMO

    if text == DEMO or is_remote(text) or is_kept(text) or text.endswith(".gguf") or Path(text).is_file():
        return False
    try:
        parse_rigs([text])
    except UnknownDevice as error:
        if library.matching(text):
            return False
        raise UnknownDevice(f"{error}; no model on this disk has this name either") from None
    return True
