from __future__ import annotations

from pathlib import Path

import pytest

from tests.reports.pages import disagreeing, write
from tests.reports.sample import lab_error, matrix, record


@pytest.fixture(scope="session")
def two_topologies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("run"), matrix("ab") + matrix("cd"), {"trials": 5})


@pytest.fixture(scope="session")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5/5 and 3 lab errors for one pair; 4/5 for another, of which one trial disagrees with the oracle."""
    records = [record(number=number) for number in range(5)] + [lab_error(number=number) for number in range(5, 8)]
    records += [disagreeing(), *(record("full_cone", "symmetric", number) for number in range(1, 5))]
    return write(tmp_path_factory.mktemp("run"), records)
