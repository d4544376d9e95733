"""Port prediction: which port a NAT with sequential allocation gives to its next mapping.

Theory. Each new mapping gets the port of the previous one plus a delta, for any host. A host that has just learned its
latest port from a STUN server knows the next one, unless other hosts behind the NAT create mappings in between. (Y.
Takeda, "Symmetric NAT Traversal using STUN", draft-takeda-symmetric-nat-traversal-00, 2003; Guha and Francis,
"Characterization and Measurement of TCP Traversal through NATs and Firewalls", IMC 2005, section 5; Ford, Srisuresh and
Kegel 2005, section 5.1; RFC 5128 section 3.4.)

Let other hosts create mappings as a Poisson process of rate r, and let t be the time between the observation and the
mapping to predict. K of their mappings lie in between, with P(K = k) = exp(-rt) (rt)^k / k!. A peer that tries a window
of w ports finds ours if K < w:

    P(success) = sum of P(K = k) for k = 0 ... w - 1

- Extrapolation: one observation before the mapping. t is at least the round trip to the STUN server, because the answer
  tells the latest port at the time of the request. With r = 100/s and 25 ms, 2.5 mappings of others are expected.
- Interpolation: one STUN request just before the SYN that creates the mapping, another just after it. Our port is one
  of those between the two observed ports, so the window is known, and t is the time between two system calls. The
  peer's NAT must silently drop an unsolicited SYN, because a RST would end the mapping before its port is known.
"""

from __future__ import annotations

from math import exp, fsum

LAST_PORT = 65535
WINDOW = 64
"""Maximum predicted ports between two observations: over half a second at 100 mappings of others per second."""


def probability(window: int, rate: float, wait_s: float) -> float:
    """Return the probability that a window of so many ports contains the port allocated `wait_s` after the observation.

    `rate` is the number of mappings per second of other hosts (Poisson). Raises `ValueError`.
    """
    if window < 0 or rate < 0 or wait_s < 0:
        raise ValueError(f"{window} ports, {rate} mappings/s, {wait_s} s; expected no negative number")
    expected = rate * wait_s
    terms, term = [], exp(-expected)
    for number in range(window):
        terms.append(term)
        term *= expected / (number + 1)
    return fsum(terms)


def between(before: int, after: int, delta: int, window: int) -> tuple[int, ...]:
    """Return the ports allocated between two observations, in order.

    Empty if there is none, if there are more than `window`, or if the two ports do not fit the delta because the
    sequence has restarted or ports are not sequential.
    """
    steps, rest = divmod(after - before, delta)
    if rest or not 1 <= steps - 1 <= window:
        return ()
    return following(before, delta, steps - 1)


def following(latest: int, delta: int, window: int) -> tuple[int, ...]:
    """Return the next `window` ports of the sequence, without those out of range."""
    return tuple(port for number in range(1, window + 1) if 1 <= (port := latest + number * delta) <= LAST_PORT)
