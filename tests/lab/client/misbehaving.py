"""A campaign with one trial for each misbehaving client: `python -m tests.lab.client.misbehaving FOLDER`.

It runs inside a sandbox, and prints the cost and the leftovers of the campaign as JSON. With PUNCHLAB_ODD_EVENTS=all
there is a trial for every odd event, which takes a quarter of an hour, otherwise for some.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from punchlab.lab import campaign
from punchlab.lab.campaign.cells import Campaign, Cell
from punchlab.lab.client.description import Client
from punchlab.lab.trial.options import TrialOptions
from punchlab.topologies import AB
from tests.lab.client.odd_events import Case, cases

ALL = os.environ.get("PUNCHLAB_ODD_EVENTS") == "all"
JOBS = 2

LISTENS = """echo '{"event": "listening"}'; """
GIVES_UP = "exit 1"
ARRIVES = "exit 0"
WAITS = "exec sleep 1000"
NOTHING_ARRIVED = "both clients exited with status 0, but the sent file did not arrive"
OUTPUT, ERRORS = "more than 16 MiB on standard output", "more than 64 MiB on standard error"
LINE, MEMORY = "a line of more than 1 MiB on standard output", "events that take more than 48 MiB of memory"


@dataclass(frozen=True, slots=True)
class Hostile:
    """The script of each role for sh ($1 is the receiver's folder), and a part of the expected reason."""

    reason: str
    sender: str = GIVES_UP
    receiver: str = GIVES_UP
    edge: str = LISTENS + WAITS
    outcome: str = "client_error"
    tells_code: bool = False


def _print(line: bytes) -> str:
    """Return shell words that print the line."""
    return f"echo {base64.b64encode(gzip.compress(line, mtime=0)).decode()} | base64 -d | gunzip"


def _event(**fields: object) -> str:
    return _print(json.dumps(fields).encode() + b"\n")


def _python(script: str) -> str:
    return f"exec {sys.executable} -c '{script}'"


_DAEMONS = "(setsid sh -c '(sleep 1000 & sleep 1000 >/dev/null 2>&1 &)'); (setsid sleep 1000 &); "
_ORDER = _print(
    b"".join(
        json.dumps(
            {"event": name, "local": "11.0.0.1:1", "remote": "11.0.0.2:2", "code": "x", "outcome": "refused"}
        ).encode()
        + b"\n"
        for name in ("failed", "done", "agreed", "connected", "attempt", "first_syn", "peer_known", "code", "done")
    )
)
_ARRAYS = _print(b'{"event":"x","y":[%s[]]}' % (b"[]," * 20_000))
_DEEP_FOLDERS = 'import os\nos.chdir(os.sys.argv[1])\nfor _ in range(5000): os.mkdir("d"), os.chdir("d")\n'

CLIENTS: Mapping[str, Hostile] = {
    "prints lines": Hostile(OUTPUT, "yes"),
    "prints a line": Hostile(LINE, "cat /dev/zero"),
    "prints events": Hostile(MEMORY, """yes '{"event":"x"}'"""),
    "prints attempts": Hostile(MEMORY, """yes '{"event":"attempt","kind":"srflx"}' | head -n 100000; sleep 1000"""),
    "prints arrays": Hostile(MEMORY, f'yes "$({_ARRAYS})"'),
    "prints a GiB and ends": Hostile(OUTPUT, "yes | head -c 1073741824; exit 0"),
    "prints a GiB of a line and ends": Hostile(LINE, "head -c 1073741824 /dev/zero; exit 0"),
    "complains in lines": Hostile(ERRORS, "yes >&2"),
    "complains in a line": Hostile(ERRORS, "head -c 1073741824 /dev/zero >&2; exit 0"),
    "complains at a terminal": Hostile(
        r"a: \x1b]0;x\x07\u202eno", r"printf '\033]0;x\007\342\200\256no' >&2; exit 1", ARRIVES
    ),
    "prints what is no text": Hostile(NOTHING_ARRIVED, "head -c 1000000 /dev/urandom | tr -d '\\n'; exit 0", ARRIVES),
    "prints events in a wrong order": Hostile(NOTHING_ARRIVED, f"{_ORDER}; exit 0", f"{_ORDER}; exit 0"),
    "fails for a long reason": Hostile(
        "a: x" + r"\x1b" * 100,
        f"{_event(event='failed', outcome='refused', reason='x' + chr(27) * 100_000)}; exit 1",
        ARRIVES,
        outcome="refused",
    ),
    "leaves daemons that hold the pipes": Hostile(NOTHING_ARRIVED, _DAEMONS + ARRIVES, _DAEMONS + ARRIVES),
    "leaves a daemon that prints": Hostile(NOTHING_ARRIVED, "setsid yes & exit 0", "setsid yes >&2 & exit 0"),
    "ignores signals": Hostile("b: exit status 1", "trap '' TERM HUP INT QUIT; while :; do sleep 1; done"),
    "stops itself": Hostile("b: exit status 1", "kill -STOP $$"),
    "forks without end": Hostile("b: exit status 1", "bomb() { bomb | bomb & }; bomb; sleep 1000"),
    "outruns its killer": Hostile(
        NOTHING_ARRIVED,
        _python("import os\nif os.fork() == 0:\n  while True:\n    if os.fork() > 0: os._exit(0)"),
        ARRIVES,
    ),
    "opens all files": Hostile(
        "Too many open files", _python('import os\nwhile True: os.open("/dev/null", os.O_RDONLY)'), ARRIVES
    ),
    "fills its folders": Hostile(
        NOTHING_ARRIVED,
        "cat /dev/zero > /tmp/x; cat /dev/zero > /dev/shm/x; exit 0",
        'cat /dev/zero > "$1/sent.bin"; exit 0',
    ),
    "receives an endless file": Hostile(NOTHING_ARRIVED, ARRIVES, 'truncate -s 4T "$1/sent.bin"; exit 0'),
    "receives a pipe": Hostile(NOTHING_ARRIVED, ARRIVES, 'mkfifo "$1/sent.bin"; exit 0'),
    "receives a link": Hostile(NOTHING_ARRIVED, ARRIVES, 'ln -s /dev/zero "$1/sent.bin"; exit 0'),
    "receives a folder": Hostile(NOTHING_ARRIVED, ARRIVES, 'mkdir "$1/sent.bin"; exit 0'),
    "receives deep folders": Hostile(NOTHING_ARRIVED, ARRIVES, f"exec {sys.executable} -c '{_DEEP_FOLDERS}' \"$1\""),
    "has a code of several lines": Hostile(
        "field 'code'", f"{_event(event='code', code='a' + chr(10))}; {WAITS}", WAITS, tells_code=True
    ),
    "has many codes": Hostile(MEMORY, """yes '{"event":"code","code":"x"}'""", WAITS, tells_code=True),
    "has an edge that prints lines": Hostile(OUTPUT, "sleep 3; exit 1", "sleep 3; exit 1", LISTENS + "yes"),
    "has an edge that prints events": Hostile(
        MEMORY, "sleep 3; exit 1", "sleep 3; exit 1", LISTENS + """yes '{"event":"joined"}'"""
    ),
    "has an edge that complains": Hostile(ERRORS, "sleep 3; exit 1", "sleep 3; exit 1", LISTENS + "yes >&2"),
    "has an edge that stops itself": Hostile("exit status 1", edge=LISTENS + "kill -STOP $$"),
    "has an edge that ends": Hostile(
        "edge1: it exited with status 3: no", "sleep 3; exit 1", "sleep 3; exit 1", LISTENS + "echo no >&2; exit 3"
    ),
    "has an edge that leaves daemons": Hostile(
        "edge1: it exited with status 3", "sleep 3; exit 1", "sleep 3; exit 1", LISTENS + _DAEMONS + "exit 3"
    ),
}


def odd_events() -> Iterator[tuple[str, Case]]:
    """Yield odd events with the names of the clients that print them: two of each event and role, or all."""
    found: dict[tuple[str, str], list[Case]] = {}
    for case in cases():
        found.setdefault((case.role, case.event), []).append(case)
    for number, group in enumerate(found.values()):
        for case in group if ALL else [group[(7 * number + 3) % len(group)], group[(11 * number + 20) % len(group)]]:
            yield str(case), case


def that_prints(case: Case) -> Hostile:
    """Return a client that prints the event and then fails or, if it is an edge, listens."""
    prints = _print(case.line + b"\n")
    if case.role == "edge":
        return Hostile("", GIVES_UP, ARRIVES, f"{prints}; {LISTENS}{WAITS}")
    fails = f"{prints}; {GIVES_UP}"
    return Hostile("", fails, ARRIVES) if case.role == "sender" else Hostile("", ARRIVES, fails)


def client_of(name: str, hostile: Hostile) -> Client:
    """Return the client with that script."""
    sender, receiver, edge = (
        ("sh", "-c", script.replace("{", "{{").replace("}", "}}"), "sh", *given)
        for script, given in ((hostile.sender, ()), (hostile.receiver, ("{directory}",)), (hostile.edge, ()))
    )
    return Client(name, edge, sender, receiver, ("x",), hostile.tells_code)


def cells() -> Iterator[Cell]:
    """Yield a cell for each client."""
    odd = [(name, that_prints(case)) for name, case in odd_events()]
    for name, hostile in (*CLIENTS.items(), *odd):
        options = TrialOptions(client=client_of(name, hostile), strategy="x", deadline_s=0.3, transfer_s=1)
        yield Cell("ab", AB, ("a", "b"), ("full_cone", "full_cone"), shape={"delay": "0ms"}, options=options)


def _peaks() -> Iterator[int]:
    """Yield the peak memory in KiB of each process of this program, including those that run trials."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has exited
            words, status = (folder / "cmdline").read_bytes(), (folder / "status").read_text()
            if b"multiprocessing" in words or folder.name == str(os.getpid()):
                yield int(status.partition("VmHWM:")[2].split()[0])


def _there() -> set[str]:
    """Return the content of this sandbox's folders, without files that end with this program."""
    found = {str(path) for folder in ("/run", "/dev/shm") for path in Path(folder).iterdir()}
    return {path for path in found if not path.startswith(("/run/pymp-", "/dev/shm/sem.", "/dev/shm/pym"))}


def main(folder: str) -> None:
    """Run the campaign."""
    before, began, peak = _there(), time.monotonic(), 0

    def look(_records: object, _expected: int) -> None:
        nonlocal peak
        peak = max(peak, *_peaks())

    records = campaign.run(Campaign(list(cells()), trials=1), Path(folder), campaign.LocalExecutor(JOBS), progress=look)
    names = [Path(f"/proc/{pid.name}/cmdline") for pid in Path("/proc").glob("[0-9]*")]
    left = [words for name in names if name.exists() and (words := name.read_bytes()) and b"python" not in words]
    print(
        json.dumps(
            {
                "trials": len(records),
                "seconds": round(time.monotonic() - began, 1),
                "peak_mib": peak // 1024,
                "files": sorted(_there() - before),
                "processes": [words.decode(errors="replace") for words in left],
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
