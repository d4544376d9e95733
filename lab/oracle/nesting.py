"""Hosts behind several NATs: what the NATs in a row amount to, and what a pair behind the same one may hope for.

The oracle knows one NAT per host. NATs in a row (a home's below its carrier's, NAT444) act as one:

- its mapping depends on what any of theirs depends on: the port that a peer sees is a new one if any of them takes a
  new one;
- its filtering is the strictest of theirs, for a packet must pass them all;
- it refuses as the outermost of them that filters: the others never hear of what that one turns away. This one is the
  *gate*: delays and skew count from there;
- an ICMP error gets through it if it gets through them all.

Two nestings are more than a single behavior can say. Where an outer NAT filters by address and an inner one by address
and port, the inner one's refusal is left out (it matters where the two refuse differently, and attempts are repeated).
Where an outer NAT has a destination-dependent mapping that admits anyone, above an independent one that filters by
address, nothing is taken to be admitted (a SYN can be, after a RST).

Two hosts behind the same NAT dial its external address, so their packets must turn back at it (hairpinning, RFC 4787
section 6, RFC 5382 REQ-8). Then it does not filter, and only the NATs below it do; but its mapping counts. If that
depends on the destination, every SYN comes from its address and a port that nobody was told of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from punchlab.lab.oracle.outcome import Dial, Outcome, Prediction
from punchlab.lab.oracle.outcome import predict as predict_one_each
from punchlab.punch.nat.behavior import (
    FilteringBehavior,
    Hairpinning,
    IcmpErrors,
    MappingBehavior,
    NatBehavior,
    PortAllocation,
)

_STRICTER = tuple(FilteringBehavior)
_MORE_DEPENDENT = tuple(MappingBehavior)


def predict(
    a: Sequence[NatBehavior], b: Sequence[NatBehavior], dial: Dial, shared: NatBehavior | None = None
) -> Prediction:
    """The prediction for hosts A and B behind these NATs, each from the host outwards, those that both share left out.

    `shared` is the innermost NAT that is in front of both, None for hosts that have none in common. `dial` has the
    delay between the gates, and the skew there.
    """
    if shared is None:
        return predict_one_each(in_a_row(a), in_a_row(b), dial)
    if shared.hairpinning is not Hairpinning.EXTERNAL_SOURCE:
        return Prediction(Outcome.FAILS, 0.0, _NO_WAY_BACK[shared.hairpinning], None)
    found = predict_one_each(_below(a, shared), _below(b, shared), dial)
    return replace(found, reason=f"the NAT in front of both turns packets back (hairpin), and {found.reason}")


def in_a_row(nats: Sequence[NatBehavior]) -> NatBehavior | None:
    """The one NAT that these, from the host outwards, amount to; None for none. Of several, only what is predicted by.

    That is mapping, filtering, the answer to unsolicited SYNs, what RSTs close, what becomes of ICMP errors, and the
    outermost one's pool of addresses.
    """
    if len(nats) < 2:
        return nats[0] if nats else None
    filtering, outermost, refusing = (
        max((nat.filtering for nat in nats), key=_STRICTER.index),
        nats[-1],
        nats[gate(nats)],
    )
    return NatBehavior(
        max((nat.mapping for nat in nats), key=_MORE_DEPENDENT.index),
        filtering,
        PortAllocation.PRESERVING,
        refusing.unsolicited,
        silence_s=refusing.silence_s,
        pool_size=outermost.pool_size,
        pooling=outermost.pooling,
        icmp_errors=max((nat.icmp_errors for nat in nats), key=tuple(IcmpErrors).index),
        reset_closes=any(nat.reset_closes for nat in nats if nat.filtering is filtering),
    )


def gate(nats: Sequence[NatBehavior]) -> int:
    """Which of the NATs, from the host outwards, turns strangers away: the outermost that does not admit anyone.

    The outermost if all do. `nats` must not be empty.
    """
    filtering = [place for place, nat in enumerate(nats) if nat.filtering is not FilteringBehavior.ENDPOINT_INDEPENDENT]
    return max(filtering, default=len(nats) - 1)


def _below(nats: Sequence[NatBehavior], shared: NatBehavior) -> NatBehavior | None:
    """What is in front of a host whose peer is behind `shared` as well, as if `shared` were not there."""
    nat = in_a_row(nats)
    if nat is None or not shared.destination_dependent:
        return nat
    # The peer's SYN comes from an address that is known and a port that is not. Who asks for the address only admits
    # it, once the host has dialled; it makes no difference that the port is not the one that the host dialled.
    by_address = nat.filtering is FilteringBehavior.ADDRESS_DEPENDENT and not nat.destination_dependent
    admitted = by_address or nat.filtering is FilteringBehavior.ENDPOINT_INDEPENDENT
    return NatBehavior(
        MappingBehavior.ENDPOINT_INDEPENDENT if admitted else shared.mapping,
        nat.filtering if admitted else FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT,
        PortAllocation.PRESERVING,
        nat.unsolicited,
        icmp_errors=nat.icmp_errors,
    )


_NO_WAY_BACK = {
    Hairpinning.NONE: "the NAT in front of both does not turn packets back (hairpin)",
    Hairpinning.INTERNAL_SOURCE: (
        "the NAT in front of both turns packets back with their internal source, so that answers go past it"
    ),
}
