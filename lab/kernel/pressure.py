"""Whether there was CPU to spare: the kernel's pressure stall information (Documentation/accounting/psi.rst)."""

from __future__ import annotations

import time
from pathlib import Path

_FILE = Path("/proc/pressure/cpu")

SPARE = 0.25
"""Pressure up to which a trial's latencies count.

Measured on two cores, 48 trials: one at a time it was below this in 14 of 16, and the hosts agreed 67 to 76 ms after
their first SYN; two at a time it was 0.39 to 0.95, and they did after 70 to 154 ms.
"""


class CpuPressure:
    """The share of time, from now until `share` is read, in which some task of the machine waited for a CPU."""

    def __init__(self) -> None:
        self._stalled_us, self._began = _stalled_us(), time.monotonic()

    def share(self) -> float | None:
        """0 to 1; None where the kernel does not say (CONFIG_PSI)."""
        stalled_us = _stalled_us()
        elapsed_s = time.monotonic() - self._began
        if self._stalled_us is None or stalled_us is None or elapsed_s <= 0:
            return None
        return min(1.0, (stalled_us - self._stalled_us) / 1e6 / elapsed_s)


def _stalled_us() -> int | None:
    """Microseconds since boot in which some task waited."""
    try:
        words = _FILE.read_text().partition("\n")[0].split()
    except OSError:
        return None
    totals = [word.removeprefix("total=") for word in words if word.startswith("total=")]
    return int(totals[0]) if words[:1] == ["some"] and totals else None
