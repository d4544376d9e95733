"""The edges of a running lab: the client's edge command in every edge node, connected to each other."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from punchlab.lab.client.contract import EDGE, Speaker
from punchlab.lab.client.description import Client
from punchlab.lab.client.natscluster import NatsCluster
from punchlab.lab.client.processes import Event, EventProcess, end, wait_for
from punchlab.lab.errors import ClientError, InputError
from punchlab.lab.kernel import leftovers
from punchlab.lab.process.node import Node

PORT = 7000
"""TCP port of the edges."""

Bus = Literal["mesh", "nats"]
"""The transport between edges."""

BUSES: tuple[Bus, ...] = get_args(Bus)

STUN_PORTS = (3478, 3479)
"""For the primary and the alternate address; also the default ports of coturn."""

_START_S = 20.0


def stun_addresses(edge: Node) -> dict[str, str]:
    """Return the STUN endpoints of an edge: `stun`, and `alternate` if the edge has a second address."""
    found = {"stun": f"{edge.address}:{STUN_PORTS[0]}"}
    if len(edge.graph.addresses) > 1:
        found["alternate"] = f"{edge.graph.addresses[-1].partition('/')[0]}:{STUN_PORTS[1]}"
    return found


class EdgeNetwork:
    """All edges of the lab, connected after `wait`. `log` has the events of each edge since its last start.

    With `ipv6`, they also listen on their IPv6 addresses. `bus` is "mesh" or "nats"; with "nats", `nats` runs a NATS
    server in the node of each edge. Raises `InputError` if the client's edges do not support the bus.
    """

    def __init__(self, nodes: list[Node], client: Client, bus: Bus = "mesh", *, ipv6: bool = False) -> None:
        self._nodes = {node.name: node for node in nodes}
        client.check()
        self._client = client
        self._processes: dict[str, EventProcess] = {}
        self._unstarted: dict[str, str] = {}
        self._down: set[str] = set()
        self._frozen: set[str] = set()
        self._ipv6 = ipv6
        if bus not in BUSES:
            raise InputError("bus", bus, f"one of {', '.join(BUSES)}")
        self.nats = NatsCluster(nodes) if bus == "nats" else None
        try:
            for node in nodes:
                self.start(node.name)
        except BaseException:
            self.close()
            raise

    @property
    def client(self) -> Client:
        """The client that provides the edge command."""
        return self._client

    def serve(self, client: Client) -> None:
        """Switch to the edge command of that client. Call `wait` afterwards.

        Edges of another client are ended, and all edges restart if one has exited unexpectedly. Killed edges stay down
        until `start`; `wait` freezes frozen ones again. Raises `InputError`.
        """
        if client == self._client and self.failure() is None:
            return
        client.check()  # before anything is ended
        for name in self._nodes:
            self._words(name, client)
        end(self.processes)
        self._processes.clear()
        self._client = client
        for name in self._nodes:
            if name not in self._down:
                frozen = name in self._frozen
                self.start(name)
                if frozen:
                    self._frozen.add(name)  # `wait` freezes it

    def _words(self, name: str, client: Client) -> list[str]:
        """Return the edge command of the client for that node. Raises `InputError`."""
        node = self._nodes[name]
        urls = {other: f"ws://{each.address}:{PORT}" for other, each in self._nodes.items()}
        values = {"listen": f"0.0.0.0:{PORT}", "name": name, "url": urls[name], **stun_addresses(node)}
        if self._ipv6:
            values["listen6"] = f"[{node.address6}]:{PORT}"
        joins = list(urls.values())[: list(urls).index(name)]
        if self.nats is not None:
            if not client.uses(EDGE, "bus"):
                raise InputError("bus", "nats", f"mesh: the edge command of client {client.name} has no {{bus}}")
            values["bus"], joins = self.nats.urls(name), []
        return client.command(EDGE, values, joins)

    @property
    def log(self) -> Mapping[str, list[Event]]:
        """Edge name -> its events so far."""
        for process in self._processes.values():
            if process.open:
                process.read()
        return {name: process.events for name, process in self._processes.items()}

    @property
    def processes(self) -> list[EventProcess]:
        """The current process of each edge.

        The caller must read their output: see `lab.client.processes.wait_for`.
        """
        return list(self._processes.values())

    def process(self, name: str) -> EventProcess:
        """Return the current process of the edge. Raises `InputError` for an unknown edge, or one that was not
        started.
        """
        self._node(name)
        if name not in self._processes:
            raise InputError("edge", name, "an edge that has been started")
        return self._processes[name]

    def start(self, name: str, through: Sequence[str] = ()) -> None:
        """Start an edge, or restart a killed one. `through` is a wrapper command for the edge command, which is then
        not confined.

        `wait` reports a command that cannot start. Raises `InputError`.
        """
        node, old = self._node(name), self._processes.pop(name, None)
        if old is not None:
            old.end()
        self._down.discard(name)
        self._frozen.discard(name)
        self._unstarted.pop(name, None)
        words, function = self._words(name, self._client), self._client.function
        confined = None if through else self._client.view(EDGE)
        if through:
            words = [*through, *(words if function is None else function.as_command(words))]
            function = None
        speaker = Speaker(self._client.name, EDGE, name)
        try:
            self._processes[name] = EventProcess(node, words, function, speaker=speaker, confined=confined)
        except ClientError as error:
            self._unstarted[name] = str(error)

    def kill(self, name: str) -> None:
        """Kill the processes of an edge. The kernel closes its connections."""
        process = self.process(name)
        self._down.add(name)
        self._frozen.discard(name)
        process.kill()
        process.read()

    def freeze(self, name: str) -> None:
        """Suspend the processes of an edge. The kernel still acknowledges packets, but no process reads them."""
        leftovers.send(self.process(name).members(), signal.SIGSTOP)
        self._frozen.add(name)

    def thaw(self, name: str) -> None:
        """Resume the processes of a frozen edge."""
        leftovers.send(self.process(name).members(), signal.SIGCONT)
        self._frozen.discard(name)

    def alive(self) -> bool:
        """Return whether all edges run, except killed ones."""
        return self.failure() is None

    @property
    def contract_error(self) -> str | None:
        """The first contract violation of an edge, or None."""
        errors = (process.contract_error for process in self._processes.values())
        return next((error for error in errors if error is not None), None)

    def failure(self) -> str | None:
        """Return the first failure of an edge: not started, an invalid event, or an unexpected exit. None if there is
        none.
        """
        for name in self._nodes:
            if name in self._down:
                continue
            if name in self._unstarted:
                return self._unstarted[name]
            process = self._processes[name]
            process.read()
            if process.contract_error is not None:
                return process.contract_error
            if not process.open:
                return f"{Speaker(self._client.name, EDGE, name)}: {process.exit_reason}"
        return None

    def close(self) -> None:
        """End all edges."""
        end(self.processes)
        if self.nats is not None:
            self.nats.close()

    def wait(self) -> None:
        """Wait until all edges that are not down listen and, if their command can join others, are joined.

        Raises `ClientError` naming the client, the edge and the failure, `LabError` for a NATS server.
        """
        if self.nats is not None:
            self.nats.wait()
        wait_for(self.processes, lambda: self.failure() is not None or self._missing() is None, _START_S)
        wrong = self.failure() or self._missing()
        if wrong is not None:
            raise ClientError(wrong)
        for name in self._frozen:
            self.freeze(name)

    def _missing(self) -> str | None:
        """Return the first missing event of an edge, or None."""
        links = 0
        if self.nats is not None:
            links = 1
        elif self._client.uses(EDGE, "join"):
            links = len(self._nodes) - len(self._down) - 1
        for name, process in self._processes.items():
            for event, times in (("listening", 1), ("joined", links)):
                found = process.count(event)
                if name not in self._down and found < times:
                    who = Speaker(self._client.name, EDGE, name)
                    return f"{who}: event {event!r}: {found} within {_START_S:g} s; expected {times}"
        return None

    def _node(self, name: str) -> Node:
        if name not in self._nodes:
            raise InputError("edge", name, f"one of {', '.join(self._nodes)}")
        return self._nodes[name]
