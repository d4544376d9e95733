"""Results in, pictures and pages out.

`write(run_dir)` turns the `results.jsonl` of one run, or of several, into `index.html`, `charts/`, `results.csv` and
`summary.md`.
"""

from reports.report import ReportPaths, write

__all__ = ["ReportPaths", "write"]
