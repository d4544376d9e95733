"""What the toy client does in one trial: read by the toy, chosen by the generator."""

from __future__ import annotations

from dataclasses import dataclass, fields

PATHS = (
    "direct",  # one TCP connection between the hosts, or `streams` of them
    "relay",  # through the edge; the hosts never dial each other
    "idle",  # the hosts connect, and the file goes through the edge
    "garbage",  # the same, and as many other bytes go over the connection
    "half",  # one half over the connection, the other half through the edge
    "mptcp",  # as direct, over a socket of Multipath TCP
    "udp",  # datagrams between the hosts
    "udp_relay",  # datagrams through the edge
    "udplite",  # datagrams of UDP-Lite (RFC 3828) between the hosts
    "raw",  # packets of an IP protocol without a name
    "disk",  # the receiver copies the sender's file
    "third",  # through a third host
)
STAGES = ("start", "known", "connected", "middle", "stored", "done")
"""Where a client may die: before the rendezvous; when it knows its peer; connected; after half of the bytes; with the
file in its place; after it has announced the end."""
DEATHS = ("exit", "failed", "kill", "hang", "deaf")
"""Status 3 without an event; an event `failed` and status 1; SIGKILL; waiting for ever; the same, ignoring SIGTERM."""
WORDS = (
    "honest",
    "silent",
    "boast",  # every event of a success first of all, with endpoints of its own invention
    "tuple",  # `agreed` names other endpoints than the connection's
    "edge",  # `agreed` names the edge
    "peer",  # `agreed` names the peer's address, whether or not there is a connection
    "backwards",  # the events of a success in the reverse order, at the end
    "sorry",  # an event `failed` although everything went well
)
CHILDREN = (
    "none",
    "worker",  # a grandchild, in a session of its own, does everything; the client waits for it
    "stdout",  # a child keeps standard output open for ever
    "daemon",  # a child with no open streams stays for ever
    "holder",  # a child keeps every connection open for ever
)


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to transfer a file, or to fail; `str` and `parse` are inverse to each other."""

    path: str = "direct"
    streams: int = 1
    dials: str = "both"
    """both, sender or receiver: who calls connect()."""
    close: str = "fin"
    """fin; rst (SO_LINGER 0); half (shutdown, then read to the end)."""
    early: bool = False
    """Whether the connection to the edge is closed before the punch."""
    word: str = "honest"
    stage: str = "never"
    death: str = "exit"
    who: str = "sender"
    """Who dies: sender, receiver or both."""
    outcome: str = "punch_timeout"
    """What an event `failed` says."""
    child: str = "none"
    place: str = "public"
    """What is dialled: the peer's public, private or ipv6 address; or third, the third host at the peer's port."""
    third: str = "-"
    """Address of the third host."""
    fast: bool = False
    """Whether the sender's data begin in its SYN (TCP Fast Open)."""

    def __str__(self) -> str:
        return ",".join(
            f"{field.name}={value:d}" if isinstance(value, bool) else f"{field.name}={value}"
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        )

    @classmethod
    def parse(cls, text: str) -> Plan:
        """The plan that `str` wrote."""
        kinds = {field.name: type(field.default) for field in fields(cls)}
        values = dict(part.split("=", 1) for part in text.split(",") if part)
        return cls(**{name: int(value) if kinds[name] is not str else value for name, value in values.items()})  # type: ignore[arg-type]

    def dies(self, role: str, stage: str) -> bool:
        """Whether that host dies there."""
        return stage == self.stage and self.who in (role, "both")
