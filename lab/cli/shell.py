"""The shell of `punchlab up`. Nodes have names for `ip netns`, `on NODE CMD…` runs a command in a node, and `nat` and
`link` change the lab.
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

_NAMES = "/run/netns"  # the folder of `ip netns`
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
    """Run the command, or an interactive shell, with access to the lab's nodes. Return its exit status."""
    # Hide the names of another lab if this process runs in its shell.
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
    """Return the command with a wrapper that reports, as a shell does, why it cannot run."""
    return [*programs.python("punchlab.lab.kernel.programs", isolated=True), *words]


@contextlib.contextmanager
def _relayed() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Forward signals that this process receives during the block to the processes of the list."""
    processes: list[subprocess.Popen[bytes]] = []

    def relay(number: int, _frame: object) -> None:
        # The terminal has also sent it to them.
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
    """Return whether the terminal sends its signals to this process."""
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
        f"Commands that change the lab:\n{usage}"
    )
