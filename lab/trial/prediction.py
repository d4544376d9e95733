"""What the oracle says of two hosts of a lab: which NATs are in front of each, and where the two must get through."""

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
    """The prediction for hosts that dial where the Internet finds their peer.

    `dial` is as between the hosts: its skew is that of their SYNs, its delay that of their path. A strategy that
    nothing is known of is taken to dial plainly.
    """
    shared = lab.shared_nat(one, other)
    a, to_gate_a = _alone(lab, one, other)
    b, to_gate_b = _alone(lab, other, one)
    # From the hosts' clocks to those of the gates: a SYN passes there later, and has less way to go.
    dial = replace(dial, delay_s=dial.delay_s - to_gate_a - to_gate_b, skew_s=dial.skew_s + to_gate_b - to_gate_a)
    guessing = Guessing(background_per_s=lab.background_per_s, measured_s=measured_s)
    pair = Dialling(a, b, dial, None if shared is None else _behavior(lab, shared), guessing)
    return strategies.predict_outcome(strategy if strategy in strategies.STRATEGIES else "reuse", pair)


def predict_with_host_candidates(
    lab: Network, one: str, other: str, dial: Dial, strategy: str = "reuse", measured_s: Measured = (None, None)
) -> Prediction:
    """The same for hosts that also dial the address which their peer has itself, and its IPv6 address if it has one."""
    if lab.path(one, other).shortcut is None:
        found = predict_outcome(lab, one, other, dial, strategy, measured_s)
        return _with_ipv6(found, dial) if _both_have_ipv6(lab, one, other) else found
    # A host that needs no NAT on the way is like a public one there; the other hears its answers.
    found = nesting.predict_outcome((), (), replace(dial, delay_s=0.0))
    return replace(found, reason="past the NAT in front of both, the peer's own address can be reached")


def _both_have_ipv6(lab: Network, one: str, other: str) -> bool:
    return lab.edges_speak_ipv6 and all(lab.graph.nodes[host].address6 is not None for host in (one, other))


def _with_ipv6(ipv4: Prediction, dial: Dial) -> Prediction:
    """IPv6 is dialled beside every strategy, at once, through a firewall on either side; the better way counts."""
    ipv6 = nesting.predict_outcome((IPV6_FIREWALL,), (IPV6_FIREWALL,), dial)
    if ipv4.probability >= ipv6.probability:
        return ipv4
    return replace(ipv6, reason=f"over IPv6 {ipv6.reason}")


def _alone(lab: Network, host: str, peer: str) -> tuple[Sequence[NatBehavior], float]:
    """The NATs in front of the host and not of its peer, from the host outwards, and the seconds to their gate."""
    others = lab.in_front_of(peer)
    nats = [nat for nat in lab.in_front_of(host) if nat not in others]
    behaviors = [_behavior(lab, nat) for nat in nats]
    return behaviors, lab.path(host, nats[nesting.outermost_filtering(behaviors)]).delay_s if nats else 0.0


def _behavior(lab: Network, nat: str) -> NatBehavior:
    behavior = lab.graph.nodes[nat].behavior
    assert behavior is not None
    return behavior
