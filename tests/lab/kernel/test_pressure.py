"""The kernel reports when tasks wait for a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from punchlab.lab.kernel import pressure
from punchlab.lab.kernel.pressure import SPARE, CpuPressure

HOG = "import time\nwhile time.process_time() < 0.4: pass"


@pytest.mark.skipif(not Path("/proc/pressure/cpu").exists(), reason="this kernel keeps no pressure stall information")
def test_more_busy_tasks_than_cpus_cause_pressure() -> None:
    measured = CpuPressure()
    hogs = [subprocess.Popen([sys.executable, "-S", "-c", HOG]) for _ in range(3 * (os.cpu_count() or 1))]
    for hog in hogs:
        hog.wait()
    share = measured.share()
    assert share is not None
    assert SPARE < share <= 1


@pytest.mark.parametrize("content", [None, "", "full avg10=0.00 total=5\n"])
def test_without_kernel_support_the_pressure_is_none(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpu"
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr(pressure, "_FILE", file)
    assert CpuPressure().share() is None
