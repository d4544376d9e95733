"""The options of a trial."""

from __future__ import annotations

from dataclasses import dataclass

from punchlab.lab.client.description import PUNCH, Client
from punchlab.lab.errors import InputError
from punchlab.lab.inputs import choices, numbers

MOST_BYTES = 1 << 30
"""The maximum size of the file of a trial."""


@dataclass(frozen=True, slots=True)
class TrialOptions:
    """How the clients punch and transfer.

    `max_attempts`: connect() calls per candidate (None: no limit but `deadline_s`). `skew_s`: both hosts start at a
    shared instant, the second host this much later (None: each starts when it is ready). `file_size`: in bytes (the
    capture counts modulo 2**32). `transfer_s`: deadline of the transfer. `full_capture`: record every packet. `relay`:
    the clients may use a relay of the edges as last resort.
    """

    client: Client = PUNCH
    strategy: str = "reuse"
    max_attempts: int | None = None
    deadline_s: float = 5.0
    skew_s: float | None = None
    file_size: int = 64 * 1024
    transfer_s: float = 120.0
    full_capture: bool = False
    relay: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.client, Client):
            raise InputError("client", self.client, "a Client")
        self.client.check()
        choices.one_of("strategy", self.strategy, self.client.strategies)
        if self.max_attempts is not None:
            numbers.attempts("max_attempts", self.max_attempts)
        numbers.deadline("deadline", self.deadline_s)
        if self.skew_s is not None:
            most = numbers.LARGEST_SKEW_MS / 1000
            numbers.seconds("skew_s", self.skew_s, least=-most, most=most)
        numbers.whole("file_size", self.file_size, least=1, most=MOST_BYTES, unit="a number of bytes")
        numbers.deadline("transfer_s", self.transfer_s)
        choices.flag("full_capture", self.full_capture)
        choices.flag("relay", self.relay)
