"""The private sandbox around a whole run: namespaces of its own (network, mount, PID, IPC, UTS; user without root).

A program moves into its sandbox by `enter`, which forks: the program goes on in a child, inside, and the process that
the user knows waits outside and ends as the child does. The kernel frees every namespace, link, rule, mount and process
when the run ends, however it ends; the host is never touched, and no packet can leave, for the sandbox has no link out.

    the user's process ──fork──> keeper ──fork──> init (PID 1: sets up, reaps) ──fork──> the program goes on
       speaks for the program     makes the namespaces

When the user's process is killed, so is the keeper, and with it init and everything inside. The keeper is a process of
its own, because only a process with a single thread may make a user namespace. (util-linux `unshare` does most of this,
but keeps SIGTERM to itself.)

A program that is confined sees what `lab.confinement.view` makes, and is in a user namespace below the one in which
that was made, for root as well: the kernel lets nobody change mounts that come from above.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
import select
import signal
import stat
import sys
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from punchlab.lab.confinement import privileges, supervision, view
from punchlab.lab.confinement.seccomp import Kind
from punchlab.lab.confinement.shares import Plan
from punchlab.lab.errors import LabError, MissingCapabilityError
from punchlab.lab.kernel import mounts, programs

_MARKER = Path("/run/punchlab-sandbox")
"""Holds the inode of the sandbox's network namespace, and the user's id outside.

On the sandbox's own tmpfs, so it cannot outlive it.
"""

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x00020000, 0x10000000, 0x20000000, 0x40000000
_CLONE_NEWIPC, _CLONE_NEWUTS = 0x08000000, 0x04000000
_SPACES = _CLONE_NEWNS | _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_ADMINISTRATION = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_READY = b"ready"


def inside() -> bool:
    """Whether this thread runs in the network namespace that a sandbox made for the run."""
    try:
        return _MARKER.read_text().split()[0] == str(_netns_inode())
    except OSError:
        return False


def require() -> None:
    """Raise `LabError` outside a sandbox: the lab never builds on the host's network."""
    if not inside():
        raise LabError(
            "the lab builds only inside its sandbox; start through `punchlab`, `punchlab sandbox CMD` "
            "or `pytest -p punchlab.lab.pytest_sandbox`"
        )


def user() -> int:
    """The id that the user of this process has outside of its sandbox."""
    if inside():
        return int(_MARKER.read_text().split()[1])
    return _outer_user()


def enter(confined: Plan | None = None) -> None:
    """Move this program into a new sandbox: return inside, in a child with all that the program has in memory.

    With a plan of what it sees of the file system, the program is confined from then on; see `lab.confinement`.
    This process itself stays outside, speaks for the program (see `lab.confinement.supervision`), and ends with its
    exit status (128 + N if signal N killed it), so it never returns from here. Raises `MissingCapabilityError` where
    the machine cannot make a sandbox, and `LabError` where the program has other threads, which a fork would lose.
    """
    others = [thread.name for thread in threading.enumerate() if thread is not threading.current_thread()]
    if others:
        raise LabError(
            f"sandbox: this process has other threads ({', '.join(others)}), which cannot move into a sandbox; "
            "start the program with `punchlab sandbox CMD`"
        )
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    for_children = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored, exit statuses are lost
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    outcome, tell = os.pipe()
    orders, order = os.pipe()
    stops, stopped = os.pipe()
    inner = _Ends(tell, orders, stopped, supervision.terminal())
    own = os.getpid()
    gc.freeze()  # else the collector would write to all of it, and each page that it writes to is copied
    keeper = _fork()
    if keeper == 0:
        for descriptor in (outcome, order, stops):
            os.close(descriptor)
        try:
            _keep(own, inner, confined)
        except BaseException as error:  # after any error the program must not go on here
            with contextlib.suppress(OSError):
                os.write(tell, f"sandbox: {error}".encode())
            os._exit(2)
        signal.signal(signal.SIGCHLD, for_children)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return
    for descriptor in (tell, orders, stopped):
        os.close(descriptor)
    said = os.read(outcome, 4096)
    os.close(outcome)
    if said != _READY:
        for descriptor in (order, stops, *([] if inner.tty is None else [inner.tty])):
            os.close(descriptor)
        os.waitpid(keeper, 0)
        signal.signal(signal.SIGCHLD, for_children)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        raise MissingCapabilityError(said.decode() or "sandbox: it ended while it was made")
    status = 1
    try:
        _let_go_of_files(order, stops, inner.tty)
        status = supervision.speak_for(keeper, order, stops, inner.tty)
    finally:
        os._exit(status)


def command_inside(command: list[str]) -> list[str]:
    """The words that run `command` inside a new sandbox, for `subprocess`."""
    return [*programs.python("punchlab.lab.confinement.sandbox", isolated=True), *command]


@dataclass(frozen=True, slots=True)
class _Ends:
    """Descriptors of init: its ends of the pipes to the user's process, and the terminal."""

    tell: int
    orders: int
    stops: int
    tty: int | None

    def close(self) -> None:
        for descriptor in (self.tell, self.orders, self.stops, self.tty):
            if descriptor is not None:
                os.close(descriptor)


def _keep(parent: int, ends: _Ends, confined: Plan | None) -> None:
    """The keeper: make the namespaces, and wait for what runs in them. Returns only in the program."""
    try:
        os.setpgid(0, 0)  # what has the terminal, or can reach init, does not reach the caller's group
        _checked(_libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL), "prctl")
        if os.getppid() != parent:  # it ended before its death could be noticed
            os._exit(1)
        _make_namespaces()
        if confined is None:
            _make_private()
    except OSError as error:
        os.write(ends.tell, _explain(error).encode())
        os._exit(2)
    asked, answer = os.pipe()
    init = _fork()
    if init == 0:
        os.close(answer)
        _init(ends, asked, confined)
        return
    os.write(answer, b"1")
    _let_go_of_files(answer)
    _, status = os.waitpid(init, 0)
    os._exit(supervision.exit_status(status))


def _make_namespaces() -> None:
    own, group = os.geteuid(), os.getegid()
    if own == 0:
        _checked(_libc().unshare(_SPACES | _CLONE_NEWPID), "unshare")
    else:
        _checked(_libc().unshare(_SPACES | _CLONE_NEWPID | _CLONE_NEWUSER), "unshare")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {own} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    mounts.mount("none", "/", None, mounts.REC | mounts.PRIVATE)


def _make_private() -> None:
    """The private folders of a program that sees all of the file system."""
    mounts.mount("tmpfs", "/run", "tmpfs", options="mode=755")
    # Where multiprocessing keeps semaphores, which nobody removes after a kill.
    mounts.mount("tmpfs", "/dev/shm", "tmpfs", mounts.NOSUID | mounts.NODEV, "mode=1777")  # noqa: S108 - made private
    mounts.mount("sysfs", "/sys", "sysfs", mounts.NOSUID | mounts.NODEV | mounts.NOEXEC | mounts.READ_ONLY)
    # What a daemon of the lab tells syslog, or the console where there is none.
    for ear in ("/dev/log", "/dev/console"):
        if Path(ear).exists():
            mounts.mount("/dev/null", ear, None, mounts.BIND)
    Path("/run/lock").mkdir()


def _init(ends: _Ends, asked: int, confined: Plan | None) -> None:
    """PID 1 of the sandbox: set it up, fork the program, reap orphans. Returns only in the program."""
    try:
        _end_with_keeper(asked)
        outer = _outer_user()
        mounts.mount("proc", "/proc", "proc", mounts.NOSUID | mounts.NODEV | mounts.NOEXEC)
        if confined is not None:
            _confine(confined, asked)
        Path("/run/netns").mkdir()
        _bring_loopback_up()
        _MARKER.write_text(f"{_netns_inode()} {outer}")
    except OSError as error:
        os.write(ends.tell, _explain(error).encode())
        os._exit(2)
    os.close(asked)
    # Debian gives ordinary users a PATH without the folders where iptables, nft and tc are.
    folders = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = os.pathsep.join([*([folders] if folders else []), *_ADMINISTRATION])
    program = _fork()
    if program == 0:
        ends.close()
        os.setpgid(0, 0)
        return
    with contextlib.suppress(OSError):  # the program has done it, and is another one by now
        os.setpgid(program, program)
    os.write(ends.tell, _READY)
    _let_go_of_files(ends.orders, ends.stops, ends.tty)
    os._exit(supervision.serve(program, ends.orders, ends.stops, ends.tty))


def _end_with_keeper(asked: int) -> None:
    """Have the kernel kill this process when the keeper ends; end it if the keeper has ended already."""
    _checked(_libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL), "prctl")
    # The keeper writes one byte, and never closes its end while it lives.
    ready = select.poll()
    ready.register(asked, select.POLLIN)
    ((_descriptor, events),) = ready.poll()
    if events & select.POLLHUP:
        os._exit(1)


def _confine(planned: Plan, asked: int) -> None:
    """Give this process, which has a /proc of its own, the planned view, in a user namespace that cannot change it."""
    directory = os.getcwd()  # noqa: PTH109 - text
    _let_go_of_folders()
    processes = os.open("/proc", os.O_DIRECTORY | os.O_CLOEXEC)
    sysctls = mounts.clone("/proc/sys/net")
    flags = mounts.NOSUID | mounts.NODEV | mounts.NOEXEC | mounts.READ_ONLY
    # Root may write to /proc/sys/kernel without any capability: /proc is read-only, but for the sysctls of network
    # namespaces. A /proc that can be written must not be left, not even below another one.
    mounts.unmount("/proc")
    mounts.mount("proc", "/proc", "proc", flags)
    mounts.mount("sysfs", "/sys", "sysfs", flags)
    view.build("/run", planned, command=True)
    view.make_folder("/run", directory)  # which is not seen if it is that of no project
    mounts.change_root("/run")
    mounts.make_read_only("/")
    _enter_user_namespace(processes)
    os.close(processes)
    _end_with_keeper(asked)  # which the change of credentials undid
    _become_first_again()
    mounts.mount("proc", "/proc", "proc", flags)
    mounts.attach(sysctls, "/proc/sys/net")
    os.close(sysctls)
    os.chdir(directory)
    seen = view.environment(os.environ)
    os.environ.clear()
    os.environ.update(seen)
    privileges.gain_none(Kind.COMMAND)


def _let_go_of_folders() -> None:
    """Close descriptors of folders, which lead to all other files; a standard stream becomes /dev/null."""
    for number in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 - numbers
        with contextlib.suppress(OSError):  # that of the list itself
            if stat.S_ISDIR(os.fstat(number).st_mode):
                os.close(number)
                if number < 3:
                    os.open(os.devnull, os.O_RDWR)


def _become_first_again() -> None:
    """Go on as the first process of a PID namespace that belongs to this user namespace; the parent waits for it."""
    _checked(_libc().unshare(_CLONE_NEWPID), "unshare")
    first = _fork()
    if first != 0:
        # What is left of it in the sandbox can be used for nothing.
        _libc().prctl(_PR_SET_DUMPABLE, 0)
        privileges.gain_none(Kind.COMMAND)
        _let_go_of_files()
        os._exit(supervision.exit_status(os.waitpid(first, 0)[1]))
    _checked(_libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL), "prctl")


def _enter_user_namespace(processes: int) -> None:
    """A new user namespace with the same users, and namespaces that belong to it. `processes` is a writable /proc."""
    maps = {}
    for name in ("uid_map", "gid_map"):
        lines = [line.split() for line in Path("/proc/self", name).read_text().splitlines()]
        maps[name] = "\n".join(f"{inner} {inner} {count}" for inner, _outer, count in lines)
    entered, entering = os.pipe()
    own = os.getpid()
    mapper = _fork()
    if mapper == 0:
        # Only a process of the namespace above may map more than one user.
        status = 1
        try:
            os.read(entered, 1)
            for name, text in maps.items():
                with open(os.open(f"{own}/{name}", os.O_WRONLY, dir_fd=processes), "w") as file:  # noqa: PTH123
                    file.write(text)
            status = 0
        finally:
            os._exit(status)
    try:
        _checked(_libc().unshare(_SPACES | _CLONE_NEWUSER), "unshare")
    finally:
        os.write(entering, b"1")
        _pid, status = os.waitpid(mapper, 0)
        for descriptor in (entered, entering):
            os.close(descriptor)
    if status != 0:
        raise OSError(errno.EPERM, "the users of the user namespace cannot be mapped")


def _let_go_of_files(*kept: int | None) -> None:
    """Close what belongs to the program, so that its readers see the end of a stream when the program closes it."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    first = 3
    for each in sorted(each for each in kept if each is not None):
        os.closerange(first, each)
        first = each + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def _fork() -> int:
    with warnings.catch_warnings():
        # Threads of libraries, such as those of a linear algebra package, handle forks by themselves.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


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


def _outer_user() -> int:
    inner, outer, _count = map(int, Path("/proc/self/uid_map").read_text().split()[:3])
    return outer + os.geteuid() - inner


def _netns_inode() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def main(command: list[str]) -> NoReturn:
    """Run the command in a new sandbox in the place of this process. Does not return."""
    try:
        enter()
    except MissingCapabilityError as problem:
        print(f"punchlab: {problem}", file=sys.stderr)
        sys.exit(2)
    programs.replace(command)


if __name__ == "__main__":
    main(sys.argv[1:])
