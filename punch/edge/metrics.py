"""Prometheus metrics of an edge, counted from the events that it reports.

`prometheus_client` is imported at the first request, so that it does not delay the start of an edge.

No label holds an address, a session or another value that a client chooses: the number of time series is fixed.
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

# Event -> the counter that it increments, the fields that become labels, and the help text.
COUNTERS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "client": ("registrations", ("role",), "Clients that took a role in a session."),
    "client_gone": ("departures", ("role",), "Clients that left, for any reason."),
    "paired": ("paired", ("via",), "Sessions whose client here received its peer, by where that peer is."),
    "rejected": ("rejected", ("kind",), "Connections closed because of what they sent or failed to send, by kind."),
    "limited": ("limited", ("limit",), "Connections and frames rejected by a limit, by limit."),
    "candidates_withheld": (
        "candidates_withheld",
        (),
        "Clients that registered addresses which their peers do not get.",
    ),
    "probing": ("probes", (), "Clients that connected to probe their NATs."),
    "dialled_back": (
        "dial_backs",
        ("result",),
        "Connection attempts and datagrams sent to probing clients, by result.",
    ),
    "bus_sent": ("bus_sent", ("type",), "Messages sent to other endpoints."),
    "bus_received": ("bus_received", ("type",), "Messages received from other endpoints."),
    "joined": ("links_up", (), "Links to other endpoints that were established."),
    "left": ("links_down", (), "Links to other endpoints that were lost."),
    "relayed": ("relayed", (), "Relayed pairs that have ended."),
    "overloaded": ("overloaded", (), "Times that the process ran out of file descriptors."),
}

Gauge = Callable[[], float]


class Metrics:
    """The counters of one edge, and gauges that are evaluated on each request."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self._gauges: dict[str, tuple[str, Gauge]] = {}

    def counting(self, report: Reporter) -> Reporter:
        """Return a reporter that counts each event and passes it to `report`."""

        def counting_report(event: str, /, t: float | None = None, **fields: object) -> None:
            self.count(event, **fields)
            report(event, t, **fields)

        return counting_report

    def count(self, event: str, **fields: object) -> None:
        """Count an event without reporting it."""
        if event in COUNTERS:
            _, labels, _ = COUNTERS[event]
            self._counts[event, tuple(str(fields.get(label, "other")) for label in labels)] += 1

    def total(self, event: str) -> int:
        """Return how often `event` was counted, over all labels."""
        return sum(count for (name, _), count in self._counts.items() if name == event)

    def gauge(self, name: str, help_text: str, read: Gauge) -> None:
        """Add a gauge; `read` is called whenever the metrics are rendered."""
        self._gauges[name] = help_text, read

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, as a collector of `prometheus_client` does."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for event, (name, labels, help_text) in COUNTERS.items():
            counter = CounterMetricFamily(PREFIX + name, help_text, labels=labels)
            counts = {values: count for (counted, values), count in self._counts.items() if counted == event}
            if not labels:
                counts.setdefault((), 0)
            for values, count in sorted(counts.items()):
                counter.add_metric(values, count)
            yield counter
        for name, (help_text, read) in self._gauges.items():
            yield GaugeMetricFamily(PREFIX + name, help_text, value=read())

    def render(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        registry.register(cast("Collector", self))
        return generate_latest(registry)
