"""The trial runner: inside the sandbox, it receives jobs from a pipe and sends their results.

First it sends the number of jobs that it accepts at a time. Then it receives (number, `Job`) and sends (number,
`Finished` or the text of an error). The runner and its sandbox end when the pipe is closed. They also end when a
process of a trial is killed, so that its jobs are lost, not failed.
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
    """Run the jobs that arrive, `jobs` active trials at a time, until the pipe is closed."""
    lock = threading.Lock()
    with workers.pool(jobs) as pool:
        connection.send(workers.count(jobs) + 1)
        while True:
            try:
                number, job = connection.recv()
            except (EOFError, ConnectionError):  # nobody waits for the running jobs
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
