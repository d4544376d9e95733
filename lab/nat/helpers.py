"""Helper processes of a NAT: programs that do what rules cannot."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from punchlab.lab.errors import LabError
from punchlab.lab.kernel import programs
from punchlab.lab.process.node import Node


@dataclass(frozen=True, slots=True)
class Program:
    """A program of this project, run as `python3 -m MODULE ARGUMENTS`, and its purpose.

    It prints `ready` on a line when it is ready, and exits when its standard input is closed.
    """

    module: str
    arguments: tuple[str, ...]
    purpose: str

    def __str__(self) -> str:
        return " ".join(("python3 -m", self.module, *self.arguments))


def start(program: Program, popen: Callable[..., subprocess.Popen[Any]]) -> subprocess.Popen[Any]:
    """Start the program with `popen`, which runs a command in the NAT's node. Returns at once; see `await_ready`."""
    return popen(
        [*programs.python(program.module, isolated=True), *program.arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def await_ready(program: Program, process: subprocess.Popen[Any]) -> None:
    """Wait until the program is ready. Raises `LabError` with its error output if it fails."""
    if process.stdout is None or process.stderr is None:
        raise LabError(f"{program.module}: no standard output")
    if process.stdout.readline().strip() != "ready":
        raise LabError(f"{program.module}: {process.stderr.read().strip().splitlines()[-1:] or 'no reason given'}")


class RunningProgram:
    """A helper process that runs in the NAT's node. It is ready after `wait`."""

    def __init__(self, node: Node, program: Program) -> None:
        self._node, self._program = node, program
        self._process = start(program, node.popen)
        node.attach(self)

    def wait(self) -> None:
        """Wait until it is ready. Raises `LabError`."""
        await_ready(self._program, self._process)

    def check(self) -> None:
        """Raise `LabError` if the process has exited."""
        if (status := self._process.poll()) is not None:
            raise LabError(f"{self._node.name}: {self._program.module} exited with status {status}")

    def close(self) -> None:
        """Kill the process. Idempotent."""
        self._process.kill()
        self._process.communicate()
