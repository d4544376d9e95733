"""One trial: a client punches between two hosts of a running lab while every SYN is recorded."""

from __future__ import annotations

import contextlib
import datetime
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from punchlab.lab.capture.frame import CapturePoint, Recording
from punchlab.lab.capture.recorder import Recorder
from punchlab.lab.client.description import Client
from punchlab.lab.client.edges import EdgeNetwork
from punchlab.lab.client.processes import Event
from punchlab.lab.errors import ClientError, InputError
from punchlab.lab.exchange import Delivery, Exchange, HostPair, HostSide
from punchlab.lab.exchange.timeline import render
from punchlab.lab.graph import Path as LabPath
from punchlab.lab.kernel import mounts
from punchlab.lab.nat.site import external_addresses
from punchlab.lab.network import Network
from punchlab.lab.oracle.outcome import Dial, Prediction
from punchlab.lab.trial import clients, control, evidence, verdict
from punchlab.lab.trial.control import Control
from punchlab.lab.trial.options import TrialOptions
from punchlab.lab.trial.prediction import predict_with_host_candidates
from punchlab.lab.trial.verdict import ClientRun
from punchlab.punch.text import printable

RECORDING_BYTES = 128 << 20
"""The maximum memory of a trial's recording, in addition to twice the file at each capture point."""

_LAST_FRAMES_S = 0.1
"""How long the capture waits for the last frames of a connection, in addition to twice the delay of the path."""

_SPARE_BYTES = 16 << 20
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of one trial. `lab.trial.record` converts it to plain data.

    `path` is the path between the hosts of `pair`, `links` the implementation that impaired links, `background_per_s`
    the connections per second of other hosts through each NAT. `outcome` is one of `lab.results.outcomes.OUTCOMES`,
    with a `reason` unless it is `direct`. `transferred` says whether the file arrived, `delivery` what the capture
    proves about its path. `cpu_pressure` is the share of time (0 to 1, None if unknown) in which a task of the machine
    waited for a CPU, from when both clients knew their peer until they agreed on a connection, or one exited.
    """

    options: TrialOptions
    pair: tuple[str, str]
    path: LabPath
    links: str
    background_per_s: float
    started: datetime.datetime
    outcome: str
    reason: str | None
    transferred: bool
    delivery: Delivery
    sides: tuple[ClientRun, ClientRun]
    control: Control
    prediction: Prediction
    recording: Recording
    exchange: Exchange
    edge_log: Mapping[str, Sequence[Event]]
    timings_s: Mapping[str, float]
    cpu_pressure: float | None

    @property
    def direct(self) -> bool:
        """Whether the hosts connected without a relay, proved as in `lab.trial.verdict`."""
        return self.outcome == "direct"

    @property
    def connected(self) -> bool:
        """Whether the capture shows a connection, or UDP in both directions, between the hosts through the expected
        NATs.
        """
        return self.delivery.connected

    @property
    def punched(self) -> bool | None:
        """Whether the punch succeeded, or None if the trial does not show it.

        It is None if the client did not start to punch or failed before it was connected, if it did not use its
        connection or rejected its peer, or if it used another transport than TCP, which the oracle does not model.
        """
        if self.delivery.udp:
            return None
        if self.connected and self.outcome in ("relayed", "wrong_peer"):
            return None
        if self.connected and self.outcome in ("direct", "client_error"):
            return True
        if not self.exchange.started or self.outcome in ("no_rendezvous", "client_error"):
            return None
        return False

    @property
    def agrees(self) -> bool | None:
        """Whether the trial and its control attempt agree with the predictions.

        None if the punch succeeded or failed for reasons outside the model (see `punched`), if the control attempt did
        not reach the edge, or if the outcome is random.
        """
        if self.control.agrees is False:
            return False
        if self.punched is None or self.control.direct is None:
            return None
        verdicts = [self.prediction.agrees(self.punched), self.control.agrees]
        known = [verdict for verdict in verdicts if verdict is not None]
        return all(known) if known else None

    def __str__(self) -> str:
        one, other = self.pair
        head = f"{one} - {other}: {self.outcome}" + (f" ({self.reason})" if self.reason else "")
        return f"{head}; predicted: {self.prediction.outcome}, for {self.prediction.reason}\n{render(self.exchange)}"


def run(
    lab: Network, one: str, other: str, options: TrialOptions, *, waiting: Callable[[], None] = lambda: None
) -> Trial:
    """Run a trial between two hosts. Raises `LabError` if the lab fails, `InputError` for invalid hosts.

    `waiting` is called when the clients have been running for a while and mostly wait.
    """
    for host in (one, other):
        if lab[host].kind != "host":
            raise InputError("pair", host, "a host of the topology")
    if one == other:
        raise InputError("pair", f"{one},{other}", "two different hosts")
    started = datetime.datetime.now(datetime.UTC)
    edges = edge_network(lab, options.client)
    attempted = control.attempt(lab, one, other)  # while the edges start
    broken = _client_error(edges.wait)
    path = lab.path(one, other)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="punchlab-", dir="/run"))
        sent, inbox = Path(folder) / "sent.bin", Path(folder) / "inbox"
        sent.write_bytes(os.urandom(options.file_size))
        stack.enter_context(_inbox(inbox, options.file_size))
        points = _capture_points(lab, one, other)
        most = RECORDING_BYTES + 2 * options.file_size * len(points)
        with Recorder(points, full=options.full_capture, most_bytes=most) as recorder:
            started_s = time.monotonic()
            if broken is None:
                sides, pressure = clients.punch(lab, one, other, options, sent, inbox, waiting)
            else:
                sides, pressure = (ClientRun(one, [], None, ""), ClientRun(other, [], None, "")), None
            pair = pair_of(lab, one, other)
            patience_s = 2 * (path.delay_s + path.jitter_s) + _LAST_FRAMES_S
            settled = evidence.settled(recorder, pair, ways(path), patience_s)
            recording = recorder.stop()
        arrived = _same_content(sent, inbox / sent.name)
    shown = evidence.examine(recording, settled, pair, ways(path), most)
    exchange, proof = shown.exchange, shown.delivery
    broken = broken or edges.contract_error
    if broken is None and shown.excess is not None:
        broken = f"client {options.client.name}: {shown.excess}"
    exchange.agreed = proof.carrier.at_a if proof.carrier is not None and proof.direct_bytes else _reported(sides[0])
    outcome, reason = verdict.judge(
        sides,
        arrived=arrived,
        exchange=exchange,
        nats=path.nats,
        shortcut=path.shortcut,
        file_size=options.file_size,
    )
    # Edges are part of the client. Without them a proof remains valid, but they are the cause of a failure.
    if broken is None and outcome not in ("direct", "relayed"):
        broken = edges.failure()
    if broken is not None:
        outcome, reason = "client_error", printable(broken, verdict.REASON_CHARACTERS)
    prediction = predict_with_host_candidates(
        lab,
        one,
        other,
        Dial(
            path.delay_s,
            exchange.skew_s if exchange.skew_s is not None else options.skew_s or 0.0,
            options.max_attempts,
            options.deadline_s,
            path.loss,
            path.jitter_s,
        ),
        options.strategy,
        (exchange.since_rendezvous_s(one), exchange.since_rendezvous_s(other)),
    )
    return Trial(
        options=options,
        pair=(one, other),
        path=path,
        links=lab.links,
        background_per_s=lab.background_per_s,
        started=started,
        outcome=outcome,
        reason=None if reason is None else printable(reason),  # it may contain text of a client
        transferred=arrived,
        delivery=proof,
        sides=sides,
        control=attempted,
        prediction=prediction,
        recording=recording,
        exchange=exchange,
        edge_log=edges.log,
        timings_s=verdict.timings(sides, started_s),
        cpu_pressure=pressure,
    )


def ways(path: LabPath) -> set[tuple[str, ...]]:
    """Return the NATs on each path between the hosts."""
    return {tuple(way) for way in (path.nats, path.shortcut) if way is not None}


def _reported(side: ClientRun) -> tuple[str, str] | None:
    """Return the endpoints of the connection on which the client reports agreement."""
    agreed = side.last("agreed")
    return None if agreed is None else (str(agreed["local"]), str(agreed["remote"]))


def pair_of(lab: Network, one: str, other: str) -> HostPair:
    """Return the addresses and NATs of two hosts, as the exchange needs them."""
    edges = {
        edge.name: frozenset(
            (*edge.graph.interfaces[0].hosts, lab.anycast, *(each.partition("/")[0] for each in edge.graph.addresses))
        )
        for edge in lab.edges
    }

    def external(name: str) -> Sequence[str]:
        node = lab[name].graph
        return [node.address] if node.behavior is None else external_addresses(node.address, node.behavior)

    def side(host: str) -> HostSide:
        nats = tuple(lab.in_front_of(host))
        outermost = next((name for name in reversed(nats) if lab[name].graph.translates), host)
        inside = [each.address or "" for name in nats for each in lab[name].graph.interfaces[1:]]
        gateways = frozenset(address.partition("/")[0] for address in inside)
        addresses = {*external(outermost), *([lab[host].address6] if lab.graph.nodes[host].address6 else [])}
        near = {lab[host].address, *(address for name in nats for address in external(name))}
        return HostSide(host, nats, frozenset(addresses), gateways, frozenset(near))

    a, b = side(one), side(other)
    others = frozenset(node.name for node in lab if node.kind == "host") - {one, other}
    elsewhere = {address for name in others for address in (*side(name).addresses, *side(name).inside)}
    known = frozenset().union(*(each.addresses | each.inside for each in (a, b)))
    return HostPair(a, b, edges, others, lab.background_addresses, frozenset(elsewhere) - known)


def edge_network(lab: Network, client: Client) -> EdgeNetwork:
    """Return the lab's edges with this client's edge command. Call `wait` afterwards.

    This ends the edges of another client, see `EdgeNetwork.serve`. Raises `InputError`.
    """
    if lab.edge_network is None:
        lab.edge_network = EdgeNetwork(lab.edges, client, lab.bus, ipv6=lab.edges_speak_ipv6)
    else:
        lab.edge_network.serve(client)
    return lab.edge_network


def _client_error(step: Callable[[], None]) -> str | None:
    """Run the step and return the client's error, or None."""
    try:
        step()
    except ClientError as error:
        return str(error)
    return None


def _capture_points(lab: Network, one: str, other: str) -> list[CapturePoint]:
    """Return the interfaces of all nodes between the two hosts and the edges."""
    ends = [one, other, *(edge.name for edge in lab.edges)]
    names = dict.fromkeys(name for end in ends for start in (one, other) for name in lab.path(start, end).nodes)
    return [
        CapturePoint(lab[name].namespace, name, interface.name, udp=name in (one, other))
        for name in names
        if lab[name].kind != "switch"
        for interface in lab.graph.nodes[name].interfaces
    ]


def _same_content(sent: Path, received: Path) -> bool:
    """Return whether the received file equals the sent one. Links are not followed, because they could lead to a file
    of the lab.
    """
    try:
        if not stat.S_ISREG(received.lstat().st_mode):
            return False
        found = os.open(received, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    with os.fdopen(found, "rb") as arrived, sent.open("rb") as original:
        if os.fstat(arrived.fileno()).st_size != os.fstat(original.fileno()).st_size:
            return False
        while chunk := original.read(_CHUNK):
            if arrived.read(len(chunk)) != chunk:
                return False
        return not arrived.read(1)


@contextlib.contextmanager
def _inbox(folder: Path, file_size: int) -> Iterator[None]:
    """Mount the folder with space for twice the file, so that a client cannot fill the sandbox's memory."""
    folder.mkdir()
    size = 2 * file_size + _SPARE_BYTES
    mounts.mount("tmpfs", str(folder), "tmpfs", mounts.NOSUID | mounts.NODEV, f"mode=700,size={size}")
    try:
        yield
    finally:
        mounts.unmount(str(folder))
