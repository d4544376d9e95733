"""`results.jsonl` and `run.json` of a run folder, read and checked: one JSON object a line, one line a trial."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, cast

from punchlab.lab.errors import InputError
from punchlab.lab.kernel.folder import Folder
from punchlab.lab.kernel.pressure import SPARE
from punchlab.punch.text import printable_parts

SCHEMA = 1
TIMES = "\N{MULTIPLICATION SIGN}"
OUTCOMES = (
    "direct",
    "relayed",
    "refused",
    "hopeless",
    "punch_timeout",
    "no_rendezvous",
    "wrong_peer",
    "client_error",
    "lab_error",
)
"""Every outcome of a trial, from the best to the worst; `lab_error` says nothing about the NATs."""
PREDICTIONS = ("direct", "fails", "depends")

_DEEPEST = 100
"""Levels of nested objects and arrays in a record."""
_SHORT_LINE = 4096
"""Bytes of a line in which no text is too long to be shown."""
_LARGEST = sys.float_info.max  # JSON can say 1e999, which Python reads as infinity


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the oracle said; `floor_s` is the least time a connection needs, `probability` that of a direct one."""

    outcome: str
    probability: float | None
    reason: str | None
    floor_s: float | None


@dataclass(frozen=True, slots=True)
class Control:
    """The lab's own dial through the same NATs, made before the clients start."""

    direct: bool | None
    prediction: Prediction | None


@dataclass(frozen=True, slots=True)
class Trial:
    """One line of `results.jsonl`; times in seconds, delays one way. `record` is the line as it stands.

    `run` is the name of the run folder.
    """

    run: str
    id: str
    started: str | None
    topology: str
    pair: tuple[str, str]
    nat_a: str
    nat_b: str
    cgn: str | None
    port_mapping: str | None
    background_per_s: float | None
    unsolicited: str | None
    client: str | None
    strategy: str | None
    max_attempts: int | None
    deadline_s: float | None
    skew_wanted_s: float | None
    delay_s: float | None
    jitter_s: float | None
    loss: float | None
    bw_mbit_s: float | None
    links: str | None
    outcome: str
    reason: str | None
    prediction: Prediction | None
    control: Control | None
    agrees: bool | None
    connected_s: float | None
    agreed_s: float | None
    cpu_pressure: float | None
    versions: Mapping[str, str]
    capture: str | None
    record: Mapping[str, object]

    @property
    def direct(self) -> bool:
        """Whether the two hosts got a direct tunnel."""
        return self.outcome == "direct"

    def order(self) -> tuple[str, str, str]:
        """Sort key."""
        return (self.run, self.id, self.started or "")

    @property
    def nats(self) -> str:
        """Both NATs."""
        return f"{self.nat_a} {TIMES} {self.nat_b}"

    @property
    def cpu_starved(self) -> bool:
        """Whether the machine was too busy for its latencies to count; where that is not known, they do."""
        return self.cpu_pressure is not None and self.cpu_pressure > SPARE

    @property
    def lab_error(self) -> bool:
        """Whether the lab broke, so that the trial is no measurement."""
        return self.outcome == "lab_error"

    @property
    def disagrees(self) -> bool:
        """Whether this is a measurement that contradicts the oracle."""
        return self.agrees is False and not self.lab_error


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder: its name, its trials, its parameters, and whether its last line was cut off by a kill."""

    name: str
    trials: Sequence[Trial]
    parameters: Mapping[str, object]
    cut_short: bool


def read_run(run_dir: Path, name: str = "") -> Run:
    """Read `results.jsonl`, and `run.json` if present. `name` is what the report calls the run.

    A last line that has no line end and is no complete JSON object is what a killed run leaves: it is ignored, and
    `cut_short` says so. Every text of a record is made printable (`punch.text`). Raises `InputError`, naming the file
    and the line, for every other line that is no result record, and for a folder without results.
    """
    path = run_dir / "results.jsonl"
    try:
        with Folder.open(run_dir) as folder:
            content, parameters = folder.read(path.name), _read_parameters(folder)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError("run directory", str(run_dir), "a directory with a results.jsonl") from None
    except OSError as error:
        raise InputError("results", str(path), f"a readable file ({error.strerror})") from None
    trials, cut_short = _read_lines(path, content, name)
    if not trials:
        raise InputError("run directory", str(run_dir), "at least one finished trial in its results.jsonl")
    return Run(name, trials, parameters, cut_short)


def _read_lines(path: Path, content: bytes, name: str) -> tuple[list[Trial], bool]:
    *lines, tail = content.split(b"\n")
    trials: list[Trial] = []
    measured: dict[str, int] = {}
    cut_short = False
    for number, line in enumerate([*lines, tail] if tail else lines, start=1):
        try:
            record = _printable(line, _json_object(line))
        except ValueError:
            if number > len(lines):
                cut_short = True
                break
            shown = line[:60].decode(errors="replace") + ("…" if len(line) > 60 else "")
            raise InputError(f"{path}:{number}", shown, "one JSON object on the line") from None
        trial = _trial(_Fields(record, path, number), name)
        # A trial may be repeated after a lab_error, but two measurements of one trial would count it twice.
        if not trial.lab_error and measured.setdefault(trial.id, number) != number:
            raise InputError(
                f"{path}:{number}: id", trial.id, f"an id of its own (line {measured[trial.id]} has the same)"
            )
        trials.append(trial)
    return trials, cut_short


def _read_parameters(folder: Folder) -> Mapping[str, object]:
    path = folder.path / "run.json"
    try:
        content = folder.read(path.name)
        return _printable(content, _json_object(content))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError("run.json", str(path), f"a readable file ({error.strerror})") from None
    except ValueError:
        raise InputError("run.json", str(path), "one JSON object") from None


def _json_object(text: bytes) -> dict[str, object]:
    """Raises `ValueError` for anything else, for halves of surrogate pairs, and for more than `_DEEPEST` levels."""
    try:
        value = _DECODER.decode(text.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    if b"\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()
    if text.count(b"{") + text.count(b"[") > _DEEPEST and _depth(value) > _DEEPEST:
        raise ValueError("nested too deeply")
    return value


def _printable(text: bytes, value: dict[str, object]) -> dict[str, object]:
    """The object with every text in it as `punch.text.printable` makes it; `text` is what it was read from.

    A record is from outside: a client under test has worded its reason, and runs are passed on.
    """
    if text.isascii() and not any(part in text for part in (b"\\", b"\x7f", b"##")) and len(text) <= _SHORT_LINE:
        return value  # nothing to escape, as in most lines of a long run
    return cast("dict[str, object]", printable_parts(value))


def _depth(value: object) -> int:
    deepest, level = 0, [value]
    while level:
        deepest += 1
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [each for several in inner for each in several]
    return deepest


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


class _Fields:
    """The fields of one JSON object, each taken with the type that it must have; a missing one is null."""

    __slots__ = ("_where", "record")

    def __init__(self, record: Mapping[str, object], *where: object) -> None:
        self.record, self._where = record, where

    def reject(self, name: str, expected: str) -> NoReturn:
        file, line, *outer = self._where
        raise InputError(": ".join((f"{file}:{line}", *map(str, outer), name)), self.record.get(name), expected)

    def text(self, name: str) -> str:
        value = self.record.get(name)
        return value if isinstance(value, str) and value else self.reject(name, "text")

    def text_or_null(self, name: str) -> str | None:
        value = self.record.get(name)
        return value if value is None or isinstance(value, str) else self.reject(name, "text or null")

    def word(self, name: str, words: Sequence[str]) -> str:
        value = self.record.get(name)
        return value if isinstance(value, str) and value in words else self.reject(name, f"one of {', '.join(words)}")

    def bool_or_null(self, name: str) -> bool | None:
        value = self.record.get(name)
        return value if value is None or isinstance(value, bool) else self.reject(name, "true, false or null")

    def count_or_null(self, name: str) -> int | None:
        value = self.record.get(name)
        fits = value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)
        return cast("int | None", value) if fits else self.reject(name, "a whole number or null")

    def number_or_null(self, name: str, least: float = -_LARGEST, most: float = _LARGEST) -> float | None:
        value = self.record.get(name)
        if value is None:
            return None
        if type(value) is float and least <= value <= most:
            return value
        if isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most:
            return float(value)
        limits = "" if least == -_LARGEST else f" from {least:g}" + ("" if most == _LARGEST else f" to {most:g}")
        return self.reject(name, f"a number{limits}, or null")

    def object_or_null(self, name: str) -> _Fields | None:
        value = self.record.get(name)
        if value is None:
            return None
        return _Fields(value, *self._where, name) if isinstance(value, dict) else self.reject(name, "an object")

    def object(self, name: str) -> _Fields:
        return self.object_or_null(name) or _Fields({}, *self._where, name)


def _trial(fields: _Fields, run: str) -> Trial:
    if fields.record.get("schema") != SCHEMA:
        fields.reject("schema", f"{SCHEMA}, the version of the result record that this report reads")
    control = fields.object_or_null("control")
    timings = fields.object("timings_s")
    return Trial(
        run=run,
        id=fields.text("id"),
        started=fields.text_or_null("started"),
        topology=fields.text("topology"),
        pair=_pair(fields),
        nat_a=fields.text("nat_a"),
        nat_b=fields.text("nat_b"),
        cgn=fields.text_or_null("cgn"),
        port_mapping=fields.text_or_null("port_mapping"),
        background_per_s=fields.number_or_null("background_per_s", 0),
        unsolicited=fields.text_or_null("unsolicited"),
        client=fields.text_or_null("client"),
        strategy=fields.text_or_null("strategy"),
        max_attempts=fields.count_or_null("max_attempts"),
        deadline_s=fields.number_or_null("deadline_s", 0),
        skew_wanted_s=fields.number_or_null("skew_wanted_s"),
        delay_s=fields.number_or_null("delay_s", 0),
        jitter_s=fields.number_or_null("jitter_s", 0),
        loss=fields.number_or_null("loss", 0, 1),
        bw_mbit_s=fields.number_or_null("bw_mbit_s", 0),
        links=fields.text_or_null("links"),
        outcome=fields.word("outcome", OUTCOMES),
        reason=fields.text_or_null("reason"),
        prediction=_prediction(fields),
        control=Control(control.bool_or_null("direct"), _prediction(control)) if control else None,
        agrees=fields.bool_or_null("agrees"),
        connected_s=timings.number_or_null("connected", 0),
        agreed_s=timings.number_or_null("agreed", 0),
        cpu_pressure=fields.number_or_null("cpu_pressure", 0, 1),
        versions=_versions(fields),
        capture=fields.text_or_null("capture"),
        record=fields.record,
    )


def _pair(fields: _Fields) -> tuple[str, str]:
    match fields.record.get("pair"):
        case [str(a), str(b)]:
            return a, b
        case _:
            return fields.reject("pair", "the names of two hosts")


def _prediction(fields: _Fields) -> Prediction | None:
    said = fields.object_or_null("prediction")
    if said is None:
        return None
    return Prediction(
        said.word("outcome", PREDICTIONS),
        said.number_or_null("probability", 0, 1),
        said.text_or_null("reason"),
        said.number_or_null("floor_s", 0),
    )


def _versions(fields: _Fields) -> dict[str, str]:
    versions = fields.object("versions")
    return {name: text for name in versions.record if (text := versions.text_or_null(name)) is not None}
