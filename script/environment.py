"""Select the Python interpreter of the scripts: the one with the project's packages."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def use(*modules: str) -> None:
    """Return if this Python has the modules; otherwise run the same script with the Python of .venv instead.

    If .venv is missing, script/bootstrap creates it; if that fails, this process exits with the same status.
    """
    if all(importlib.util.find_spec(name) for name in modules):
        return
    python = ROOT / ".venv/bin/python"
    script = Path(sys.argv[0]).name
    if Path(sys.prefix).resolve() == python.parent.parent:
        missing = ", ".join(name for name in modules if not importlib.util.find_spec(name))
        print(f"{script}: missing in .venv: {missing}; remove .venv and run script/bootstrap", file=sys.stderr)
        sys.exit(2)
    if not python.exists():
        done = subprocess.run([str(ROOT / "script/bootstrap")], stdout=sys.stderr, check=False)
        if done.returncode:
            sys.exit(done.returncode)
    sys.stdout.flush()
    os.execv(python, [str(python), *sys.argv])
