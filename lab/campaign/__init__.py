"""Many trials: every combination of the axes, every trial in a fresh lab, continued where a run was stopped.

Four things, kept apart: what there is to run (`cells`), which trial is next (`plan`), where trials run (`execute`; on
several machines, `machines`), and what becomes of their results (`lab.campaign.results`). `run` lets them work
together.
"""

from punchlab.lab.campaign.cells import Campaign, Cell, Job
from punchlab.lab.campaign.execute import Executor, Finished, LocalExecutor
from punchlab.lab.campaign.run import run

__all__ = ["Campaign", "Cell", "Executor", "Finished", "Job", "LocalExecutor", "run"]
