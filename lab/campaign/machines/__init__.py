"""Trials on other machines, by way of Dask (`distributed`, an extra of this package).

    campaign ── DaskExecutor ── scheduler ── worker ──pipe── runner, in its sandbox ── trials

`executor` hands out the jobs of a campaign and gathers what they came to; a `worker` is Dask's, outside of the sandbox,
for that has no way out; its `runner`, inside, runs the trials. `identity` keeps those apart whose code differs.
"""

from __future__ import annotations

import re

from punchlab.lab.errors import InputError

_ADDRESS = re.compile(r"(tcp|tls)://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")


def check_address(field: str, address: str) -> None:
    """Raise `InputError` unless it may be a scheduler's address."""
    if not _ADDRESS.fullmatch(address):
        raise InputError(field, address, "the address of a Dask scheduler, such as tcp://scheduler:8786")
