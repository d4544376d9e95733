"""`Lab`: a running topology with trials between its hosts."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from punchlab.lab.inputs import choices
from punchlab.lab.network import Network
from punchlab.lab.trial import trial
from punchlab.lab.trial.options import TrialOptions
from punchlab.lab.trial.trial import Trial


class Lab(Network):
    """An emulated Internet for trials of hole punching. All resources are released at the end of the `with` block."""

    def punch(self, one: str, other: str, **options: Any) -> Trial:
        """Run the client under test on two hosts and return the trial. `options` are those of
        `lab.trial.options.TrialOptions`.

        Raises `InputError` for invalid options or a topology without an edge.
        """
        for name in options:
            choices.one_of("option", name, [each.name for each in fields(TrialOptions)])
        self._require_edge()
        return trial.run(self, one, other, TrialOptions(**options))
