"""The private sandbox around a whole run: network, mount and PID namespaces (and a user namespace without root).

A run re-executes itself once through this module, which makes the namespaces and waits outside of them. The kernel
frees every namespace, link, rule, mount and process when the run ends, however it ends; the host is never touched, and
no packet can leave, for the sandbox has no link out.

    run ──exec──> supervisor ──fork──> init (PID 1: sets up, reaps) ──fork+exec──> the command

The supervisor keeps the process id that the user knows. It passes signals on; when it is killed, so is init, and with
init everything. (util-linux `unshare` does most of this, but keeps SIGTERM to itself.)
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from lab.errors import LabError, MissingCapabilityError

_MARKER = Path("/run/punchlab-sandbox")
"""Holds the inode of the sandbox's network namespace. On the sandbox's own tmpfs, so it cannot outlive it."""

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x00020000, 0x10000000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_PR_SET_PDEATHSIG = 1
_ADMINISTRATION = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Not SIGINT: the terminal sends that to every process by itself."""


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

    Where the machine cannot make one, that process says so in one line and ends with status 2.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, command_inside(command))


def command_inside(command: list[str]) -> list[str]:
    """The words that run `command` inside a new sandbox.

    With -P, for the directory that the user is in may hold a `lab` of his own.
    """
    return [sys.executable, "-P", "-m", "lab.sandbox", *command]


def mount(source: str, target: str, kind: str | None, flags: int = 0, options: str | None = None) -> None:
    """mount(2). Raises OSError naming the target."""
    words = [None if text is None else text.encode() for text in (source, target, kind, options)]
    _checked(_libc().mount(*words[:3], ctypes.c_ulong(flags), words[3]), f"mount {target}")


def unmount(target: str) -> None:
    """Take away what was last mounted there, with everything below. Raises OSError naming the target."""
    mnt_detach = 2
    _checked(_libc().umount2(target.encode(), mnt_detach), f"unmount {target}")


def _supervise(command: list[str]) -> int:
    """Run the command in new namespaces; its exit status. Raises `MissingCapabilityError`."""
    try:
        _make_namespaces()
    except OSError as error:
        raise MissingCapabilityError(_explain(error)) from error
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(tell)
        _checked(_libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL), "prctl")
        if os.read(told, 1) == b"":  # the supervisor ended before its death could be noticed
            os._exit(1)
        os._exit(_init(command))
    os.close(told)
    os.write(tell, b"1")
    return _wait_for(child)


def _make_namespaces() -> None:
    flags = _CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWNET
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        _checked(_libc().unshare(flags), "unshare")
    else:
        _checked(_libc().unshare(flags | _CLONE_NEWUSER), "unshare")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    mount("tmpfs", "/run", "tmpfs", options="mode=755")
    # Where multiprocessing keeps semaphores, which nobody removes after a kill.
    mount("tmpfs", "/dev/shm", "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=1777")  # noqa: S108 - this makes it private
    # What a daemon of the lab tells syslog, or the console where there is none.
    for ear in ("/dev/log", "/dev/console"):
        if Path(ear).exists():
            mount("/dev/null", ear, None, _MS_BIND)


def _init(command: list[str]) -> int:
    """PID 1 of the sandbox: set it up, run the command, reap orphans; the command's exit status."""
    try:
        mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
        Path("/run/netns").mkdir()
        Path("/run/lock").mkdir()
        _bring_loopback_up()
        _MARKER.write_text(str(_netns_inode()))
    except OSError as error:
        print(f"punchlab: {_explain(error)}", file=sys.stderr, flush=True)
        return 2
    # Debian gives ordinary users a PATH without the folders where iptables, nft and tc are.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), *_ADMINISTRATION])
    child = os.fork()
    if child == 0:
        try:
            os.execvp(command[0], command)
        except OSError as error:
            print(f"punchlab: {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
            os._exit(127)
    return _wait_for(child)


def _wait_for(child: int) -> int:
    """Pass signals on to the child, reap whatever ends, and return the child's exit status as a shell gives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in _PASSED_ON:
        signal.signal(number, lambda received, _frame: _pass_on(child, received))
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code


def _pass_on(child: int, received: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(child, received)


def _explain(error: OSError) -> str:
    """What keeps this machine from making a sandbox, and how to get it."""
    if os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split()[2] != "1":
        return f"sandbox: root may not make namespaces here ({error}); in a container add --privileged"
    apparmor = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    if apparmor.exists() and apparmor.read_text().strip() == "1":
        remedy = "run `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`"
    else:
        remedy = "run `sudo sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=15000`"
    return f"sandbox: unprivileged user namespaces cannot be had here ({error}); {remedy}, or run as root"


def _bring_loopback_up() -> None:
    import fcntl
    import socket
    import struct

    siocsifflags, iff_up = 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, siocsifflags, struct.pack("16sH14x", b"lo", iff_up))


def _netns_inode() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


if __name__ == "__main__":
    try:
        sys.exit(_supervise(sys.argv[1:]))
    except MissingCapabilityError as problem:
        print(f"punchlab: {problem}", file=sys.stderr)
        sys.exit(2)
