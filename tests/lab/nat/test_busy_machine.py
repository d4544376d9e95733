"""A busy machine must not cause or hide a difference between a NAT and its claims."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from punchlab import Lab
from punchlab.lab.check import check, claims
from punchlab.lab.check.claims import Found
from punchlab.lab.cli.nat import NOT_TESTED_STATUS, status
from punchlab.lab.client.description import command
from punchlab.lab.client.edges import PORT, stun_addresses
from punchlab.lab.client.processes import EventProcess, wait_for
from punchlab.punch.nat.behavior import FilteringBehavior, MappingBehavior, NatBehavior, PortAllocation, Unsolicited
from punchlab.topologies import Home
from tests.commands import ROOT, punchlab

FULL_CONE, SYMMETRIC = (
    NatBehavior(mapping, filtering, PortAllocation.RANDOM, Unsolicited.DROP)
    for mapping, filtering in (
        (MappingBehavior.ENDPOINT_INDEPENDENT, FilteringBehavior.ENDPOINT_INDEPENDENT),
        (MappingBehavior.ADDRESS_AND_PORT_DEPENDENT, FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT),
    )
)
STOPPED_S, RUNNING_S = 2.3, 0.8
"""Longer than the timeout of an answer."""


@contextmanager
def stopped_now_and_then(
    signalled: Callable[[int], None], stopped_s: float = STOPPED_S, running_s: float = RUNNING_S
) -> Iterator[None]:
    """Stop and continue processes alternately with SIGSTOP and SIGCONT, as if they were not scheduled."""
    ended = threading.Event()

    def turns() -> None:
        while not ended.wait(running_s):
            signalled(signal.SIGSTOP)
            ended.wait(stopped_s)
            signalled(signal.SIGCONT)

    thread = threading.Thread(target=turns)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def blamed(found: Found) -> list[check.Row]:
    return [row for row in check.compare(FULL_CONE, found) if row.agrees is False]


def test_a_stopped_probe_reports_no_false_difference() -> None:
    with Lab(Home(nat=FULL_CONE)) as lab, check.probing_edge(lab) as url:
        check.see_internal_sources(lab["a"])
        process = lab["a"].popen(command(check.PROBE, {"edge": url}), stdout=subprocess.PIPE, text=True)
        with stopped_now_and_then(process.send_signal):
            output, _ = process.communicate(timeout=90)
    assert blamed(json.loads(output)) == []


def test_a_stopped_edge_causes_no_false_difference() -> None:
    with Lab(Home(nat=FULL_CONE)) as lab:
        check.see_internal_sources(lab["a"])
        node = lab.edges[0]
        edge = EventProcess(node, command(check.EDGE, {"listen": f"0.0.0.0:{PORT}", **stun_addresses(node)}))
        assert wait_for([edge], lambda: edge.first("listening") is not None, 30)
        url = f"ws://{node.address}:{PORT}"
        process = lab["a"].popen(command(check.PROBE, {"edge": url}), stdout=subprocess.PIPE, text=True)
        with stopped_now_and_then(lambda number: os.kill(edge.process.pid, number)):
            output, _ = process.communicate(timeout=90)
        edge.end()
    assert blamed(json.loads(output)) == []


def test_a_stopped_check_reports_no_false_difference_and_has_its_own_status() -> None:
    words = punchlab("nat", "check", "symmetric", "--json")
    with (
        subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True) as process,
        stopped_now_and_then(lambda number: os.killpg(process.pid, number), stopped_s=0.9, running_s=0.9),
    ):
        out, _ = process.communicate(timeout=300)
    found = json.loads(out)["symmetric"]
    assert [row for row in found["fields"] if row["agrees"] is False] == []
    untested = [row for row in found["fields"] if row["agrees"] is None]
    assert (found["agrees"], process.returncode) == ((None, 3) if untested else (True, 0))
    assert all(row["found"].startswith("not tested: ") for row in untested)


def found_behind(nat: NatBehavior, **untested: str) -> Found:
    """Return the report of a probe that observes everything but the `untested` fields of TCP."""
    found: dict[str, dict[str, object]] = {"udp": {"not_tested": {}}, "tcp": {"not_tested": untested}}
    for (transport, field), word in claims.claims(nat).items():
        if transport != "ip":
            found[transport][field] = None if transport == "tcp" and field in untested else word
    return {"translated": True, **found}


def test_untested_fields_have_their_own_status_and_are_null() -> None:
    fine = check.verdict(SYMMETRIC, found_behind(SYMMETRIC), None, {})
    silent = check.verdict(SYMMETRIC, found_behind(SYMMETRIC, mapping="the server does not answer"), None, {})
    different = check.verdict(SYMMETRIC, found_behind(FULL_CONE, mapping="the server does not answer"), None, {})
    assert [each.agrees for each in (fine, silent, different)] == [True, None, False]
    assert [row.field for row in silent.rows if row.agrees is None] == ["mapping"]
    assert (fine.untested, silent.untested) == (0, 1)
    assert status({"one": fine}) == 0
    assert status({"one": fine, "other": silent}) == NOT_TESTED_STATUS == 3
    assert status({"one": silent, "other": different}) == 1


def test_a_difference_is_reported() -> None:
    def other(nat: NatBehavior | None) -> Home:
        assert nat is not None
        return Home(nat=replace(SYMMETRIC, timeouts=nat.timeouts))

    checked = check.run({"it": FULL_CONE}, other, "a", jobs=1, progress=lambda _done, _total: None)["it"]
    wrong = {(row.transport, row.field) for row in checked.rows if row.agrees is False}
    assert wrong >= {("udp", "mapping"), ("tcp", "mapping"), ("udp", "filtering"), ("tcp", "filtering")}
    assert checked.agrees is False
