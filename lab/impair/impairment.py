"""What a link does to the packets of one direction, in Mininet's vocabulary.

`delay` and `jitter` are durations as `tc` writes them ("20ms", "1s", "500us"), `loss` is in percent, `bw` in Mbit/s.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from punchlab.lab.errors import InputError

OPTIONS = ("delay", "jitter", "loss", "bw")
"""The link options that impair; other options of a Mininet link (ports, names) are not for this package."""

LONGEST_DELAY_S, LONGEST_JITTER_S = 60.0, 2.0
SLOWEST_BIT_S, FASTEST_BIT_S = 1e3, 1e12

_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([mun]?)(?:s|secs?)", re.ASCII)
_UNIT_S = {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


@dataclass(frozen=True)
class Impairment:
    """One direction of a link.

    `delay_s`: seconds that every packet is held. `jitter_s`: each packet's delay is drawn uniformly from
    `delay_s` ± `jitter_s`. `loss`: the share of packets that vanish, 0 to 1, drawn for each packet on its own.
    `bandwidth`: bit/s, Ethernet header included, or None for no limit.

    Raises `InputError` for values out of range.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    bandwidth: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.delay_s <= LONGEST_DELAY_S:
            raise InputError("delay", self.delay_s, f"0 to {LONGEST_DELAY_S:g} seconds")
        if not 0 <= self.jitter_s <= LONGEST_JITTER_S:
            raise InputError("jitter", self.jitter_s, f"0 to {LONGEST_JITTER_S:g} seconds")
        if self.jitter_s > self.delay_s:
            raise InputError("jitter", self.jitter_s, f"at most the delay ({self.delay_s:g} s)")
        if not 0 <= self.loss <= 1:
            raise InputError("loss", self.loss, "a share from 0 to 1")
        if self.bandwidth is not None and not SLOWEST_BIT_S <= self.bandwidth <= FASTEST_BIT_S:
            raise InputError("bandwidth", self.bandwidth, f"{SLOWEST_BIT_S:g} to {FASTEST_BIT_S:g} bit/s")

    def __bool__(self) -> bool:
        """Whether it does anything to a packet."""
        return self != Impairment()

    @property
    def in_order(self) -> bool:
        """Whether packets leave in the order they came: always, except that jitter reorders unless a rate queues."""
        return self.jitter_s == 0 or self.bandwidth is not None

    @property
    def per_packet(self) -> bool:
        """Whether single packets of wire size matter, so that segments must not travel in one big (GSO) buffer."""
        return self.loss > 0 or self.bandwidth is not None

    @property
    def limit(self) -> int:
        """How many packets the link holds before it drops: netem's 1000 behind a bandwidth.

        Without one the limit only guards memory: a delay must not be a hidden bandwidth.
        """
        return 100_000 if self.bandwidth is None else 1000

    @classmethod
    def from_options(cls, options: Mapping[str, object]) -> Impairment:
        """The impairment that `options` (of `OPTIONS`, None meaning absent) ask for.

        Raises `InputError` naming the option, for unknown ones too: a misspelt impairment must not be skipped.
        """
        for name in options:
            if name not in OPTIONS:
                raise InputError("link option", name, "one of " + ", ".join(OPTIONS))
        delay_s = _duration("delay", options.get("delay"), LONGEST_DELAY_S)
        jitter_s = _duration("jitter", options.get("jitter"), LONGEST_JITTER_S)
        if jitter_s > delay_s:
            raise InputError("jitter", options["jitter"], f"at most the delay ({options.get('delay') or '0ms'})")
        loss = _number("loss", options.get("loss"), "a percentage from 0 to 100", 0, 100)
        slowest, fastest = SLOWEST_BIT_S / 1e6, FASTEST_BIT_S / 1e6
        bandwidth = _number("bw", options.get("bw"), f"Mbit/s from {slowest:g} to {fastest:g}", slowest, fastest)
        return cls(delay_s, jitter_s, (loss or 0.0) / 100, None if bandwidth is None else bandwidth * 1e6)


def _duration(name: str, value: object, longest_s: float) -> float:
    if value is None:
        return 0.0
    expected = f"a duration with its unit (20ms, 1s, 500us) of at most {longest_s:g} s"
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise InputError(name, value, expected)
    seconds = float(match[1]) * _UNIT_S[match[2]]
    if seconds > longest_s:
        raise InputError(name, value, expected)
    return seconds


def _number(name: str, value: object, expected: str, lowest: float, highest: float) -> float | None:
    if value is None:
        return None
    number = math.nan
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            number = float(value)
    if not lowest <= number <= highest:
        raise InputError(name, value, expected)
    return number
