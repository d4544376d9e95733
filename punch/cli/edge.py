"""`punch edge`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from punchlab.punch.cli.command import Command, Parser
from punchlab.punch.cli.values import ExclusiveError, seconds
from punchlab.punch.edge.options import add_options
from punchlab.punch.errors import ArgumentError

if TYPE_CHECKING:
    from punchlab.punch.edge.probing.responder import StunAddresses
    from punchlab.punch.endpoint import Endpoint


def _add_options_of_edge(parser: Parser) -> None:
    parser.add_argument(
        "--listen",
        metavar="IP:PORT",
        action="append",
        required=True,
        help="address to listen at; repeat for more addresses, e.g. [::]:7001 for IPv6; port 0 is any free port",
    )
    parser.add_argument("--name", help="name of this edge (default: its address)")
    parser.add_argument("--join", metavar="URL", action="append", default=[], help="another edge to link with")
    parser.add_argument(
        "--bus",
        metavar="BUS",
        default="mesh",
        help="how edges exchange messages: mesh (default; see --join), or nats://HOST:PORT[,...], a NATS cluster",
    )
    parser.add_argument(
        "--session-lifetime",
        metavar="S",
        default="600",
        help="seconds a client may wait for its peer (%(default)s)",
    )
    parser.add_argument(
        "--stun", metavar="IP:PORT", help="answer STUN there and at the next port, and connect back for `punch probe`"
    )
    parser.add_argument(
        "--stun-alternate", metavar="IP:PORT", help="a second address and port of this machine, for RFC 5780"
    )
    add_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON event per line")


def _edge(arguments: argparse.Namespace) -> int:
    import asyncio

    from punchlab.punch.edge.bus.address import parse_bus
    from punchlab.punch.edge.options import settings
    from punchlab.punch.edge.process import serve_until_signal
    from punchlab.punch.edge.server import Edge
    from punchlab.punch.endpoint import EdgeUrl, Endpoint
    from punchlab.punch.events import human_reporter, json_reporter, unfailing
    from punchlab.punch.sentences import EDGE

    listen, *also = (Endpoint.parse(each, field="listen", any_port=True) for each in arguments.listen)
    join = [EdgeUrl.parse(url, field="join") for url in arguments.join]
    nats = parse_bus(arguments.bus)
    if nats and join:
        raise ExclusiveError("--join", "--bus nats://...")
    lifetime = seconds(arguments.session_lifetime, "session-lifetime")
    name = arguments.name
    if name is not None and not (1 <= len(name) <= 128 and name.isprintable()):
        raise ArgumentError("name", name, "1 to 128 printable characters")
    stun = _stun(arguments)
    report = unfailing(json_reporter() if arguments.json else human_reporter(EDGE))
    edge = Edge(
        listen,
        report,
        name=name,
        lifetime_s=lifetime,
        stun=stun,
        nats=nats,
        settings=settings(arguments),
        also=also,
    )
    asyncio.run(serve_until_signal(edge, join))
    return 0


def _stun(arguments: argparse.Namespace) -> StunAddresses | None:
    from punchlab.punch.edge.probing.responder import StunAddresses

    primary, alternate = (
        None if text is None else _ipv4(text, field)
        for field, text in (("stun", arguments.stun), ("stun-alternate", arguments.stun_alternate))
    )
    if primary is None:
        if alternate is not None:
            raise ArgumentError("stun-alternate", arguments.stun_alternate, "--stun as well")
        return None
    return StunAddresses.of(primary, alternate)


def _ipv4(text: str, field: str) -> Endpoint:
    """Return an IPv4 endpoint; the tests of a NAT need IPv4. Raises `ArgumentError`."""
    import socket

    from punchlab.punch.endpoint import Endpoint

    endpoint = Endpoint.parse(text, field=field)
    if endpoint.family != socket.AF_INET:
        raise ArgumentError(field, text, "an IPv4 address and a port, such as 192.0.2.1:3478")
    return endpoint


EDGE = Command(
    "edge",
    help="run an edge, through which clients find each other",
    description="Run an edge: it introduces clients to each other, and carries no file data unless it relays.",
    add_options=_add_options_of_edge,
    run=_edge,
)
