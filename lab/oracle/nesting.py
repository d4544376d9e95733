"""Outcome prediction for hosts behind several NATs in series, or behind a shared NAT.

`lab.oracle.outcome` handles one NAT per host. NATs in series (a home NAT behind a carrier's NAT, NAT444) act as one:

- Its mapping depends on everything that any of the mappings depends on: a peer sees a new port if any NAT allocates
  one.
- Its filtering is the strictest of all, because a packet must pass all NATs.
- It answers unsolicited SYNs like the outermost NAT that filters; inner NATs do not receive the packets that this NAT
  rejects. Delay and skew are measured at this NAT.
- It translates ICMP errors if all NATs do.

Two cases are more complex than a single behavior. If an outer NAT filters by address and an inner one by address and
port, the model ignores the inner NAT's answer (it matters if the answers differ and attempts are repeated). If an outer
NAT has a destination-dependent mapping with endpoint-independent filtering, and an inner NAT has an independent mapping
with address-dependent filtering, the model admits no SYN (a SYN can pass after a RST).

Two hosts behind the same NAT connect to its external address, so it must support hairpinning (RFC 4787 section 6, RFC
5382 REQ-8). Then it does not filter; only the NATs inside it do. Its mapping still counts: if it depends on the
destination, every SYN has the NAT's address and a port that the peer does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from punchlab.lab.oracle.outcome import Dial, Outcome, Prediction
from punchlab.lab.oracle.outcome import predict_outcome as predict_single
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


def predict_outcome(
    a: Sequence[NatBehavior], b: Sequence[NatBehavior], dial: Dial, shared: NatBehavior | None = None
) -> Prediction:
    """Predict the outcome for hosts A and B behind these NATs, each innermost first, without the NATs that both share.

    `shared` is the innermost NAT in front of both, or None. `dial` has the delay and the skew between the outermost
    filtering NATs.
    """
    if shared is None:
        return predict_single(in_series(a), in_series(b), dial)
    if shared.hairpinning is not Hairpinning.EXTERNAL_SOURCE:
        return Prediction(Outcome.FAILS, 0.0, _NO_HAIRPIN[shared.hairpinning], None)
    found = predict_single(_inside(a, shared), _inside(b, shared), dial)
    return replace(found, reason=f"the shared NAT hairpins packets, and {found.reason}")


def in_series(nats: Sequence[NatBehavior]) -> NatBehavior | None:
    """Return the single NAT that is equivalent to these NATs, innermost first, or None for none.

    For several NATs, only the fields that the prediction uses are valid: mapping, filtering, the answer to unsolicited
    SYNs, `reset_closes`, ICMP errors, and the outermost NAT's address pool.
    """
    if len(nats) < 2:
        return nats[0] if nats else None
    filtering, outermost, answering = (
        max((nat.filtering for nat in nats), key=_STRICTER.index),
        nats[-1],
        nats[outermost_filtering(nats)],
    )
    return NatBehavior(
        max((nat.mapping for nat in nats), key=_MORE_DEPENDENT.index),
        filtering,
        PortAllocation.PRESERVING,
        answering.unsolicited,
        silence_s=answering.silence_s,
        pool_size=outermost.pool_size,
        pooling=outermost.pooling,
        icmp_errors=max((nat.icmp_errors for nat in nats), key=tuple(IcmpErrors).index),
        reset_closes=any(nat.reset_closes for nat in nats if nat.filtering is filtering),
    )


def outermost_filtering(nats: Sequence[NatBehavior]) -> int:
    """Return the index of the outermost NAT that filters, innermost first. If none filters, return the outermost.

    `nats` must not be empty.
    """
    filtering = [place for place, nat in enumerate(nats) if nat.filtering is not FilteringBehavior.ENDPOINT_INDEPENDENT]
    return max(filtering, default=len(nats) - 1)


def _inside(nats: Sequence[NatBehavior], shared: NatBehavior) -> NatBehavior | None:
    """Return the NAT in front of a host whose peer is also behind `shared`, as if `shared` were not there."""
    nat = in_series(nats)
    if nat is None or not shared.destination_dependent:
        return nat
    # The peer's SYN has a known address and an unknown port. A NAT that filters by address admits it once the host has
    # sent a SYN to that address, to any port.
    by_address = nat.filtering is FilteringBehavior.ADDRESS_DEPENDENT and not nat.destination_dependent
    admitted = by_address or nat.filtering is FilteringBehavior.ENDPOINT_INDEPENDENT
    return NatBehavior(
        MappingBehavior.ENDPOINT_INDEPENDENT if admitted else shared.mapping,
        nat.filtering if admitted else FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT,
        PortAllocation.PRESERVING,
        nat.unsolicited,
        icmp_errors=nat.icmp_errors,
    )


_NO_HAIRPIN = {
    Hairpinning.NONE: "the shared NAT does not support hairpinning",
    Hairpinning.INTERNAL_SOURCE: ("the shared NAT hairpins packets with their internal source, so answers bypass it"),
}
