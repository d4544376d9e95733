"""The edge endpoints of a running lab: the client's own edge command in every edge node, joined to each other."""

from __future__ import annotations

from collections.abc import Mapping

from lab.client import Client, command
from lab.errors import LabError
from lab.node import Node
from lab.process import Event, EventProcess, wait_for

PORT = 7000
"""TCP port on which edges listen."""

_START_S = 20.0


class EdgeNetwork:
    """Every edge of the lab; up and joined after `wait`. `log` has each one's events since it started."""

    def __init__(self, nodes: list[Node], client: Client) -> None:
        urls = {node.name: f"ws://{node.address}:{PORT}" for node in nodes}
        self._processes: dict[str, EventProcess] = {}
        try:
            for number, node in enumerate(nodes):
                values = {"listen": f"0.0.0.0:{PORT}", "name": node.name}
                joins = [urls[other.name] for other in nodes[:number]]
                self._processes[node.name] = EventProcess(node, command(client.edge, values, joins), client.function)
        except BaseException:
            self.close()
            raise

    @property
    def log(self) -> Mapping[str, list[Event]]:
        """Edge name -> its events so far."""
        for process in self._processes.values():
            if process.open:
                process.read()
        return {name: process.events for name, process in self._processes.items()}

    def alive(self) -> bool:
        """Whether every edge still runs."""
        return all(process.returncode is None for process in self._processes.values())

    def close(self) -> None:
        """Stop every edge."""
        for process in self._processes.values():
            process.end()

    def wait(self) -> None:
        """Wait until every edge listens and is joined to the others. Raises `LabError`."""

        def ready() -> bool:
            return all(
                process.first("listening") is not None
                and sum(event["event"] == "joined" for event in process.events) >= number
                for number, process in enumerate(self._processes.values())
            )

        def settled() -> bool:
            return ready() or not all(process.open for process in self._processes.values())

        wait_for(list(self._processes.values()), settled, _START_S)
        if not ready():
            silent = next((p for p in self._processes.values() if not p.open), next(iter(self._processes.values())))
            raise LabError(f"edges did not come up: {silent.node.name}: {silent.errors or 'no reason given'}")
