"""The probability that random guesses of ports succeed: the birthday problem.

`lab.oracle.outcome` predicts the outcome for a client that connects to the registered endpoint. These formulas are for
a client that guesses ports, where a mapping depends on the destination and ports are random. One host opens many
mappings towards the other, which probes random ports; one hit suffices. (D. Anderson, "How NAT traversal works",
Tailscale 2020, section "The benefits of birthdays", for UDP. The distribution is hypergeometric; where both hosts have
random ports, it is the birthday problem of two samples.) For sequential ports see `punch.nat.port_prediction`.

Over TCP a probe is a SYN. It must not be answered by a RST, which would close the pinhole that the SYN opened. The
formulas therefore apply to NATs that silently drop unsolicited SYNs.
"""

from __future__ import annotations

from math import exp, lgamma

PORTS = 64512
"""Number of ports from 1024 to 65535."""
OPENED, PROBES, PER_S = 256, 1024, 1000.0
"""Of the client: ports that one host opens, probes of the other, and the maximum rate of SYNs per second."""


def collision(open_ports: int, probes: int, ports: int = PORTS) -> float:
    """Return the probability that at least one probe hits, where one host's ports are random and the other's is known.

    The first host has opened `open_ports` of `ports`; the second probes `probes` different ports. Hypergeometric:
    1 - C(ports - open_ports, probes) / C(ports, probes).
    """
    _check(open_ports, probes, ports)
    if open_ports + probes > ports:
        return 1.0
    missed = _log_choose(ports - open_ports, probes) - _log_choose(ports, probes)
    return 1 - exp(missed)


def collision_of_two(open_ports: int, probes: int, ports: int = PORTS) -> float:
    """Return the probability that at least one probe hits, where the ports of both hosts are random.

    A probe hits if it goes to an open port *and* comes from the port to which that one was opened: one pair out of
    ports^2. 1 - exp(-open_ports * probes / ports^2) is the Poisson approximation of the birthday problem.
    """
    if open_ports < 0 or probes < 0 or ports < 1:
        raise ValueError(
            f"{open_ports} open ports, {probes} probes, {ports} ports; expected no negative number, and at least 1 port"
        )
    return 1 - exp(-open_ports * probes / ports**2)


def _check(open_ports: int, probes: int, ports: int) -> None:
    if not (0 <= open_ports <= ports and 0 <= probes <= ports):
        raise ValueError(f"open_ports: {open_ports}, probes: {probes}; expected 0 to {ports} (`ports`) for both")


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
