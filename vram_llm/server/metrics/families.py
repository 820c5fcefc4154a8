"""Families of metrics: the interface of what takes them, and prometheus_client's objects."""

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Literal, Protocol

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from vram_llm.engine.bucket_counts import BucketCounts

Labels = tuple[str, ...]
Samples = list[tuple[Labels, float]]  # values of labels, and a value
Observed = list[tuple[Labels, BucketCounts]]
Labelled = Iterable[tuple[Labels, float | None]]  # None: not known


class FamilySink(Protocol):
    """Takes families. `names` are those of labels."""

    def add(
        self, kind: Literal["gauge", "counter"], name: str, text: str, names: Labels, samples: Samples
    ) -> None:
        """A family with at least one sample."""

    def add_histogram(self, name: str, text: str, names: Labels, observed: Observed) -> None:
        """A family of histograms, at least one."""


class MetricSink:
    """Makes prometheus_client's objects."""

    def __init__(self) -> None:
        self.found: list[Metric] = []

    def add(
        self, kind: Literal["gauge", "counter"], name: str, text: str, names: Labels, samples: Samples
    ) -> None:
        """See FamilySink."""
        make = GaugeMetricFamily if kind == "gauge" else CounterMetricFamily
        family = make(name, text, labels=names)
        for values, value in samples:
            family.add_metric(values, value)
        self.found.append(family)

    def add_histogram(self, name: str, text: str, names: Labels, observed: Observed) -> None:
        """See FamilySink."""
        family = HistogramMetricFamily(name, text, labels=names)
        for values, counts in observed:
            bounds = (*(str(float(bound)) for bound in counts.bounds), "+Inf")
            buckets = list(zip(bounds, map(float, accumulate(counts.counts)), strict=True))
            family.add_metric(values, buckets, counts.total)
        self.found.append(family)


class Families:
    """Passes families to `sink` whose names begin with `prefix`, and whose samples all have `labels`."""

    def __init__(self, sink: FamilySink, prefix: str, labels: Mapping[str, str]) -> None:
        self._sink = sink
        self._prefix = prefix
        self._names, self._values = tuple(labels), tuple(labels.values())

    def gauge(self, name: str, text: str, value: float | None) -> None:
        """A gauge; none if the value is not known."""
        self.gauges(name, text, (), [((), value)])

    def gauges(self, name: str, text: str, labels: Labels, samples: Labelled) -> None:
        """A gauge with further labels. Values that are not known are left out."""
        self._add("gauge", name, text, labels, samples)

    def counter(self, name: str, text: str, value: float) -> None:
        """A counter; `name` is without "_total"."""
        self.counters(name, text, (), [((), value)])

    def counters(self, name: str, text: str, labels: Labels, samples: Labelled) -> None:
        """A counter with further labels."""
        self._add("counter", name, text, labels, samples)

    def histogram(self, name: str, text: str, observed: BucketCounts) -> None:
        """A histogram of what was observed."""
        self._sink.add_histogram(self._prefix + name, text, self._names, [(self._values, observed)])

    def _add(
        self, kind: Literal["gauge", "counter"], name: str, text: str, labels: Labels, samples: Labelled
    ) -> None:
        known = [(self._values + values, value) for values, value in samples if value is not None]
        if known:
            self._sink.add(kind, self._prefix + name, text, self._names + labels, known)
