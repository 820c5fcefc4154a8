"""`plan hf:ORG/REPO` and `plan FOLDER`: every quantisation there, the best one, and the next command."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from vram_llm.cli import terminal
from vram_llm.cli.next_command import given_words, joined
from vram_llm.cli.plan_options import PLAN_OPTIONS, PlanOptions
from vram_llm.errors import DoesNotFit
from vram_llm.model.location import HUB
from vram_llm.planner.best_quantization import Quantization, on_cpu, why_best
from vram_llm.planner.report.figures import rate
from vram_llm.planner.types import Workload
from vram_llm.text.lines import Line, Style, line, wrap
from vram_llm.text.table import Column, table
from vram_llm.units import format_bytes, format_count
from vram_llm.workflows.model_names import folder_of

if TYPE_CHECKING:
    from vram_llm.llama.dryrun.client import DryRun
    from vram_llm.machine.types import Machine
    from vram_llm.workflows.quantizations import Quantizations

_BEST = "*"
_NUMBERS = ("size", "context", "tok/s")
_TITLED = ("context", "tok/s")
_COMPANIONS = {  # by field of Workload
    "loras": "--lora", "control_vectors": "--control-vector", "mmproj": "--mmproj", "draft": "--draft",
}  # fmt: skip


def only_model(
    name: str, options: PlanOptions, machine: "Machine", dry: "DryRun", *, as_json: bool, flags: Sequence[str]
) -> str | None:
    """The one model that `name` stands for; None if there are several, whose table is printed.

    `flags` are those on the command line that change the output of one plan. Raises UsageError if they or
    companions are given and there are several models, and DoesNotFit, after printing, if none fits.
    """
    if folder_of(name) is None and not name.lower().startswith(HUB):
        return name
    from vram_llm.workflows import model_files, quantizations

    files = model_files.files_of(name)
    if files is None:
        return name
    if len(files.files) == 1:
        return files.files[0].name
    workload = options.workload
    given = [*flags, *(flag for field, flag in _COMPANIONS.items() if getattr(workload, field))]
    if given:
        raise click.UsageError(f"{name} holds {len(files.files)} models, and {given[0]} is for one: name it")
    found = quantizations.compare_files(files, machine, workload, dry)
    if len(found.quantizations) == 1:
        return found.quantizations[0].name
    if as_json:
        from vram_llm.cli.json_document import document

        click.echo(document(found))
    else:
        words = given_words(click.get_current_context(), {option.name for option in PLAN_OPTIONS})
        what_if = machine.is_what_if
        n_ctx = workload.n_ctx or Workload.DEFAULT_N_CTX
        print_quantizations(found, words, what_if=what_if, n_ctx=n_ctx)
    raise_if_none_fits(found)
    return None


def best_model(name: str, machine: "Machine", workload: Workload) -> str:
    """The best model of the repository `name`, which is printed with the reason; `name` if it is one model.

    Raises DoesNotFit if none fits, and UsageError if the repository holds different models.
    """
    from vram_llm.workflows import model_files, quantizations

    files = model_files.files_of(name)
    if files is None or len(files.files) == 1:
        return name
    found = quantizations.compare_files(files, machine, workload)
    raise_if_none_fits(found)
    if len(found.best) > 1:
        names = ", ".join(best.name for best in found.best)
        raise click.UsageError(f"{name} holds {len(found.best)} models: name one, such as {names}")
    (best,) = found.best
    terminal.show(best_lines(best, found, terminal.width()))
    return best.name


def print_quantizations(found: "Quantizations", words: Sequence[str], *, what_if: bool, n_ctx: int) -> None:
    """Print the best quantisation of each model, the next command and the table.

    `words` are the options of the command line; `n_ctx` is the context with which they fit.
    """
    width = terminal.width()
    lines: list[Line] = []
    for best in found.best:
        lines += best_lines(best, found, width)
        lines.append(line(f"next: {_next_command(best, words, what_if=what_if)}", Style.STRONG))
    lines += [()] if lines else []
    lines += _table(found.quantizations, width)
    lines += wrap(_legend(found, n_ctx), width, Style.DIM)
    for row in found.quantizations:
        if row.reason is not None:
            lines += wrap(f"{row.label}: {row.reason}", width, Style.DIM, "  ")
    lines += [noted for note in found.notes for noted in wrap(f"note: {note}", width, Style.DIM, "  ")]
    terminal.show(lines)


def best_lines(best: Quantization, found: "Quantizations", width: int) -> list[Line]:
    """The name of the best quantisation with its figures, and why it is the best."""
    rows = [row for row in found.quantizations if row.model == best.model]
    several = len(found.best) > 1
    figures = [best.label, format_bytes(best.bytes or 0)]
    if cpu := on_cpu(best):
        figures.append(f"{cpu} on the CPU")
    if best.tokens_per_s is not None:
        figures.append(f"{rate(best.tokens_per_s)} tok/s")
    if best.n_ctx is not None:
        figures.append(f"context up to {format_count(best.n_ctx)}")
    what = f"Best of {best.model}" if several else "Best"
    return [
        *wrap(f"{what}: {', '.join(figures)}.", width, Style.STRONG),
        *wrap(why_best(best, rows), width),
    ]


def raise_if_none_fits(found: "Quantizations") -> None:
    """Raises DoesNotFit, with the one that is least short, if no quantisation fits."""
    rows = [row for row in found.quantizations if row.short_bytes is not None]
    if found.best or not rows:
        return
    least = min(rows, key=lambda row: row.short_bytes or 0)
    short = least.short_bytes or 0
    raise DoesNotFit(
        f"none of the {len(rows)} models in {found.source} fits: {least.label} is {format_bytes(short)} "
        "short; take a smaller model, a shorter context (--n-ctx) or another card",
        short_bytes=short,
    )


def _next_command(best: Quantization, words: Sequence[str], *, what_if: bool) -> str:
    """Fetch the model, plan it in full for another machine, or serve it."""
    if not best.is_on_disk:
        return joined("vram-llm", "pull", best.name, *words)
    return joined("vram-llm", "plan" if what_if else "serve", best.name, *words)


def _table(rows: Sequence[Quantization], width: int) -> list[Line]:
    """A row for each quantisation; if the terminal is too narrow, its facts in lines."""
    names = ["", "quantisation", "size", "fits", "context", "tok/s", ""]
    cells = [_cells(row) for row in rows]
    if len({row.model for row in rows if row.model is not None}) > 1:
        names.insert(1, "model")
        for row, texts in zip(rows, cells, strict=True):
            texts.insert(1, row.model or "")
    if len({row.is_on_disk for row in rows}) > 1:
        names.append("")
        for row, texts in zip(rows, cells, strict=True):
            texts.append("on disk" if row.is_on_disk else "")
    styles = [Style.STRONG if row.is_best else Style.PLAIN for row in rows]
    styled = [[line(text, style) for text in texts] for texts, style in zip(cells, styles, strict=True)]
    columns = [Column(title=name, right=name in _NUMBERS) for name in names]
    if (lines := table(columns, styled, width)) is not None:
        return lines
    lines = []
    for (mark, *texts), style in zip(cells, styles, strict=True):
        facts = zip(names[1:], texts, strict=True)
        titled = (f"{text} {name}" if name in _TITLED else text for name, text in facts if text)
        lines += wrap(f"{mark} {', '.join(titled)}".strip(), width, style, "  ")
    return lines


def _cells(row: Quantization) -> list[str]:
    return [
        _BEST if row.is_best else "",
        row.label,
        "?" if row.bytes is None else format_bytes(row.bytes),
        _fits(row),
        "" if row.n_ctx is None else format_count(row.n_ctx),
        "" if row.tokens_per_s is None else rate(row.tokens_per_s),
        "" if row.basis is None else str(row.basis),
    ]


def _fits(row: Quantization) -> str:
    if row.fits is None:
        return "unreadable"
    if not row.fits:
        return f"{format_bytes(row.short_bytes or 0)} short"
    return "on the cards" if row.is_on_cards else f"{on_cpu(row)} on CPU"


def _legend(found: "Quantizations", n_ctx: int) -> str:
    is_confirmed = any(row.method == "dry run" for row in found.best)
    meters = "The analytic meter, which is cautious, says what fits"
    if is_confirmed:
        meters += f"; of {_BEST}, the best, llama.cpp's own dry run"
    return (
        f"fits: with {format_count(n_ctx)} of context; context: the longest with no more on the CPU; "
        f"tok/s: of one stream. {meters}."
    )
