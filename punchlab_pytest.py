"""What pytest loads for `-p lab.pytest_sandbox`, by its entry point: that plugin, also if the user has a module `lab`.

Entry points are loaded in every run of pytest; this one does nothing unless the plugin was asked for.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

_NAME = "lab.pytest_sandbox"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, object, object]:
    """Outermost of the early hooks: before any module of the user is imported."""
    if _asked_for(early_config):
        try:
            import punchlab_entry  # noqa: F401 - from here on `lab` means this project's
        except ImportError as error:
            raise pytest.UsageError(f"{_NAME}: {error}") from None
        from lab import pytest_sandbox

        pytest_sandbox.enter(early_config)
    return (yield)


def _asked_for(config: pytest.Config) -> bool:
    by_option = config.known_args_namespace.plugins or ()
    return _NAME in by_option or _NAME in os.environ.get("PYTEST_PLUGINS", "").split(",")
