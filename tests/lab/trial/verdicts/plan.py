"""The behavior of the toy client in one trial, chosen by the generator."""

from __future__ import annotations

from dataclasses import dataclass, fields

PATHS = (
    "direct",  # one TCP connection between the hosts, or `streams` of them
    "relay",  # through the edge; the hosts never connect to each other
    "idle",  # the hosts connect, but the file goes through the edge
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
"""Where a client can die: before the rendezvous; when it knows its peer; when connected; after half of the bytes; with
the file complete; after it has reported the end.
"""
DEATHS = ("exit", "failed", "kill", "hang", "deaf")
"""Status 3 without an event; an event `failed` and status 1; SIGKILL; waiting forever; the same, ignoring SIGTERM."""
WORDS = (
    "honest",
    "silent",
    "boast",  # all events of a success at the start, with invented endpoints
    "tuple",  # `agreed` names other endpoints than the connection's
    "edge",  # `agreed` names the edge
    "peer",  # `agreed` names the peer's address, with or without a connection
    "backwards",  # the events of a success in reverse order, at the end
    "sorry",  # an event `failed` although the transfer succeeded
)
CHILDREN = (
    "none",
    "worker",  # a grandchild, in another session, does everything; the client waits for it
    "stdout",  # a child keeps standard output open forever
    "daemon",  # a child without open streams stays forever
    "holder",  # a child keeps every connection open forever
)


@dataclass(frozen=True, slots=True)
class Plan:
    """A way to transfer a file, or to fail. `parse` is the inverse of `str`."""

    path: str = "direct"
    streams: int = 1
    dials: str = "both"
    """Which host calls connect(): both, sender or receiver."""
    close: str = "fin"
    """fin; rst (SO_LINGER 0); half (shutdown, then read to the end)."""
    early: bool = False
    """Whether the connection to the edge is closed before the punch."""
    word: str = "honest"
    stage: str = "never"
    death: str = "exit"
    who: str = "sender"
    """Which client dies: sender, receiver or both."""
    outcome: str = "punch_timeout"
    """The outcome in an event `failed`."""
    child: str = "none"
    place: str = "public"
    """The destination: the peer's public, private or IPv6 address; or third, the third host at the peer's port."""
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
        """Return the plan that `str` wrote."""
        kinds = {field.name: type(field.default) for field in fields(cls)}
        values = dict(part.split("=", 1) for part in text.split(",") if part)
        return cls(**{name: int(value) if kinds[name] is not str else value for name, value in values.items()})  # type: ignore[arg-type]

    def dies(self, role: str, stage: str) -> bool:
        """Return whether that host dies at that stage."""
        return stage == self.stage and self.who in (role, "both")
