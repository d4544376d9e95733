"""The lab: a running topology, and trials between its hosts."""

from __future__ import annotations

from punchlab.lab.client.description import PUNCH, Client
from punchlab.lab.network import Network
from punchlab.lab.trial import trial
from punchlab.lab.trial.options import TrialOptions
from punchlab.lab.trial.trial import Trial


class Lab(Network):
    """An emulated Internet in which clients connect. All resources are released at the end of the block."""

    def punch(
        self,
        one: str,
        other: str,
        *,
        client: Client = PUNCH,
        strategy: str = "reuse",
        max_attempts: int | None = None,
        deadline_s: float = 5.0,
        skew_s: float | None = None,
        file_size: int = 64 * 1024,
        transfer_s: float = 120.0,
        full_capture: bool = False,
        relay: bool = False,
    ) -> Trial:
        """Run the client on two hosts, and return what happened. `one` sends a file, `other` receives it.

        `strategy` is one of the client's. Each host calls connect() at most `max_attempts` times per candidate (None:
        as often as `deadline_s` allows). With `skew_s` both hosts start at a shared time, the second that much later;
        it may be negative. `file_size` is in bytes. The transfer may take `transfer_s` seconds. `full_capture` records
        all packets. With `relay` the clients may use a relay of the edges.

        Raises `InputError` for a value that is out of range and for a topology without an edge, and `LabError` if the
        lab itself fails.
        """
        self.require_edge()
        options = TrialOptions(
            client=client,
            strategy=strategy,
            max_attempts=max_attempts,
            deadline_s=deadline_s,
            skew_s=skew_s,
            file_size=file_size,
            transfer_s=transfer_s,
            full_capture=full_capture,
            relay=relay,
        )
        return trial.run(self, one, other, options)
