"""The facts in docs/running-an-edge.md are correct."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from punchlab.punch.cli import main
from punchlab.punch.edge.limits import Limits
from punchlab.punch.edge.memory import MOST
from punchlab.punch.edge.metrics import COUNTERS
from punchlab.punch.edge.relay import RelayTerms

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "running-an-edge.md").read_text()


def help_of_edge(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        main(["edge", "--help"])
    return capsys.readouterr().out


def test_the_options_on_the_page_exist(capsys: pytest.CaptureFixture[str]) -> None:
    help_text = help_of_edge(capsys)
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", PAGE)) - {"--edge"}
    assert used
    assert {option for option in used if option not in help_text} == set()


def test_the_commands_on_the_page_are_valid_up_to_the_certificate(capsys: pytest.CaptureFixture[str]) -> None:
    commands = re.findall(r"(?:^|ExecStart=\S*/)punch (edge .*)$", PAGE, flags=re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert main(command.replace("/etc/punch-edge", "/nowhere").split()) == 2
        assert capsys.readouterr().err.startswith("punch: tls-cert: '/nowhere/cert.pem' cannot be used")


def test_the_page_lists_all_metrics() -> None:
    rows = PAGE.split("| metric (`punch_edge_…`) | meaning |")[1].split("\n\n")[0]
    named = {name for row in rows.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    gauges = {"connections", "pending", "clients", "sessions", "links", "addresses"}
    assert named == gauges | {f"{name}_total" for name, _, _ in COUNTERS.values()}


def test_the_limits_on_the_page_are_the_defaults() -> None:
    found = dict(re.findall(r"^\| `--([a-z-]+)` \| ([0-9,]+)", PAGE, flags=re.MULTILINE))
    limits, terms = Limits(), RelayTerms()
    assert {name: int(value.replace(",", "")) for name, value in found.items()} == {
        "max-connections": MOST,
        "max-connections-per-address": limits.connections,
        "max-clients-per-address": limits.registrations,
        "connection-rate": limits.connection_rate,
        "frame-rate": limits.frame_rate,
        "relay-rate": terms.rate / 1000,
        "relay-megabytes": terms.most_bytes / 1e6,
        "relay-idle": terms.idle_s,
        "relay-lifetime": terms.lifetime_s,
        "session-lifetime": 600,
    }


def test_the_readme_links_to_the_page() -> None:
    assert "(docs/running-an-edge.md)" in (ROOT / "README.md").read_text()
