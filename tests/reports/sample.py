"""Realistic result records from a seeded generator, as `punchlab run` writes them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

CLASSICS = ("none", "full_cone", "restricted_cone", "port_restricted_cone", "symmetric")
HOSTS = {"ab": ("a", "b"), "cd": ("c", "d")}
DELAYS_S = {"ab": 0.02, "cd": 0.1}
HARD = ({"port_restricted_cone", "symmetric"}, {"symmetric"})

Record = dict[str, Any]


def fails(nat_a: str, nat_b: str) -> bool:
    return {nat_a, nat_b} in HARD


def record(
    nat_a: str = "full_cone",
    nat_b: str = "full_cone",
    number: int = 0,
    *,
    topology: str = "ab",
    strategy: str = "reuse",
    unsolicited: str = "drop",
    rng: random.Random | None = None,
    **changes: Any,
) -> Record:
    """One trial that came out as predicted, with `changes` to its fields."""
    rng = rng or random.Random(f"{topology}{nat_a}{nat_b}{number}")
    delay = DELAYS_S.get(topology, 0.02)
    direct = not fails(nat_a, nat_b)
    floor = 2 * delay
    connected = floor + rng.gammavariate(2, 0.0012)
    said = {
        "outcome": "direct" if direct else "fails",
        "probability": 1.0 if direct else 0.0,
        "reason": "each NAT lets the other's SYN in once its own has gone out"
        if direct
        else "the symmetric NAT uses a new port towards the peer, which the peer's filter does not know",
        "floor_s": floor if direct else None,
    }
    return {
        "schema": 2,
        "id": f"{topology}-{nat_a}-{nat_b}-{unsolicited}-{strategy}-{number:03d}",
        "started": f"2026-01-01T12:{number // 60 % 60:02d}:{number % 60:02d}.123Z",
        "seed": number,
        "topology": topology,
        "pair": list(HOSTS.get(topology, ("a", "b"))),
        "nat_a": nat_a,
        "nat_b": nat_b,
        "unsolicited": unsolicited,
        "client": "punch",
        "strategy": strategy,
        "max_attempts": None,
        "deadline_s": 5.0,
        "skew_wanted_s": None,
        "skew_s": round(rng.gauss(0, 0.002), 6),
        "delay_s": delay,
        "jitter_s": 0.0,
        "loss": 0.0,
        "bw_mbit_s": None,
        "links": "nfqueue",
        "background_per_s": 0.0,
        "outcome": "direct" if direct else "punch_timeout",
        "reason": None if direct else "no SYN of b crossed NAT a: it came to a port that a had not opened towards it",
        "outcome_prediction": said,
        "control": {"direct": direct, "skew_s": 0.0001, "outcome_prediction": said},
        "agrees": True,
        "timings_s": {
            "rendezvous": round(0.12 + rng.random() / 50, 6),
            "connected": round(connected, 6),
            "agreed": round(connected + floor + rng.gammavariate(2, 0.003), 6),
            "transferred": round(connected + 2 * floor + 0.05, 6),
        }
        if direct
        else {"rendezvous": 0.13, "connected": None, "agreed": None, "transferred": None},
        "cpu_pressure": 0.1,
        "cpu_starved": (changes.get("cpu_pressure") or 0.1) > 0.25,
        "srflx_attempts": {"a": 1, "b": 1} if direct else {"a": 9, "b": 8},
        "path": {"nats": ["nat_a", "nat_b"], "edge": False},
        "exchange": {"crossed": direct, "simultaneous_open": direct, "syns": 4, "resets": 0, "icmp": 0, "dropped": 0},
        "versions": {
            "punchlab": "0.1.0",
            "kernel": "6.18.44",
            "iptables": "1.8.9 (nf_tables)",
            "nft": "1.0.6",
            "python": "3.11.2",
        },
        "capture": f"captures/{topology}-{nat_a}-{nat_b}-{unsolicited}-{strategy}-{number:03d}.pcapng",
    } | changes


def lab_error(nat_a: str = "full_cone", nat_b: str = "full_cone", number: int = 0, **changes: Any) -> Record:
    """A trial that the lab broke, perhaps before it stood: nothing was measured, not even the delay."""
    whole = record(nat_a, nat_b, number, **changes)
    known = ("schema", "id", "started", "topology", "pair", "nat_a", "nat_b", "unsolicited", "client", "strategy")
    asked = ("max_attempts", "deadline_s", "skew_wanted_s", "versions")
    broken = {"outcome": "lab_error", "reason": "the capture in node edge did not start within 5 s", "agrees": None}
    return {name: whole[name] for name in (*known, *asked)} | broken | changes


def matrix(
    topology: str = "ab", trials: int = 5, nats: Sequence[str] = CLASSICS, seed: int = 1, **changes: Any
) -> list[Record]:
    """Every pair of the NATs, `trials` times."""
    rng = random.Random(f"{seed}{topology}")
    return [
        record(nat_a, nat_b, number, topology=topology, rng=rng, **changes)
        for nat_a in nats
        for nat_b in nats
        for number in range(trials)
    ]


def write_run(directory: Path, records: Iterable[Record], parameters: Record | None = None) -> Path:
    """A run folder with these records."""
    directory.mkdir(exist_ok=True)
    lines = "".join(json.dumps(one) + "\n" for one in records)
    (directory / "results.jsonl").write_text(lines)
    if parameters is not None:
        (directory / "run.json").write_text(json.dumps(parameters))
    return directory
