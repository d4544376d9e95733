"""The trial runner: inside the sandbox it takes jobs from a pipe, and puts what they came to into it.

First it says how many jobs it can make use of at once. Then come (number, `Job`), and go (number, `Finished`, or a line
that says why there is none). It ends with the pipe, and the sandbox with it; and when a process of a trial was killed,
so that what it had at hand is lost, not failed.
"""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import BrokenExecutor, Future
from functools import partial
from multiprocessing.connection import Connection

from punchlab.lab.campaign import workers
from punchlab.lab.campaign.execute import Finished, submit
from punchlab.punch.stdio import settle


def serve(connection: Connection, jobs: int) -> None:
    """Run what comes in, `jobs` trials at work at a time, until nothing more can come."""
    lock = threading.Lock()
    with workers.pool(jobs) as pool:
        connection.send(workers.count(jobs) + 1)
        while True:
            try:
                number, job = connection.recv()
            except (EOFError, ConnectionError):  # nobody waits for what still runs
                os._exit(0)
            try:
                future = submit(pool, job)
            except BrokenExecutor:
                os._exit(1)
            future.add_done_callback(partial(_answer, connection, lock, number))


def _answer(connection: Connection, lock: threading.Lock, number: int, future: Future[Finished]) -> None:
    error = future.exception()
    if isinstance(error, BrokenExecutor):
        os._exit(1)
    with lock:
        try:
            connection.send((number, future.result() if error is None else f"{type(error).__name__}: {error}"))
        except ConnectionError:
            os._exit(0)


if __name__ == "__main__":
    settle()
    serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
