"""Reports: from result records to charts, tables and a page.

`write(run_dir)` turns the `results.jsonl` of one run, or of several, into `index.html`, `charts/`, `results.csv`,
`results.parquet` and `summary.md`.
"""

from punchlab.reports.parquet import MISSING as NO_PARQUET
from punchlab.reports.report import ReportPaths, write

__all__ = ["NO_PARQUET", "ReportPaths", "write"]
