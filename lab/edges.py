"""The edge endpoints of a running lab: the client's own edge command in every edge node, joined to each other."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence

from lab.client import Client, command
from lab.errors import InputError, LabError
from lab.natscluster import NatsCluster
from lab.node import Node
from lab.process import Event, EventProcess, wait_for

PORT = 7000
"""TCP port on which edges listen."""

BUSES = ("mesh", "nats")
"""How edges can talk to each other."""

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
    beside each edge, in `nats`. Raises `InputError` for a client whose edges cannot use that.
    """

    def __init__(self, nodes: list[Node], client: Client, bus: str = "mesh", *, ipv6: bool = False) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._client = client
        self._processes: dict[str, EventProcess] = {}
        self._down: set[str] = set()
        self._ipv6 = ipv6
        if bus not in BUSES:
            raise InputError("bus", bus, f"one of {', '.join(BUSES)}")
        if bus == "nats" and not any("{bus}" in word for word in client.edge):
            raise InputError("bus", bus, f"mesh, for the edges of {client.name} know no other")
        self.nats = NatsCluster(nodes) if bus == "nats" else None
        try:
            for node in nodes:
                self.start(node.name)
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

    @property
    def processes(self) -> list[EventProcess]:
        """Each edge's process, the latest one. Somebody must take in what they say: see `lab.process.wait_for`."""
        return list(self._processes.values())

    def process(self, name: str) -> EventProcess:
        """The edge's process, the latest one. Raises `InputError`."""
        if name not in self._processes:
            raise InputError("edge", name, f"one of {', '.join(self._processes)}")
        return self._processes[name]

    def start(self, name: str, through: Sequence[str] = ()) -> None:
        """Start an edge, again if it was killed; `through` are words of a command that runs its own command."""
        node, old = self._nodes[name], self._processes.pop(name, None)
        if old is not None:
            old.end()
        urls = {other: f"ws://{each.address}:{PORT}" for other, each in self._nodes.items()}
        values = {"listen": f"0.0.0.0:{PORT}", "name": name, "url": urls[name], **stun_addresses(node)}
        if self._ipv6:
            values["listen6"] = f"[{node.address6}]:{PORT}"
        joins = list(urls.values())[: list(urls).index(name)]
        if self.nats is not None:
            values["bus"], joins = self.nats.urls(name), []
        words, function = command(self._client.edge, values, joins), self._client.function
        if through:
            words = [*through, *(words if function is None else function.as_command(words))]
            function = None
        self._processes[name] = EventProcess(node, words, function)
        self._down.discard(name)

    def kill(self, name: str) -> None:
        """Kill an edge, as by a power cut of its process: the kernel closes its connections."""
        process = self.process(name)
        self._down.add(name)
        process.process.kill()
        process.process.wait()

    def freeze(self, name: str) -> None:
        """An edge hangs: the kernel goes on to acknowledge what comes for it, and nobody reads it."""
        self.process(name).process.send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """It goes on."""
        self.process(name).process.send_signal(signal.SIGCONT)

    def alive(self) -> bool:
        """Whether every edge still runs that was not killed on purpose."""
        return all(process.returncode is None for name, process in self._processes.items() if name not in self._down)

    def close(self) -> None:
        """Stop every edge."""
        for process in self._processes.values():
            process.process.send_signal(signal.SIGCONT)
            process.end()
        if self.nats is not None:
            self.nats.close()

    def wait(self) -> None:
        """Wait until every edge listens and is joined to the others. Raises `LabError`."""
        if self.nats is not None:
            self.nats.wait()
        links = len(self._nodes) - 1 if self.nats is None else 1

        def ready() -> bool:
            return all(
                process.first("listening") is not None
                and sum(event["event"] == "joined" for event in process.events) >= links
                for process in self._processes.values()
            )

        def settled() -> bool:
            return ready() or not all(process.open for process in self._processes.values())

        wait_for(list(self._processes.values()), settled, _START_S)
        if not ready():
            silent = next((p for p in self._processes.values() if not p.open), next(iter(self._processes.values())))
            raise LabError(f"edges did not come up: {silent.node.name}: {silent.errors or 'no reason given'}")
