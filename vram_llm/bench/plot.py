"""TTFT and ITL against load, as a picture. matplotlib is an extra, and imported here alone."""

from collections.abc import Sequence
from pathlib import Path

from vram_llm.bench.metrics import LatencyName
from vram_llm.bench.sweep import LoadPoint, knee
from vram_llm.errors import NotBuilt

_PANELS: tuple[tuple[LatencyName, str], ...] = (
    ("ttft", "time to first token, ms"),
    ("itl", "inter-token latency, ms"),
)


def check_plot() -> None:
    """Raises NotBuilt if matplotlib is missing, so that nobody measures in vain."""
    try:
        import matplotlib  # noqa: F401  # it is only looked for
    except ImportError:
        raise NotBuilt("pictures need matplotlib: pip install 'vram-llm[plot]'") from None


def plot_sweep(points: Sequence[LoadPoint], title: str, path: Path) -> None:
    """Write a picture of two panels, in the format of the path's ending. Raises NotBuilt, OSError."""
    check_plot()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    loads = [point.concurrency for point in points]
    best = knee(points)
    for axes, (name, label) in zip(figure.subplots(1, 2), _PANELS, strict=True):
        for percent, style in ((50, "o-"), (99, "s--")):
            values = [point.metrics.latencies[name].percentile_ms(percent) for point in points]
            axes.plot(loads, values, style, label="median" if percent == 50 else f"P{percent}")
        if best is not None:
            axes.axvline(best.concurrency, color="grey", linestyle=":", label=f"knee: {best.concurrency}")
        axes.set_xscale("log", base=2)
        axes.set_xticks(loads, [str(load) for load in loads])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("requests at a time")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend()
    try:
        figure.savefig(path)
    except ValueError as error:  # an ending that it does not know
        raise OSError(f"{path}: {error}") from None
