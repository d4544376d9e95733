"""The edge endpoints of a running lab: the client's own edge command in every edge node, joined to each other."""

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
"""TCP port on which edges listen."""

Bus = Literal["mesh", "nats"]
"""How edges talk to each other."""

BUSES: tuple[Bus, ...] = get_args(Bus)

STUN_PORTS = (3478, 3479)
"""Of the primary and of the alternate address; also the defaults of coturn."""

_START_S = 20.0


def stun_addresses(edge: Node) -> dict[str, str]:
    """Where an edge answers STUN: `stun`, and `alternate` if it has a second address of its own, its last one."""
    found = {"stun": f"{edge.address}:{STUN_PORTS[0]}"}
    if len(edge.graph.addresses) > 1:
        found["alternate"] = f"{edge.graph.addresses[-1].partition('/')[0]}:{STUN_PORTS[1]}"
    return found


class EdgeNetwork:
    """Every edge of the lab; up and joined after `wait`. `log` has each one's events since it was started last.

    With `ipv6` they listen on their IPv6 addresses as well. `bus` is "mesh" or "nats": then there is a NATS server
    in the node of each edge, in `nats`. Raises `InputError` for a client whose edges cannot use that.
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
        """The client whose edge command they run."""
        return self._client

    def serve(self, client: Client) -> None:
        """Run the edge command of that client from now on; `wait` for it.

        Edges of another client are ended, and all are started again if one has ended by itself. What was killed stays
        down until it is started, and what was frozen is frozen again by `wait`. Raises `InputError`.
        """
        if client == self._client and self.trouble() is None:
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
                    self._frozen.add(name)  # by `wait`

    def _words(self, name: str, client: Client) -> list[str]:
        """The edge command of the client in that node. Raises `InputError`."""
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
        """Each edge's process, the latest one.

        What they print must be taken in: see `lab.client.processes.wait_for`.
        """
        return list(self._processes.values())

    def process(self, name: str) -> EventProcess:
        """The edge's process, the latest one. Raises `InputError` for one that is not there, or was not started."""
        self._node(name)
        if name not in self._processes:
            raise InputError("edge", name, "an edge that was started")
        return self._processes[name]

    def start(self, name: str, through: Sequence[str] = ()) -> None:
        """Start an edge, again if it was killed; `through` are words of a command that runs its own command, which
        is not confined then.

        A command that cannot be started is reported by `wait`. Raises `InputError`.
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
        """Kill an edge, as by a power cut of its processes: the kernel closes its connections."""
        process = self.process(name)
        self._down.add(name)
        self._frozen.discard(name)
        process.kill()
        process.read()

    def freeze(self, name: str) -> None:
        """An edge hangs: the kernel goes on to acknowledge what comes for it, and nobody reads it."""
        leftovers.send(self.process(name).members(), signal.SIGSTOP)
        self._frozen.add(name)

    def thaw(self, name: str) -> None:
        """It goes on."""
        leftovers.send(self.process(name).members(), signal.SIGCONT)
        self._frozen.discard(name)

    def alive(self) -> bool:
        """Whether every edge still runs that was not killed on purpose."""
        return self.trouble() is None

    @property
    def contract_error(self) -> str | None:
        """How the first edge that broke the contract did so; None if none did."""
        errors = (process.contract_error for process in self._processes.values())
        return next((error for error in errors if error is not None), None)

    def trouble(self) -> str | None:
        """How the first edge broke that did: not started, a wrong event, or ended by itself; None if none did."""
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
                return f"{Speaker(self._client.name, EDGE, name)}: {process.last_words}"
        return None

    def close(self) -> None:
        """Stop every edge."""
        end(self.processes)
        if self.nats is not None:
            self.nats.close()

    def wait(self) -> None:
        """Wait until every edge that is not down listens and, if its command can join others, has joined them.

        Raises `ClientError` that names the client, the edge and what is wrong, `LabError` for a NATS server.
        """
        if self.nats is not None:
            self.nats.wait()
        wait_for(self.processes, lambda: self.trouble() is not None or self._missing() is None, _START_S)
        wrong = self.trouble() or self._missing()
        if wrong is not None:
            raise ClientError(wrong)
        for name in self._frozen:
            self.freeze(name)

    def _missing(self) -> str | None:
        """The first event that an edge has not printed as often as it must; None if all are there."""
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
