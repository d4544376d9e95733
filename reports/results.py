"""`results.jsonl` and `run.json` of a run folder, read and checked: one JSON object per line, one line per trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from punchlab.lab.errors import InputError
from punchlab.lab.kernel.folder import Folder
from punchlab.lab.results import read
from punchlab.lab.results.schema import TrialResult

TIMES = "\N{MULTIPLICATION SIGN}"


class RunTrial(TrialResult, kw_only=True):
    """A result record of a run. `run` is the name of the run folder, `record` the record as plain data."""

    run: str = ""
    record: Any = None

    @property
    def direct(self) -> bool:
        """Whether the two hosts had a direct tunnel."""
        return self.outcome == "direct"

    def order(self) -> tuple[str, str, str]:
        """Return the sort key."""
        return (self.run, self.id, self.started or "")

    @property
    def nats(self) -> str:
        """Both NATs."""
        return f"{self.nat_a} {TIMES} {self.nat_b}"

    @property
    def lab_error(self) -> bool:
        """Whether the lab broke, so that the trial is no measurement."""
        return self.outcome == "lab_error"

    @property
    def disagrees(self) -> bool:
        """Whether this is a measurement that contradicts the oracle."""
        return self.agrees is False and not self.lab_error

    def timing(self, name: str) -> float | None:
        """Return the seconds to `connected` or `agreed`; None if the trial did not get there."""
        found: float | None = getattr(self.timings_s, name, None)
        return found


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder: its name, trials and parameters, and whether its last line is truncated."""

    name: str
    trials: Sequence[RunTrial]
    parameters: Mapping[str, object]
    truncated: bool


def read_run(run_dir: Path, name: str = "") -> Run:
    """Read `results.jsonl`, and `run.json` if it exists. `name` is the name of the run in the report.

    A last line without a line end that is no complete JSON object is the trace of a killed run: it is ignored, and
    `truncated` is true. Every text of a record is made printable (`punch.text`). Raises `InputError`, which names the
    file and the line, for every other line that is no result record, and for a folder without results.
    """
    path = run_dir / "results.jsonl"
    try:
        with Folder.open(run_dir) as folder:
            content, parameters = folder.read(path.name), _read_parameters(folder)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError("run directory", str(run_dir), "a directory with a results.jsonl") from None
    except OSError as error:
        raise InputError("results", str(path), f"a readable file ({error.strerror})") from None
    trials, truncated = _read_lines(path, content, name)
    if not trials:
        raise InputError("run directory", str(run_dir), "at least one finished trial in its results.jsonl")
    return Run(name, trials, parameters, truncated)


def _read_lines(path: Path, content: bytes, name: str) -> tuple[list[RunTrial], bool]:
    *lines, tail = content.split(b"\n")
    trials: list[RunTrial] = []
    measured: dict[str, int] = {}
    for number, line in enumerate([*lines, tail] if tail else lines, start=1):
        where = f"{path}:{number}"
        try:
            record = read.printable_object(line)
        except ValueError:
            if number > len(lines):
                return trials, True
            shown = line[:60].decode(errors="replace") + ("…" if len(line) > 60 else "")
            raise InputError(where, shown, "one JSON object on the line") from None
        record["run"] = name
        trial = read.result(record, RunTrial, where)
        trial.record = record
        # A trial may be repeated after a lab_error, but two measurements of one trial would count it twice.
        if trial.outcome != "lab_error" and measured.setdefault(trial.id, number) != number:
            raise InputError(f"{where}: id", trial.id, f"a unique id (line {measured[trial.id]} has the same)")
        trials.append(trial)
    return trials, False


def _read_parameters(folder: Folder) -> Mapping[str, object]:
    path = folder.path / "run.json"
    try:
        return read.printable_object(folder.read(path.name))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError("run.json", str(path), f"a readable file ({error.strerror})") from None
    except ValueError:
        raise InputError("run.json", str(path), "one JSON object") from None
