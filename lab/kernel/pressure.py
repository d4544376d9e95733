"""CPU pressure: the kernel's pressure stall information (Documentation/accounting/psi.rst)."""

from __future__ import annotations

import time
from pathlib import Path

_FILE = Path("/proc/pressure/cpu")

SPARE = 0.25
"""The highest pressure at which a trial's latencies are valid.

Measured on two cores with 48 trials. One at a time, the pressure was lower in 14 of 16 trials, and hosts connected 67
to 76 ms after their first SYN. Two at a time, it was 0.39 to 0.95, and hosts connected after 70 to 154 ms.
"""


class CpuPressure:
    """Measure the share of time in which some task waits for a CPU, from construction until `share` is called."""

    def __init__(self) -> None:
        self._stalled_us, self._began = _stalled_us(), time.monotonic()

    def share(self) -> float | None:
        """Return 0 to 1, or None if the kernel does not support PSI (CONFIG_PSI)."""
        stalled_us = _stalled_us()
        elapsed_s = time.monotonic() - self._began
        if self._stalled_us is None or stalled_us is None or elapsed_s <= 0:
            return None
        return min(1.0, (stalled_us - self._stalled_us) / 1e6 / elapsed_s)


def _stalled_us() -> int | None:
    """Return the microseconds since boot in which some task waited."""
    try:
        words = _FILE.read_text().partition("\n")[0].split()
    except OSError:
        return None
    totals = [word.removeprefix("total=") for word in words if word.startswith("total=")]
    return int(totals[0]) if words[:1] == ["some"] and totals else None
