"""What some scenarios need beside what `script/bootstrap` brings; without it they are skipped, and say so."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

import pytest


def needs(command: str, module: str | None, how: str) -> pytest.MarkDecorator:
    """Skip unless there are that program and that Python module, if any; `how` to get both goes into the reason."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))
    missing = shutil.which(command, path=path) is None or (module is not None and find_spec(module) is None)
    return pytest.mark.skipif(missing, reason=f"needs {command}: {how}")
