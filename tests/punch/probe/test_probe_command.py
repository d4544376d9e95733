"""`punch probe` as a user runs it, without a NAT; the tests of the lab run it behind NATs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.commands import assert_one_clear_line, run
from tests.punch.probe.ports import fresh_ports

PUNCH = [sys.executable, "-m", "punchlab.punch"]


@pytest.fixture(scope="module")
def edge() -> Iterator[tuple[str, str]]:
    """Yield the URLs of an edge and of its STUN server, with a second address."""
    primary, alternate = fresh_ports()
    words = ["edge", "--listen", "127.0.0.1:0", "--json", "--stun", f"127.0.0.1:{primary}"]
    with subprocess.Popen(
        [*PUNCH, *words, "--stun-alternate", f"127.0.0.2:{alternate}"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield f"ws://{json.loads(process.stdout.readline())['address']}", f"stun:127.0.0.1:{primary}"
        process.terminate()
        process.stdout.read()


def test_without_a_nat_the_probe_reports_no_translation_and_no_filtering(edge: tuple[str, str]) -> None:
    done = run([*PUNCH, "probe", "--edge", edge[0], "--json"])
    assert done.returncode == 0, done
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert (found["translated"], found["local"], found["external"]) == (False, "127.0.0.1", "127.0.0.1")
    for transport, answer in (("udp", "port-unreachable"), ("tcp", "reset")):
        here = found[transport]
        assert here["mapping"] == here["filtering"] == "endpoint-independent"
        assert here["port_allocation"] == "preserving"
        assert here["remote_endpoint"] == "unchanged"
        assert here["unsolicited"] == answer
        assert here["hairpinning"] is None
        assert here["not_tested"]["hairpinning"] == "there is no NAT"


def test_a_plain_stun_server_allows_some_tests_and_the_others_are_reported(edge: tuple[str, str]) -> None:
    done = run([*PUNCH, "probe", "--edge", edge[1], "--patience", "0.5"])
    assert done.returncode == 0, done
    assert done.stdout.startswith("This host is not behind a NAT.")
    rows = {line.split("  ")[0]: line.split() for line in done.stdout.splitlines()}
    assert rows["filtering"][1:] == ["endpoint-independent", "not", "tested"]
    assert "filtering (TCP) not tested: a STUN server does not dial back; an edge (ws://) does" in done.stdout


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["probe"], ["edge: missing", "PUNCH_EDGE"]),
        (["probe", "--edge", "http://x"], ["edge", "'http://x'", "stun:"]),
        (["probe", "--edge", "stun:x:0"], ["edge", "'stun:x:0'"]),
        (["probe", "--edge", "stun:a..b"], ["edge", "'stun:a..b'"]),
        (
            ["probe", "--edge", "ws://127.0.0.1:1"],
            ["edge", "ws://127.0.0.1:1", "reached: Connection refused"],
        ),
        (["probe", "--edge", "ws://a:1", "--patience", "0"], ["patience", "'0'"]),
        (["probe", "--edge", "ws://a:1", "--patience", "31"], ["patience", "'31'", "at most 30"]),
        (["probe", "--edge", "ws://a:1", "--lifetime", "long"], ["lifetime", "'long'"]),
        (["probe", "--edge", "ws://a:1", "--time-scale", "-1"], ["time-scale", "'-1'"]),
        (["edge", "--listen", "127.0.0.1:0", "--stun", "0.0.0.0:3478"], ["stun", "0.0.0.0:3478"]),
        (["edge", "--listen", "127.0.0.1:0", "--stun", "192.0.2.1:3478"], ["stun", "192.0.2.1:3478", "this machine"]),
        (["edge", "--listen", "127.0.0.1:0", "--stun-alternate", "127.0.0.2:3479"], ["stun-alternate", "--stun"]),
        (
            ["edge", "--listen", "127.0.0.1:0", "--stun", "127.0.0.1:3478", "--stun-alternate", "127.0.0.1:3479"],
            ["stun-alternate", "127.0.0.1:3479", "both differ from 127.0.0.1:3478"],
        ),
    ],
)
def test_bad_input_gets_one_clear_line(words: list[str], parts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PUNCH_EDGE", raising=False)
    assert_one_clear_line(run([*PUNCH, *words]), *parts)


def test_a_server_that_does_not_answer_is_named() -> None:
    assert_one_clear_line(run([*PUNCH, "probe", "--edge", f"stun:127.0.0.1:{fresh_ports()[0]}"]), "no answer within")
