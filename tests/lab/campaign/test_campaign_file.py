"""Campaign files: the cells that they define, and the error messages for invalid files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from punchlab.lab.campaign import Campaign
from punchlab.lab.cli import arguments, axes
from punchlab.lab.errors import SeveralInputsError
from punchlab.lab.nat.presets import CLASSICS, FIREWALLS
from tests.commands import punchlab, run

TEN_MISTAKES = """\
# Ten errors, one per line.
topology = ["ab", "xy"]
nat_a = [
    "full_cone",
    "ful_cone",
]
delay = ["20ms", 20]
jitter = "30ms"
loss = 120
strategy = ["reuse", "luck"]
max_attempts = 0
trails = 5
skew_ms = 3s
until_ci = 0.1
until_ci = 0.2
"""


def campaign(text: str, tmp_path: Path, *flags: str) -> Campaign:
    file = tmp_path / "campaign.toml"
    file.write_text(text)
    return axes.campaign(arguments.parse(["run", str(file), *flags]))


def mistakes(text: str, tmp_path: Path, *flags: str) -> list[str]:
    with pytest.raises(SeveralInputsError) as caught:
        campaign(text, tmp_path, *flags)
    return [str(error).removeprefix(f"{tmp_path / 'campaign.toml'}:") for error in caught.value.errors]


def test_ten_mistakes_are_ten_lines_each_with_its_line_and_field(tmp_path: Path) -> None:
    (tmp_path / "campaign.toml").write_text(TEN_MISTAKES)
    done = run(punchlab("run", "campaign.toml"), cwd=tmp_path)
    assert done.returncode == 2, done
    assert done.stdout == ""
    found = [line.split(": ")[:3] for line in done.stderr.splitlines()]
    fields = {
        2: "topology",
        3: "nat_a",
        7: "delay",
        8: "jitter",
        9: "loss",
        10: "strategy",
        11: "max_attempts",
        12: "trails",
        13: "skew_ms",
        15: "until_ci",
    }
    assert found == [["punchlab", f"campaign.toml:{line}", field] for line, field in fields.items()]
    assert "did you mean trials?" in done.stderr
    assert "did you mean full_cone?" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["campaign.toml"]


def test_every_combination_is_a_cell(tmp_path: Path) -> None:
    made = campaign(
        """
        topology = ["ab", "abcd"]
        pair = ["a,b", "d,a"]
        nat_a = "classics"
        nat_b = ["symmetric", "none"]
        unsolicited = ["drop", "reset"]
        loss = [0, 1.5]
        bw = ["none", 10]
        strategy = ["reuse", "keep"]
        max_attempts = ["none", 1]
        skew_ms = ["none", -30]
        deadline = 2
        trials = 3
        seed = 7
        """,
        tmp_path,
    )
    assert len(made.cells) == 3 * 5 * 2 * 2 * 2 * 2 * 2 * 2 * 2  # ab has only one pair
    assert {(cell.topology, cell.pair) for cell in made.cells} == {
        ("ab", ("a", "b")),
        ("abcd", ("a", "b")),
        ("abcd", ("d", "a")),
    }
    assert {cell.options.skew_s for cell in made.cells} == {None, -0.03}
    assert {cell.options.max_attempts for cell in made.cells} == {None, 1}
    assert {cell.shape.get("bw") for cell in made.cells} == {None, 10.0}
    assert {cell.options.deadline_s for cell in made.cells} == {2.0}
    assert (made.most, made.seed) == (3, 7)


def test_a_topology_has_its_own_usual_nats_and_two_hosts_behind_one_nat_have_the_same(tmp_path: Path) -> None:
    made = campaign('topology = ["same_nat", "firewalls", "carrier"]\n', tmp_path)
    nats = {name: {cell.nats for cell in made.cells if cell.topology == name} for name in ("same_nat", "firewalls")}
    assert nats["same_nat"] == {(nat, nat) for nat in CLASSICS if nat != "none"}
    assert nats["firewalls"] == {(one, other) for one in FIREWALLS for other in FIREWALLS}
    some = campaign('topology = "same_nat"\nnat_a = ["full_cone", "symmetric"]\nnat_b = "symmetric"\n', tmp_path)
    assert {cell.nats for cell in some.cells} == {("symmetric", "symmetric")}


def test_the_carriers_nat_is_an_axis(tmp_path: Path) -> None:
    text = 'topology = "carrier"\nnat_a = "none"\nnat_b = "none"\ncgn = ["cgn_rfc6888", "symmetric"]\n'
    ids = [cell.id for cell in campaign(text, tmp_path).cells]
    assert ids == [f"carrier-none-none-preset-reuse-cgn{name}" for name in ("cgn_rfc6888", "symmetric")]


def test_a_flag_overrides_the_file_and_accepts_the_same_values(tmp_path: Path) -> None:
    text = 'topology = "ab"\nnat_a = "none"\ndelay = ["0ms", "20ms"]\nloss = [0, 1]\ntrials = 50\n'
    flags = ("--trials", "1", "--delay", "20ms", "--loss", "0,2", "--max-attempts", "none,3", "--seed", "-1")
    given = campaign(text, tmp_path, *flags)
    asked = arguments.parse(["run", "ab", "--nat-a", "none", *flags])
    assert given.description() == axes.campaign(asked).description()
    assert len(given.cells) == 5 * 2 * 2
    assert given.most == 1


def test_errors_are_reported_in_the_order_of_the_file_after_those_of_flags(tmp_path: Path) -> None:
    text = 'trials = 0\ntopology = "cd"\nnat_b = "cone"\n'
    fields = [line.partition(" ")[0] for line in mistakes(text, tmp_path, "--deadline", "x")]
    assert fields == ["deadline:", "1:", "3:"]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('topology = "ab"\nnat_a = ["none", "none"\ntrials = 0\n', ["2: nat_a: ", "3: trials: 0"]),
        ('topology = "ab"\nloss 5\nbw = "fast"\n', ["2: 'loss 5'", "3: bw: 'fast'"]),
        ('topology = "ab"\nnat_a = [\n  "none",\n  nobody,\n]\n', ["2: nat_a: "]),
        ('topology = ab\ndelay = "20"\n', ["1: topology: ", "2: delay: '20'"]),
        (
            'topology = "ab"\ndelay = ["20ms", "0.02s"]\n',
            ["2: delay: '0.02s' cannot be used; expected every value"],
        ),
        ('topology = "abcd"\npair = "c,c"\n', ["2: pair: 'c,c'"]),
        ('topology = ["ab", "cd"]\npair = "a,b"\n', ["2: pair: 'a,b' cannot be used; expected for cd one of c,d"]),
        (
            'topology = "abcd"\ndelay = "5ms"\n',
            ["2: delay: '5ms' cannot be used; expected no value: the topology abcd has no delay"],
        ),
        (
            'topology = "ab"\njobs = 4\n',
            ["2: jobs: 'jobs' cannot be used; expected a field of"],
        ),
        ('topology = "ab"\n[nat]\na = "none"\nloss = 5\n', ["2: nat: "]),
        ('topology = "ab"\nnat_a = [nobody,\n  "none",\n]\nclient = []\n', ["2: nat_a: ", "5: client: []"]),
        ('topology = "same_nat"\nnat_a = "full_cone"\nnat_b = "symmetric"\n', ["3: nat_b: 'symmetric'"]),
        ('topology = "ab"\ntrials = true\nseed = 1.5\n', ["2: trials: True", "3: seed: 1.5"]),
        ('topology = "ab"\ndeadline = nan\nloss = inf\n', ["2: deadline: nan", "3: loss: inf"]),
        ('topology = "ab"\n"""', ["2: "]),
    ],
)
def test_a_mistake_has_its_line(text: str, lines: list[str], tmp_path: Path) -> None:
    found = mistakes(text, tmp_path)
    assert len(found) == len(lines), found
    for said, line in zip(found, lines, strict=True):
        assert said.startswith(line)


def test_a_file_without_a_topology_is_reported(tmp_path: Path) -> None:
    (line,) = mistakes("trials = 1\n", tmp_path)
    assert line.startswith(" topology: missing")


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_a_file_that_cannot_be_read_is_one_line(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "campaign.toml").write_bytes(content)
    done = run(punchlab("run", "campaign.toml"), cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("punchlab: campaign: 'campaign.toml' cannot be used")


def test_the_options_of_a_campaign_are_recorded(tmp_path: Path) -> None:
    made = campaign('topology = "ab"\nnat_a = "none"\nnat_b = ["none", "symmetric"]\nuntil_ci = 0.1\n', tmp_path)
    description = json.loads(json.dumps(made.description()))
    assert description["nat_a"] == "none"
    assert description["nat_b"] == ["none", "symmetric"]
    assert (description["until_ci"], description["trials"], description["cells"]) == (0.1, made.most, 2)
