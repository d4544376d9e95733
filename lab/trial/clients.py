"""The sender and the receiver of a trial: started in their hosts, watched, ended."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from punchlab.lab.client.contract import HOSTS, RECEIVER, SENDER, Speaker
from punchlab.lab.client.edges import PORT
from punchlab.lab.client.processes import EventProcess, end, wait_for
from punchlab.lab.confinement.view import Share
from punchlab.lab.errors import ClientError
from punchlab.lab.kernel.pressure import CpuPressure
from punchlab.lab.network import Network
from punchlab.lab.trial.options import TrialOptions
from punchlab.lab.trial.verdict import ClientRun

_START_S = 20.0
"""How long a client may take until it has registered."""

_START_MARGIN_S = 2.0
"""How far ahead a shared start is set: both clients must know each other by then."""

_BRISK_S = 0.5
"""Hosts that know each other have met by then, unless they cannot or their links are slow."""

_GRACE_S = 5.0
"""How much longer than the other one's deadline a client may live when its peer has ended."""


def punch(
    lab: Network, one: str, other: str, options: TrialOptions, sent: Path, inbox: Path, waiting: Callable[[], None]
) -> tuple[tuple[ClientRun, ClientRun], float | None]:
    """Run both clients until they end or their time is over: what each side did, and the CPU pressure (see `Trial`).

    `sent` is the file, `inbox` the folder for it; `waiting` is as for `lab.trial.trial.run`.
    """
    client = options.client
    values: dict[str, Any] = {
        "edge": f"ws://{lab.anycast}:{PORT}",
        "strategy": options.strategy,
        "deadline_s": options.deadline_s,
        "max_attempts": options.max_attempts,
        "relay": "--relay" if options.relay else None,
        "file": sent,
        "directory": inbox,
    }
    if not client.tells_code:
        values["code"] = secrets.token_hex(8)
    instants: tuple[float | None, float | None] = (None, None)
    if options.skew_s is not None:
        first = time.monotonic() + _START_MARGIN_S + 10 * lab.path(one, other).delay_s
        instants = (first + max(0.0, -options.skew_s), first + max(0.0, options.skew_s))
    commands = [
        client.command(role, values | {"start_at": instant}) for role, instant in zip(HOSTS, instants, strict=True)
    ]
    given = {SENDER: Share(str(sent)), RECEIVER: Share(str(inbox), writable=True)}
    processes: list[EventProcess] = []
    unstarted: dict[str, str] = {}
    share = None
    try:
        for role, host, words in zip(HOSTS, (one, other), commands, strict=True):
            reads_input = client.tells_code and role == RECEIVER
            speaker = Speaker(client.name, role, host)
            try:
                confined = client.view(role, [given[role]])
                processes.append(
                    EventProcess(
                        lab[host], words, client.function, speaker=speaker, reads_input=reads_input, confined=confined
                    )
                )
            except ClientError as error:
                unstarted[host] = str(error)
        if not unstarted:
            share = _watch(processes, lab.edge_network.processes if lab.edge_network else [], options, waiting)
        sides = {
            process.node.name: ClientRun(
                process.node.name,
                process.events,
                process.returncode,
                process.errors,
                process.contract_error,
                process.ended_s,
            )
            for process in processes
        }
    finally:
        end(processes)
    missing = {host: ClientRun(host, [], None, "", broken) for host, broken in unstarted.items()}
    return ((sides | missing)[one], (sides | missing)[other]), share


def _watch(
    processes: Sequence[EventProcess],
    edges: Sequence[EventProcess],
    options: TrialOptions,
    waiting: Callable[[], None],
) -> float | None:
    """Watch a sender and a receiver until both have ended, or waiting longer is of no use; the CPU pressure meanwhile.

    What the edges print is taken in as well, for one whose output nobody reads stops at some point.
    """
    sender, receiver = processes
    watched = [*processes, *edges]

    def until(condition: Callable[[], bool], limit: float) -> bool:
        """Wait for it, but not when one has ended; false when that took until the limit."""
        return wait_for(watched, lambda: _over(processes) or condition(), limit - time.monotonic())

    def said(event: str) -> bool:
        return all(process.first(event) is not None for process in processes)

    if options.client.tells_code:
        until(lambda: sender.first("code") is not None, time.monotonic() + _START_S)
        code = sender.first("code")
        if code is None:
            if sender.open and receiver.open:
                sender.fail(f"event 'code': none within {_START_S:g} s")
            elif sender.returncode == 0:
                sender.fail("event 'code': none before it ended")
            return None  # without a code there is nothing that the receiver could wait for
        receiver.write_line(str(code["code"]))
    limit = time.monotonic() + _START_S + options.deadline_s + options.transfer_s
    until(lambda: said("peer_known"), limit)
    pressure = CpuPressure()  # Python's own start is over: that is work, and no latency
    if not until(lambda: said("agreed"), time.monotonic() + _BRISK_S):
        waiting()
        until(lambda: said("agreed"), limit)
    share = pressure.share()
    if until(lambda: False, limit):
        # When one has ended, the other has its own deadline to come to the same.
        grace_s = options.deadline_s + _GRACE_S
        wait_for(watched, lambda: not any(each.open for each in processes) or _broken(processes), grace_s)
    return share


def _over(processes: Sequence[EventProcess]) -> bool:
    """Whether one of them has ended, or broken the contract."""
    return not all(process.open for process in processes) or _broken(processes)


def _broken(processes: Sequence[EventProcess]) -> bool:
    return any(process.contract_error is not None for process in processes)
