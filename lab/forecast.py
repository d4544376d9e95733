"""What the oracle says of two hosts of a lab: which NATs are in front of each, and where the two must get through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lab.lab import Lab
from punch.nat import nesting
from punch.nat.behavior import NatBehavior
from punch.nat.oracle import Dial, Prediction


def forecast(lab: Lab, one: str, other: str, dial: Dial) -> Prediction:
    """The prediction for hosts that dial where the Internet finds their peer.

    `dial` is as between the hosts: its skew is that of their SYNs, its delay that of their path.
    """
    shared = lab.shared_nat(one, other)
    a, to_gate_a = _alone(lab, one, other)
    b, to_gate_b = _alone(lab, other, one)
    # From the hosts' clocks to those of the gates: a SYN passes there later, and has less way to go.
    dial = replace(dial, delay_s=dial.delay_s - to_gate_a - to_gate_b, skew_s=dial.skew_s + to_gate_b - to_gate_a)
    return nesting.predict(a, b, dial, None if shared is None else _behavior(lab, shared))


def forecast_with_private(lab: Lab, one: str, other: str, dial: Dial) -> Prediction:
    """The same for hosts that also dial the address which their peer has itself."""
    if lab.path(one, other).shortcut is None:
        return forecast(lab, one, other, dial)
    # A host that needs no NAT on the way is like a public one there; the other hears its answers.
    found = nesting.predict((), (), replace(dial, delay_s=0.0))
    return replace(found, reason="past the NAT in front of both, the peer's own address can be reached")


def _alone(lab: Lab, host: str, peer: str) -> tuple[Sequence[NatBehavior], float]:
    """The NATs in front of the host and not of its peer, from the host outwards, and the seconds to their gate."""
    others = lab.in_front_of(peer)
    nats = [nat for nat in lab.in_front_of(host) if nat not in others]
    behaviors = [_behavior(lab, nat) for nat in nats]
    return behaviors, lab.path(host, nats[nesting.gate(behaviors)]).delay_s if nats else 0.0


def _behavior(lab: Lab, nat: str) -> NatBehavior:
    behavior = lab.graph.nodes[nat].behavior
    assert behavior is not None
    return behavior
