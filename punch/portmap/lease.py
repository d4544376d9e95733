"""One mapping, by whichever protocol the NAT speaks, held as long as it is wanted and then taken back.

All protocols look for somebody who speaks them at once; the first that finds one asks, and the next only if that one is
refused: never is more than one mapping made. The lease is short, so that a process that is killed leaves nothing for
long. It is renewed much earlier than at half its time (RFC 6887 section 11.2.1), because a NAT that reboots loses it,
and not every protocol and network announces that (section 14.1).

Whatever answers is not trusted. Here every exception that an answer causes ends as a `PortMappingError`, and an
external endpoint that no host can have is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import PortMappingError
from punchlab.punch.portmap.gateway import default_gateway
from punchlab.punch.portmap.igd import Igd
from punchlab.punch.portmap.natpmp import NatPmp
from punchlab.punch.portmap.pcp import Pcp
from punchlab.punch.portmap.protocol import Mapper, Mapping
from punchlab.punch.text import LONGEST_VALUE, printable

LIFETIME_S = 120
RENEWAL_S = 10.0
PATIENCE_S = 1.0
_REMOVAL_S = 1.0

T = TypeVar("T")


@contextlib.asynccontextmanager
async def mapping(
    local: Endpoint,
    *,
    changed: Callable[[], None] = lambda: None,
    lifetime_s: int = LIFETIME_S,
    patience_s: float = PATIENCE_S,
) -> AsyncIterator[Mapping]:
    """A mapping of `local`, a TCP endpoint of this host, to an external endpoint with the same port if that is free.

    `changed` is called when a renewal returns another external endpoint. Raises `PortMappingError`, after `patience_s`
    seconds at most, that says of each protocol why not.
    """
    mapper, external = await _obtain(_mappers(local), lifetime_s, patience_s)
    renewal = asyncio.create_task(_renew(mapper, external, changed, lifetime_s))
    try:
        yield Mapping(external, mapper.name)
    finally:
        renewal.cancel()
        await asyncio.gather(renewal, return_exceptions=True)
        await _give_back(mapper)


def _mappers(local: Endpoint) -> list[Mapper]:
    gateway = default_gateway()
    if gateway is None:
        return [Igd(local)]
    return [Pcp(gateway, local), NatPmp(gateway, local.port), Igd(local)]


async def _obtain(mappers: Sequence[Mapper], lifetime_s: int, patience_s: float) -> tuple[Mapper, Endpoint]:
    failures = {mapper.name: "no answer in time" for mapper in mappers}
    searches = [asyncio.create_task(_found(mapper, failures)) for mapper in mappers]
    try:
        async with asyncio.timeout(patience_s):
            for search in asyncio.as_completed(searches):
                mapper = await search
                external = None if mapper is None else await _requested(mapper, lifetime_s, failures)
                if mapper is not None and external is not None:
                    return mapper, external
    except TimeoutError:
        pass
    finally:
        for each in searches:
            each.cancel()
        await asyncio.gather(*searches, return_exceptions=True)
    raise PortMappingError("; ".join(f"{name}: {reason}" for name, reason in failures.items()))


async def _found(mapper: Mapper, failures: dict[str, str]) -> Mapper | None:
    try:
        await _contained(mapper.find())
    except PortMappingError as error:
        failures[mapper.name] = str(error)
        return None
    return mapper


async def _requested(mapper: Mapper, lifetime_s: int, failures: dict[str, str]) -> Endpoint | None:
    try:
        return await _external(mapper, lifetime_s)
    except PortMappingError as error:
        failures[mapper.name] = str(error)
        return None
    except asyncio.CancelledError:
        await _give_back(mapper)  # the question is on its way
        raise


async def _renew(mapper: Mapper, external: Endpoint, changed: Callable[[], None], lifetime_s: int) -> None:
    while True:
        await asyncio.sleep(min(RENEWAL_S, lifetime_s / 2))
        with contextlib.suppress(PortMappingError):  # a connection that is there lives without it
            renewed = await _external(mapper, lifetime_s)
            if renewed != external:
                external = renewed
                changed()


async def _give_back(mapper: Mapper) -> None:
    with contextlib.suppress(PortMappingError, TimeoutError):
        async with asyncio.timeout(_REMOVAL_S):
            await _contained(mapper.remove())


async def _external(mapper: Mapper, lifetime_s: int) -> Endpoint:
    """Make the mapping, or renew it. Raises `PortMappingError`."""
    external = await _contained(mapper.request(lifetime_s))
    if not external.is_unicast or not external.port:
        raise PortMappingError(f"the external endpoint {external} cannot be used")
    return external


async def _contained(asking: Awaitable[T]) -> T:
    """The result of `asking` a gateway. Raises `PortMappingError`, with a text that can be shown."""
    try:
        return await asking
    except Exception as error:
        told = str(error) if isinstance(error, PortMappingError) else f"{type(error).__name__}: {error}"
        raise PortMappingError(printable(told, LONGEST_VALUE)) from None
