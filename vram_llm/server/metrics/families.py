"""Families of metrics with one set of labels, in prometheus_client's types."""

from collections.abc import Iterable, Mapping
from itertools import accumulate

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from vram_llm.engine.bucket_counts import BucketCounts

Labelled = Iterable[tuple[tuple[str, ...], float | None]]  # label values and a value; None: not known


class Families:
    """Collects families of names that begin with `prefix`, whose samples all have `labels`."""

    def __init__(self, prefix: str, labels: Mapping[str, str]) -> None:
        self._prefix = prefix
        self._names, self._values = tuple(labels), tuple(labels.values())
        self.found: list[Metric] = []

    def gauge(self, name: str, text: str, value: float | None) -> None:
        """A gauge; none if the value is not known."""
        self.gauges(name, text, (), [((), value)])

    def gauges(self, name: str, text: str, labels: tuple[str, ...], samples: Labelled) -> None:
        """A gauge with further labels. Values that are not known are left out."""
        self._add(GaugeMetricFamily(self._prefix + name, text, labels=self._names + labels), samples)

    def counter(self, name: str, text: str, value: float) -> None:
        """A counter; `name` is without "_total"."""
        self.counters(name, text, (), [((), value)])

    def counters(self, name: str, text: str, labels: tuple[str, ...], samples: Labelled) -> None:
        """A counter with further labels."""
        self._add(CounterMetricFamily(self._prefix + name, text, labels=self._names + labels), samples)

    def histogram(self, name: str, text: str, observed: BucketCounts) -> None:
        """A histogram of what was observed."""
        family = HistogramMetricFamily(self._prefix + name, text, labels=self._names)
        bounds = (*(str(float(bound)) for bound in observed.bounds), "+Inf")
        buckets = list(zip(bounds, map(float, accumulate(observed.counts)), strict=True))
        family.add_metric(self._values, buckets, observed.total)
        self.found.append(family)

    def _add(self, family: GaugeMetricFamily | CounterMetricFamily, samples: Labelled) -> None:
        for values, value in samples:
            if value is not None:
                family.add_metric(self._values + values, value)
        if family.samples:
            self.found.append(family)
