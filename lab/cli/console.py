"""Commands in the shell of `punchlab up` that change its lab: scripts in the shell, executed here."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from punchlab.lab.errors import InputError, PunchlabError
from punchlab.lab.inputs.numbers import of_text
from punchlab.lab.network import Network
from punchlab.punch.nat.behavior import BehaviorError
from punchlab.punch.text import printable

USAGE = {
    "nat": "nat NAME reboot [SECONDS] | flush | address [ADDRESS] | down | up | behave PRESET | background RATE",
    "link": "link NODE NODE down | up",
}
_PATIENCE_S = 5.0


class Console:
    """Answers the scripts `nat` and `link` in the folder. Usable as a context manager."""

    def __init__(self, lab: Network, folder: Path) -> None:
        self._lab = lab
        path = folder / "console"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        for name in USAGE:
            script = folder / name
            words = [sys.executable, "-IS", str(Path(__file__).with_name("ask.py")), str(path), name]
            script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
            script.chmod(0o755)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._listener.close()

    def serve(self, process: subprocess.Popen[bytes]) -> int:
        """Answer until the process exits. Return its exit status as a shell does."""
        ended = os.pidfd_open(process.pid)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(ended, selectors.EVENT_READ)
                selector.register(self._listener, selectors.EVENT_READ)
                while all(key.fileobj is self._listener for key, _events in selector.select()):
                    with contextlib.suppress(
                        OSError, ValueError
                    ):  # the script has exited, or the sender is not one of our scripts
                        self._answer()
        finally:
            os.close(ended)
        code = process.wait()
        return 128 - code if code < 0 else code

    def _answer(self) -> None:
        channel, _ = self._listener.accept()
        with channel:
            channel.settimeout(_PATIENCE_S)
            with channel.makefile("r", encoding="utf-8") as stream:
                words = json.load(stream)
            if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
                return  # not one of our scripts
            try:
                status, text = 0, carry_out(self._lab, words)
            except (PunchlabError, BehaviorError) as error:
                status, text = 2, printable(f"{words[0]}: {error}")
            channel.sendall(json.dumps({"status": status, "text": text}).encode())


def carry_out(lab: Network, words: Sequence[str]) -> str:
    """Execute a command of `USAGE` and return its output. Raises `PunchlabError`."""
    match words:
        case ["nat", name, event, *rest]:
            nat = lab.nat(name)
            match event, rest:
                case "reboot", ([] | [_]):
                    nat.reboot(*(_number("downtime", each) for each in rest))
                case "flush", []:
                    nat.flush()
                case "address", ([] | [_]):
                    return nat.change_address(*rest)
                case "down", []:
                    nat.link_down()
                case "up", []:
                    nat.link_up()
                case "behave", [preset]:
                    nat.behave(preset)
                case "background", [rate]:
                    nat.background(_number("background", rate))
                case _:
                    raise InputError("event", " ".join((event, *rest)), USAGE["nat"])
        case ["link", one, other, ("down" | "up") as event]:
            link = lab.link(one, other)
            link.down() if event == "down" else link.up()
        case _:
            raise InputError("command", " ".join(words), USAGE.get(words[0], " or ".join(USAGE)))
    return ""


def _number(field: str, word: str) -> float:
    number = of_text(word)
    if isinstance(number, str):
        raise InputError(field, word, "a number")
    return number
