"""One port mapping, with the first protocol that the NAT supports; it is renewed while it is used, and then removed.

All protocols search for a server at the same time. The first one that finds a server requests a mapping, and the next
one only if that request fails: there is never more than one mapping. The lifetime is short, so that a killed process
leaves no long-lived mapping. It is renewed much earlier than at half its lifetime (RFC 6887 section 11.2.1), because a
NAT that restarts loses the mapping, and not every protocol and network announces that (section 14.1).

Responses are untrusted. Every exception that a response causes ends as a `PortMappingError`, and an external endpoint
that no host can have is rejected.
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
    """Map `local`, a TCP endpoint of this host, to an external endpoint, with the same port if that is free.

    `changed` is called when a renewal returns another external endpoint. Raises `PortMappingError`, after at most
    `patience_s` seconds, with the reason for each protocol.
    """
    mapper, external = await _obtain(_mappers(local), lifetime_s, patience_s)
    renewal = asyncio.create_task(_renew(mapper, external, changed, lifetime_s))
    try:
        yield Mapping(external, mapper.name)
    finally:
        renewal.cancel()
        await asyncio.gather(renewal, return_exceptions=True)
        await _remove(mapper)


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
        await _remove(mapper)  # the request is already sent
        raise


async def _renew(mapper: Mapper, external: Endpoint, changed: Callable[[], None], lifetime_s: int) -> None:
    while True:
        await asyncio.sleep(min(RENEWAL_S, lifetime_s / 2))
        with contextlib.suppress(PortMappingError):  # an established connection does not need the mapping
            renewed = await _external(mapper, lifetime_s)
            if renewed != external:
                external = renewed
                changed()


async def _remove(mapper: Mapper) -> None:
    with contextlib.suppress(PortMappingError, TimeoutError):
        async with asyncio.timeout(_REMOVAL_S):
            await _contained(mapper.remove())


async def _external(mapper: Mapper, lifetime_s: int) -> Endpoint:
    """Create or renew the mapping, and return its external endpoint. Raises `PortMappingError`."""
    external = await _contained(mapper.request(lifetime_s))
    if not external.is_unicast or not external.port:
        raise PortMappingError(f"the external endpoint {external} cannot be used")
    return external


async def _contained(asking: Awaitable[T]) -> T:
    """Return the result of `asking`. Raises `PortMappingError`, with a printable text, on any error."""
    try:
        return await asking
    except Exception as error:
        reason = str(error) if isinstance(error, PortMappingError) else f"{type(error).__name__}: {error}"
        raise PortMappingError(printable(reason, LONGEST_VALUE)) from None
