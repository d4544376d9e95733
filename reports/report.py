"""Write the report of run folders."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from punchlab.lab.errors import InputError, MissingCapabilityError
from punchlab.lab.kernel.pressure import SPARE
from punchlab.punch.text import printable
from punchlab.reports import parquet
from punchlab.reports.files import put_files
from punchlab.reports.groups import Trials, group_trials
from punchlab.reports.page import index_html
from punchlab.reports.results import read_run
from punchlab.reports.strategy_comparison import compare, settings_of
from punchlab.reports.summary import summary_md
from punchlab.reports.table import rows, table_csv


@dataclass(frozen=True, slots=True)
class ReportPaths:
    """Paths of the files of a report. `charts`: PNG and SVG of every chart. `parquet` is None without pyarrow."""

    page: Path
    summary: Path
    table: Path
    parquet: Path | None
    charts: tuple[Path, ...]


def write(*run_dirs: Path, out: Path | None = None) -> ReportPaths:
    """Write the report of the runs: `index.html`, `summary.md`, `results.csv`, `results.parquet` and `charts/`.

    The Parquet file needs pyarrow. The files are written to `out`, which is created if necessary, or to the folder of
    the first run. Every file is replaced atomically, and the same results give the same bytes. Raises `InputError` for
    a folder that has no results, has a malformed one, is given twice, or cannot be written, and `LabError` for a full
    disk.

    Runs with different cells are combined. Runs with a common cell are shown separately, under their names.
    """
    with _no_collection():
        return _write(run_dirs, out)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Disable the collector of cyclic garbage: there is little of it, and the search takes longer than the rest."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _write(run_dirs: Sequence[Path], out: Path | None) -> ReportPaths:
    names = [printable(name) for name in _names(run_dirs)]
    runs = [read_run(run_dir, name) for run_dir, name in zip(run_dirs, names, strict=True)]
    trials = [trial for run in runs for trial in run.trials]
    groups = group_trials(trials)
    everything = Trials(trials)
    settings = settings_of(groups)
    comparisons = compare(settings)
    notes = [
        f"The last line of {run_dir / 'results.jsonl' if run.name else 'results.jsonl'} is truncated (a killed run) "
        "and is ignored."
        for run_dir, run in zip(run_dirs, runs, strict=True)
        if run.truncated
    ]
    if everything.cpu_starved:
        timed = f"{everything.k - everything.cpu_starved:,} of {everything.k:,}"
        notes.append(
            f"Latencies are those of {timed} direct trials: in the others, tasks waited for a CPU for more than "
            f"{SPARE:.0%} of the punch. Use --jobs 1 on an idle machine."
        )

    from punchlab.reports.charts import draw  # matplotlib takes more than a second to import

    charts = draw(groups, settings, comparisons)
    table = rows(trials)
    files = {
        "index.html": index_html(groups, (settings, comparisons), everything, charts, runs, notes).encode(),
        "summary.md": summary_md(groups, (settings, comparisons), everything, notes).encode(),
        "results.csv": table_csv(table).encode(),
    }
    with suppress(MissingCapabilityError):
        files[parquet.NAME] = parquet.table_parquet(table)
    pictures = {f"charts/{chart.name}.{kind}": getattr(chart, kind) for chart in charts.all for kind in ("png", "svg")}
    directory = run_dirs[0] if out is None else out
    put_files(directory, files | pictures, replaced="charts")
    return ReportPaths(
        page=directory / "index.html",
        summary=directory / "summary.md",
        table=directory / "results.csv",
        parquet=directory / parquet.NAME if parquet.NAME in files else None,
        charts=tuple(directory / name for name in pictures),
    )


def _names(run_dirs: Sequence[Path]) -> list[str]:
    """Return the names of the runs: empty for a single one, else the shortest different ends of their paths."""
    if not run_dirs:
        raise InputError("run directory", "", "at least one")
    resolved = [Path(os.path.realpath(run_dir)) for run_dir in run_dirs]
    for number, run_dir in enumerate(run_dirs):
        if any(path == resolved[number] or _same_results(path, resolved[number]) for path in resolved[:number]):
            raise InputError("run directory", str(run_dir), "every run once")
    if len(run_dirs) == 1:
        return [""]
    return [_shortest(path, [other for other in resolved if other != path]) for path in resolved]


def _same_results(one: Path, other: Path) -> bool:
    """Return whether two folders have the same results file, through a link or a mount."""
    with suppress(OSError):
        return (one / "results.jsonl").samefile(other / "results.jsonl")
    return False


def _shortest(path: Path, others: Sequence[Path]) -> str:
    for length in range(1, len(path.parts)):
        end = path.parts[-length:]
        if all(other.parts[-length:] != end for other in others):
            return "/".join(end)
    return str(path)
