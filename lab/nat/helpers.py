"""The helper processes of a NAT: what rules cannot say, done by a program beside them."""

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
    """A program of ours, as `python3 -m MODULE ARGUMENTS`, and what it does for the NAT.

    It says `ready` on a line when it is, and ends with its standard input.
    """

    module: str
    arguments: tuple[str, ...]
    purpose: str

    def __str__(self) -> str:
        return " ".join(("python3 -m", self.module, *self.arguments))


def start(program: Program, popen: Callable[..., subprocess.Popen[Any]]) -> subprocess.Popen[Any]:
    """Start it by `popen`, which runs a command in the NAT's node. Returns at once; see `await_ready`."""
    return popen(
        [*programs.python(program.module, isolated=True), *program.arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def await_ready(program: Program, process: subprocess.Popen[Any]) -> None:
    """Return when it does its work. Raises `LabError` with its own words if it cannot."""
    if process.stdout is None or process.stderr is None:
        raise LabError(f"{program.module}: no standard output")
    if process.stdout.readline().strip() != "ready":
        raise LabError(f"{program.module}: {process.stderr.read().strip().splitlines()[-1:] or 'no reason given'}")


class RunningProgram:
    """A helper process in the NAT's node, of which it is a part; it does its work after `wait`."""

    def __init__(self, node: Node, program: Program) -> None:
        self._node, self._program = node, program
        self._process = start(program, node.popen)
        node.attach(self)

    def wait(self) -> None:
        """Wait until it does its work. Raises `LabError`."""
        await_ready(self._program, self._process)

    def check(self) -> None:
        """Raise `LabError` if it has ended."""
        if (status := self._process.poll()) is not None:
            raise LabError(f"{self._node.name}: {self._program.module} ended with status {status}")

    def close(self) -> None:
        """Kill it; idempotent."""
        self._process.kill()
        self._process.communicate()
