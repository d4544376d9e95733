"""Campaign files with arbitrary content: one line per error, and no unexpected exception."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from punchlab.lab.campaign import Campaign
from punchlab.lab.cli import arguments, axes
from punchlab.lab.errors import InputError, PunchlabError, SeveralInputsError
from punchlab.lab.results.axes import AXES
from tests.commands import punchlab, run
from tests.examples import EXAMPLES

HUGE = "5" * 5000


def campaign(path: Path, content: bytes, *flags: str) -> Campaign:
    path.write_bytes(content)
    return axes.campaign(arguments.parse(["run", str(path), *flags]))


def mistakes(tmp_path: Path, text: str, *flags: str) -> list[str]:
    path = tmp_path / "campaign.toml"
    with pytest.raises(SeveralInputsError) as caught:
        campaign(path, text.encode(), *flags)
    lines = [str(error).removeprefix(f"{path}:") for error in caught.value.errors]
    assert all("\n" not in line and len(line) < 1000 for line in lines)
    return lines


@pytest.mark.parametrize("axis", ["loss", "bw", "deadline", "skew_ms", "background", "max_attempts", "trials", "seed"])
@pytest.mark.parametrize(
    "value",
    ["nan", "inf", "-inf", "1e400", "-1e400", "true", "1e300", HUGE, f"0x{'f' * 5000}", '""', '"5"', "[[1]]", "{}"],
)
def test_an_invalid_number_is_reported_in_one_line_that_names_the_field(tmp_path: Path, axis: str, value: str) -> None:
    (line,) = mistakes(tmp_path, f'topology = "ab"\n{axis} = {value}\nunsolicited = "drop"\n')
    assert line.startswith(f"2: {axis}: ")
    assert "expected" in line


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("deadline = 1e9", "2: deadline: 1000000000.0 cannot be used; expected a number of seconds from 0.001 to 3600"),
        ("deadline = 5e-324", "2: deadline: 5e-324"),
        ("deadline = -0.0", "2: deadline: -0.0"),
        ("until_ci = 5e-324", "2: until_ci: 5e-324 cannot be used; expected a number from 0.001 to 0.5"),
        ("until_ci = 0.5", "2: until_ci: 0.5"),
        ("trials = 1000000000", "2: trials: 1000000000"),
        ("loss = [0, -0.0]", "2: loss: -0.0 cannot be used; expected every value once"),
        ("loss = [1, 1.0]", "2: loss: 1.0 cannot be used; expected every value once"),
        ('delay = ["20ms", "20ms"]', "2: delay: '20ms' cannot be used; expected every value once"),
        ('strategy = ""', "2: strategy: ''"),
        ('nat_a = ["none", ""]', "2: nat_a: ''"),
        ('delay = ""', "2: delay: ''"),
        ('"a\\nb" = 1', "2: a\\nb: "),
        ("nat_a = 1979-05-27", "2: nat_a: datetime.date"),
        (f"trials = {'[' * 5000}", "2: trials: "),
    ],
)
def test_values_at_the_edge(tmp_path: Path, text: str, start: str) -> None:
    (line,) = mistakes(tmp_path, f'topology = "ab"\n{text}\n')
    assert line.startswith(start)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--deadline", "1e9"),
        ("--deadline", "nan"),
        ("--deadline", "1e400"),
        ("--deadline", HUGE),
        ("--until-ci", "5e-324"),
        ("--loss", "inf"),
        ("--trials", HUGE),
        ("--trials", "1.0"),
        ("--max-attempts", "true"),
        ("--seed", "1e3"),
        ("--strategy", ""),
        ("--nat-a", "\udcff"),
    ],
)
def test_an_option_and_the_file_report_the_same(option: str, value: str) -> None:
    with pytest.raises(SeveralInputsError) as caught:
        axes.campaign(arguments.parse(["run", "ab", f"{option}={value}"]))
    (error,) = caught.value.errors
    assert error.field == option.removeprefix("--").replace("-", "_")
    assert len(str(error)) < 1000


@pytest.mark.parametrize("budget", ["1e9s", "inf", "9999999h", "0.0000001s", f"{HUGE}s", "", "nans", "5\uff15s"])
def test_a_budget_has_limits(budget: str, tmp_path: Path) -> None:
    done = run(punchlab("run", "ab", f"--budget={budget}"), cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("punchlab: budget: ")
    assert len(line) < 1000


def test_a_campaign_of_a_billion_cells_is_one_line_at_once(tmp_path: Path) -> None:
    axis = ", ".join(f"{number / 10:g}" for number in range(10, 1010))
    whole = ", ".join(map(str, range(1, 1001)))
    lines = ('topology = "ab"', 'nat_a = "none"', 'nat_b = "none"', f"max_attempts = [{whole}]")
    text = "\n".join((*lines, f"background = [{whole}]", f"skew_ms = [{axis}]"))
    begun = time.process_time()
    (line,) = mistakes(tmp_path, text)
    assert line.startswith("1: topology: '1,000,000,000 cells' cannot be used; expected at most 100,000 combinations")
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("kind", ["directory", "/dev/zero", "fifo", "long", "not utf-8", "socket", "nul", "no file"])
def test_a_file_that_is_none_is_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "campaign.toml"
    match kind:
        case "directory":
            path.mkdir()
        case "/dev/zero":
            path.symlink_to("/dev/zero")
        case "fifo":
            os.mkfifo(path)
        case "long":
            path.write_bytes(b"#" * 1_000_000)
        case "not utf-8":
            path.write_bytes(b'topology = "\xff"\n')
        case "socket":
            path.symlink_to("/proc/self/ns/net")
        case "nul":
            path = Path("a\0b.toml")
    with pytest.raises(InputError, match=r"^campaign: .*expected (a file that can be read|UTF-8)"):
        axes.campaign(arguments.parse(["run", str(path)]))


def only_its_own(tmp_path: Path, content: bytes) -> None:
    try:
        campaign(tmp_path / "campaign.toml", content)
    except PunchlabError as error:
        said = str(error)
    else:
        return
    assert all(line.isprintable() for line in said.split("\n"))


FUZZ = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
KEYS = st.sampled_from([*AXES, *axes.SINGLE])
NUMBERS = ("nan", "inf", "-inf", "-0.0", "1e400", f"0x{'f' * 4000}", HUGE, "true", "1", "0", "1979-05-27T07:32:00Z")
TEXTS = ('"none"', '"all"', '"ab"', '"20ms"', '"\\ud800"', '"\\u0000"')
SIGNS = ("[", "]", "{", "}", ",", "=", '"""', "'''", "\n", "#", " ", ".")
WORDS = st.sampled_from((*NUMBERS, *TEXTS, *SIGNS))
VALUES = st.recursive(
    WORDS | st.integers().map(str) | st.floats().map(str) | st.text(max_size=8).map(repr),
    lambda inner: st.lists(inner, max_size=4).map(lambda many: f"[{', '.join(many)}]"),
    max_leaves=6,
)


@FUZZ
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="replace")))
@example(content=b"a=1\na=2\n")
@example(content=b"[a]\n[a]\n\n")
def test_any_content(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    only_its_own(_folder(tmp_path_factory), content)


@FUZZ
@given(lines=st.lists(st.tuples(KEYS, VALUES), max_size=5), junk=st.lists(WORDS, max_size=6))
def test_any_value_of_any_key(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, Any]], junk: list[str]
) -> None:
    text = "".join(f"{key} = {value}\n" for key, value in lines) + "".join(junk)
    only_its_own(_folder(tmp_path_factory), f'topology = "ab"\n{text}'.encode(errors="replace"))


def _folder(factory: pytest.TempPathFactory) -> Path:
    folder = factory.getbasetemp() / "campaigns"
    folder.mkdir(exist_ok=True)
    return folder
