"""Predict the outcome for two hosts of a lab: find the NATs in front of each, and the delays between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from punchlab.lab.nat.rules import IPV6_FIREWALL
from punchlab.lab.network import Network
from punchlab.lab.oracle import nesting, strategies
from punchlab.lab.oracle.outcome import Dial, Prediction
from punchlab.lab.oracle.strategies import Dialling, Guessing
from punchlab.punch.nat.behavior import NatBehavior

Measured = tuple[float | None, float | None]
"""See `lab.oracle.strategies.Guessing`."""


def predict_outcome(
    lab: Network, one: str, other: str, dial: Dial, strategy: str = "reuse", measured_s: Measured = (None, None)
) -> Prediction:
    """Predict the outcome for hosts that connect to each other's external endpoint.

    `dial` refers to the hosts: the skew of their SYNs, and the delay of their path. An unknown strategy is treated as
    `reuse`.
    """
    shared = lab.shared_nat(one, other)
    a, to_outermost_a = _unshared(lab, one, other)
    b, to_outermost_b = _unshared(lab, other, one)
    # Convert the hosts' times to times at the outermost filtering NATs: a SYN arrives there later and has a shorter
    # remaining path.
    dial = replace(
        dial,
        delay_s=dial.delay_s - to_outermost_a - to_outermost_b,
        skew_s=dial.skew_s + to_outermost_b - to_outermost_a,
    )
    guessing = Guessing(background_per_s=lab.background_per_s, measured_s=measured_s)
    pair = Dialling(a, b, dial, None if shared is None else _behavior(lab, shared), guessing)
    return strategies.predict_outcome(strategy if strategy in strategies.STRATEGIES else "reuse", pair)


def predict_with_host_candidates(
    lab: Network, one: str, other: str, dial: Dial, strategy: str = "reuse", measured_s: Measured = (None, None)
) -> Prediction:
    """Predict the outcome for hosts that also connect to their peer's host candidate, and to its IPv6 address if
    any.
    """
    if lab.path(one, other).shortcut is None:
        found = predict_outcome(lab, one, other, dial, strategy, measured_s)
        return _with_ipv6(found, dial) if _both_have_ipv6(lab, one, other) else found
    # A host that needs no NAT on that path is like a public one; the other receives its answers.
    found = nesting.predict_outcome((), (), replace(dial, delay_s=0.0))
    return replace(found, reason="the peer's host candidate is reachable without crossing the shared NAT")


def _both_have_ipv6(lab: Network, one: str, other: str) -> bool:
    return lab.edges_speak_ipv6 and all(lab.graph.nodes[host].address6 is not None for host in (one, other))


def _with_ipv6(ipv4: Prediction, dial: Dial) -> Prediction:
    """Add IPv6 connections, which run in parallel to every strategy, through a firewall on each side. The better result
    counts.
    """
    ipv6 = nesting.predict_outcome((IPV6_FIREWALL,), (IPV6_FIREWALL,), dial)
    if ipv4.probability >= ipv6.probability:
        return ipv4
    return replace(ipv6, reason=f"over IPv6 {ipv6.reason}")


def _unshared(lab: Network, host: str, peer: str) -> tuple[Sequence[NatBehavior], float]:
    """Return the NATs in front of the host but not of its peer, innermost first, and the seconds to the outermost
    filtering one.
    """
    others = lab.in_front_of(peer)
    nats = [nat for nat in lab.in_front_of(host) if nat not in others]
    behaviors = [_behavior(lab, nat) for nat in nats]
    return behaviors, lab.path(host, nats[nesting.outermost_filtering(behaviors)]).delay_s if nats else 0.0


def _behavior(lab: Network, nat: str) -> NatBehavior:
    behavior = lab.graph.nodes[nat].behavior
    assert behavior is not None
    return behavior
