"""Measure the parts of the benchmark, print the results, and write bench.json and the charts."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial

from bench import requirements
from bench.arguments import asked, parse
from bench.store import Found, Store, replace
from punchlab.lab.confinement import sandbox
from punchlab.lab.errors import InputError, MissingCapabilityError
from punchlab.lab.trial.versions import versions
from punchlab.punch.text import printable

_ROUNDS_OF_MACHINES = 2


def main(words: Sequence[str] | None = None) -> int:
    """Run `script/bench WORDS` and return the exit status.

    0: success. 1: a part failed, or concurrent trials lost packets or had other outcomes than sequential trials.
    2: invalid arguments or missing requirements.
    """
    given = parse(words)
    try:
        requirements.check(given.parts)
        if not sandbox.inside():
            sandbox.enter()
        with contextlib.closing(Store(given.out, _machine())) as store:
            return _measure(given, store)
    except (InputError, MissingCapabilityError) as error:
        _tell(f"bench: {error}")
        return 2
    except KeyboardInterrupt:
        _tell(f"bench: interrupted; {given.out / 'bench.json'} contains the completed parts; the same command resumes")
        return 130


def _measure(given: argparse.Namespace, store: Store) -> int:
    failed: dict[str, str] = {}
    for number, part in enumerate(given.parts, start=1):
        options = asked(given, part)
        when = None if given.again else store.kept(part, options)
        heading = f"[{number}/{len(given.parts)}] {part}"
        if when is not None:
            _tell(f"{heading}: kept from {when}; --again measures it again")
            continue
        _tell(f"{heading}:")
        try:
            found = _PARTS[part](given)
        except Exception as error:  # continue with the other parts
            failed[part] = _reason(error)
            _tell(f"{part}: failed: {failed[part]}")
            _saved(store, partial(store.fail, part, failed[part]))
        else:
            _saved(store, partial(store.add, part, options, found))
    try:
        written = _draw(store)
    except Exception as error:
        failed["charts"] = _reason(error)
    else:
        _tell(f"written: {', '.join(written)}")
    if not _saved(store, store.save):
        # The last resort for the results.
        print(json.dumps(store.found))
        failed["bench.json"] = "not written; printed to standard output instead"
    for part, reason in failed.items():
        _tell(f"bench: failed: {part}: {reason}")
    lost = sum(campaign["capture_drops"] for campaign in store.found.get("campaigns", {}).values())
    return 1 if failed or lost or not store.found.get("same_outcomes", True) else 0


def _saved(store: Store, save: Callable[[], None]) -> bool:
    """Return whether bench.json was written; otherwise the results stay in memory and the next part retries."""
    try:
        save()
    except OSError as error:
        _tell(f"bench: {store.file}: {error.strerror}; the results stay in memory until the file can be written")
        return False
    return True


def _reason(error: Exception) -> str:
    words = " ".join(str(error).split()) or "no reason given"
    return words if isinstance(error, RuntimeError) else f"{type(error).__name__}: {words}"


def _draw(store: Store) -> list[str]:
    """Draw the charts and return the names of all files, bench.json first. Raises OSError."""
    from bench import chart

    found = store.found
    pictures = [chart.draw(found)] if {"ab", "homes", "campaigns"} <= found.keys() else []
    pictures += [chart.punching(found)] if found.get("punching", {}).get("all") else []
    written = [store.file]
    for picture in pictures:
        written.append(store.file.with_name(f"{picture.name}.png"))
        replace(written[-1], picture.png)
    return [str(file) for file in written]


def _machine() -> dict[str, object]:
    return {**versions(), "cores": os.cpu_count()}


def _memory(_given: argparse.Namespace) -> Found:
    from bench import builds

    return {"memory": builds.memory(_tell)}


def _start(given: argparse.Namespace) -> Found:
    from bench import start

    return {"start": start.compare(given.starts, _tell)}


def _builds(given: argparse.Namespace) -> Found:
    from bench import builds

    _tell("Build and tear down AB:")
    return {
        "ab": builds.compare(builds.ab, given.rounds, _tell),
        "homes": builds.towns(given.homes, lambda homes: max(1, min(given.rounds, 100 // homes)), _tell),
    }


def _campaigns(given: argparse.Namespace) -> Found:
    from bench import trials

    _tell("The default matrix:")
    campaigns = {
        delay: trials.campaign(given.trials, delay, _tell, "--jobs", str(given.jobs)) for delay in ("0ms", "40ms")
    }
    alone = trials.campaign(given.alone, "0ms", _tell, "--jobs", "1")
    same = trials.same_outcomes(alone["outcomes"], campaigns["0ms"]["outcomes"])
    _tell(f"same outcomes as one at a time: {'yes' if same else 'NO'}")
    return {"campaigns": {**campaigns, "0ms, one at a time": alone}, "same_outcomes": same}


def _skew(given: argparse.Namespace) -> Found:
    from bench import trials

    return {"skew": trials.skew(given.skews, _tell)}


def _punching(given: argparse.Namespace) -> Found:
    from bench import punching

    _tell("Time to punch:")
    return {
        "punching": punching.times(given.strategy, given.punches, _tell),
        "refusing": punching.refusing(given.strategy, given.refused, _tell),
    }


def _machines(given: argparse.Namespace) -> Found:
    from bench import machines

    _tell("On Dask workers:")
    return {"machines": machines.compare(given.machines, _ROUNDS_OF_MACHINES, _tell)}


def _throughput(_given: argparse.Namespace) -> Found:
    from bench import throughput

    return {"throughput": throughput.compare(_tell)}


def _edges(given: argparse.Namespace) -> Found:
    from bench import edges

    return {"edges": edges.compare(given.clients, _tell)}


def _confinement(given: argparse.Namespace) -> Found:
    from bench import confinement

    return {"confinement": confinement.compare(given.confined, _tell)}


def _reports(_given: argparse.Namespace) -> Found:
    from bench import reporting

    return {"reports": reporting.compare(_tell)}


def _analysis(_given: argparse.Namespace) -> Found:
    from bench import analysis

    return {"analysis": analysis.compare(_tell)}


_PARTS: dict[str, Callable[[argparse.Namespace], Found]] = {
    "memory": _memory,
    "start": _start,
    "builds": _builds,
    "campaigns": _campaigns,
    "skew": _skew,
    "punching": _punching,
    "machines": _machines,
    "throughput": _throughput,
    "edges": _edges,
    "confinement": _confinement,
    "reports": _reports,
    "analysis": _analysis,
}
"""Part -> function that measures it."""


def _tell(text: str) -> None:
    print(printable(text, None), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
