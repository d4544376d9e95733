from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.punch.processes import running_edge


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "report.pdf"
    path.write_bytes(os.urandom(200_000))
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    directory = tmp_path / "out"
    directory.mkdir()
    return directory


@pytest.fixture
def edge() -> Iterator[str]:
    with running_edge() as (_, url):
        yield url
