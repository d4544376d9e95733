"""`punchlab` as a user types it: what it says when it works, and one clear line when it cannot."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.commands import ROOT, assert_one_clear_line, punchlab, run

PUNCHLAB = shlex.join([sys.executable, "-m", "punchlab.lab.cli"])
"""For the shells of tests, whose search path may not have the command."""


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["run", "xy"], ["topology", "'xy'", "ab, cd, abcd"]),
        (["run", "ab", "--nat-a", "cone"], ["nat", "'cone'", "full_cone", "classics"]),
        (["run", "ab", "--unsolicited", "maybe"], ["unsolicited", "'maybe'", "drop, reset"]),
        (["run", "ab", "--background", "-1"], ["background", "-1", "per second"]),
        (["trial", "ab", "--background", "2000"], ["background", "2000", "1000"]),
        (["up", "ab", "--background", "-1"], ["background", "-1"]),
        (["run", "ab", "--trials", "0"], ["trials", "0", "from 1"]),
        (["run", "ab", "--jobs", "-1"], ["jobs", "-1", "from 1"]),
        (["run", "ab", "--strategy", "luck"], ["strategy", "'luck'", "reuse, keep"]),
        (["run", "ab", "--links", "rope"], ["links", "'rope'", "netem"]),
        (["run", "ab", "--delay", "20"], ["delay", "'20'"]),
        (["run", "ab", "--loss", "120"], ["loss", "120"]),
        (["run", "ab", "--deadline", "0"], ["deadline", "0"]),
        (["run", "ab", "--max-attempts", "0"], ["max_attempts", "0"]),
        (["run", "ab", "--pair", "a,c"], ["pair", "'a,c'", "a,b"]),
        (["run", "abcd", "--delay", "5ms"], ["delay", "'5ms'", "abcd"]),
        (["run", "ab,cd,ab"], ["topology", "'ab'", "every value once"]),
        (["run", "ab", "--until-ci", "5%"], ["until_ci", "'5%'", "0.5"]),
        (["run", "ab", "--min-trials", "2.5"], ["min_trials", "2.5", "from 1"]),
        (["run", "ab", "--skew-ms", "soon"], ["skew_ms", "'soon'", "none"]),
        (["run", "ab", "--out", "/proc/results"], ["out", "/proc/results", "can be written"]),
        (["run", "ab", "--out", "a" * 300], ["out", "aaa", "File name too long"]),
        (["trial", "ab", "--nat-b", "cone"], ["nat", "'cone'"]),
        (["trial", "ab", "--client", "nobody"], ["client", "'nobody'", "punch"]),
        (["trial", "ab", "--capture", "/proc/at/all.pcapng"], ["capture", "/proc/at"]),
        (["trial", "carrier", "--cgn", "none"], ["cgn", "'none'", "translates"]),
        (["trial", "ab", "--cgn", "symmetric"], ["cgn", "'symmetric'", "ab"]),
        (["trial", "same_nat", "--delay", "5ms"], ["delay", "'5ms'", "same_nat"]),
        (["trial", "same_nat", "--nat-b", "symmetric"], ["nat_b", "'symmetric'", "port_restricted_cone"]),
        (["run", "same_nat", "--nat-a", "none"], ["nat_a", "'none'", "2 hosts"]),
        (
            ["trial", "firewalls", "--port-mapping", "all"],
            ["port_mapping", "'all'", "firewall", "has no effect with translates False"],
        ),
        (["up", "xy"], ["topology", "'xy'"]),
        (["report", "/nowhere"], ["/nowhere"]),
        (["run", "ab", "--out", ""], ["--out", "''"]),
        (["report", ""], ["DIR", "''"]),
        (["report", "x", "--out", ""], ["--out", "''"]),
        (["trial", "ab", "--capture", ""], ["--capture", "''"]),
        (
            ["trial", "ab", "--capture", "missing/x.pcapng"],
            ["capture", "'missing/x.pcapng'", "a file in an existing directory"],
        ),
        (["trial", "ab", "--capture", "/tmp"], ["capture", "'/tmp'"]),
        (["trial", "ab", "--capture", "a" * 300], ["capture", "File name too long"]),
        (["trial", ""], ["topology", "''", "ab, cd"]),
        (["trial", "ab", "--nat-a", ""], ["nat_a", "''"]),
        (["trial", "ab", "--nat-b", ""], ["nat_b", "''"]),
        (["trial", "ab", "--strategy", ""], ["strategy", "''"]),
        (["trial", "ab", "--seed", ""], ["seed", "''"]),
        (["predict", "--nat-a", ""], ["nat", "''"]),
        (["nat", "check", ""], ["nat", "''"]),
        (["trial", "ab", "--nat-b", "full_con"], ["nat_b", "did you mean full_cone?"]),
        (["trial", "ab", "--deadline", "nan"], ["deadline", "nan", "3600"]),
        (["trial", "ab", "--deadline", "1e9"], ["deadline", "1000000000.0", "3600"]),
        (["trial", "ab", "--deadline", "1e400"], ["deadline", "inf"]),
        (["trial", "ab", "--background", "inf"], ["background", "inf"]),
        (["up", "ab", "--background", "nan"], ["background", "nan"]),
        (["trial", "ab", "--loss", "nan"], ["loss", "nan"]),
        (["trial", "ab", "--bw", "9" * 5000], ["bw", "inf"]),
        (["up", "ab", "--seed", "1.5"], ["seed", "1.5", "whole"]),
        (["trial", "ab", "--max-attempts", "5e-324"], ["max_attempts", "5e-324"]),
        (["trial", "ab", "--skew-ms", "nan"], ["skew_ms", "nan"]),
        (["predict", "--skew-ms", "inf"], ["skew_ms", "inf"]),
        (["predict", "--deadline", "0_1"], ["deadline", "'0_1'"]),
        (["nat", "check", "none", "--time-scale", "nan"], ["time-scale", "nan"]),
        (["nat", "check", "none", "--jobs", "1e9"], ["jobs", "1000000000.0"]),
        (["run", "ab", "--budget", "9" * 500 + "h"], ["budget", "1000h"]),
        (["trial", os.fsdecode(b"\xff\xfe")], ["topology", r"'\udcff\udcfe'"]),
        (["run", "ab", "--out", os.fsdecode(b"/proc/\xff")], ["out", r"'/proc/\udcff'"]),
        (["dance"], ["dance"]),
        ([], ["COMMAND"]),
    ],
)
def test_bad_input_gets_one_clear_line_and_nothing_is_made(words: list[str], parts: list[str], tmp_path: Path) -> None:
    assert_one_clear_line(run(punchlab(*words), cwd=tmp_path), *parts)
    assert list(tmp_path.iterdir()) == []


def test_without_privileges_the_line_says_what_is_missing_and_how_to_get_it() -> None:
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    assert_one_clear_line(run(punchlab("trial", "ab", under=powerless)), "sandbox", "--privileged")


def test_without_user_namespaces_the_line_says_what_is_missing_and_how_to_get_it() -> None:
    # A user whose id its own user namespace does not map may make no further ones.
    done = run(punchlab("trial", "ab", under=["unshare", "--user"]))
    assert_one_clear_line(done, "sandbox", "user namespaces", "sysctl")


def test_a_trial_prints_a_summary() -> None:
    done = run(punchlab("trial", "ab", "--nat-b", "full_cone", "--strategy", "auto"))
    assert done.returncode == 0, done
    lines = done.stdout.splitlines()
    assert len(lines) <= 15
    assert lines[0] == "a - b: direct"
    for start in (
        "strategy: auto chose keep, because",
        "NAT of b as found: endpoint-independent mapping, endpoint-independent filtering",
        "prediction: direct, because",
        "control attempt: direct, as predicted",
        "times since the first SYN: connected",
        "path: nat_a, nat_b; ",
    ):
        assert any(line.startswith(start) for line in lines), start
    assert any("SYN to 11.16.2.2:" in line and "received by b" in line for line in lines)


def test_a_timeline_has_all_packets_and_one_line_for_repetition() -> None:
    birthday = ("--strategy", "birthday", "--nat-a", "symmetric")
    done = run(punchlab("trial", "ab", *birthday, "--timeline"))
    assert done.stdout.startswith("a - b: "), done
    assert " more SYN 192.168.1.2 > 11.16." in done.stdout
    assert len(done.stdout.splitlines()) < 300


def test_the_record_has_what_auto_found_and_chose() -> None:
    done = run(punchlab("trial", "ab", "--nat-a", "symmetric", "--nat-b", "full_cone", "--strategy", "auto", "--json"))
    chosen = json.loads(done.stdout)["chosen"]
    assert chosen["a"]["nat"].startswith("address-and-port-dependent mapping")
    assert chosen["b"]["nat"] == "endpoint-independent mapping, endpoint-independent filtering"
    assert {(each["strategy"], each["why"]) for each in chosen.values()} == {
        ("keep", "the NATs accept the SYN of one host once both have connected; connecting at once")
    }


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["trail", "ab"], "trial"),
        (["trial", "ab", "--statregy", "auto"], "--strategy"),
        (["trial", "ab", "--strategy", "atuo"], "auto"),
        (["nat", "shw", "symmetric"], "show"),
        (["run", "ab", "--nat-a", "symetric"], "symmetric"),
    ],
)
def test_an_error_suggests_what_was_meant(words: list[str], meant: str) -> None:
    done = run(punchlab(*words))
    assert done.returncode == 2
    assert len(done.stderr) < 300
    assert f"did you mean {meant}?" in done.stderr


def test_both_commands_have_a_version() -> None:
    for module, name in (("punchlab.lab.cli", "punchlab"), ("punchlab.punch", "punch")):
        done = run([sys.executable, "-m", module, "--version"])
        assert (done.returncode, done.stdout) == (0, f"{name} {metadata.version('punchlab')}\n"), done


def test_no_table_breaks_a_word_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrix of a run, as a terminal shows it."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    done = run([sys.executable, "-c", "from tests.lab.cli.wide_run import show; show()"])
    text = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    assert max(map(len, text.splitlines())) <= 80
    for name in ("port_restricted_cone", "cgn_rfc6888"):
        assert re.search(rf"\u2502 {name} +\u2502 +5/5 \u2502", text), text
        assert re.search(rf"columns: .*\d={name}", text, re.DOTALL), text


def test_a_trial_that_fails_has_exit_status_1_and_says_why() -> None:
    done = run(punchlab("trial", "ab", "--nat-a", "symmetric", "--nat-b", "symmetric", "--deadline", "1", "--json"))
    assert done.returncode == 1, done
    record = json.loads(done.stdout)
    assert record["outcome"] == "punch_timeout"
    assert record["agrees"] is True
    assert "depend on the destination" in record["outcome_prediction"]["reason"]


def test_a_capture_is_written_and_wireshark_reads_the_whole_path(tmp_path: Path) -> None:
    file = tmp_path / "trial.pcapng"
    # Both at one instant, on a delay that lets the SYNs cross whatever else the machine does.
    crossing = ("--delay", "200ms", "--skew-ms", "0")
    assert run(punchlab("trial", "ab", *crossing, "--capture", str(file))).returncode == 0
    fields = ["frame.interface_name", "ip.src", "ip.dst", "tcp.srcport"]
    shown = run(
        ["tshark", "-r", str(file), "-Y", "tcp.flags == 2 && tcp.dstport != 7000", "-T", "fields"]
        + [word for field in fields for word in ("-e", field)]
    )
    rows = [line.split("\t") for line in shown.stdout.splitlines()]
    from_a = [row[0] for row in rows if row[1] in ("192.168.1.2", "11.16.1.2") and row[2] == "11.16.2.2"]
    inside_b = [row[0] for row in rows if row[1] == "11.16.1.2" and row[2] == "192.168.1.2"]
    assert from_a[:6] == ["a-eth0", "nat_a-eth1", "nat_a-eth0", "core1-eth1", "core1-eth2", "nat_b-eth0"]
    assert inside_b[:2] == ["nat_b-eth1", "b-eth0"]


def test_up_names_the_nodes_and_runs_commands_in_them() -> None:
    done = run(punchlab("up", "ab", "--nat-a", "full_cone", "--", "on", "a", "ping", "-c1", "-W2", "11.0.0.1"))
    assert done.returncode == 0, done
    assert "1 received" in done.stdout
    named = run(punchlab("up", "ab", "--", "ip", "netns", "list"))
    assert {line.split()[0] for line in named.stdout.splitlines()} == {"a", "b", "nat_a", "nat_b", "core1", "edge1"}


def test_a_lab_in_the_shell_of_another_has_the_names_while_it_lasts() -> None:
    names = "ls /run/netns | xargs"
    done = run(punchlab("up", "ab", "--", "sh", "-c", f"{names}; {PUNCHLAB} up cd -- sh -c '{names}'; {names}"))
    assert done.returncode == 0, done
    outer, inner, after = done.stdout.splitlines()
    assert outer == after == "a b core1 edge1 nat_a nat_b"
    assert inner == "c core1 core2 d edge1 edge2 nat_c nat_d"


def test_on_a_node_that_is_not_there_names_those_that_are() -> None:
    done = run(punchlab("up", "ab", "--", "on", "z", "true"))
    assert_one_clear_line(done, "'z'", "nat_a")


MIRROR = """
import socket
mirror = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
mirror.bind(("11.16.0.2", 5000))
print("ready", flush=True)
while True:
    peer = mirror.recvfrom(1)[1]
    mirror.sendto(peer[0].encode(), peer)
"""
LOOK = """
import socket
looker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
looker.settimeout(1)
try:
    looker.sendto(b"x", ("11.16.0.2", 5000))
    print(looker.recv(99).decode())
except OSError as error:
    print(type(error).__name__)
"""


def test_things_happen_to_a_nat_from_the_shell(tmp_path: Path) -> None:
    """What the edge sees of a, as the NAT gets another address; and what does not come when a link is down."""
    (tmp_path / "mirror.py").write_text(MIRROR)
    (tmp_path / "look.py").write_text(LOOK)
    look = f"on a {shlex.quote(sys.executable)} look.py"
    steps = f"""
        mkfifo started
        on edge1 {shlex.quote(sys.executable)} mirror.py > started &
        read ready < started
        {look}
        nat a address
        {look}
        nat nat_a address 11.16.1.77
        {look}
        nat a down; {look}; nat a up; {look}
        link a nat_a down; {look}; link nat_a a up; {look}
        nat a reboot; nat a reboot 0.1; nat a flush; nat a behave symmetric; nat a background 10; {look}
    """
    done = run(punchlab("up", "ab", "--", "sh", "-ec", steps), cwd=tmp_path)
    assert done.returncode == 0, done
    assert done.stdout.split() == [
        *("11.16.1.2", "11.16.1.3", "11.16.1.3", "11.16.1.77", "11.16.1.77"),
        *("TimeoutError", "11.16.1.77", "OSError", "11.16.1.77", "11.16.1.77"),
    ]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["nat", "z", "reboot"], ["nat: nat: 'z'", "a, b, nat_a, nat_b"]),
        (["nat", "a", "dance"], ["event", "'dance'", "flush"]),
        (["nat", "a", "reboot", "soon"], ["downtime", "'soon'"]),
        (["nat", "a", "reboot", "-1"], ["downtime", "-1", "seconds"]),
        (["nat", "a", "reboot", "nan"], ["downtime", "nan", "seconds"]),
        (["nat", "a", "address", "10.0.0.1"], ["address", "'10.0.0.1'", "11.16.1.0/24"]),
        (["nat", "a", "behave", "cone"], ["'cone'", "full_cone"]),
        (["nat", "a", "background", "-5"], ["background", "-5"]),
        (["nat"], ["command", "nat NAME"]),
        (["link", "a", "b", "down"], ["link", "a,b", "nat_a"]),
    ],
)
def test_what_cannot_happen_is_one_clear_line(words: list[str], parts: list[str]) -> None:
    assert_one_clear_line(run(punchlab("up", "ab", "--", *words)), *parts)


def test_background_traffic_is_on_record(tmp_path: Path) -> None:
    command = ["run", "ab", "--nat-a", "symmetric", "--nat-b", "full_cone", "--background", "20", "--trials", "1"]
    done = run(punchlab(*command, "--out", "here"), cwd=tmp_path)
    assert done.returncode == 0, done
    record = json.loads((tmp_path / "here" / "results.jsonl").read_text())
    assert (record["outcome"], record["background_per_s"]) == ("direct", 20)
    other = run(punchlab(*command, "--background", "30", "--out", "here"), cwd=tmp_path)
    assert other.returncode == 2
    assert "background_per_s = 20" in other.stderr


def test_an_empty_environment_is_enough() -> None:
    packages = [f"PYTHONPATH={os.environ['PYTHONPATH']}"] if "PYTHONPATH" in os.environ else []
    done = run(punchlab("up", "ab", "--", "on", "a", "iptables", "--version", under=["env", "-i", *packages]))
    assert done.returncode == 0, done
    assert done.stdout.startswith("iptables v")


def test_modules_in_the_user_s_directory_do_not_matter(tmp_path: Path) -> None:
    for package in ("lab", "punch"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "random.py").write_text("raise SystemExit('a module of the user')\n")
    command = punchlab("trial", "ab")
    command.insert(command.index("-m"), "-P")  # as the installed script does without
    done = run(command, cwd=tmp_path)
    assert done.returncode == 0, done


def test_a_working_directory_that_was_removed_is_one_clear_line(tmp_path: Path) -> None:
    command = punchlab("run", "ab")
    command.insert(command.index("-m"), "-P")
    gone = tmp_path / "gone"
    gone.mkdir()
    done = run(["sh", "-c", f'rmdir {gone}; exec "$@"', "sh", *command], cwd=gone)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]  # the shell has something to say as well
    assert last.startswith("punchlab: out: 'runs/ab-reuse' cannot be used; expected a directory that can be written")
    assert "Traceback" not in done.stderr


def test_a_report_of_a_folder_that_no_path_leads_to_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    assert_one_clear_line(run(punchlab("report", "circle"), cwd=tmp_path), "directory: 'circle'", "circle")
    command = punchlab("report", "x")
    command.insert(command.index("-m"), "-P")
    gone = tmp_path / "gone"
    gone.mkdir()
    done = run(["sh", "-c", f'rmdir {gone}; exec "$@"', "sh", *command], cwd=gone)
    assert done.returncode == 2, done
    assert done.stderr.splitlines()[-1].startswith("punchlab: directory: 'x' cannot be used")


def test_a_trial_needs_no_working_directory(tmp_path: Path) -> None:
    command = punchlab("trial", "ab")
    command.insert(command.index("-m"), "-P")
    gone = tmp_path / "gone"
    gone.mkdir()
    done = run(["sh", "-c", f'rmdir {gone}; exec "$@"', "sh", *command], cwd=gone)
    assert done.returncode == 0, done
    assert done.stdout.startswith("a - b: direct")


@pytest.mark.parametrize("closed", ["0", "1", "2", "0 1 2"])
def test_a_run_does_without_standard_streams(tmp_path: Path, closed: str) -> None:
    closing = "".join(f" {number}>&-" for number in closed.split())
    out = tmp_path / "out"
    command = punchlab("run", "ab", "--nat-a", "none", "--nat-b", "none", "--trials", "1", "--out", str(out))
    done = run(["sh", "-c", f'exec "$@"{closing}', "sh", *command])
    assert done.returncode == 0, done
    assert json.loads((out / "results.jsonl").read_text())["outcome"] == "direct"


@pytest.mark.parametrize("words", [["--help"], ["doctor"], ["trial", "ab"], ["trial", "ab", "--json"]])
def test_output_that_nobody_reads_is_no_traceback(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    # Unbuffered, argparse would swallow the error.
    command = punchlab(*words, under=["env", "--unset=PYTHONUNBUFFERED"])
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 1


@pytest.mark.parametrize("words", [["--help"], ["nat", "list"], ["predict"], ["doctor"], ["trial", "ab"]])
def test_output_that_does_not_fit_is_one_line(words: list[str]) -> None:
    command = punchlab(*words, under=["env", "--unset=PYTHONUNBUFFERED"])
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
    assert done.stderr == "punchlab: standard output: No space left on device\n"
    assert done.returncode == 1


def test_a_capture_that_does_not_fit_is_one_line() -> None:
    small = "mount -t tmpfs -o size=4k none /mnt"
    trial = f"exec {PUNCHLAB} trial ab --full --capture /mnt/x.pcapng"
    done = run(punchlab("sandbox", "--unconfined", "sh", "-c", f"{small}; {trial}"))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line == "punchlab: capture: /mnt/x.pcapng: No space left on device"


def test_doctor_finds_what_the_lab_needs() -> None:
    done = run(punchlab("doctor"))
    assert done.returncode == 0, done
    for name in (
        "sandbox",
        "iptables",
        "nft",
        "conntrack",
        "netem",
        "nfqueue",
        "scapy capture",
        "nats-server",
        "mnexec",
    ):
        assert name in done.stdout


def test_doctor_says_how_to_get_what_is_missing(tmp_path: Path) -> None:
    hide = f"mount --bind {tmp_path} /usr/sbin && mount --bind {tmp_path} /usr/local/sbin"
    done = run(punchlab("doctor", under=["unshare", "--mount", "sh", "-c", f'{hide} && exec "$@"', "sh"]))
    assert done.returncode == 2, done
    (line,) = (line for line in done.stdout.splitlines() if "iptables" in line and "MISSING" in line)
    assert "apt-get install iptables" in line


@pytest.mark.parametrize("folder", ["locked", "named", "plain", "missing", ""])
def test_a_folder_of_the_search_path_without_the_program_does_not_matter(folder: str, tmp_path: Path) -> None:
    """One that may not be searched, one with a directory or a file of that name, one that is not there; or none."""
    for name in ("locked", "named/miniupnpd", "plain"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "plain" / "miniupnpd").touch()
    (tmp_path / "locked").chmod(0)
    hide = 'if program=$(command -v miniupnpd); then mount --bind /dev/null "$program"; fi'
    # Without the capabilities by which root may search every folder.
    weak = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
    path = f"{tmp_path / folder if folder else ''}:{os.environ['PATH']}"
    command = ["unshare", "--mount", "sh", "-c", f'{hide} && exec "$@"', "sh", *weak, "env", f"PATH={path}"]
    done = run(punchlab("doctor", under=command))
    assert done.returncode == 0, done
    lines = done.stdout.splitlines()
    assert lines[0].startswith("found    sandbox")
    (line,) = (line for line in lines if "miniupnpd" in line)
    assert line.startswith("missing  miniupnpd")
    assert "apt-get install miniupnpd-nftables" in line


def test_doctor_names_what_only_some_labs_need_as_missing_and_does_not_mind() -> None:
    hide = 'if program=$(command -v nats-server); then mount --bind /dev/null "$program"; fi'
    done = run(punchlab("doctor", under=["unshare", "--mount", "sh", "-c", f'{hide} && exec "$@"', "sh"]))
    assert done.returncode == 0, done
    (line,) = (line for line in done.stdout.splitlines() if "nats-server" in line)
    assert line.startswith("missing")
    assert line.endswith("; to get it: apt-get install nats-server")
