from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def many_sockets() -> Iterator[None]:
    """Raise this process's descriptor limit, which is low by default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
