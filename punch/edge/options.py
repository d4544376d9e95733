"""Command-line options of `punch edge` for limits, TLS, access and the relay."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from punchlab.punch.argument import path
from punchlab.punch.errors import ArgumentError

if TYPE_CHECKING:
    from punchlab.punch.edge.relay import RelayOffer
    from punchlab.punch.edge.server import Settings
    from punchlab.punch.edge.tls import ServerTls

_Number = TypeVar("_Number", int, float)


def add_options(edge: argparse.ArgumentParser) -> None:
    """Add the options to the parser of `punch edge`."""
    add = edge.add_argument
    certificate = "serve wss:// with this certificate (PEM, including its chain); SIGHUP reloads it"
    add("--tls-cert", metavar="F", type=path, help=certificate)
    add("--tls-key", metavar="F", type=path, help="private key of the certificate (PEM)")
    add(
        "--mesh-from",
        metavar="NET",
        action="append",
        help="network whose edges may --join this one; may be repeated (default: none)",
    )
    add(
        "--metrics-to",
        metavar="NET",
        action="append",
        help="network that may read /metrics; may be repeated (default: 127.0.0.0/8)",
    )
    add(
        "--drain",
        metavar="S",
        default="0",
        help="seconds after SIGTERM in which waiting clients can still get their peers (%(default)s)",
    )
    add(
        "--max-connections",
        metavar="N",
        help="maximum number of connections (default: what fits into memory, at most 10000)",
    )
    add(
        "--max-connections-per-address",
        metavar="N",
        default="100",
        help="maximum number of connections per address (%(default)s)",
    )
    add(
        "--max-clients-per-address",
        metavar="N",
        default="50",
        help="maximum number of waiting clients per address (%(default)s)",
    )
    add(
        "--connection-rate",
        metavar="R",
        default="20",
        help="maximum rate of new connections per second and address (%(default)s)",
    )
    add(
        "--relay",
        metavar="ws[s]://HOST:PORT",
        help="relay for clients that use --relay and get no direct connection; the URL must reach this very edge",
    )
    add(
        "--relay-rate",
        metavar="KB/S",
        default="1000",
        help="maximum rate of a relayed pair in each direction (%(default)s)",
    )
    add(
        "--relay-megabytes", metavar="MB", default="4000", help="maximum amount of data of a relayed pair (%(default)s)"
    )
    add("--relay-idle", metavar="S", default="600", help="idle timeout of a relayed pair in seconds (%(default)s)")
    add(
        "--relay-lifetime",
        metavar="S",
        default="3600",
        help="maximum duration of a relayed pair in seconds (%(default)s)",
    )
    add("--frame-rate", metavar="R", default="20", help="maximum rate of frames per second and address (%(default)s)")


def settings(arguments: argparse.Namespace) -> Settings:
    """Return the settings that the arguments select. Raises `ArgumentError`."""
    from punchlab.punch.edge.http import THIS_MACHINE, Access, parse_networks
    from punchlab.punch.edge.limits import Limits
    from punchlab.punch.edge.server import Settings

    tls, relay = _tls(arguments), _relay(arguments)
    limits = Limits(
        edge_connections=_connections(arguments.max_connections, tls=tls is not None, relays=relay is not None),
        connections=_whole(arguments.max_connections_per_address, "max-connections-per-address"),
        registrations=_whole(arguments.max_clients_per_address, "max-clients-per-address"),
        connection_rate=_positive(arguments.connection_rate, "connection-rate"),
        frame_rate=_positive(arguments.frame_rate, "frame-rate"),
    )
    mesh, metrics = arguments.mesh_from, arguments.metrics_to
    access = Access(
        mesh=parse_networks(mesh or (), field="mesh-from"),
        metrics=THIS_MACHINE if metrics is None else parse_networks(metrics, field="metrics-to"),
    )
    drain_s = _number(arguments.drain, "drain", float, "seconds from 0 to 1e9", 0)
    return Settings(limits=limits, access=access, tls=tls, drain_s=drain_s, relay=relay)


def _connections(text: str | None, *, tls: bool, relays: bool) -> int:
    """Return the maximum number of connections, which is never more than fits into the usable memory."""
    from punchlab.punch.edge.memory import MIB, MOST, bound_bytes, descriptors, most_connections, usable_bytes

    usable = usable_bytes()
    most = most_connections(usable, tls=tls, relays=relays)
    if most < 1:
        least = bound_bytes(1, tls=tls, relays=relays) // MIB + 1
        expected = f"at least {least} MiB; raise the memory limit of the control group (MemoryMax)"
        raise ArgumentError("memory", f"{usable // MIB} MiB", expected)
    if text is None:
        return min(most, descriptors(), MOST)
    wanted = _whole(text, "max-connections")
    if wanted > most:
        raise ArgumentError(
            "max-connections", text, f"at most {most}, which need up to {usable // MIB} MiB, the usable memory"
        )
    return wanted


def _relay(arguments: argparse.Namespace) -> RelayOffer | None:
    from punchlab.punch.edge.relay import RelayOffer, RelayTerms

    terms = RelayTerms(
        rate=_positive(arguments.relay_rate, "relay-rate") * 1000,
        most_bytes=_positive(arguments.relay_megabytes, "relay-megabytes") * 1e6,
        idle_s=_positive(arguments.relay_idle, "relay-idle"),
        lifetime_s=_positive(arguments.relay_lifetime, "relay-lifetime"),
    )
    if arguments.relay is None:
        return None
    from punchlab.punch.endpoint import EdgeUrl
    from punchlab.punch.fields import MAX_URL
    from punchlab.punch.net.reach import refuses_server_port

    url = EdgeUrl.parse(arguments.relay, field="relay")
    if len(str(url)) > MAX_URL:
        raise ArgumentError("relay", arguments.relay, f"at most {MAX_URL} characters")
    if refuses_server_port(url.port) is not None:
        raise ArgumentError(
            "relay", arguments.relay, "port 80, 443, or a port from 1024 to 65535; clients connect to no other"
        )
    return RelayOffer(url, terms)


def _tls(arguments: argparse.Namespace) -> ServerTls | None:
    from pathlib import Path

    certificate, key = arguments.tls_cert, arguments.tls_key
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        missing, given = ("tls-cert", "--tls-key") if certificate is None else ("tls-key", "--tls-cert")
        raise ArgumentError(missing, None, f"a file together with {given}")
    from punchlab.punch.edge.tls import ServerTls

    return ServerTls(Path(certificate), Path(key))


def _whole(text: str, field: str) -> int:
    return _number(text, field, int, "a whole number from 1 to 1e9", 1)


def _positive(text: str, field: str) -> float:
    return _number(text, field, float, "a number from 0.1 to 1e9", 0.1)


def _number(text: str, field: str, read: Callable[[str], _Number], expected: str, least: float) -> _Number:
    try:
        value = read(text if text.isascii() and "_" not in text else "")
    except ValueError:
        raise ArgumentError(field, text, expected) from None
    if not least <= value <= 1e9 or math.isnan(value):
        raise ArgumentError(field, text, expected)
    return value
