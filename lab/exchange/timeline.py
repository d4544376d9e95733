"""Print an exchange as text: all packets, optionally with repeated ones collapsed, or only the decisive packets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from punchlab.lab.exchange.segment import Segment
from punchlab.lab.exchange.story import Exchange
from punchlab.lab.exchange.wire import Kind, address_of

_ICMP_NAMES = {
    (3, 0): "network unreachable",
    (3, 1): "host unreachable",
    (3, 2): "protocol unreachable",
    (3, 3): "port unreachable",
    (3, 4): "fragmentation needed",
    (3, 9): "network prohibited",
    (3, 10): "host prohibited",
    (3, 13): "administratively prohibited",
    (11, 0): "time to live exceeded",
}
_FEWEST_ALIKE = 3
"""Minimum number of similar packets that are collapsed."""

_Event = tuple[int, str, str]
"""Time in nanoseconds, node, description."""


def render(exchange: Exchange, *, collapse: bool = False) -> str:
    """Return one line per event: milliseconds since the first punch SYN, node, description.

    Each segment has a number, which later lines refer to. Segments are similar if their kind, path, addresses and
    outcome are equal. With `collapse`, only the first of similar segments has its own lines; one line summarizes the
    others.
    """
    number = {segment: place for place, segment in enumerate(exchange.segments, 1)}
    alike = _alike(exchange) if collapse else []
    others = {segment for segments in alike for segment in segments[1:]}
    answered = {answer: segment for segment in exchange.segments if (answer := exchange.answer(segment)) is not None}
    events = list(_events(exchange, number, answered, others))
    zero = start_ns(exchange, events)
    events += [_summed(exchange, segments[1:], number, zero) for segments in alike]
    events.sort(key=lambda event: event[0])
    width = max((len(node) for _time, node, _text in events), default=0)
    return "".join(line(time, zero, f"{node:{width}}  {text}") for time, node, text in events)


def deciding(exchange: Exchange) -> list[str]:
    """Return the packets that decided the outcome, at most 6, one line each.

    With a winner, these are the SYNs and SYN-ACKs that opened it; otherwise the first SYN of each host and its answer.
    """
    hosts = (exchange.pair.a.host, exchange.pair.b.host)
    winner = exchange.winner
    chosen: list[Segment | None] = []
    for host in hosts:
        if winner is None:
            first = exchange.first_syn(host)
            chosen += [first, None if first is None else exchange.answer(first)]
            continue
        sent = [segment for segment in winner.segments if segment.origin == host]
        syns = [segment for segment in sent if segment.kind is Kind.SYN]
        received = [segment for segment in syns if exchange.delivered_to(segment)]
        answers = [each for each in sent if each.kind is Kind.SYN_ACK and exchange.delivered_to(each)]
        chosen += [*syns[:1], *received[:1], *answers[:1]]
    segments = sorted({each for each in chosen if each is not None}, key=lambda each: each.sent_ns)
    zero = start_ns(exchange)
    width = max((len(each.first.node) for each in segments), default=0)
    return [
        line(
            each.sent_ns,
            zero,
            f"{each.first.node:{width}}  {_name(each)} to {each.destination}: {_end(exchange, each)}",
        ).rstrip("\n")
        for each in segments
    ]


def start_ns(exchange: Exchange, events: Sequence[_Event] = ()) -> int:
    """Return the time of the first punch SYN, else that of the first event."""
    return min((syn.sent_ns for syn in exchange.syns()), default=min((time for time, *_ in events), default=0))


def line(time_ns: int, zero_ns: int, text: str) -> str:
    """Return one line of the timeline."""
    return f"{(time_ns - zero_ns) / 1e6:12.3f} ms  {text}\n"


def _events(
    exchange: Exchange, number: dict[Segment, int], answered: dict[Segment, Segment], left_out: set[Segment]
) -> Iterator[_Event]:
    seen: set[tuple[object, ...]] = set()
    for segment, place in number.items():
        text = f"#{place} {_name(segment)} {segment.source} > {segment.destination}"
        copy = (segment.kind, segment.origin, segment.source, segment.destination, segment.sequence)
        if copy in seen:
            text += ", again"
        seen.add(copy)
        if segment in left_out:
            continue
        if exchange.is_rendezvous(segment):
            text += " (rendezvous)"
        if segment in answered:
            text += f", answers #{number[answered[segment]]}"
        yield segment.sent_ns, segment.first.node, text
        for translation in segment.translations:
            yield translation.time_ns, translation.node, f"#{place} becomes {' > '.join(translation.after)}"
        yield segment.last.time_ns, segment.last.node, f"#{place} {_fate(exchange, segment)}"


def _alike(exchange: Exchange) -> list[list[Segment]]:
    """Return the lists of segments to collapse, each in order of time."""
    shapes: dict[tuple[object, ...], list[Segment]] = {}
    for segment in exchange.segments:
        ends = address_of(segment.source), address_of(segment.destination)
        shape = (segment.kind, segment.icmp, segment.origin, *ends, segment.nodes, _fate(exchange, segment))
        shapes.setdefault(shape, []).append(segment)
    return [segments for segments in shapes.values() if len(segments) >= _FEWEST_ALIKE]


def _summed(exchange: Exchange, segments: Sequence[Segment], number: dict[Segment, int], zero: int) -> _Event:
    """Return one event that summarizes similar segments."""
    first, last = segments[0], segments[-1]
    ports = len({each.destination for each in segments})
    text = (
        f"#{number[first]} to #{number[last]}: {len(segments)} more {_name(first)} {address_of(first.source)} > "
        f"{address_of(first.destination)}{f' to {ports} ports' if ports > 1 else ''} until "
        f"{(last.sent_ns - zero) / 1e6:.3f} ms, {_fate(exchange, first)} at {first.last.node}"
    )
    return first.sent_ns, first.first.node, text


def _fate(exchange: Exchange, segment: Segment) -> str:
    if exchange.delivered_to(segment) is not None:
        return "received"
    if exchange.answer(segment) is not None:
        return "refused"
    return "sent on, not seen again" if segment.last.outgoing else "dropped"


def _end(exchange: Exchange, segment: Segment) -> str:
    """Return the outcome of the segment, and the node."""
    node, answer = segment.last.node, exchange.answer(segment)
    if exchange.delivered_to(segment) is None and answer is not None:
        return f"refused by {node} with {_name(answer)}"
    return {"received": f"received by {node}", "dropped": f"dropped at {node}"}.get(
        _fate(exchange, segment), f"sent on by {node}, not seen again"
    )


def _name(segment: Segment) -> str:
    if segment.icmp is None:
        return segment.kind
    return f"{Kind.ICMP} {_ICMP_NAMES.get(segment.icmp, 'type {} code {}'.format(*segment.icmp))}"
