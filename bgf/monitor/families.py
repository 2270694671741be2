"""Metric families in the making: one call per sample, the constant label added, names kept apart.

Knows: Prometheus' kinds. Must not know what is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)


class Families:
    """`gauge` and `counter` add one sample; the family is made at the first one. Every sample of a
    family has the same labels, and `constant` ones before them."""

    def __init__(self, constant: Mapping[str, str]) -> None:
        self._names = list(constant)
        self._values = list(constant.values())
        self._made: dict[str, GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily] = {}

    def __iter__(self) -> Iterator[Metric]:
        yield from self._made.values()

    def gauge(self, name: str, what: str, value: float, **labels: str) -> None:
        family = self._made.get(name)
        if family is None:
            family = GaugeMetricFamily(name, what, labels=[*self._names, *labels])
            self._made[name] = family
        assert isinstance(family, GaugeMetricFamily)
        family.add_metric([*self._values, *labels.values()], value)

    def counter(self, name: str, what: str, value: float, **labels: str) -> None:
        """`name` is without `_total`, which the text form adds."""
        family = self._made.get(name)
        if family is None:
            family = CounterMetricFamily(name, what, labels=[*self._names, *labels])
            self._made[name] = family
        assert isinstance(family, CounterMetricFamily)
        family.add_metric([*self._values, *labels.values()], value)

    def histogram(
        self,
        name: str,
        what: str,
        limits: Sequence[float],
        counts: Sequence[int],
        total: float,
        **labels: str,
    ) -> None:
        """`counts` has one more than `limits`, and is not cumulative."""
        family = self._made.get(name)
        if family is None:
            family = HistogramMetricFamily(name, what, labels=[*self._names, *labels])
            self._made[name] = family
        assert isinstance(family, HistogramMetricFamily)
        buckets, so_far = [], 0
        for limit, count in zip((*map(str, limits), "+Inf"), counts, strict=True):
            so_far += count
            buckets.append((limit, float(so_far)))
        family.add_metric([*self._values, *labels.values()], buckets, total)
