"""vram-llm analyze: the contents of a model file, layer by layer."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vram_llm.cli import terminal
from vram_llm.cli.complete_model import complete_model, same_model
from vram_llm.cli.short_flags import ShortFlagsCommand
from vram_llm.model.pooling import Pooling
from vram_llm.text.lines import printable
from vram_llm.units import MIB, format_bytes

if TYPE_CHECKING:  # --json runs without rich
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from vram_llm.model.layer_bytes import Layer
    from vram_llm.model.profile import ModelProfile

# Part of a layer, its colour, and its mark with and without block characters.
_PARTS = (
    ("attention", "cyan", "█", "#"),
    ("ffn", "green", "▓", "="),
    ("expert", "yellow", "▒", "+"),
    ("recurrent", "magenta", "░", "~"),
    ("other", "white", "·", "."),
)


@click.command("analyze", cls=ShortFlagsCommand)
@click.argument("model", required=False, shell_complete=complete_model)
@same_model
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), metavar="FILE", help=(
    "Draw the bytes of each layer by role too, as FILE.svg or FILE.png. Needs the extra vram-llm[plot]."
))  # fmt: skip
@click.option("--gpu", "gpus", multiple=True, metavar="RIG", help=(
    "With --plot: colour the layers by the device that a plan for these cards puts them on. Repeat for more."
))  # fmt: skip
def command(
    model: str | None, model_option: str | None, as_json: bool, picture: Path | None, gpus: tuple[str, ...]
) -> None:
    """Show the sizes, layers and KV cache of MODEL, a GGUF file or any shard of one.

    MODEL may be "demo", the built-in model.
    """
    if (model is None) == (model_option is None):
        raise click.UsageError("name one model: `vram-llm analyze MODEL`")
    if gpus and picture is None:
        raise click.UsageError(
            "--gpu colours the picture: give --plot FILE.svg too, or plan with `vram-llm plan`"
        )
    if picture is not None:
        from vram_llm.pictures.canvas import check_picture

        check_picture(picture)
    from vram_llm.workflows.detection import analyze

    name = model or model_option or ""
    profile = analyze(name)
    if picture is not None:
        _draw(picture, name, profile, gpus)
    if as_json:
        from vram_llm.cli.analyze_json import analyzed
        from vram_llm.cli.json_document import document

        click.echo(document(analyzed(profile)))
    else:
        _print(profile)


def _draw(picture: Path, name: str, profile: "ModelProfile", gpus: tuple[str, ...]) -> None:
    """Draw the layers, with the devices of a plan for `gpus` if there are any."""
    from vram_llm.pictures.draw_layers import draw_layers
    from vram_llm.planner.pictures import layer_picture
    from vram_llm.workflows import detection, planning

    plan = planning.plan(name, detection.detect(gpus), compares=False) if gpus else None
    draw_layers(layer_picture(profile, plan), picture)
    terminal.say(f"picture: {picture}", err=True)


def _print(profile: "ModelProfile") -> None:
    from rich.text import Text

    console = terminal.console()
    console.print(Text(printable(profile.name), style="bold"))
    console.print(_facts(profile))
    console.print()
    console.print(_table(profile, console))
    console.print(_legend(profile, _draws_blocks(console)))
    sizes = [layer.bytes / MIB for layer in profile.layers]
    mean = sum(sizes) / len(sizes)
    console.print(Text(f"layers: min {min(sizes):,.1f}, mean {mean:,.1f}, max {max(sizes):,.1f} MiB"))


def _facts(profile: "ModelProfile") -> "Table":
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in _fact_rows(profile):
        grid.add_row(label, Text(printable(value)))
    return grid


def _fact_rows(profile: "ModelProfile") -> Iterator[tuple[str, str]]:
    """Label and value of each line above the table. Lines that do not apply to the model are left out."""
    n_files, n_layers = len(profile.shards), profile.n_layers
    files = f" in {n_files} files" if n_files > 1 else ""
    yield "architecture", profile.architecture
    if profile.draft_head is not None:
        yield "no model", f"{profile.draft_head}, which drafts for its model and is not used here"
    decimal = f" ({profile.total_bytes / 1e9:,.2f} GB)" if profile.total_bytes >= 1e9 else ""
    yield "size", f"{format_bytes(profile.total_bytes)}{decimal}{files}"
    yield "parameters", _parameters(profile.parameters)
    yield "quantisation", profile.quantization
    yield "context length", f"{profile.context_length:,} tokens"
    yield "vocabulary", f"{profile.vocab_size:,} tokens"
    yield (
        "layers",
        str(n_layers) + (f", {profile.n_draft_layers} of them draft" if profile.n_draft_layers else ""),
    )
    if profile.n_expert:
        yield "experts", f"{profile.n_expert_used} of {profile.n_expert} used per token"
    states = [layer.recurrent_state_bytes for layer in profile.layers if layer.recurrent_state_bytes]
    if states:
        yield "recurrent", f"{len(states)} of {n_layers} layers, {format_bytes(sum(states))} per sequence"
    if profile.sliding_window:
        n_windowed = sum(layer.sliding_window for layer in profile.layers)
        yield "sliding window", f"{profile.sliding_window:,} tokens in {n_windowed} of {n_layers} layers"
    if not profile.memory_is_modelled:
        yield "KV cache", "of a kind only llama.cpp can size"
    elif not profile.has_memory:
        yield "KV cache", "none"
    else:
        yield "KV cache", f"{format_bytes(profile.kv_bytes_per_token)} per token at f16"
    if profile.pooling is not None:
        yield "makes", "scores of documents" if profile.pooling is Pooling.RANK else _EMBEDS[profile.pooling]
    yield "read per token", format_bytes(profile.active_bytes_per_token)


_EMBEDS = {
    Pooling.MEAN: "embeddings: the mean of a text's tokens",
    Pooling.CLS: "embeddings: a text's first token",
    Pooling.LAST: "embeddings: a text's last token",
}


def _parameters(n: int) -> str:
    for scale, unit in ((1e9, "B"), (1e6, "M")):
        if n >= scale:
            return f"{n / scale:,.2f} {unit}"
    return f"{n:,}"


def _table(profile: "ModelProfile", console: "Console") -> "Table":
    """Runs of equal layers with a bar each, the embedding above and the output below them."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("layer", no_wrap=True, overflow="crop")
    table.add_column("MiB", justify="right", no_wrap=True, overflow="crop")
    table.add_column("KV/token", justify="right", no_wrap=True, overflow="crop")
    bar_width = max(4, console.width - 31)
    largest = max(
        profile.token_embd_bytes, profile.output_bytes, *(layer.bytes for layer in profile.layers), 1
    )
    table.add_column("", no_wrap=True, overflow="crop")
    blocks = _draws_blocks(console)
    scale = bar_width / largest

    def outside(label: str, n_bytes: int, note: str = "") -> None:
        bar = Text(note or ("█" if blocks else "#") * round(n_bytes * scale), style="dim" if note else "blue")
        table.add_row(label, f"{n_bytes / MIB:,.1f}", "", bar)

    outside("embedding", profile.token_embd_bytes)
    for first, last in _runs(profile.layers):
        label = str(first.index) if first is last else f"{first.index}-{last.index}"
        kv = format_bytes(first.kv_bytes_per_token) if first.kv_bytes_per_token else "-"
        table.add_row(label, f"{first.bytes / MIB:,.1f}", kv, _bar(first, scale, blocks))
    outside("output", profile.output_bytes, "= embedding" if profile.tied_output else "")
    return table


def _runs(layers: tuple["Layer", ...]) -> Iterator[tuple["Layer", "Layer"]]:
    """First and last layer of each run of layers that look alike."""

    def looks(layer: "Layer") -> tuple[int, ...]:
        return (layer.kv_bytes_per_token, *_part_bytes(layer))

    for _, run in groupby(layers, key=looks):
        alike = list(run)
        yield alike[0], alike[-1]


def _part_bytes(layer: "Layer") -> tuple[int, ...]:
    return tuple(getattr(layer, f"{part}_bytes") for part, *_ in _PARTS)


def _bar(layer: "Layer", scale: float, blocks: bool) -> "Text":
    """The layer's parts side by side. Ends are rounded, not lengths, so that the sum keeps its length."""
    from rich.text import Text

    bar, end = Text(), 0
    for (_, colour, block, plain), n_bytes in zip(_PARTS, _part_bytes(layer), strict=True):
        start, end = end, end + n_bytes
        bar.append((block if blocks else plain) * (round(end * scale) - round(start * scale)), style=colour)
    return bar


def _draws_blocks(console: "Console") -> bool:
    """Whether the output's encoding has block characters."""
    return console.encoding.startswith("utf")


def _legend(profile: "ModelProfile", blocks: bool) -> "Text":
    """Colour and mark of each part that the model has."""
    from rich.text import Text

    totals = [sum(parts) for parts in zip(*map(_part_bytes, profile.layers), strict=True)]
    shown = [row for row, total in zip(_PARTS, totals, strict=True) if total]
    return Text(" ").join(
        Text(f"{block if blocks else plain} {part}", style=colour) for part, colour, block, plain in shown
    )
