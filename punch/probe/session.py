"""A complete probe: the order of the tests, and the report of their results."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.errors import PunchFailedError
from punchlab.punch.nat import probe
from punchlab.punch.nat.probe import Findings, Lifetime, NotTested, Report
from punchlab.punch.probe import servers
from punchlab.punch.probe.frames import Dialled
from punchlab.punch.probe.lifetime import search
from punchlab.punch.probe.servers import Servers, StunUri
from punchlab.punch.probe.tcp import TcpTests
from punchlab.punch.probe.udp import UdpTests

Allocations = Sequence[tuple[Endpoint, Endpoint]]

UNSOLICITED_WAIT_S = 8.0
"""Timeout of the answer to an unsolicited SYN: RFC 5382 REQ-4 requires six seconds of silence first."""


@dataclass(frozen=True, slots=True)
class ProbeOptions:
    """`patience_s` is the timeout of each answer; lifetimes are searched up to `lifetime_s` seconds, or not if None."""

    servers: Sequence[EdgeUrl | StunUri]
    patience_s: float
    lifetime_s: float | None
    time_scale: float


async def run(options: ProbeOptions) -> Report:
    """Run all tests. Raises `EdgeUnreachableError`, and `PunchFailedError` if no server answers over either
    transport."""
    found = await servers.find(options.servers)
    try:
        return await _probe(found, options)
    except OSError as error:
        raise PunchFailedError("client_error", f"cannot open a socket for the tests: {error.strerror}") from None
    finally:
        await found.close()


async def _probe(found: Servers, options: ProbeOptions) -> Report:
    udp, tcp = UdpTests(found, options.patience_s), TcpTests(found, options.patience_s)
    # First, and one after the other: other mappings of this host would disturb the sequence of ports.
    udp_allocations = await udp.allocations()
    tcp_allocations = await tcp.allocations()
    every = [*udp_allocations, *tcp_allocations]
    if not every:
        raise PunchFailedError("no_rendezvous", f"{found.primary} answers neither over UDP nor over TCP")
    (local, external), *_rest = every
    return Report(
        local.ip,
        external.ip,
        *await asyncio.gather(_findings(udp, udp_allocations, options), _findings(tcp, tcp_allocations, options)),
    )


async def _findings(tests: UdpTests | TcpTests, allocations: Allocations, options: ProbeOptions) -> Findings:
    if not allocations:
        return _silent()
    translated = any(local != external for local, external in allocations)
    external_ip = allocations[0][1].ip
    mapping, filtering, hairpinning, icmp_errors, unsolicited, lifetime = await asyncio.gather(
        tests.mapping(),
        tests.filtering(),
        tests.hairpinning() if translated else _without_nat(),
        tests.icmp_errors(),
        tests.unsolicited(external_ip, UNSOLICITED_WAIT_S),
        _lifetime(tests, options) if translated else _without_nat(),
    )
    answer: str | NotTested = (
        probe.unsolicited(unsolicited.answer, unsolicited.seconds) if isinstance(unsolicited, Dialled) else unsolicited
    )
    if answer == "accept":
        answer = NotTested("a server accepts connections at the tested port")
    ports = [(local.port, external.port) for local, external in allocations]
    enough = len(ports) >= probe.FEWEST_PORTS
    allocation, delta = probe.port_allocation(ports) if enough else (NotTested("too few answers"), None)
    return Findings(
        mapping=mapping,
        filtering=filtering,
        port_allocation=allocation,
        port_delta=allocation if isinstance(allocation, NotTested) else delta,
        port_range=(min(port for _local, port in ports), max(port for _local, port in ports)),
        pooling=probe.pooling([external.ip for _local, external in allocations]),
        hairpinning=hairpinning,
        icmp_errors=icmp_errors,
        remote_endpoint="changed" if tests.moved else "unchanged",
        unsolicited=answer,
        unsolicited_answer_s=unsolicited.seconds if isinstance(unsolicited, Dialled) and answer != "drop" else None,
        mapping_lifetime=lifetime,
    )


async def _lifetime(tests: UdpTests | TcpTests, options: ProbeOptions) -> Lifetime | NotTested:
    if options.lifetime_s is None:
        return NotTested("enable with --lifetime; it takes long")
    return await search(tests.lives, options.lifetime_s, options.time_scale)


async def _without_nat() -> NotTested:
    return NotTested("there is no NAT")


def _silent() -> Findings:
    none = NotTested("the server does not answer over this transport")
    return Findings(
        mapping=none,
        filtering=none,
        port_allocation=none,
        port_delta=None,
        port_range=None,
        pooling=none,
        hairpinning=none,
        icmp_errors=none,
        remote_endpoint=none,
        unsolicited=none,
        unsolicited_answer_s=None,
        mapping_lifetime=none,
    )
