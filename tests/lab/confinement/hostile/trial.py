"""A trial of the hostile client, as a program: `python -m tests.lab.confinement.hostile.trial MARK REPORT`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from punchlab import Lab
from punchlab.lab.client.description import Client
from punchlab.lab.confinement import sandbox
from punchlab.topologies import AB

SIZE = 123_457
PROGRAM = str(Path(__file__).with_name("attempts.py"))


def client(mark: str, report: str) -> Client:
    """The hostile client in all roles."""

    def words(role: str, inbox: str) -> tuple[str, ...]:
        return ("{python}", "-S", PROGRAM, role, mark, report, str(SIZE), inbox)

    return Client(
        name="hostile",
        edge=words("edge", "/nowhere"),
        sender=words("send", "/nowhere"),
        receiver=words("receive", "{directory}"),
        strategies=("none",),
        tells_code=False,
        writes=(report,),
    )


if __name__ == "__main__":
    mark, report = sys.argv[1:]
    sandbox.enter()
    with Lab(AB(delay="0ms", edge_delay="0ms")) as lab:
        hostile = client(mark, report)
        trial = lab.punch("a", "b", client=hostile, strategy="none", file_size=SIZE)
        again = lab.punch("a", "b", file_size=SIZE)
    print(json.dumps({"outcome": trial.outcome, "transferred": trial.transferred, "again": again.outcome}))
