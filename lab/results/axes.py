"""The axes of a campaign, each declared once: option, key of a campaign file, part of a cell, field of the record.

Imports nothing heavy, because the command line reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from punchlab.lab.errors import InputError
from punchlab.lab.inputs import numbers
from punchlab.lab.inputs.choices import one_of

NONE = "none"
"""The value of an axis for no limit."""
Reader = Callable[[str, object], Any]
"""Name of the field, value as given -> value as used. Raises `InputError`."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis.

    `name`: of the option, and key in a campaign file. `field`: of the record (default: the same name). `value` returns
    the value of a cell (`lab.campaign.Cell`). `shape`: the axis is a parameter of topologies. `usual`: the default.
    `label` returns the words for a value of a record, `null` are those for null if null is a value. `word` returns the
    part of a cell's id. `read` checks a value that a user gives; the command line, which knows the topologies, adds
    the readers of `topology` and `pair`. `number`: the value is a number.
    """

    name: str
    metavar: str
    help: str
    value: Callable[[Any], Any]
    field: str = ""
    label: Callable[[Any], str] = str
    read: Reader | None = None
    word: Callable[[Any], str] = str
    usual: Any = None
    null: str | None = None
    number: bool = False
    shape: bool = False

    def __post_init__(self) -> None:
        if not self.field:
            object.__setattr__(self, "field", self.name)

    @property
    def option(self) -> str:
        """The option of the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def key(self) -> str:
        """The key in run.json."""
        return self.name if self.shape else self.field


def _choice(choices: Callable[[], Iterable[str]]) -> Reader:
    return lambda field, value: one_of(field, value, choices())


def _or_none(reader: Reader) -> Reader:
    def read(field: str, value: object) -> Any:
        if value == NONE:
            return None
        try:
            return reader(field, value)
        except InputError as error:
            raise InputError(field, value, f"{error.expected}, or {NONE}") from None

    return read


def nat_groups() -> Mapping[str, Iterable[str]]:
    """Return the names that stand for several NATs, with these."""
    from punchlab.lab.nat import presets

    return {name: presets.named(name) for name in ("classics", "firewalls", "all")}


def _nats() -> Iterable[str]:
    return (*nat_groups(), *_presets())


def _presets() -> Iterable[str]:
    from punchlab.lab.nat.presets import PRESETS

    return PRESETS


def _unsolicited() -> Iterable[str]:
    from punchlab.lab.nat.presets import OWN_ANSWER
    from punchlab.punch.nat.behavior import Unsolicited

    return (OWN_ANSWER, *Unsolicited)


def _port_mapping(field: str, value: object) -> str | None:
    from punchlab.lab.nat.presets import OWN_ANSWER
    from punchlab.punch.nat.behavior import PortMapping

    read = one_of(field, value, (OWN_ANSWER, *PortMapping))
    return None if read == OWN_ANSWER else read


def _background(field: str, value: object) -> float:
    from punchlab.lab.events.background import MOST_PER_S

    return numbers.number(field, value, least=0, most=MOST_PER_S, unit="connections per second,")


def _clients() -> Iterable[str]:
    from punchlab.lab.client.description import CLIENTS

    return CLIENTS


def _strategies() -> Iterable[str]:
    from punchlab.lab.client.description import CLIENTS

    return (name for client in CLIENTS.values() for name in client.strategies)


def _bandwidth(field: str, value: object) -> float:
    from punchlab.lab.impair.impairment import FASTEST_BIT_S, SLOWEST_BIT_S

    return numbers.number(field, value, least=SLOWEST_BIT_S / 1e6, most=FASTEST_BIT_S / 1e6, unit="Mbit/s")


def duration_s(field: str, value: object) -> float:
    """Return the seconds of a duration in Mininet's words. Raises `InputError`."""
    from punchlab.lab.impair import Impairment

    try:
        return Impairment.from_options({"delay": value}).delay_s
    except InputError as error:
        raise InputError(field, value, error.expected) from None


def _nat(number: int, cell: Any) -> Any:
    return cell.nats[number]


def _duration(field: str, value: object) -> str:
    duration_s(field, value)
    return str(value)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.9g}ms"


def _shape(name: str, **more: Any) -> Axis:
    """Return an axis that is a parameter of topologies; a word of its id is one spelling of the value."""

    def word(value: Any) -> str:
        return f"{name}{value}" if isinstance(value, str) else f"{name}{float(value):.9g}"

    return Axis(name, value=lambda cell: cell.shape.get(name), shape=True, **{"word": word, **more})


def _time(name: str, **more: Any) -> Axis:
    return _shape(
        name, metavar="TIME", read=_duration, word=lambda value: name + _milliseconds(duration_s(name, value)), **more
    )


_ALL = (
    Axis(
        "topology",
        metavar="TOPOLOGY",
        help="ab (near), cd (far), abcd (all edges), same_nat (one home), carrier (NAT444), firewalls or dual_stack",
        value=lambda cell: cell.topology,
    ),
    Axis(
        "pair",
        metavar="X,Y",
        help="the two hosts (default: the topology's first pair)",
        label=lambda pair: f"{pair[0]} to {pair[1]}",
        value=lambda cell: list(cell.pair),
    ),
    *(
        Axis(
            f"nat_{side}",
            metavar="NAT",
            help=f"NAT of the {which} host",
            value=partial(_nat, number),
            read=_choice(_nats),
        )
        for number, (side, which) in enumerate((("a", "first"), ("b", "second")))
    ),
    _shape(
        "cgn",
        metavar="NAT",
        help="NAT of the carrier (topology carrier; default cgn_rfc6888)",
        label=lambda nat: f"carrier's NAT {nat}",
        read=_choice(_presets),
    ),
    _shape(
        "port_mapping",
        metavar="PROTOCOLS",
        help="port mapping protocols of the NATs: none, upnp-igd, pcp (with NAT-PMP) or all (default preset: those of "
        "each NAT)",
        label=lambda protocols: f"port mapping {protocols}",
        read=_port_mapping,
        usual="preset",
    ),
    Axis(
        "background",
        field="background_per_s",
        metavar="RATE",
        help="connections per second that other hosts open through each NAT (default 0)",
        label=lambda rate: f"background {rate:g}/s",
        value=lambda cell: cell.background,
        read=_background,
        word=lambda rate: f"background{rate:.9g}",
        usual=0.0,
        number=True,
    ),
    Axis(
        "client",
        metavar="NAME",
        help="the client under test (default punch)",
        label=lambda client: f"client {client}",
        value=lambda cell: cell.options.client.name,
        read=_choice(_clients),
        word=lambda client: f"client_{client}",
        usual="punch",
    ),
    Axis(
        "strategy",
        metavar="NAME",
        help="strategy of the client (default reuse)",
        label=lambda strategy: f"strategy {strategy}",
        value=lambda cell: cell.options.strategy,
        read=_choice(_strategies),
        usual="reuse",
    ),
    Axis(
        "unsolicited",
        metavar="ANSWER",
        help="answer to unsolicited SYNs: drop, reset, silent-then-icmp, … (default preset: that of each NAT)",
        label=lambda answer: f"unsolicited {answer}",
        value=lambda cell: cell.unsolicited,
        read=_choice(_unsolicited),
        usual="preset",
    ),
    Axis(
        "max_attempts",
        metavar="N",
        help="connect() calls per candidate (default: no limit)",
        label=lambda n: f"at most {n} attempt{'s'[: n != 1]}",
        null="attempts unlimited",
        value=lambda cell: cell.options.max_attempts,
        read=_or_none(numbers.attempts),
        word=lambda n: f"attempts{n}",
        number=True,
    ),
    Axis(
        "deadline",
        field="deadline_s",
        metavar="S",
        help="deadline of the punch (default 5)",
        label=lambda seconds: f"deadline {seconds:g} s",
        value=lambda cell: cell.options.deadline_s,
        read=numbers.deadline,
        word=lambda seconds: f"deadline{seconds:.9g}s",
        usual=5.0,
        number=True,
    ),
    Axis(
        "skew_ms",
        field="skew_wanted_s",
        metavar="MS",
        help="start both at a shared instant, the second later by MS",
        label=lambda seconds: f"skew {seconds * 1000:g} ms",
        null="no skew set",
        value=lambda cell: cell.options.skew_s,
        read=_or_none(numbers.skew_ms),
        word=lambda seconds: f"skew{_milliseconds(seconds)}",
        number=True,
    ),
    _time(
        "delay",
        field="delay_s",
        help="one way between the NATs, e.g. 20ms (not abcd, same_nat)",
        label=lambda seconds: f"delay {seconds * 1000:g} ms one way",
    ),
    _time(
        "jitter",
        field="jitter_s",
        help="of each access link",
        label=lambda seconds: f"jitter {seconds * 1000:g} ms",
    ),
    _shape(
        "loss",
        metavar="PERCENT",
        help="of each access link, each way",
        label=lambda loss: f"loss {loss * 100:g} %",
        read=numbers.percentage,
        number=True,
    ),
    _shape(
        "bw",
        field="bw_mbit_s",
        metavar="MBIT/S",
        help="of each access link, each way",
        label=lambda rate: f"{rate:g} Mbit/s",
        null="bandwidth unlimited",
        read=_or_none(_bandwidth),
        number=True,
    ),
)

AXES: Mapping[str, Axis] = {axis.name: axis for axis in _ALL}
"""The axes by name, in the order of the words in a label."""
SHAPE = tuple(axis.name for axis in _ALL if axis.shape)
"""The axes that are parameters of topologies."""
ID_ORDER = ("unsolicited", "strategy", "client", *SHAPE, "background", "max_attempts", "deadline", "skew_ms")
"""The order of the words of a cell's id, after topology, hosts and NATs. Seeds of trials depend on ids."""
ALWAYS_IN_ID = ("unsolicited", "strategy")
