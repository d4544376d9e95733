"""The script of every preset, run by `sh` in a namespace without rules, creates a NAT that passes the check."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from punchlab import Lab
from punchlab.lab.check import check
from punchlab.lab.check.claims import Found
from punchlab.lab.check.clock import shortened
from punchlab.lab.check.examine import Observed, examine, read_back
from punchlab.lab.nat import presets
from punchlab.lab.nat.rules import rules
from punchlab.lab.nat.script import script
from punchlab.punch.nat.behavior import NatBehavior, Unsolicited
from tests.lab.nat.street import BareStreet, probe_all

NATS = {name: preset.behavior for name, preset in presets.PRESETS.items() if preset.behavior is not None}
AT_A_TIME = 14


def run_script(lab: Lab, number: int, name: str, nat: NatBehavior) -> None:
    router = lab[f"r{number}"]
    outside, inside = (each.name for each in router.graph.interfaces)
    assert router.run(["nft", "list", "ruleset"]).stdout == ""
    router.run(["sh"], stdin=script(name, nat, inside=inside, outside=outside, address=router.address))


def examined(name: str, nat: NatBehavior) -> Observed:
    quick = shortened(nat.timeouts, None)
    with Lab(BareStreet(nats=[nat])) as lab:
        run_script(lab, 0, name, replace(nat, timeouts=quick))
        return examine(lab, "h0", quick)


def test_every_script_creates_a_nat_that_passes_the_check() -> None:
    hosts = dict(zip(NATS, (f"h{number}" for number in range(len(NATS))), strict=True))
    with Lab(BareStreet(nats=list(NATS.values()))) as lab:
        for number, (name, nat) in enumerate(NATS.items()):
            run_script(lab, number, name, nat)
        found: dict[str, Found] = dict(zip(NATS, probe_all(lab, list(hosts.values())).values(), strict=True))
        timeouts = {name: read_back(lab[f"r{number}"]) for number, name in enumerate(NATS)}
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        seen = dict(zip(NATS, pool.map(examined, NATS.keys(), NATS.values()), strict=True))

    wrong, helped = {}, []
    for name, nat in NATS.items():
        expected = nat
        if rules(nat, inside="lan0", outside="wan0", address="11.0.0.1").helpers:
            # Only the helper's task is exempt: without it, SYNs are silently dropped.
            helped.append(name)
            expected = replace(nat, unsolicited=Unsolicited.DROP)
        silent = presets.PRESETS[name].not_claimed
        checked = check.verdict(expected, found[name], seen[name], timeouts[name], silent)
        wrong[name] = [row for row in checked.rows if not row.agrees]
    assert wrong == {name: [] for name in NATS}
    assert helped == ["rfc_ideal"]
