"""`punch probe`."""

from __future__ import annotations

import argparse

from punchlab.punch.cli.command import Command, Parser
from punchlab.punch.cli.values import EDGE_VARIABLE, edges, seconds
from punchlab.punch.errors import ArgumentError


def _add_options_of_probe(parser: Parser) -> None:
    parser.add_argument(
        "--edge",
        metavar="SERVER",
        action="append",
        help="ws://HOST:PORT of an edge with --stun, or stun:HOST[:PORT] of a STUN server; a second server at another "
        f"address is needed if the first has only one address (default: ${EDGE_VARIABLE})",
    )
    parser.add_argument("--patience", metavar="S", default="2", help="timeout of each test in seconds (%(default)s)")
    parser.add_argument("--lifetime", metavar="S", help="also measure the lifetime of idle mappings, up to S seconds")
    parser.add_argument(
        "--time-scale", metavar="N", default="1", help="factor by which the NAT's clock runs faster (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def _probe(arguments: argparse.Namespace) -> int:
    import asyncio

    from punchlab.punch.probe.frames import MAX_PATIENCE_S
    from punchlab.punch.probe.servers import parse_server
    from punchlab.punch.probe.session import ProbeOptions, run

    servers = edges(arguments)
    patience = seconds(arguments.patience, "patience")
    if patience > MAX_PATIENCE_S:
        raise ArgumentError("patience", arguments.patience, f"at most {MAX_PATIENCE_S:g} seconds")
    options = ProbeOptions(
        servers=[parse_server(each) for each in servers],
        patience_s=patience,
        lifetime_s=None if arguments.lifetime is None else seconds(arguments.lifetime, "lifetime"),
        time_scale=seconds(arguments.time_scale, "time-scale"),
    )
    report = asyncio.run(run(options))
    if arguments.json:
        print(report.to_json())
    else:
        from punchlab.punch.probe.table import table

        print(table(report))
    return 0


PROBE = Command(
    "probe", help="measure the NAT in front of this computer", add_options=_add_options_of_probe, run=_probe
)
