"""Start, watch and end the sender and the receiver of a trial."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from punchlab.lab.client.contract import HOSTS, RECEIVER, SENDER, Speaker
from punchlab.lab.client.edges import PORT
from punchlab.lab.client.processes import EventProcess, end, wait_for
from punchlab.lab.confinement.shares import Share
from punchlab.lab.errors import ClientError
from punchlab.lab.kernel.pressure import CpuPressure
from punchlab.lab.network import Network
from punchlab.lab.trial.options import TrialOptions
from punchlab.lab.trial.verdict import ClientRun

_START_S = 20.0
"""The maximum time until a client has registered."""

_START_MARGIN_S = 2.0
"""How far in the future a shared start is: both clients must know each other by then."""

_FAST_S = 0.5
"""Hosts that know each other are connected by then, unless they cannot connect or their links are slow."""

_GRACE_S = 5.0
"""How long a client may run after its peer has exited, in addition to the peer's deadline."""


def punch(
    lab: Network, one: str, other: str, options: TrialOptions, sent: Path, inbox: Path, waiting: Callable[[], None]
) -> tuple[tuple[ClientRun, ClientRun], float | None]:
    """Run both clients until they exit or time out. Return their runs and the CPU pressure (see `Trial`).

    `sent` is the file, `inbox` its target folder. `waiting` is that of `lab.trial.trial.run`.
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
        values["code"] = os.urandom(8).hex()
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
    """Watch a sender and a receiver until both have exited or time out. Return the CPU pressure meanwhile.

    This also reads the output of the edges, because an edge blocks when its pipe is full.
    """
    sender, receiver = processes
    watched = [*processes, *edges]

    def until(condition: Callable[[], bool], limit: float) -> bool:
        """Wait for the condition while all processes run. Return False after the time limit."""
        return wait_for(watched, lambda: _over(processes) or condition(), limit - time.monotonic())

    def both_printed(event: str) -> bool:
        return all(process.first(event) is not None for process in processes)

    if options.client.tells_code:
        until(lambda: sender.first("code") is not None, time.monotonic() + _START_S)
        code = sender.first("code")
        if code is None:
            if sender.open and receiver.open:
                sender.fail(f"event 'code': not received within {_START_S:g} s")
            elif sender.returncode == 0:
                sender.fail("event 'code': not received before the exit")
            return None  # without a code the receiver cannot start
        receiver.write_line(str(code["code"]))
    limit = time.monotonic() + _START_S + options.deadline_s + options.transfer_s
    until(lambda: both_printed("peer_known"), limit)
    pressure = CpuPressure()  # not during the start of Python, whose CPU use does not affect the measured times
    if not until(lambda: both_printed("agreed"), time.monotonic() + _FAST_S):
        waiting()
        until(lambda: both_printed("agreed"), limit)
    share = pressure.share()
    if until(lambda: False, limit):
        # When one has exited, the other may run until its own deadline.
        grace_s = options.deadline_s + _GRACE_S
        wait_for(watched, lambda: not any(each.open for each in processes) or _broken(processes), grace_s)
    return share


def _over(processes: Sequence[EventProcess]) -> bool:
    """Return whether a process has exited or violated the contract."""
    return not all(process.open for process in processes) or _broken(processes)


def _broken(processes: Sequence[EventProcess]) -> bool:
    return any(process.contract_error is not None for process in processes)
