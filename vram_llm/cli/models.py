"""vram-llm models: the models on this disk, whether they fit, and the names that commands take."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from vram_llm.cli import terminal
from vram_llm.cli.machine_options import rig_options
from vram_llm.cli.short_flags import ShortFlagsCommand

if TYPE_CHECKING:
    from vram_llm.planner.types import Workload
    from vram_llm.workflows.model_list import ListedModel

_TITLES = ("model", "size", "type", "fits", "context", "tok/s", "from")
_NUMBERS = ("size", "context", "tok/s")
_GAP = "  "
_NONE = (
    "no model in the folders of Hugging Face, LM Studio, Ollama or llama.cpp; "
    "`vram-llm pull hf:ORG/REPO:Q4_K_M` fetches one, and any GGUF file can be named by its path"
)


@click.command("models", cls=ShortFlagsCommand)
@click.option("--json", "as_json", is_flag=True, help="Print JSON. Every size is bytes.")
@rig_options
def command(as_json: bool, gpu: tuple[str, ...], ram: str | None, cpu: str | None, disk: str | None) -> None:
    """List the models that Hugging Face, LM Studio, Ollama and llama.cpp keep on this disk; say which fit.

    Commands take these names as MODEL; a unique part of a name is enough. The analytic meter computes fit,
    context and speed: it is quick and cautious. `vram-llm plan NAME` is exact.
    """
    from vram_llm.planner.types import Workload
    from vram_llm.workflows import detection
    from vram_llm.workflows.model_list import listed_models

    workload = Workload()
    rows = listed_models(detection.detect(gpu, ram=ram, cpu=cpu, disk=disk), workload)
    if as_json:
        from vram_llm.cli.json_document import document
        from vram_llm.cli.json_types import ListedModels

        click.echo(document(ListedModels(models=tuple(rows))))
    elif rows:
        _print(rows, workload)
    else:
        terminal.say(_NONE)


def _print(rows: "Sequence[ListedModel]", workload: "Workload") -> None:
    from rich.text import Text

    console = terminal.console()
    table = [_cells(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(_TITLES, *table, strict=True)]
    if sum(widths) + len(_GAP) * (len(widths) - 1) <= console.width:
        console.print(Text(_line(_TITLES, widths), style="dim"))
        for cells in table:
            console.print(Text(_line(cells, widths)))
    else:
        for row in rows:
            console.print(Text(row.short_name, style="bold"), overflow="fold")
            for line in textwrap.wrap(", ".join(_facts(row)), console.width - len(_GAP)):
                console.print(Text(_GAP + line))
    console.print(Text(_legend(rows, workload), style="dim"))


def _line(cells: "Sequence[str]", widths: "Sequence[int]") -> str:
    aligned = (
        cell.rjust(width) if title in _NUMBERS else cell.ljust(width)
        for title, cell, width in zip(_TITLES, cells, widths, strict=True)
    )
    return _GAP.join(aligned).rstrip()


def _cells(row: "ListedModel") -> tuple[str, ...]:
    from vram_llm.planner.report.figures import rate
    from vram_llm.units import format_bytes, format_count

    on_cpu = f"{row.cpu_layers} on CPU" if row.cpu_layers else "yes"
    return (
        row.short_name,
        format_bytes(row.bytes),
        row.quantization or "unreadable",
        "" if row.fits is None else on_cpu if row.fits else "no",
        "" if row.n_ctx is None else format_count(row.n_ctx),
        "" if row.tokens_per_s is None else rate(row.tokens_per_s),
        row.kept_by,
    )


def _facts(row: "ListedModel") -> list[str]:
    _, size, quantization, fits, context, rate, kept_by = _cells(row)
    if row.fits is not None:
        on_cpu = f"{row.cpu_layers} of {row.n_layers} layers on the CPU"
        fits = "does not fit" if not row.fits else on_cpu if row.cpu_layers else "fits"
    facts = (size, quantization, fits, context and f"{context} context", rate and f"{rate} tok/s", kept_by)
    return [fact for fact in facts if fact]


def _legend(rows: "Sequence[ListedModel]", workload: "Workload") -> str:
    from vram_llm.units import format_count

    bases = sorted({row.basis for row in rows if row.basis is not None})
    sources = f" ({', '.join(bases)})" if bases else ""
    return (
        f"fits: with {format_count(workload.DEFAULT_N_CTX)} of context; context: the longest with no more "
        f"layers on the CPU; tok/s: of one stream{sources}. By the analytic meter; `vram-llm plan MODEL` is "
        "exact."
    )
