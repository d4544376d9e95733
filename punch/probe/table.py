"""The results of a probe as a table for people."""

from __future__ import annotations

from punchlab.punch.nat.probe import NotTested, Report, Value
from punchlab.punch.text import printable

_GAP = 2


def table(report: Report) -> str:
    """Return the addresses of this host, a table with one column per transport, and the reasons of tests that were not
    run."""
    where = f"behind a NAT: {report.local} is seen as {report.external}" if report.translated else "not behind a NAT"
    rows = [("", "UDP", "TCP")]
    notes: list[str] = []
    for (field, udp), (_field, tcp) in zip(report.udp.items(), report.tcp.items(), strict=True):
        name = field.removesuffix("_s").replace("_", " ")
        rows.append((name, _cell(udp), _cell(tcp)))
        for transport, value in (("UDP", udp), ("TCP", tcp)):
            if isinstance(value, NotTested):
                notes.append(printable(f"{name} ({transport}) {value}"))
    widths = [max(len(cell) for cell in column) + _GAP for column in zip(*rows, strict=True)]
    lines = ["".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"This host is {where}.", "", *lines, *(["", *notes] if notes else [])])


def _cell(value: Value) -> str:
    match value:
        case None:
            return "-"
        case NotTested():
            return "not tested"
        case (first, last):
            return f"{first}-{last}"
        case float():
            return f"{value:.3f} s"
        case _:
            return printable(str(value))
