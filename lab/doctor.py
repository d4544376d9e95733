"""Check inside a sandbox which capabilities this machine has, and report how to get the missing ones."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from punchlab.lab.confinement import sandbox
from punchlab.lab.errors import LabError, MissingCapabilityError
from punchlab.lab.kernel import programs
from punchlab.lab.nat.portmapping import DAEMON
from punchlab.punch.text import printable

_APT = "apt-get install"
_REFUSED = "punchlab: sandbox: "
_PATIENCE_S = 10.0
_OPTIONAL = (DAEMON, "nats-server", "mnexec", "tshark")


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: whether the capability was found, details, how to get it, and whether a lab needs it."""

    name: str
    found: bool
    detail: str
    remedy: str = ""
    needed: bool = True

    def __str__(self) -> str:
        mark = "found  " if self.found else ("MISSING" if self.needed else "missing")
        line = f"{mark}  {self.name:18} {self.detail}"
        return printable(line if self.found or not self.remedy else f"{line}; to get it: {self.remedy}")


def examine() -> list[Finding]:
    """Return all findings. The checks run inside a sandbox, because most of them need a network namespace."""
    command = sandbox.command_inside(programs.python("punchlab.lab.doctor"))
    inner = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    who = "as root" if os.geteuid() == 0 else "as an ordinary user, in a user namespace"
    reason = (inner.stderr.strip().splitlines() or ["no reason given"])[-1]
    if inner.returncode != 0 and reason.startswith(_REFUSED):
        detail, _, remedy = reason.removeprefix(_REFUSED).partition("; ")
        return [Finding("sandbox", False, detail, remedy)]
    findings = [Finding("sandbox", True, f"network, mount and PID namespaces, {who}")]
    if inner.returncode != 0:
        return [*findings, Finding("examination", False, f"exited with status {inner.returncode}: {reason}")]
    return findings + [Finding(**fields) for fields in json.loads(inner.stdout)]


def _examine_inside() -> list[Finding]:
    def optional(name: str, words: Sequence[str], package: str, why: str) -> Finding:
        return _command(name, words, f"{_APT} {package}", needed=False, why=why)

    checks: Mapping[str, Callable[[], Finding]] = {
        "iptables": _iptables,
        "nft": lambda: _command("nft", ["nft", "list", "ruleset"], f"{_APT} nftables"),
        "conntrack": _conntrack,
        "netem": lambda: _impairment("netem", needed=not _works("nfqueue")),
        "nfqueue": lambda: _impairment("nfqueue", needed=not _works("netem")),
        "scapy capture": _capture,
        "confinement": _confinement,
        DAEMON: _port_mapper,
        "nats-server": lambda: optional(
            "nats-server", ["nats-server", "--version"], "nats-server", "only for edges with `--bus nats`"
        ),
        "mnexec": lambda: optional("mnexec", ["mnexec", "true"], "mininet", "only to run topologies under `mn`"),
        "tshark": lambda: optional("tshark", ["tshark", "--version"], "tshark", "only to inspect captures"),
    }
    return [_found(name, check) for name, check in checks.items()]


def _found(name: str, check: Callable[[], Finding]) -> Finding:
    """Run a check. An exception becomes a finding, so that the other checks still run."""
    try:
        return check()
    except Exception as error:
        return Finding(name, False, f"{type(error).__name__}: {error}", needed=name not in _OPTIONAL)


def _iptables() -> Finding:
    remedy = f"{_APT} iptables"
    if programs.find("iptables") is None:
        return Finding("iptables", False, _why_not("iptables"), remedy)
    version = _output("iptables", "--version")
    rules = (
        "-t nat -A POSTROUTING -p tcp -j SNAT --to-source 11.0.0.2:1024-65535 --random-fully",
        "-A INPUT -p tcp -j REJECT --reject-with tcp-reset",
        "-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT",
        "-t mangle -A FORWARD -m mark --mark 1 -j ACCEPT",
    )
    for rule in rules:
        done = subprocess.run(
            ["iptables", *rule.split()], capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode != 0:
            words = done.stderr.strip().splitlines()[0]
            return Finding("iptables", False, f"{version}: {words}", "modprobe iptable_nat xt_nat xt_conntrack xt_mark")
    return Finding("iptables", True, version)


def _conntrack() -> Finding:
    def flush() -> str:
        import pyroute2

        from punchlab.lab.kernel import namespace, running, sysctl

        (made,) = namespace.create(1)
        running.flush_connections(made, "doctor")
        with made.entered():
            loose = sysctl.read("net/netfilter/nf_conntrack_tcp_loose")
        made.close()
        if loose is None:
            raise LabError("the kernel has no sysctl nf_conntrack_tcp_loose")
        return f"tcp_loose is {loose}, one per namespace; pyroute2 {pyroute2.__version__}"

    return _attempt("conntrack", flush, "modprobe nf_conntrack nf_conntrack_netlink")


def _impairment(name: str, *, needed: bool) -> Finding:
    found = _works(name)
    remedies = {"netem": "modprobe sch_netem", "nfqueue": "modprobe nfnetlink_queue xt_NFQUEUE"}
    detail = "delays, drops and shapes packets" if found else "this kernel does not support it"
    return Finding(name, found, detail, remedies[name], needed=needed)


def _works(name: str) -> bool:
    from punchlab.lab import impair

    try:
        impair.choose(name)
    except MissingCapabilityError:
        return False
    return True


def _capture() -> Finding:
    def listen() -> str:
        import scapy

        from punchlab.lab.capture.frame import CapturePoint
        from punchlab.lab.capture.recorder import Recorder
        from punchlab.lab.kernel import namespace

        (made,) = namespace.create(1)
        with Recorder([CapturePoint(made, "probe", "lo")]) as recorder:
            recorder.stop()
        made.close()
        return f"scapy {scapy.VERSION}"

    return _attempt("scapy capture", listen, f"{_APT} libpcap0.8")


def _confinement() -> Finding:
    def confine() -> str:
        import tempfile

        from punchlab.lab.confinement.shares import Plan
        from punchlab.lab.kernel import namespace
        from punchlab.lab.process import forked

        (made,) = namespace.create(1)
        with tempfile.TemporaryFile() as errors:
            process = forked.start(None, ["true"], made, errors, Plan())
            status = process.wait(_PATIENCE_S)
            process.end_namespace()
        made.close()
        if status != 0:
            raise LabError(f"a confined program exited with status {status}")
        return "each client has its own mount, PID and IPC namespaces"

    return _attempt("confinement", confine, "Linux 5.12 or later")


def _port_mapper() -> Finding:
    from punchlab.lab.nat.portmapper import require

    why = "only for NATs with port mapping"
    try:
        require()
    except MissingCapabilityError as error:
        detail, _, remedy = str(error).partition("; ")
        return Finding(DAEMON, False, f"{detail.removeprefix(f'{DAEMON}: ')} ({why})", remedy, needed=False)
    return Finding(DAEMON, True, f"works ({why})")


def _attempt(name: str, action: Callable[[], str], remedy: str) -> Finding:
    try:
        return Finding(name, True, action())
    except Exception as error:  # any exception is the finding
        return Finding(name, False, f"{type(error).__name__}: {error}", remedy)


def _command(name: str, words: Sequence[str], remedy: str, *, needed: bool = True, why: str = "") -> Finding:
    note = f" ({why})" if why else ""
    if programs.find(words[0]) is None:
        return Finding(name, False, f"{_why_not(words[0])}{note}", remedy, needed)
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        return Finding(name, False, (done.stderr.strip().splitlines() or ["no reason given"])[0], remedy, needed)
    return Finding(name, True, f"works{note}")


def _why_not(program: str) -> str:
    status, reason = programs.explain(program)
    return "not installed" if status == programs.NOT_FOUND else reason


def _output(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, errors="replace", check=False).stdout.strip()


if __name__ == "__main__":
    print(json.dumps([asdict(finding) for finding in _examine_inside()]))
