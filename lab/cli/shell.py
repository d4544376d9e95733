"""The shell of `punchlab up`: nodes are named for `ip netns`, `on NODE CMD…` runs a command in one, and `nat` and
`link` make things happen.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from punchlab.lab.cli.console import USAGE, Console
from punchlab.lab.confinement import supervision
from punchlab.lab.kernel import mounts, programs
from punchlab.lab.lab import Lab

_NAMES = "/run/netns"  # where `ip netns` has them
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
_RELAYED = supervision.PASSED_ON
_ON = """#!/bin/sh
[ $# -ge 2 ] || { echo "usage: on NODE CMD..." >&2; exit 2; }
names=$(ls /run/netns | xargs)
[ -e "/run/netns/$1" ] || {
    printf "on: node: '%s' cannot be used; expected one of %s" "$1" "$names" | LC_ALL=C tr -c ' -~' '?' >&2
    echo >&2
    exit 2
}
exec ip netns exec "$@"
"""


def run(lab: Lab, command: list[str]) -> int:
    """Run the command, or an interactive shell, beside the lab's nodes; its exit status."""
    # Over the names of another lab, if this one is in its shell.
    mounts.mount("tmpfs", _NAMES, "tmpfs", options="mode=755")
    try:
        return _run_named(lab, command)
    finally:
        mounts.unmount(_NAMES)


def _run_named(lab: Lab, command: list[str]) -> int:
    for node in lab:
        name = Path(_NAMES) / node.name
        name.touch()
        mounts.mount(f"/proc/self/fd/{node.namespace.fd}", str(name), None, mounts.BIND)
    with tempfile.TemporaryDirectory(prefix="punchlab-", dir="/run") as folder:
        script = Path(folder) / "on"
        script.write_text(_ON)
        script.chmod(0o755)
        environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "PS1": "punchlab$ "}
        if not command:
            print(_greeting(lab))
        words = command or ["/bin/sh", "-i"]
        with (
            Console(lab, Path(folder)) as console,
            _relayed() as relay,
            subprocess.Popen(_stage(words), env=environment, close_fds=False) as process,
        ):
            relay.append(process)
            try:
                return console.serve(process)
            except BaseException:
                process.kill()
                raise


def _stage(words: list[str]) -> list[str]:
    """The command, by way of a step that says as a shell does why it cannot be run."""
    return [*programs.python("punchlab.lab.kernel.programs", isolated=True), *words]


@contextlib.contextmanager
def _relayed() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Signals that this process gets within the block go to the processes of the list, which end by themselves."""
    processes: list[subprocess.Popen[bytes]] = []

    def relay(number: int, _frame: object) -> None:
        # What comes from the terminal has reached them by itself.
        if supervision.went_to_group(number) or (number in _FROM_TERMINAL and _in_foreground()):
            return
        for process in processes:
            process.send_signal(number)

    # A signal that is ignored here stays ignored in the command.
    relayed = [number for number in _RELAYED if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, relay) for number in relayed}
    try:
        yield processes
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_foreground() -> bool:
    """Whether this process is among those that its terminal sends signals to."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _greeting(lab: Lab) -> str:
    nodes = "\n".join(f"  {node.name:10} {node.kind:7} {node.address}" for node in lab if node.kind != "switch")
    usage = "\n".join(f"  {words}" for words in USAGE.values())
    return (
        f"{nodes}\n`on NODE CMD...` runs a command in a node, e.g.: on a ping {lab.anycast}   (exit ends the lab)\n"
        f"What can happen to it:\n{usage}"
    )
