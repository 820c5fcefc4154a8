"""Tables of `bench serve` with several loads: the loads of a sweep, and two servers side by side."""

from collections.abc import Iterator, Sequence
from statistics import median

from rich.table import Table

from vram_llm.bench.comparison import ComparedFigure
from vram_llm.bench.sweep import LoadPoint, knee
from vram_llm.cli import terminal


def print_sweep(points: Sequence[LoadPoint]) -> None:
    """A row for each load, and a sentence about the knee."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    for name in ("load", "req/s", "tok/s", "TTFT", "P99", "ITL", "P99", "TPOT", "failed", "good"):
        table.add_column(name, justify="right", no_wrap=True)
    for point in points:
        table.add_row(*_cells(point))
    console = terminal.console()
    console.print(table)
    console.print(
        "load: requests at a time; medians and P99 in ms"
        + ("" if _has_targets(points) else "; no targets given")
    )
    console.print(knee_sentence(points), soft_wrap=True)


def knee_sentence(points: Sequence[LoadPoint]) -> str:
    """The result of the sweep."""
    best = knee(points)
    if best is None:
        return (
            "knee: none; no load meets the targets" if _has_targets(points) else "knee: none; requests fail"
        )
    why = (
        "the most at which 90% of the requests are within the targets"
        if best.good_share is not None
        else "beyond it twice the load brings less than 1.41 times the throughput"
    )
    return f"knee: {best.concurrency} requests at a time, {best.metrics.output_tokens_per_s:.2f} tok/s; {why}"


def print_comparison(urls: tuple[str, str], figures: Sequence[ComparedFigure], n_rounds: int) -> None:
    """A row for each figure: medians of both servers, and the ratio of the second to the first."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("", no_wrap=True)
    for name in ("first", "second", "ratio", "rounds"):
        table.add_column(name, justify="right", no_wrap=True)
    for figure in figures:
        ratio = "-" if figure.ratio is None else f"{figure.ratio:.3f}"
        spread = f"{min(figure.ratios):.3f}-{max(figure.ratios):.3f}" if figure.ratios else "-"
        table.add_row(
            figure.name, f"{median(figure.first):.2f}", f"{median(figure.second):.2f}", ratio, spread
        )
    console = terminal.console()
    console.print(f"first: {urls[0]}; second: {urls[1]}", soft_wrap=True)
    console.print(table)
    rounds = "1 round" if n_rounds == 1 else f"{n_rounds} rounds, measured in turn"
    console.print(f"medians of {rounds}; ratio: second to first, and its least and greatest", soft_wrap=True)


def _has_targets(points: Sequence[LoadPoint]) -> bool:
    return any(point.good_share is not None for point in points)


def _cells(point: LoadPoint) -> Iterator[str]:
    metrics = point.metrics
    yield str(point.concurrency)
    yield f"{metrics.requests_per_s:.2f}"
    yield f"{metrics.output_tokens_per_s:.2f}"
    for latency in (metrics.latencies["ttft"], metrics.latencies["itl"]):
        yield f"{latency.median_ms:.2f}"
        yield f"{latency.percentile_ms(99):.2f}"
    yield f"{metrics.latencies['tpot'].median_ms:.2f}"
    yield str(metrics.failed)
    yield "-" if point.good_share is None else f"{point.good_share:.0%}"
