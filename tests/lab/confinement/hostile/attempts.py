"""What a hostile client tries. Each attempt returns what it achieved, in words; nothing if it was stopped.

Run as `python attempts.py ROLE MARK REPORT SIZE INBOX`: files that it makes have the mark in their names. The folder
of the report has `victims.json`, the paths of files and sockets of the machine; SIZE is that of the file that is sent.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import glob
import json
import os
import platform
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
MARK = "hostile"
VICTIMS: list[Path] = []
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000

Achieved = Iterator[str]


def refused() -> contextlib.AbstractContextManager[None]:
    return contextlib.suppress(OSError, subprocess.SubprocessError)


def folders() -> list[Path]:
    """Where a file could be left: folders of the machine, of the project, of other processes, and those on the way."""
    roots = [Path(path) for path in glob.glob("/proc/[0-9]*/root") + glob.glob("/proc/[0-9]*/cwd")]
    given = [folder for victim in VICTIMS for folder in victim.parents]
    system = [
        Path(word) for word in ("/", "/usr", "/usr/bin", "/etc", "/opt", "/var", "/dev", "/sys", "/proc", "/root")
    ]
    return [*system, *roots, *given, Path.cwd(), Path(sys.prefix), Path(sys.executable).parent]


def files_elsewhere() -> Achieved:
    private = os.stat("/run").st_dev
    for folder in folders():
        with refused():
            if os.stat(folder).st_dev == private:
                continue
            (folder / f"{MARK}-file").write_text("x")
            yield f"wrote into {folder}"


def victims_changed() -> Achieved:
    for victim in VICTIMS:
        with refused():
            os.chmod(victim, 0o777)
            yield f"changed the mode of {victim}"
        with refused():
            victim.unlink()
            yield f"removed {victim}"
        with refused(), open(victim, "a") as file:
            file.write("x")
            yield f"appended to {victim}"
        with refused():
            os.rename(victim, victim.with_name(f"{MARK}-renamed"))
            yield f"renamed {victim}"


def sockets_of_the_machine() -> Achieved:
    abstract = [f"\0{MARK}"]
    for path in [*map(str, VICTIMS), *glob.glob("/run/**/*", recursive=True), *abstract]:
        with refused(), socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(1)
            channel.connect(path)
            yield f"connected to {path!r}"
    if hasattr(socket, "AF_VSOCK"):
        with refused():
            socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
            yield "has a socket to the host of the virtual machine"


def links() -> Achieved:
    own = {name for _index, name in socket.if_nameindex()}
    for name in os.listdir("/sys/class/net"):
        if name not in own:
            yield f"sees the link {name}"
        with refused():
            (Path("/sys/class/net") / name / "mtu").write_text("1400")
            yield f"changed the MTU of {name}"
    for name in own:
        done = subprocess.run(["ip", "link", "set", name, "mtu", "1400"], capture_output=True, check=False)
        if done.returncode == 0:
            yield f"changed the MTU of {name} by netlink"


def sysctls() -> Achieved:
    for path in ("kernel/panic", "kernel/core_pattern", "kernel/hostname", "vm/swappiness", "net/ipv4/ip_forward"):
        file = Path("/proc/sys") / path
        with refused():
            value = file.read_text()
            file.write_text(value)
            yield f"wrote the sysctl {path}"
    with refused():
        Path("/proc/sysrq-trigger").write_text("h")
        yield "wrote to sysrq"
    with refused():
        socket.sethostname(MARK)
        yield "changed the name of the machine"


def mounts() -> Achieved:
    for path in ("/proc", "/sys", "/run", "/tmp", "/usr", "/dev/null", "/"):
        if libc.umount2(path.encode(), 2) == 0:
            yield f"unmounted {path}"
        if libc.mount(b"none", path.encode(), None, ctypes.c_ulong(32 | 4096), None) == 0:  # remount, bind
            yield f"remounted {path}"
        if libc.mount(b"none", path.encode(), b"tmpfs", 0, None) == 0:
            yield f"mounted over {path}"
    with refused():
        os.chroot("/run")
        yield "changed its root"


def user_namespaces() -> Achieved:
    for flags in (CLONE_NEWUSER, CLONE_NEWUSER | CLONE_NEWNS, CLONE_NEWNS, CLONE_NEWNET, 0x02000000):
        child = os.fork()
        if child == 0:
            os._exit(0 if libc.unshare(flags) == 0 else 1)
        if os.waitpid(child, 0)[1] == 0:
            yield f"made namespaces {flags:#x}"


def namespaces_of_others() -> Achieved:
    own = {os.stat(path).st_ino for path in glob.glob("/proc/self/ns/*")}
    for path in glob.glob("/proc/[0-9]*/ns/*") + glob.glob("/run/netns/*"):
        with refused():
            descriptor = os.open(path, os.O_RDONLY)
            if os.fstat(descriptor).st_ino not in own and libc.setns(descriptor, 0) == 0:
                yield f"joined {path}"
            os.close(descriptor)


def processes_of_others() -> Achieved:
    own = os.getpid()
    for pid in range(1, 40_000):
        if pid == own:
            continue
        seen = ""
        with refused():
            seen = Path(f"/proc/{pid}/status").read_text()
        with refused():
            os.kill(pid, signal.SIGKILL)
            if pid > 1:  # the kernel keeps this from the first process of its namespace
                yield f"killed {pid} {seen}"
    for pid in (1, os.getppid()):
        if libc.ptrace(16, ctypes.c_long(pid), None, None) == 0:  # PTRACE_ATTACH
            yield f"traces {pid}"
        with refused(), open(f"/proc/{pid}/mem", "rb"):
            yield f"reads the memory of {pid}"
        with refused():
            os.listdir(f"/proc/{pid}/root/")
            yield f"sees the root of {pid}"


def devices() -> Achieved:
    for number, name in enumerate(("b 8 0", "b 254 0", "c 1 1", "c 10 200")):
        kind, major, minor = name.split()
        mode = stat.S_IFBLK if kind == "b" else stat.S_IFCHR
        with refused():
            path = f"/run/home/node{number}"
            os.mknod(path, 0o600 | mode, os.makedev(int(major), int(minor)))
            yield f"made the device {name}"
    for path in ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"):
        with refused():
            os.chmod(path, 0o666)
            yield f"changed the mode of {path}"
    for path in glob.glob("/dev/**/*", recursive=True):
        with refused():
            if stat.S_ISBLK(os.stat(path).st_mode):
                yield f"sees the disk {path}"
    with refused():
        os.close(os.open("/dev/tty", os.O_RDWR))
        yield "has a terminal"


def system_calls() -> Achieved:
    calls = {"add_key": 248, "keyctl": 250, "bpf": 321, "perf_event_open": 298, "open_by_handle_at": 304, "reboot": 169}
    arguments = {"add_key": (b"user", MARK.encode(), b"x", 1, -4), "keyctl": (0, -4, 1)}  # the keyring of the user
    for name, number in calls.items() if X86 else ():
        # Others end in EFAULT or EINVAL if the kernel goes as far as to look at the arguments.
        ctypes.set_errno(0)
        if libc.syscall(number, *arguments.get(name, (0, 0, 0, 0, 0))) >= 0 or ctypes.get_errno() != 1:
            yield f"may call {name} ({os.strerror(ctypes.get_errno())})"
    with refused():
        time.clock_settime(time.CLOCK_REALTIME, time.time())
        yield "set the clock"
    with refused():
        os.nice(-1)
        yield "goes before others"


def sockets_for_modules() -> Achieved:
    """Sockets for which the kernel would load a module, and its news of devices."""
    udplite, generic, uevents = (2, 2, 136), (16, 3, 16), (16, 3, 15)
    for kind in (udplite, (10, 2, 136), (2, 2, 115), generic, uevents, (16, 3, 12)):
        with refused():
            socket.socket(*kind).close()
            yield f"has a socket {kind}"
    with refused():
        socket.socketpair(socket.AF_INET)
        yield "has a pair of sockets"
    with socket.socket() as channel:
        for request in (0x8940, 0x8982):  # SIOCGIFBR, SIOCGIFVLAN
            try:
                fcntl.ioctl(channel, request, bytes(64))
            except OSError as error:
                if error.errno == errno.EPERM:
                    continue
            yield f"asked for the module of {request:#x}"


def leases() -> Achieved:
    """Have other programs wait until they may open a file."""
    for path in ("/etc/passwd", "/usr/bin/env", *map(str, VICTIMS)):
        with refused(), open(path, "rb") as file:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            yield f"got a lease of {path}"
    with refused():
        folder = os.open("/usr/bin", os.O_RDONLY)
        fcntl.fcntl(folder, fcntl.F_NOTIFY, fcntl.DN_ACCESS)
        yield "is notified of what others read"


def memory_of_others() -> Achieved:
    if libc.shmget(0x70756E63, 1, 0) >= 0:
        yield "has a segment of shared memory of the machine"
    libc.mq_open.restype = ctypes.c_int
    with contextlib.suppress(AttributeError):
        if libc.mq_open(f"/{MARK}".encode(), os.O_RDONLY) >= 0:
            yield "has a message queue of the machine"


def privileges() -> Achieved:
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    more = int(status["CapBnd"], 16) | int(status["CapPrm"], 16)
    allowed = sum(1 << each for each in (0, 1, 3, 4, 5, 6, 7, 10, 13))
    if more & ~allowed:
        yield f"has the capabilities {more & ~allowed:#x}"
    if status["NoNewPrivs"].strip() != "1":
        yield "can gain privileges"
    strange = [name for name in os.listdir("/proc/self/fd") if int(name) > 3]
    if strange:
        yield f"has the descriptors {strange}"


def secrets_of_the_user() -> Achieved:
    if os.environ["HOME"] != "/run/home":
        yield f"has the HOME {os.environ['HOME']}"
    for folder in ("/root", "/home"):
        for name in (".ssh", ".bash_history", ".profile", ".gnupg", ".config"):
            if os.path.exists(f"{folder}/{name}"):
                yield f"sees {folder}/{name}"


def file_of_the_other_role(size: int) -> Achieved:
    """For the receiver: find the file that is being sent, anywhere."""
    for root in ("/run", "/tmp", *glob.glob("/proc/[0-9]*/cwd"), *glob.glob("/proc/[0-9]*/root/run")):
        for folder, _names, files in os.walk(root):
            for name in files:
                path = os.path.join(folder, name)
                with refused():
                    if os.path.getsize(path) == size:
                        yield f"found {path}"


def too_much() -> Achieved:
    """Fill its private folders."""
    written = 0
    with refused(), open("/run/home/big", "wb") as file:
        while written < 4 << 30:
            written += file.write(bytes(1 << 24))
        yield f"wrote {written} bytes"
    with refused():
        os.remove("/run/home/big")


def core_of_its_own() -> Achieved:
    child = os.fork()
    if child == 0:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        os.abort()
    status = os.waitpid(child, 0)[1]
    if os.WCOREDUMP(status):
        yield "left a core"


ATTEMPTS: tuple[Callable[[], Achieved], ...] = (
    *(files_elsewhere, victims_changed, sockets_of_the_machine, links, sysctls, mounts, user_namespaces),
    *(namespaces_of_others, devices, system_calls, memory_of_others, privileges, secrets_of_the_user, too_much),
    *(sockets_for_modules, leases, core_of_its_own, processes_of_others),
)


def daemon() -> None:
    """Leave a process that ignores signals, with a session of its own."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            os.execvp("sleep", ["sleep", f"1000.{int.from_bytes(MARK.encode(), 'big')}"])
        os._exit(0)


def main(role: str, mark: str, report: str, size: str, inbox: str) -> None:
    global MARK
    MARK = mark
    VICTIMS.extend(map(Path, json.loads((Path(report) / "victims.json").read_text())))
    print(json.dumps({"event": "listening"}), flush=True)
    achieved: dict[str, list[str]] = {}
    for attempt in ATTEMPTS:
        try:
            achieved[attempt.__name__] = list(attempt())
        except Exception as error:  # of the attempt itself: it proves nothing, so it must be seen
            achieved[attempt.__name__] = [f"{type(error).__name__}: {error}"]
    if role == "receive":
        achieved["file_of_the_other_role"] = list(file_of_the_other_role(int(size)))
        os.symlink(Path(inbox).parent / "sent.bin", Path(inbox) / "sent.bin")
    daemon()
    (Path(report) / f"{role}.json").write_text(json.dumps(achieved))
    while role == "edge" or not (Path(report) / "edge.json").exists():
        time.sleep(0.05)
    print(json.dumps({"event": "done"}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
