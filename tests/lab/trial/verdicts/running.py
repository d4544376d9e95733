"""Run the toy in a lab during an independent capture."""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from punchlab.lab.client.description import Client
from punchlab.lab.lab import Lab
from punchlab.lab.trial.trial import Trial
from tests.commands import ROOT
from tests.lab.trial.verdicts.capture import Wiretap
from tests.lab.trial.verdicts.count import Counts, count
from tests.lab.trial.verdicts.generate import Case
from tests.lab.trial.verdicts.plan import Plan
from tests.lab.trial.verdicts.worlds import places, topology

_TOY = ("env", f"PYTHONPATH={ROOT}", "{python}", "-S", "-m", "tests.lab.trial.verdicts.toy")
_FAST_OPEN = "net.ipv4.tcp_fastopen=519"
"""Client and server without cookies: the first SYN already has data."""


def toy(plan: Plan, log: Path) -> Client:
    """Return the toy with that plan."""
    words = ("code={code}", "edge={edge}", "deadline={deadline_s}", f"plan={plan}", f"log={log}")
    return Client(
        name="toy",
        edge=(*_TOY, "edge", "{listen}"),
        sender=(*_TOY, "send", "file={file}", *words),
        receiver=(*_TOY, "receive", "file={directory}", *words),
        strategies=("toy",),
        tells_code=False,
        writes=(str(log),),
    )


def run(case: Case, folder: Path) -> tuple[Trial, Counts, float]:
    """Return the trial, tshark's counts, and the duration."""
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(topology(case)))
        plan = case.plan
        if plan.path == "third":
            plan = _with_third_host(plan, lab)
        if plan.place == "third":
            plan = _with_third_host_as_router(plan, lab)
        if plan.fast:
            for host in "ab":
                lab[host].run(["sysctl", "-qw", _FAST_OPEN])
        where = places(lab)
        log = folder / "log"
        log.mkdir()
        with Wiretap(lab, ["a", "b", *dict.fromkeys(where.nats.values())], folder) as wiretap:
            started = time.monotonic()
            options = {**case.trial, "file_size": case.size}
            trial = lab.punch("a", "b", client=toy(plan, log), strategy="toy", **options)
            took = time.monotonic() - started
        assert not _left_behind(folder), "processes outlive the trial"
        return trial, count(wiretap.packets(), where), took


def _with_third_host(plan: Plan, lab: Lab) -> Plan:
    """Return the plan with an edge of the toy on the third host."""
    command = [
        "env",
        f"PYTHONPATH={ROOT}",
        "python3",
        "-S",
        "-m",
        "tests.lab.trial.verdicts.toy",
        "edge",
        "0.0.0.0:9000",
    ]
    third = lab["c"].popen(command, stdout=subprocess.PIPE, text=True)
    assert third.stdout is not None
    assert "listening" in third.stdout.readline()
    return replace(plan, third=lab["c"].address)


def _with_third_host_as_router(plan: Plan, lab: Lab) -> Plan:
    """Return the plan with the third host forwarding every received segment to the sender."""
    third = lab["c"]
    sender = places(lab).sender.found
    (public,) = sender if len(sender) == 1 else sender - places(lab).sender.own
    third.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
    third.run(["iptables", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "-j", "DNAT", "--to", public])
    third.run(["iptables", "-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE"])
    return replace(plan, third=third.address)


def _left_behind(folder: Path) -> list[str]:
    """Return the command lines of toys of this trial that still run, identified by the folder's name."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes()
        except OSError:
            continue
        if f"log={folder}".encode() in words:
            found.append(words.decode(errors="replace"))
    return found
