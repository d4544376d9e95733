"""The private sandbox around a whole run: network, mount and PID namespaces (and a user namespace without root).

A run re-executes itself once under util-linux `unshare`. The kernel frees every namespace, link, rule, mount and
process when the run ends, however it ends; the host is never touched, and no packet can leave, for the sandbox has no
link out.

    run ──exec──> unshare ──fork──> init (PID 1: sets up, waits, reaps) ──fork+exec──> the command
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import NoReturn

from lab.errors import LabError, MissingCapabilityError

_MARKER = Path("/run/punchlab-sandbox")
"""Holds the inode of the sandbox's network namespace. On the sandbox's own tmpfs, so it cannot outlive it."""

_SETUP_FAILED = 125


def inside() -> bool:
    """Whether this thread runs in the network namespace that a sandbox made for the run."""
    try:
        return _MARKER.read_text() == str(_netns_inode())
    except OSError:
        return False


def require() -> None:
    """Raise `LabError` outside a sandbox: the lab never builds on the host's network."""
    if not inside():
        raise LabError(
            "the lab builds only inside its sandbox; start through `punchlab`, `punchlab sandbox CMD` "
            "or `pytest -p lab.pytest_sandbox`"
        )


def enter(command: list[str]) -> NoReturn:
    """Replace this process by `command` running inside a new sandbox.

    Raises `MissingCapabilityError` where the machine cannot make one.
    """
    if (missing := why_not()) is not None:
        raise MissingCapabilityError(missing)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvp("unshare", [*unshare_command(), sys.executable, "-m", "lab.sandbox", *command])


def why_not() -> str | None:
    """What keeps this machine from making a sandbox, and how to get it; None when nothing does."""
    if sys.platform != "linux":
        return "sandbox: needs Linux network namespaces; use `vagrant up` on other systems"
    if shutil.which("unshare") is None:
        return "sandbox: `unshare` is missing; install util-linux"
    import subprocess

    probe = subprocess.run([*unshare_command(), "true"], capture_output=True, text=True, check=False)
    if probe.returncode == 0:
        return None
    detail = (probe.stderr.strip().splitlines() or ["no reason given"])[-1]
    if os.geteuid() == 0:
        return f"sandbox: root may not make namespaces here ({detail}); in a container add --privileged"
    restricted = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    if restricted.exists() and restricted.read_text().strip() == "1":
        how = "run `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`"
    else:
        how = "run `sudo sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=15000`"
    return f"sandbox: unprivileged user namespaces are not available ({detail}); {how}, or run as root"


def unshare_command() -> list[str]:
    """The words before a command that put it into new namespaces."""
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0:
        command += ["--user", "--map-root-user"]
    return command


def _netns_inode() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


def mount(source: str, target: str, kind: str | None, flags: int = 0, options: str | None = None) -> None:
    """mount(2). Raises OSError naming the target."""
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = [None if text is None else text.encode() for text in (source, target, kind)]
    if libc.mount(*arguments, ctypes.c_ulong(flags), None if options is None else options.encode()) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), target)


def _set_up() -> None:
    mount("tmpfs", "/run", "tmpfs", options="mode=755")
    Path("/run/netns").mkdir()
    Path("/run/lock").mkdir()
    _bring_loopback_up()
    _MARKER.write_text(str(_netns_inode()))


def _bring_loopback_up() -> None:
    import fcntl
    import socket
    import struct

    siocsifflags, iff_up = 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, siocsifflags, struct.pack("16sH14x", b"lo", iff_up))


def _init(command: list[str]) -> int:
    """PID 1 of the sandbox: start the command, pass signals on, reap orphans; the command's exit status."""
    child = os.fork()
    if child == 0:
        try:
            os.execvp(command[0], command)
        except OSError as error:
            print(f"punchlab: {command[0]}: {error.strerror}", file=sys.stderr)
            os._exit(127)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the command as well
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: os.kill(child, received))
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code


if __name__ == "__main__":
    try:
        _set_up()
    except OSError as problem:
        print(f"punchlab: sandbox: {problem}", file=sys.stderr)
        sys.exit(_SETUP_FAILED)
    sys.exit(_init(sys.argv[1:]))
