"""A run folder in, its report out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reports.files import put_files
from reports.groups import Trials, group_trials
from reports.page import index_html
from reports.results import read_run
from reports.summary import summary_md
from reports.table import results_csv


@dataclass(frozen=True, slots=True)
class ReportPaths:
    """Where the files of a report are. `charts` has the PNG and the SVG of every chart."""

    index: Path
    summary: Path
    table: Path
    charts: tuple[Path, ...]


def write(run_dir: Path) -> ReportPaths:
    """Report on the results in `run_dir`, beside them: `index.html`, `summary.md`, `results.csv` and `charts/`.

    Every file appears whole or not at all, and the same results give the same bytes. Raises `InputError` for a folder
    that holds no results, holds a malformed one, or cannot be written.
    """
    run = read_run(run_dir)
    groups = group_trials(run.trials)
    everything = Trials(run.trials)
    notes = ["The last line of results.jsonl was cut short (a killed run) and is left out."] if run.cut_short else []

    from reports.charts import draw  # matplotlib takes more than a second to import

    charts = draw(groups)
    files = {
        "index.html": index_html(groups, everything, charts, run.parameters, notes).encode(),
        "summary.md": summary_md(groups, everything, notes).encode(),
        "results.csv": results_csv(run.trials).encode(),
    }
    pictures = {f"charts/{chart.name}.{kind}": getattr(chart, kind) for chart in charts.all for kind in ("png", "svg")}
    put_files(run_dir, files | pictures, replaced="charts")
    return ReportPaths(
        index=run_dir / "index.html",
        summary=run_dir / "summary.md",
        table=run_dir / "results.csv",
        charts=tuple(run_dir / name for name in pictures),
    )
