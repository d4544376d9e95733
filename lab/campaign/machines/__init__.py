"""Trials on other machines, by way of Dask (`distributed`, an extra of this package).

    campaign ── DaskExecutor ── scheduler ── worker ──pipe── runner, in its sandbox ── trials

`executor` submits the jobs of a campaign and collects their results. A `worker` is Dask's and runs outside of the
sandbox, which has no network access; its `runner`, inside, runs the trials. `identity` distinguishes versions of the
code.
"""

from __future__ import annotations

import re

from punchlab.lab.errors import InputError

_ADDRESS = re.compile(r"(tcp|tls)://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")


def check_address(field: str, address: str) -> None:
    """Raise `InputError` if the address cannot be that of a scheduler."""
    if not _ADDRESS.fullmatch(address):
        raise InputError(field, address, "the address of a Dask scheduler, such as tcp://scheduler:8786")
