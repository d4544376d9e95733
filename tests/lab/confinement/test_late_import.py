"""Modules of function clients: imported by the confined client, and not by the server that it is forked from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from punchlab import Lab
from punchlab.lab.client.contract import SENDER
from punchlab.lab.client.description import Client
from punchlab.lab.client.processes import EventProcess, wait_for
from punchlab.lab.errors import ClientError
from punchlab.lab.lab import Lab as RunningLab
from punchlab.lab.process import forked
from punchlab.lab.process.forked import Function
from punchlab.topologies import AB


@pytest.fixture(scope="module")
def lab() -> Iterator[RunningLab]:
    with Lab(AB(delay="0ms", edge_delay="0ms")) as built:
        yield built


def errors_of(lab: RunningLab, function: Function) -> str:
    """What the sender of a client with that function writes to standard error."""
    client = Client(
        name="mine",
        edge=("x",),
        sender=("x",),
        receiver=("x",),
        strategies=("none",),
        tells_code=False,
        function=function,
    )
    process = EventProcess(lab["a"], client.command(SENDER, {}), function, confined=client.view(SENDER))
    try:
        wait_for([process], lambda: False, 20.0)
        return process.errors
    finally:
        process.end()


@pytest.mark.parametrize("preloaded", [False, True])
def test_a_module_runs_in_the_confined_client_alone(
    preloaded: bool, lab: RunningLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, secret, target = tmp_path / "code", tmp_path / "secret", tmp_path / "code" / "target"
    code.mkdir()
    secret.write_text("a secret")
    name = f"hostile_module_{preloaded}".lower()
    (code / f"{name}.py").write_text(
        "import sys\n"
        f"for path, mode in (({str(secret)!r}, 'r'), ({str(target)!r}, 'w')):\n"
        "    try:\n"
        "        open(path, mode)\n"
        "        print('opened', path, file=sys.stderr)\n"
        "    except OSError as error:\n"
        "        print(error.strerror, file=sys.stderr)\n"
        "def main(): pass\n"
    )
    monkeypatch.syspath_prepend(code)
    function = Function("punchlab.punch.text:printable", preload=(name,)) if preloaded else Function(f"{name}:main")
    errors = errors_of(lab, function)
    assert errors.splitlines()[:2] == ["No such file or directory", "Read-only file system"]
    assert not target.exists()


def test_a_module_that_alters_the_interpreter_alters_no_other_client(
    lab: RunningLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import builtins, sys\ndef main(): print(builtins.__dict__.get('altered'), file=sys.stderr)\n"
    (tmp_path / "altering_module.py").write_text(f"{code}builtins.altered = builtins.__dict__.get('altered', 0) + 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert [errors_of(lab, Function("altering_module:main")).strip() for _ in range(2)] == ["1", "1"]


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise ValueError('what is wrong')", "ValueError: what is wrong"),
        ("import time; time.sleep(100)", "it is not imported within 1 s"),
        ("import os; [os.write(n, b'{') for n in range(3, 30) if os.path.exists(f'/proc/self/fd/{n}')]", r": \{+$"),
    ],
)
def test_an_import_that_fails_is_an_error_of_the_client_alone(
    statement: str, message: str, lab: RunningLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forked, "_IMPORT_S", 1.0)
    name = f"failing_module_{abs(hash(statement))}"
    wait = tmp_path / "healthy"
    (tmp_path / f"{name}.py").write_text(
        f"import os, sys\nif not os.path.exists({str(wait)!r}):\n    {statement}\n"
        "def main(): print('runs', file=sys.stderr)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for _ in range(2):
        with pytest.raises(ClientError, match=message):
            errors_of(lab, Function(f"{name}:main"))
    wait.touch()
    assert errors_of(lab, Function(f"{name}:main")) == "runs"  # from the same server


def test_a_module_in_a_home_is_found(lab: RunningLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    (home / "package_at_home").mkdir(parents=True)
    (home / "secret").write_text("")
    code = f"import os, sys\ndef main(): print(os.path.exists({str(home / 'secret')!r}), file=sys.stderr)\n"
    (home / "module_at_home.py").write_text(code)
    (home / "package_at_home" / "__init__.py").write_text(code)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.syspath_prepend(home)
    for name in ("module_at_home", "package_at_home"):
        assert errors_of(lab, Function(f"{name}:main")) == "False"
