"""What the endpoints of forwarded connections observe when the forward is interrupted."""

from __future__ import annotations

import socket

import pytest

from tests.punch.cli.test_pipe_and_forward import ONE, OTHER
from tests.punch.processes import running_edge
from tests.punch.recorder import PATIENCE_S, Command


@pytest.mark.parametrize("interrupted", ["to", "listen"])
def test_an_interrupted_forward_resets_its_connections_silently(interrupted: str) -> None:
    """A FIN would suggest that all data have arrived."""
    with running_edge() as (_, url), socket.create_server(("127.0.0.1", 0)) as target:
        to = "{}:{}".format(*target.getsockname())
        with Command("forward", "--to", to, "--edge", url, "--bind", ONE) as one:
            code = one.wait_for("code")["code"]
            with Command("forward", code, "--listen", "127.0.0.1:0", "--edge", url, "--bind", OTHER) as other:
                at, _, port = other.wait_for("forwarding")["listen"].rpartition(":")
                with socket.create_connection((at, int(port)), PATIENCE_S) as near:
                    far, _ = target.accept()
                    far.settimeout(PATIENCE_S)
                    with far:
                        near.sendall(b"half of")
                        assert far.recv(100) == b"half of"
                        ending, staying = (one, other) if interrupted == "to" else (other, one)
                        assert ending.finish(terminate=True) == 143
                        assert staying.finish() == 0
                        for end in (near, far):
                            with pytest.raises(ConnectionResetError):
                                end.recv(100)
                assert ending.errors == ["punch: terminated"]
                assert staying.errors == []
