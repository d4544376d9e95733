"""Port prediction: which port a NAT that allocates them in sequence gives to the next mapping.

Theory. Let each new mapping get the port of the one before plus a delta, whoever it is for. A host that has just seen
its latest port from outside knows the next one, unless other hosts behind the NAT make mappings in between. (Y. Takeda,
"Symmetric NAT Traversal using STUN", draft-takeda-symmetric-nat-traversal-00, 2003; Guha and Francis,
"Characterization and Measurement of TCP Traversal through NATs and Firewalls", IMC 2005, section 5; Ford, Srisuresh and
Kegel 2005, section 5.1; RFC 5128 section 3.4.)

Let the others make mappings as a Poisson process of rate r, and let t be the time between the look and the mapping that
matters. K of theirs come between, with P(K = k) = exp(-rt) (rt)^k / k!, and a peer that dials a window of w ports finds
ours if K < w:

    P(success) = sum of P(K = k) for k = 0 ... w - 1

- Extrapolation: one look before the mapping. t is at least a round trip to who is asked, for the answer says what was
  the latest port when the question was on its way: with r = 100/s and 25 ms, 2.5 of theirs are to be expected.
- Interpolation: a look sent just before the SYN that makes the mapping, another just after. Ours is one of the ports
  between the two, so the window is known and not guessed, and t is the time between two system calls. It needs a NAT
  (of the peer) that drops an unsolicited SYN: a RST would end the mapping before its port can be told.
"""

from __future__ import annotations

from math import exp, fsum

LAST_PORT = 65535
WINDOW = 64
"""Ports between two looks that the client tells: with 100 others' mappings per second more than half a second's."""


def probability(window: int, rate: float, wait_s: float) -> float:
    """That a window of so many ports has the one that is allocated, `wait_s` seconds after the look.

    `rate` is how many mappings other hosts make per second (Poisson). Raises `ValueError`.
    """
    if window < 0 or rate < 0 or wait_s < 0:
        raise ValueError(f"{window} ports, {rate} mappings/s and {wait_s} s; expected none below 0")
    expected = rate * wait_s
    terms, term = [], exp(-expected)
    for number in range(window):
        terms.append(term)
        term *= expected / (number + 1)
    return fsum(terms)


def between(before: int, after: int, delta: int, window: int) -> tuple[int, ...]:
    """The ports allocated between two looks, in order.

    Empty where there is none, where there are more than `window`, and where the looks do not fit the delta: the
    sequence has started anew, or is none.
    """
    steps, rest = divmod(after - before, delta)
    if rest or not 1 <= steps - 1 <= window:
        return ()
    return following(before, delta, steps - 1)


def following(latest: int, delta: int, window: int) -> tuple[int, ...]:
    """The next so many ports of the sequence, as far as there are such ports."""
    return tuple(port for number in range(1, window + 1) if 1 <= (port := latest + number * delta) <= LAST_PORT)
