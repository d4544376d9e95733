"""The lab: a topology that runs, and trials between its hosts."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from punchlab.lab.inputs import choices
from punchlab.lab.network import Network
from punchlab.lab.trial import trial
from punchlab.lab.trial.options import TrialOptions
from punchlab.lab.trial.trial import Trial


class Lab(Network):
    """An emulated Internet in which clients punch. Nothing of it outlives the `with` block."""

    def punch(self, one: str, other: str, **options: Any) -> Trial:
        """Let the client under test punch between two hosts; `options` are those of `lab.trial.options.Options`.

        Raises `InputError`, also for a topology without an edge, at which the two could meet.
        """
        for name in options:
            choices.one_of("option", name, [each.name for each in fields(TrialOptions)])
        self._require_edge()
        return trial.run(self, one, other, TrialOptions(**options))
