"""TTFT and ITL against load, as a picture."""

from collections.abc import Sequence
from pathlib import Path

from vram_llm.bench.metrics import LatencyName
from vram_llm.bench.sweep import LoadPoint, knee
from vram_llm.pictures.canvas import picture

_PANELS: tuple[tuple[LatencyName, str], ...] = (
    ("ttft", "time to first token, ms"),
    ("itl", "inter-token latency, ms"),
)


def plot_sweep(points: Sequence[LoadPoint], title: str, path: Path) -> None:
    """Write a picture of two panels. Raises BadPicture."""
    loads = [point.concurrency for point in points]
    best = knee(points)
    with picture(path, title, (10, 4)) as figure:
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
