"""Guessing ports at random: the birthday collision of two hosts that dial each other.

`lab.oracle.outcome` predicts for a client that dials the registered endpoint. These formulas are for one that guesses,
where a mapping depends on the destination and ports are random: one host opens many mappings towards the other, which
probes ports at random. Only one probe needs to hit. (D. Anderson, "How NAT traversal works", Tailscale 2020, section
"The benefits of birthdays", for UDP; the mathematics is the hypergeometric distribution, and the birthday problem of
two samples where both hosts are hard.) Where ports are allocated in sequence, see `punch.nat.port_prediction`.

Over TCP a probe is a SYN, and it must not be answered with a RST, which would close the door that it opened: these hold
for NATs that drop unsolicited SYNs.
"""

from __future__ import annotations

from math import exp, lgamma

PORTS = 64512
"""From 1024 to 65535."""
OPENED, PROBES, PER_S = 256, 1024, 1000.0
"""Of the client: ports that one host opens, probes of the other, and how many SYNs of either there are in a second."""


def collision(open_ports: int, probes: int, ports: int = PORTS) -> float:
    """The probability that at least one probe hits, where one host's ports are random and the other's is known.

    The first opened `open_ports` of `ports`, the second probes `probes` different ones: hypergeometric,
    1 - C(ports - open_ports, probes) / C(ports, probes).
    """
    _check(open_ports, probes, ports)
    if open_ports + probes > ports:
        return 1.0
    missed = _log_choose(ports - open_ports, probes) - _log_choose(ports, probes)
    return 1 - exp(missed)


def collision_of_two(open_ports: int, probes: int, ports: int = PORTS) -> float:
    """The same where the ports of both hosts are random.

    A probe hits if it goes to a port that was opened *and* comes from the port that this one was opened towards, a pair
    out of ports^2: 1 - exp(-open_ports * probes / ports^2), the Poisson approximation of the birthday problem.
    """
    if open_ports < 0 or probes < 0 or ports < 1:
        raise ValueError(
            f"{open_ports} open ports, {probes} probes and {ports} ports; expected none below 0, and a port"
        )
    return 1 - exp(-open_ports * probes / ports**2)


def _check(open_ports: int, probes: int, ports: int) -> None:
    if not (0 <= open_ports <= ports and 0 <= probes <= ports):
        raise ValueError(f"{open_ports} open ports and {probes} probes of {ports} ports; expected 0 to {ports} of each")


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
