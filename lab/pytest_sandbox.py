"""pytest plugin (`-p lab.pytest_sandbox`): the test run re-executes itself inside the sandbox before collection.

Workers of pytest-xdist are children of the sandboxed run and inherit it.
"""

from __future__ import annotations

import sys
from collections.abc import Generator

import pytest

from lab import sandbox


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, object, object]:
    """Outermost of the early hooks, so that pytest has not yet redirected the standard streams."""
    if not sandbox.inside():
        sandbox.enter([sys.executable, "-m", "pytest", *map(str, early_config.invocation_params.args)])
    return (yield)
