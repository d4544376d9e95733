"""How a pipe ends if its standard streams or its path fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from punchlab.punch.secure.channel import Kind
from punchlab.punch.transfer import pipe
from punchlab.punch.transfer.pipe import pipe_over
from tests.punch.cli.test_pipe_and_forward import ONE, OTHER, code_of
from tests.punch.processes import running_edge
from tests.punch.recorder import PATIENCE_S
from tests.punch.wires import channels, run

PIPE = [sys.executable, "-W", "error", "-m", "punchlab.punch", "pipe", "--json"]


def test_a_pipe_into_a_full_disk_reports_it_and_ends_both() -> None:
    with running_edge() as (_, url), contextlib.ExitStack() as stack:
        full = stack.enter_context(Path("/dev/full").open("wb"))
        one = stack.enter_context(
            subprocess.Popen(
                [*PIPE, "--new", "--edge", url, "--bind", ONE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
            )
        )
        stack.callback(one.kill)
        words = [code_of(one), "--edge", url, "--bind", OTHER]
        other = stack.enter_context(
            subprocess.Popen([*PIPE, *words], stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, text=True)
        )
        stack.callback(other.kill)
        assert one.stdin is not None
        one.stdin.write(b"there is no room for this")
        _, told = other.communicate(timeout=PATIENCE_S)
        assert other.returncode == 1
        failed = json.loads(told.splitlines()[-1])
        assert (failed["event"], failed["outcome"]) == ("failed", "client_error")
        assert failed["reason"] == "cannot write to standard output: No space left on device"
        assert one.wait(PATIENCE_S) == 1


def test_an_end_of_a_pipe_stays_until_the_other_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it closed earlier, the other end's next data on a slow path would be answered by a RST, and the rest lost."""
    monkeypatch.setattr(pipe, "FINISH_S", 0.1, raising=False)
    stream = bytes(4)

    async def test() -> None:
        source, sink = os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_WRONLY)
        async with channels() as (one, other):
            piping = asyncio.create_task(pipe_over(one, "sender", source, sink))
            assert await other.expect(Kind.OPEN) == await other.expect(Kind.END) == stream
            await other.send(Kind.END, stream)
            await other.expect(Kind.FINAL)
            done, _ = await asyncio.wait([piping], timeout=0.5)
            assert not done
            await other.send(Kind.FINAL)
            await piping
        os.close(source)
        os.close(sink)

    run(test)
