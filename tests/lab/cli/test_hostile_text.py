"""Output of `punchlab` while a client under test, a file or its own arguments attack the terminal."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from rich.text import Text

from punchlab import Lab, reports
from punchlab.lab.campaign import Campaign, Cell
from punchlab.lab.campaign.results import RunFolder
from punchlab.lab.cli import main
from punchlab.lab.cli.progress import RunProgress
from punchlab.lab.cli.screen import screen
from punchlab.lab.client.description import Client
from punchlab.lab.errors import ClientError, InputError, LabError, PunchlabError, SeveralInputsError
from punchlab.lab.results.outcomes import OUTCOMES
from punchlab.lab.trial.record import record
from punchlab.punch.text import LONGEST, printable
from punchlab.topologies import AB
from tests.plain import ATTACKS, HOSTILE, assert_plain, assert_plain_line
from tests.reports.sample import record as sample

CAMPAIGN = Campaign([Cell("ab", AB, ("a", "b"), ("none", "none"))])
WELL_FORMED = HOSTILE.encode(errors="replace").decode()


def says(event: dict[str, Any], errors: str) -> Sequence[str]:
    """Return a command that prints an event, writes to standard error, and fails."""
    program = f"import sys; print({json.dumps(event)!r}); sys.stderr.buffer.write({errors.encode()!r}); sys.exit(1)"
    return ("{python}", "-c", program.replace("{", "{{").replace("}", "}}"))


LISTENS = ("sh", "-c", 'echo \'{"event": "listening"}\'; exec sleep 1000')
FAILS = says({"event": "failed", "outcome": "refused", "reason": WELL_FORMED * 100}, WELL_FORMED)
DIES = says({"event": "other"}, f"{WELL_FORMED}\n{''.join(ATTACKS)}")
BREAKS = says({"event": "agreed", "local": WELL_FORMED}, WELL_FORMED)
MINE = Client("mine", LISTENS, FAILS, FAILS, ("x",), tells_code=False)


@pytest.mark.parametrize("sender", [FAILS, DIES, BREAKS], ids=["reason", "standard error", "event"])
def test_text_of_a_client_is_plain_in_all_output_of_a_trial(sender: Sequence[str], tmp_path: Path) -> None:
    with Lab(AB(nat_a="none", nat_b="none", delay="0ms", edge_delay="0ms")) as lab:
        trial = lab.punch("a", "b", client=replace(MINE, sender=sender), strategy="x", deadline_s=1)
    assert trial.outcome in OUTCOMES
    assert "\\" in str(trial.reason)
    assert_plain_line(f"{trial.reason}\n")
    assert len(str(trial.reason)) <= LONGEST
    assert_plain(str(trial))
    for side in trial.sides:
        assert_plain(side.errors.replace("::", ""))  # a command only at the beginning of a line of output
    folder = RunFolder(tmp_path / "run", {})
    folder.append(record(trial, id="ab-1", topology="ab", nat_a="none", nat_b="none"))
    folder.close()
    assert_plain_line((tmp_path / "run" / "results.jsonl").read_bytes())
    assert_report_is_plain(tmp_path / "run")


def assert_report_is_plain(folder: Path) -> None:
    paths = reports.write(folder)
    for path in (paths.page, paths.summary, paths.table, *(each for each in paths.charts if each.suffix == ".svg")):
        assert_plain(path.read_bytes())


@pytest.mark.parametrize("kind", [PunchlabError, LabError, ClientError])
def test_an_error_is_one_plain_line_whatever_it_quotes(kind: type[PunchlabError]) -> None:
    assert_plain_line(f"{kind(HOSTILE)}\n")
    assert_plain_line(f"{InputError(HOSTILE, {HOSTILE: HOSTILE}, HOSTILE)}\n")
    several = SeveralInputsError([InputError(HOSTILE, HOSTILE, HOSTILE)] * 2)
    assert str(several).count("\n") == 1
    assert_plain(str(several))


@pytest.mark.parametrize("value", [HOSTILE, {HOSTILE: HOSTILE}, [[HOSTILE]]])
def test_a_record_is_a_plain_line_that_means_the_same(value: object, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", {})
    folder.append(sample(reason="x", more=value))
    folder.close()
    line = (tmp_path / "run" / "results.jsonl").read_bytes()
    assert_plain_line(line)
    assert json.loads(line)["more"] == value


BAD_WORDS: Sequence[list[str]] = [
    *(
        [HOSTILE],
        ["run"],
        ["run", HOSTILE],
        ["run", f"{HOSTILE}.toml"],
        ["run", "ab", HOSTILE],
        ["run", "ab", "--x\x1b"],
    ),
    *(["run", "ab", "--nat-a", HOSTILE], ["run", "ab", "--strategy", HOSTILE], ["run", "ab", "--budget", HOSTILE]),
    *(["run", "ab", "--delay", HOSTILE], ["run", "ab", "--trials", HOSTILE], ["run", "ab", "--dask", HOSTILE]),
    *(["run", "ab", "--out", f"/proc/{HOSTILE}"], ["run", "ab", "--links", HOSTILE], ["trial", HOSTILE]),
    *(["trial", "ab", "--nat-a", HOSTILE], ["trial", "ab", "--pair", HOSTILE], ["trial", "ab", "--cgn", HOSTILE]),
    *(["trial", "ab", "--capture", f"/nonexistent/{HOSTILE}"], ["trial", "ab", "--delay", HOSTILE]),
    *(["predict", "--nat-a", HOSTILE], ["predict", "--nat-a", "none", "--nat-b", "none", "--skew-ms", HOSTILE]),
    *(["report", HOSTILE], ["report", "/tmp", "--out", HOSTILE], ["nat", "show", HOSTILE], ["nat", "check", HOSTILE]),
    *(["nat", "show", "symmetric", "--rules", "--inside", HOSTILE], ["worker", HOSTILE], ["up", HOSTILE]),
]


@pytest.mark.parametrize("words", BAD_WORDS, ids=range(len(BAD_WORDS)))
def test_an_error_quotes_arguments_on_one_plain_line(
    words: list[str], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    try:
        status = main(words)
    except SystemExit as ended:
        status = ended.code  # type: ignore[assignment]
    sys.stdout.flush()
    printed = capfdbinary.readouterr()
    assert status == 2
    assert printed.out == b""
    assert_plain_line(printed.err)


QUOTED = json.dumps(WELL_FORMED.replace("\x7f", ""))  # JSON strings without DEL are TOML strings
FILES = [
    f"{QUOTED} = 1",
    f"topology = {QUOTED}",
    f'topology = "ab"\nnat_a = [{QUOTED}, {{{QUOTED} = {QUOTED}}}]\nloss = {QUOTED}\ndelay = {QUOTED}\npair = {QUOTED}',
    f'topology = "ab"\n[{QUOTED}.{QUOTED}]\n{QUOTED} = 1',
    f'topology = "ab"\n"{WELL_FORMED}" = {WELL_FORMED}',
    'topology = "ab"\n\x1b[31m\u202e = 3\n"##[error]" = ::\n::error::x = 1',
    "\ufeff\u202e",
    "##[error]\n::error::x",
]


@pytest.mark.parametrize("content", FILES, ids=range(len(FILES)))
def test_mistakes_in_a_campaign_file_are_plain_lines(
    content: str, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = tmp_path / "\u202e::error::x ##[error]\x1b.toml"
    path.write_bytes(content.encode())
    assert main(["run", str(path)]) == 2
    printed = capfdbinary.readouterr()
    assert printed.out == b""
    for line in printed.err.splitlines(keepends=True):
        assert_plain_line(line)
        assert line.startswith(b"punchlab: ")


HOSTILE_RECORDS: Sequence[dict[str, Any]] = [
    {"outcome": "direct", "agrees": False, "reason": HOSTILE, "outcome_prediction": {"reason": HOSTILE}},
    {"outcome": HOSTILE, "agrees": False, "reason": HOSTILE, "outcome_prediction": None, "control": HOSTILE},
    {"outcome": "lab_error", "agrees": None, "reason": [HOSTILE]},
    {"outcome": "lab_error", "agrees": None, "reason": "[bold red]x[/] :smile: [link=http://x]y[/link]"},
]


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("colours", [False, True])
def test_records_of_a_resumed_run_are_printed_plainly(
    colours: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1") if colours else monkeypatch.delenv("FORCE_COLOR", raising=False)
    (cell,) = CAMPAIGN.cells
    progress = RunProgress(CAMPAIGN)
    for number, made in enumerate(HOSTILE_RECORDS):
        progress.update([{"id": f"{cell.id}-{number}", "nat_a": HOSTILE, "nat_b": HOSTILE, **made}], 4)
    progress.summary()
    printed = without_colours(capfd.readouterr().out)
    assert_plain(printed)
    assert printed.count("disagreement: ") == printed.count("lab error: ") == 2
    assert "[bold red]x[/] :smile: [link=http://x]y[/link]" in printed


@pytest.mark.parametrize("colours", [False, True])
def test_a_table_shows_foreign_text_as_text(colours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1") if colours else monkeypatch.delenv("FORCE_COLOR", raising=False)
    stream = io.StringIO()
    console = screen(stream)
    assert console.is_terminal is colours
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE, overflow="fold")
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE, "red"))
    console.print(table, HOSTILE, Text(HOSTILE))
    console.print("[red]x[/] :smile:")
    written = stream.getvalue()
    text = without_colours(written)
    assert all(attack not in text for attack in ATTACKS if "##" not in attack)
    assert all(char == "\n" or char.isprintable() for char in text)
    assert "[red]x[/] :smile:" in text
    assert ("\x1b[" in written) is colours


def test_a_failed_test_with_text_of_a_client_is_plain_in_the_log_and_in_the_junit_file(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        f"from punchlab import ClientError\nSAID = {HOSTILE!r}\ndef test_it():\n    raise ClientError(SAID)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml", "junit.xml", "test_it.py"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 1, ended
    shown = printable(HOSTILE)[:60].encode()
    for output in (ended.stdout, ended.stderr, (tmp_path / "junit.xml").read_bytes()):
        assert_plain(output)
    assert shown in ended.stdout
