"""Verdicts that follow the evidence, one fault at a time: claims of clients, and what happened to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from punchlab.lab.client.description import PUNCH
from punchlab.lab.lab import Lab
from punchlab.lab.trial import trial as trials
from punchlab.lab.trial.trial import Trial
from punchlab.topologies import AB
from tests.lab.trial.verdicts.generate import Case
from tests.lab.trial.verdicts.plan import Plan
from tests.lab.trial.verdicts.running import run, toy

CONES = ("full_cone", "full_cone")
Happening = Callable[[Lab], object]


@pytest.mark.parametrize("word", ["silent", "peer", "boast"])
def test_an_idle_connection_in_addition_to_a_relay_is_not_direct(word: str, tmp_path: Path) -> None:
    case = Case("idle", Plan(path="idle", word=word), ("none", "port_restricted_cone"), trial={"deadline_s": 1.5})
    trial, counts, _took = run(case, tmp_path)
    assert counts.direct < 100
    assert counts.relayed > case.size
    assert (trial.outcome, trial.agrees, trial.connected, trial.transferred) == ("relayed", None, True, True)


@pytest.mark.parametrize(("nats", "word"), [(("symmetric", "symmetric"), "honest"), (CONES, "silent")])
def test_a_relayed_file_is_relayed_without_the_event_agreed(nats: tuple[str, str], word: str, tmp_path: Path) -> None:
    trial, counts, _took = run(Case("relay", Plan(path="relay", word=word), nats), tmp_path)
    assert not any(side.last("agreed") for side in trial.sides)
    assert (counts.direct, counts.punches) == (0, 0)
    assert (trial.outcome, trial.agrees, trial.connected) == ("relayed", None, False)


@pytest.mark.parametrize(("dialler", "hanger"), [("receiver", "sender"), ("sender", "receiver")])
def test_a_rejection_counts_although_the_other_side_still_waits(dialler: str, hanger: str, tmp_path: Path) -> None:
    plan = Plan(dials=dialler, stage="known", death="hang", who=hanger)
    trial, counts, _took = run(Case("refused", plan, trial={"deadline_s": 0.5}), tmp_path)
    assert counts.refused
    statuses = dict(zip(("sender", "receiver"), [side.returncode for side in trial.sides], strict=True))
    assert statuses == {hanger: None, dialler: 1}
    assert trial.outcome == "refused"


def test_an_unknown_transport_has_no_agreement(tmp_path: Path) -> None:
    options = {"unsolicited": "reset", "delay": "0ms"}
    nats = ("port_restricted_cone", "port_restricted_cone")
    once = {"max_attempts": 1, "skew_s": 1.0}
    trial, counts, _took = run(Case("UDP", Plan(path="udp"), nats, options=options, trial=once), tmp_path)
    assert counts.direct > 64 * 1024
    assert trial.prediction.outcome == "fails"
    assert (trial.outcome, trial.agrees) == ("direct", None)


@pytest.mark.parametrize("plan", [Plan(path="third"), Plan(place="third", dials="receiver")], ids=["relay", "router"])
def test_a_connection_with_a_third_host_is_no_punch(plan: Plan, tmp_path: Path) -> None:
    trial, counts, _took = run(Case("third", plan, CONES, "three"), tmp_path)
    assert (counts.direct, counts.punches) == (0, 0)
    assert (trial.outcome, trial.connected, trial.transferred) == ("client_error", False, True)
    assert trial.agrees is None


def test_a_transfer_that_times_out_is_a_successful_punch(tmp_path: Path) -> None:
    slow = {"deadline_s": 0.5, "transfer_s": 0.5}
    case = Case("slow", Plan(), CONES, options={"bw": 0.5, "loss": 5}, trial=slow, size=3 << 20)
    trial, counts, _took = run(case, tmp_path)
    assert 0 < counts.direct < case.size
    assert (trial.outcome, trial.connected, trial.transferred) == ("direct", True, False)


def blocked(host: str, *rule: str) -> Happening:
    def block(lab: Lab) -> None:
        nat = f"nat_{host}"
        lab[nat].run(["iptables", "-I", "FORWARD", "-i", f"{nat}-eth1", "-p", "tcp", *rule, "-j", "DROP"])

    return block


def on_the_edges(name: str) -> Happening:
    def happen(lab: Lab) -> None:
        assert lab.edge_network is not None
        getattr(lab.edge_network, name)("edge1")

    return happen


NO_RENDEZVOUS: dict[str, Happening] = {
    "the edge hangs": on_the_edges("freeze"),
    "the edge is killed": on_the_edges("kill"),
    "the sender cannot reach the edge": blocked("a", "--dport", "7000"),
    "the receiver cannot reach the edge": blocked("b", "--dport", "7000"),
    "the sender's access link is down": lambda lab: lab.nat("a").link_down(),
    "the receiver's own link is down": lambda lab: lab.link("b", "nat_b").down(),
}


@pytest.mark.parametrize(
    ("client", "happening"),
    [
        *(("punch", each) for each in NO_RENDEZVOUS),
        ("toy", "the edge hangs"),
        ("toy", "the sender's access link is down"),
    ],
)
def test_without_an_edge_there_is_no_rendezvous(happening: str, client: str, tmp_path: Path) -> None:
    trial = one_trial(NO_RENDEZVOUS[happening], client, tmp_path)
    assert trial.outcome == "no_rendezvous", trial.reason
    assert trial.reason
    assert not trial.transferred
    assert trial.agrees is None


@pytest.mark.parametrize("client", ["toy", "punch"])
def test_a_firewall_that_passes_only_the_edges_port_fails_the_punch(client: str, tmp_path: Path) -> None:
    only_the_edge = blocked("a", "!", "--dport", "7000", "-m", "conntrack", "--ctstate", "NEW")
    nats = ("port_restricted_cone", "port_restricted_cone")
    trial = one_trial(only_the_edge, client, tmp_path, nats)
    assert trial.outcome == "punch_timeout", trial.reason
    assert not trial.connected


def one_trial(happening: Happening, client: str, folder: Path, nats: tuple[str, str] = CONES) -> Trial:
    """Run a trial in a lab whose edges already run when something happens."""
    with Lab(AB(*nats)) as lab:
        chosen = toy(Plan(), folder) if client == "toy" else PUNCH
        trials.edge_network(lab, chosen).wait()
        happening(lab)
        return lab.punch("a", "b", client=chosen, strategy=chosen.strategies[0], deadline_s=1.0)
