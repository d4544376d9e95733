"""What an edge has done and is doing, counted from the events that it reports, for Prometheus.

`prometheus_client` is imported when somebody asks, so that an edge starts no later for it.

No label holds an address, a session or anything else that a client chose: the number of time series is fixed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

from punchlab.punch.events import Reporter

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

PREFIX = "punch_edge_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Event -> the counter that it increments, and those of its fields that become labels.
COUNTERS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "client": ("registrations", ("role",), "Clients that took a role in a session."),
    "client_gone": ("departures", ("role",), "Clients that left, for whatever reason."),
    "paired": ("paired", ("via",), "Sessions whose client here was told about its peer, by where that peer is."),
    "rejected": ("rejected", ("kind",), "Connections ended for what they sent or did not send, by kind."),
    "limited": ("limited", ("limit",), "What was refused because it was too much, by limit."),
    "candidates_withheld": ("candidates_withheld", (), "Clients that named addresses which are not handed out."),
    "probing": ("probes", (), "Clients that came to probe their NATs."),
    "knocked": ("knocks", ("result",), "Connects and datagrams sent to probing clients."),
    "bus_sent": ("bus_sent", ("type",), "Messages sent to other endpoints."),
    "bus_received": ("bus_received", ("type",), "Messages received from other endpoints."),
    "joined": ("links_up", (), "Times that another endpoint was joined."),
    "left": ("links_down", (), "Times that another endpoint was lost."),
    "relayed": ("relayed", (), "Pairs that were relayed, and have ended."),
    "overloaded": ("overloaded", (), "Times that the process was found out of file descriptors."),
}

Gauge = Callable[[], float]


class Metrics:
    """The counts of one edge, and gauges that are read when they are asked for."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self._gauges: dict[str, tuple[str, Gauge]] = {}

    def counting(self, report: Reporter) -> Reporter:
        """`report`, with every event counted."""

        def counting_report(event: str, /, t: float | None = None, **fields: object) -> None:
            self.count(event, **fields)
            report(event, t, **fields)

        return counting_report

    def count(self, event: str, **fields: object) -> None:
        """Count an event that is not worth a line in the log."""
        if event in COUNTERS:
            _, labels, _ = COUNTERS[event]
            self._counts[event, tuple(str(fields.get(label, "other")) for label in labels)] += 1

    def total(self, event: str) -> int:
        """How often `event` was counted, whatever its labels."""
        return sum(count for (name, _), count in self._counts.items() if name == event)

    def gauge(self, name: str, told: str, read: Gauge) -> None:
        """Add a gauge: `read` is called whenever the metrics are rendered."""
        self._gauges[name] = told, read

    def collect(self) -> Iterator[Metric]:
        """The metrics, as `prometheus_client` wants them from a collector."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for event, (name, labels, told) in COUNTERS.items():
            counter = CounterMetricFamily(PREFIX + name, told, labels=labels)
            counts = {values: count for (counted, values), count in self._counts.items() if counted == event}
            if not labels:
                counts.setdefault((), 0)
            for values, count in sorted(counts.items()):
                counter.add_metric(values, count)
            yield counter
        for name, (told, read) in self._gauges.items():
            yield GaugeMetricFamily(PREFIX + name, told, value=read())

    def render(self) -> bytes:
        """All of it in the text format of Prometheus."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        registry.register(cast("Collector", self))
        return generate_latest(registry)
