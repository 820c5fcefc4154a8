"""`plan MODEL --floor`: the steps to the least memory, and that memory by context and KV type."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from vram_llm.cli import terminal
from vram_llm.cli.next_command import given_words, joined
from vram_llm.cli.plan_options import PLAN_OPTIONS, PlanOptions
from vram_llm.errors import DoesNotFit
from vram_llm.machine.types import Machine
from vram_llm.model.location import is_remote
from vram_llm.planner.floor import FloorRow, MemoryFloor
from vram_llm.planner.report.figures import rate, rough_rate
from vram_llm.text.lines import Line, Style, line, wrap
from vram_llm.text.table import Column, table
from vram_llm.units import GIB, MIB, format_bytes, format_count

if TYPE_CHECKING:
    from vram_llm.llama.dryrun.client import DryRun

_NO_COST = 0.005  # of the tokens per second


def show_floor(name: str, options: PlanOptions, machine: Machine, dry: "DryRun", *, as_json: bool) -> None:
    """Print the floor of the model `name`.

    Raises the errors of `memory_floor`, and DoesNotFit, after printing, if the model fits in no way.
    """
    from vram_llm.workflows.memory_floor import memory_floor

    floor = memory_floor(name, machine, options.workload, dry)
    if as_json:
        from vram_llm.cli.json_document import document

        click.echo(document(floor))
    else:
        _print_floor(
            floor, _next_command(name, floor, what_if=any(device.what_if for device in machine.devices))
        )
    if floor.floor is None:
        least = min(floor.steps, key=_short)
        raise DoesNotFit(
            f"{floor.model} {floor.quantization} does not fit in any way; {least.name}: {_shortage(least)}; "
            "take a smaller quantisation or a shorter context (--n-ctx)",
            short_bytes=_short(least),
            host_is_short=least.short_ram_bytes > 0,
        )


def _next_command(name: str, floor: MemoryFloor, *, what_if: bool) -> str | None:
    """The command for the floor: fetch the model, plan it in full for another machine, or serve it."""
    if floor.floor is None:
        return None
    flags = floor.floor.flags
    options = {option.name: option for option in PLAN_OPTIONS if option.flags.split()[0] not in flags}
    words = given_words(click.get_current_context(), options)
    command = "pull" if is_remote(name) else "plan" if what_if else "serve"
    return joined("vram-llm", command, name, *words, *flags)


def _print_floor(floor: MemoryFloor, next_command: str | None) -> None:
    """Print the answer, the next command, the steps, and the tables by context and KV type."""
    width = terminal.width()
    lines = [
        *wrap(_answer(floor), width, Style.STRONG),
        *([line(f"next: {next_command}", Style.STRONG)] if next_command else []),
        (),
        *_steps(floor, width),
    ]
    tables = [("Everything on the cards" if floor.has_cards else "All contexts", floor.on_cards)]
    if floor.least and floor.least[0].name != floor.on_cards[0].name:
        tables.append((f"{_capital(floor.least[0].name)}, small micro-batches", floor.least))
    of = "; VRAM by type of the KV cache" if floor.has_cards else ""
    for title, rows in tables:
        lines += [(), *wrap(f"{title}, one sequence{of}:", width), *_by_context(rows, floor, width)]
    lines += wrap(_legend(floor), width, Style.DIM)
    lines += [noted for note in floor.notes for noted in wrap(f"note: {note}", width, Style.DIM, "  ")]
    terminal.show(lines)


def _answer(floor: MemoryFloor) -> str:
    model = f"{floor.model} {floor.quantization}, {format_bytes(floor.total_bytes)}"
    first, least = floor.steps[0], floor.floor
    n_ctx = format_count(first.n_ctx)
    if least is None:
        step = min(floor.steps, key=_short)
        return f"{model}, at {n_ctx} of context: nothing fits; {step.name}: {_shortage(step)}."
    if not floor.has_cards:
        return f"{model}, at {n_ctx} of context: it runs with {format_bytes(least.ram_bytes)} of RAM."
    whole = f"everything on the cards takes {format_bytes(first.vram_bytes)} of VRAM"
    if not first.fits:
        whole += f" ({_shortage(first)})"
    down = f"{format_bytes(least.vram_bytes)} of VRAM and {format_bytes(least.ram_bytes)} of RAM"
    speed = "" if least.tokens_per_s is None else f", at {rate(least.tokens_per_s)} tok/s"
    return f"{model}, at {n_ctx} of context: {whole}; it runs with {down}{speed}."


def _short(row: FloorRow) -> int:
    return row.short_vram_bytes + row.short_ram_bytes


def _shortage(row: FloorRow) -> str:
    """ "3.20 GiB of VRAM and 1.10 GiB of RAM short"."""
    kinds = (("VRAM", row.short_vram_bytes), ("RAM", row.short_ram_bytes))
    return f"{' and '.join(f'{format_bytes(n)} of {kind}' for kind, n in kinds if n)} short"


def _steps(floor: MemoryFloor, width: int) -> list[Line]:
    """A line for each step: its memory, its speed, what it saves and costs."""
    names = ["step", "VRAM", "RAM", "tok/s", "prompt", "saves", "costs"]
    cells = [_step_cells(step, _unit(floor)) for step in floor.steps]
    for row in cells[1:]:
        row[0] = f"+ {row[0]}"
    if not floor.has_cards:
        del names[1]
        for row in cells:
            del row[1]
    return _fitted(names, cells, width)


def _step_cells(step: FloorRow, unit: int) -> list[str]:
    return [
        step.name,
        *_memory(step, unit),
        "" if step.tokens_per_s is None else rate(step.tokens_per_s),
        "" if step.prompt_tokens_per_s is None else rough_rate(step.prompt_tokens_per_s),
        "" if step.saved_bytes is None else format_bytes(step.saved_bytes),
        _cost(step.cost),
    ]


def _memory(row: FloorRow, unit: int) -> tuple[str, str]:
    """VRAM and RAM in units of some bytes, each in brackets if it is short."""
    vram, ram = f"{row.vram_bytes / unit:,.1f}", f"{row.ram_bytes / unit:,.1f}"
    return (f"({vram})" if row.short_vram_bytes else vram, f"({ram})" if row.short_ram_bytes else ram)


def _unit(floor: MemoryFloor) -> int:
    """GiB, or MiB for a model that takes less."""
    return GIB if max(row.vram_bytes + row.ram_bytes for row in floor.steps) >= GIB else MIB


def _cost(cost: float | None) -> str:
    if cost is None:
        return ""
    return "nothing" if abs(cost) < _NO_COST else f"{cost:.0%}" if cost > 0 else f"gains {-cost:.0%}"


def _by_context(rows: Sequence[FloorRow], floor: MemoryFloor, width: int) -> list[Line]:
    """A line for each context: memory and speed for each KV type."""
    has_cards, unit = floor.has_cards, _unit(floor)
    kinds = list(dict.fromkeys(row.kv_type for row in rows))
    names = ["context"]
    for kind in kinds:
        names += [kind, "tok/s"]
    cells = []
    for n_ctx in dict.fromkeys(row.n_ctx for row in rows):
        of_ctx = {row.kv_type: row for row in rows if row.n_ctx == n_ctx}
        texts = [format_count(n_ctx)]
        for kind in kinds:
            row = of_ctx[kind]
            texts += [
                _memory(row, unit)[0 if has_cards else 1],
                "" if row.tokens_per_s is None else rate(row.tokens_per_s),
            ]
        if has_cards:
            texts.append(_memory(max(of_ctx.values(), key=lambda row: row.ram_bytes), unit)[1])
        cells.append(texts)
    return _fitted([*names, "RAM"] if has_cards else names, cells, width)


def _fitted(names: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> list[Line]:
    """A table, without the prompts' speed if that is too wide; on a narrow terminal the facts in lines."""
    for left_out in (None, "prompt"):
        shown = [i for i, name in enumerate(names) if name != left_out]
        columns = [Column(title=names[i], right=names[i] != "step") for i in shown]
        if (lines := table(columns, [[row[i] for i in shown] for row in cells], width)) is not None:
            return lines
    lines = []
    for row in cells:
        facts = (f"{name} {text}" for name, text in zip(names[1:], row[1:], strict=True) if text)
        lines += wrap(f"{row[0]}: {', '.join(facts)}", width, indent="  ")
    return lines


def _legend(floor: MemoryFloor) -> str:
    bases = sorted({str(row.basis) for row in floor.steps if row.basis is not None})
    is_exact = any(step.method != "analytic" for step in floor.steps)
    memory = (
        "VRAM of all cards with the driver's overhead, and the RAM needed with it"
        if floor.has_cards
        else "RAM"
    )
    meter = "the analytic meter, which is cautious"
    by_meter = f"steps by llama.cpp's own dry run, contexts by {meter}" if is_exact else f"by {meter}"
    unit = "GiB" if _unit(floor) == GIB else "MiB"
    return (
        f"In {unit}: {memory}; in brackets: more than there is. A step keeps the changes of those above it; "
        "costs: of the tokens per second. tok/s: of one stream, in the tables by context at its end "
        f"({', '.join(bases) or 'unknown'}). Bytes: {by_meter}."
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
