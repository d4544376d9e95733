"""An exchange in words."""

from __future__ import annotations

from collections.abc import Iterator

from punchlab.lab.exchange.segment import Segment
from punchlab.lab.exchange.story import Exchange
from punchlab.lab.exchange.wire import Kind

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


def render(exchange: Exchange) -> str:
    """One line per event: milliseconds since the first punch SYN, node, what happened there.

    Every segment has a number, by which later lines speak of it.
    """
    events = sorted(_events(exchange), key=lambda event: event[0])
    zero = min((syn.sent_ns for syn in exchange.syns()), default=events[0][0] if events else 0)
    width = max((len(node) for _time, node, _text in events), default=0)
    return "".join(f"{(time - zero) / 1e6:12.3f} ms  {node:{width}}  {text}\n" for time, node, text in events)


def _events(exchange: Exchange) -> Iterator[tuple[int, str, str]]:
    number = {segment: place for place, segment in enumerate(exchange.segments, 1)}
    answered = {answer: segment for segment in exchange.segments if (answer := exchange.answer(segment)) is not None}
    seen: set[tuple[object, ...]] = set()
    for segment, place in number.items():
        text = f"#{place} {_name(segment)} {segment.source} > {segment.destination}"
        copy = (segment.kind, segment.origin, segment.source, segment.destination, segment.sequence)
        if copy in seen:
            text += ", again"
        seen.add(copy)
        if exchange.is_rendezvous(segment):
            text += " (rendezvous)"
        if segment in answered:
            text += f", answers #{number[answered[segment]]}"
        yield segment.sent_ns, segment.first.node, text
        for translation in segment.translations:
            yield translation.time_ns, translation.node, f"#{place} becomes {' > '.join(translation.after)}"
        last = segment.last
        if exchange.delivered_to(segment) is not None:
            yield last.time_ns, last.node, f"#{place} received"
        elif exchange.answer(segment) is not None:
            yield last.time_ns, last.node, f"#{place} refused"
        elif last.outgoing:
            yield last.time_ns, last.node, f"#{place} sent on, not seen again"
        else:
            yield last.time_ns, last.node, f"#{place} dropped"


def _name(segment: Segment) -> str:
    if segment.icmp is None:
        return segment.kind
    return f"{Kind.ICMP} {_ICMP_NAMES.get(segment.icmp, 'type {} code {}'.format(*segment.icmp))}"
