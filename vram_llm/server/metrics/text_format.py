"""Prometheus's text format as prometheus_client writes it, in less time.

prometheus_client puts all labels together and checks all names at each scrape: some 3 ms for 400 samples, in
which no token is sent. Here the lines up to their values are its own, kept from the first scrape.
"""

from itertools import accumulate
from typing import Literal

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from vram_llm.server.metrics.families import Labels, MetricSink, Observed, Samples

_MOST_KEPT = 10_000  # labels of adapters may change without end
_N_HEAD = 2  # lines before a family's samples


class TextSink:
    """Writes families as lines."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._kept: dict[tuple[str, Labels], list[str]] = {}  # beginnings of lines, by name and labels

    def take(self) -> bytes:
        """The text of the families since the last call."""
        text = "".join(self._lines).encode()
        self._lines.clear()
        if len(self._kept) > _MOST_KEPT:
            self._kept.clear()
        return text

    def add(
        self, kind: Literal["gauge", "counter"], name: str, text: str, names: Labels, samples: Samples
    ) -> None:
        """See FamilySink."""
        lines, kept = self._lines, self._kept
        for number, (values, value) in enumerate(samples):
            key = name, values
            if (known := kept.get(key)) is None:
                sink = MetricSink()
                sink.add(kind, name, text, names, [(values, 0.0)])
                known = self._keep(key, sink)
            head, start = known
            if not number:
                lines.append(head)
            lines.append(f"{start}{float(value)!r}\n")

    def add_histogram(self, name: str, text: str, names: Labels, observed: Observed) -> None:
        """See FamilySink."""
        for number, (values, counted) in enumerate(observed):
            key = name, values
            if (known := self._kept.get(key)) is None:
                sink = MetricSink()
                sink.add_histogram(name, text, names, [(values, counted)])
                known = self._keep(key, sink)
            head, *starts = known
            counts = list(accumulate(counted.counts))
            figures = (*counts, counts[-1], counted.total)
            if not number:
                self._lines.append(head)
            self._lines += [f"{start}{figure}\n" for start, figure in zip(starts, figures, strict=True)]

    def _keep(self, key: tuple[str, Labels], sink: MetricSink) -> list[str]:
        """A family as prometheus_client writes it: its head, and each sample's line up to the value."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Families(sink.found))
        lines = generate_latest(registry).decode().splitlines(keepends=True)
        starts = [line.rpartition(" ")[0] + " " for line in lines[_N_HEAD:]]
        kept = self._kept[key] = ["".join(lines[:_N_HEAD]), *starts]
        return kept


class _Families(Collector):
    def __init__(self, found: list[Metric]) -> None:
        self._found = found

    def collect(self) -> list[Metric]:
        return self._found
