"""Many trials: every combination of the axes, every trial in a fresh lab, resumed where a run was stopped.

`cells` declares the trials, `plan` chooses the next one, `execute` runs it (`machines`: on several machines), `results`
stores its record. `run` connects them.
"""

from punchlab.lab.campaign.cells import Campaign, Cell, Job
from punchlab.lab.campaign.execute import Executor, Finished, LocalExecutor
from punchlab.lab.campaign.run import run

__all__ = ["Campaign", "Cell", "Executor", "Finished", "Job", "LocalExecutor", "run"]
