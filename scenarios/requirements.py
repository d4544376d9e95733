"""Optional requirements of scenarios, in addition to `script/bootstrap`. Scenarios without them are skipped."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

import pytest


def needs(command: str, module: str | None, how: str) -> pytest.MarkDecorator:
    """Skip unless the program and the Python module (if any) exist. The reason includes `how` to get both."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))
    missing = shutil.which(command, path=path) is None or (module is not None and find_spec(module) is None)
    return pytest.mark.skipif(missing, reason=f"needs {command}: {how}")
