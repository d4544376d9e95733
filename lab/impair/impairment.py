"""The impairment of one direction of a link, in Mininet's vocabulary.

`delay` and `jitter` are durations as in `tc` ("20ms", "1s", "500us"), `loss` is in percent, `bw` in Mbit/s.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from punchlab.lab.errors import InputError

OPTIONS = ("delay", "jitter", "loss", "bw")
"""The link options that impair packets. Other options of a Mininet link (ports, names) are not handled here."""

LONGEST_DELAY_S, LONGEST_JITTER_S = 60.0, 2.0
SLOWEST_BIT_S, FASTEST_BIT_S = 1e3, 1e12

_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([mun]?)(?:s|secs?)", re.ASCII)
_UNIT_S = {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


@dataclass(frozen=True)
class Impairment:
    """One direction of a link.

    `delay_s`: seconds that every packet is held. `jitter_s`: each delay is drawn uniformly from `delay_s` ± `jitter_s`.
    `loss`: the fraction of lost packets, 0 to 1, drawn independently per packet. `bandwidth`: bit/s including Ethernet
    headers, or None for no limit.

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
            raise InputError("loss", self.loss, "a fraction from 0 to 1")
        if self.bandwidth is not None and not SLOWEST_BIT_S <= self.bandwidth <= FASTEST_BIT_S:
            raise InputError("bandwidth", self.bandwidth, f"{SLOWEST_BIT_S:g} to {FASTEST_BIT_S:g} bit/s")

    def __bool__(self) -> bool:
        """Whether packets are impaired at all."""
        return self != Impairment()

    @property
    def in_order(self) -> bool:
        """Whether packets keep their order. They do, except with jitter and no bandwidth."""
        return self.jitter_s == 0 or self.bandwidth is not None

    @property
    def per_packet(self) -> bool:
        """Whether packets must have wire size, so that segments must not share one large (GSO) buffer."""
        return self.loss > 0 or self.bandwidth is not None

    @property
    def limit(self) -> int:
        """How many packets the link holds before it drops: with a bandwidth 1000, as netem does by default.

        Without a bandwidth the limit only bounds memory, because it must not act as a hidden bandwidth.
        """
        return 100_000 if self.bandwidth is None else 1000

    @classmethod
    def from_options(cls, options: Mapping[str, object]) -> Impairment:
        """Return the impairment for `options` (of `OPTIONS`; None means absent).

        Raises `InputError` naming the option, also for unknown options, so that a misspelt impairment is not ignored.
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
