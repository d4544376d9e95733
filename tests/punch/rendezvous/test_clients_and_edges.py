"""Clients without a peer, and clients whose edge rejects them, is unreachable, or stops."""

from __future__ import annotations

import contextlib
import signal
import socket
from pathlib import Path

from tests.punch.processes import CODE, receive, running_edge, send, url_of
from tests.punch.recorder import Command


def test_without_a_peer_the_sender_gives_up(edge: str, file: Path) -> None:
    with send(edge, file, "--wait", "0.2") as sender:
        assert sender.finish() == 1
    failed = sender.wait_for("failed")
    assert (failed["outcome"], failed["reason"]) == ("no_rendezvous", "no peer within 0.2 s")


def test_a_second_sender_is_refused(edge: str, file: Path, out: Path) -> None:
    with send(edge, file, "--code", CODE) as first:
        first.wait_for("code")
        with send(edge, file, "--code", CODE) as second:
            assert second.finish() == 1
        failed = second.wait_for("failed")
        assert failed["outcome"] == "no_rendezvous"
        assert "session k7x2mq already has a sender" in failed["reason"]
        with receive(edge, CODE, "--dir", out) as receiver:
            assert receiver.finish() == 0
            assert first.finish() == 0


def test_an_expired_session_is_reported(file: Path) -> None:
    with running_edge("e1", "--session-lifetime", "0.2") as (_, url), send(url, file) as sender:
        assert sender.finish() == 1
        failed = sender.wait_for("failed")
        assert failed["outcome"] == "no_rendezvous"
        assert "session expired" in failed["reason"]


def test_an_edge_that_stops_during_the_wait_is_reported(file: Path) -> None:
    with contextlib.ExitStack() as stack:
        edge = stack.enter_context(Command("edge", "--listen", "127.0.0.1:0"))
        sender = stack.enter_context(send(url_of(edge), file, "--wait", "1"))
        sender.wait_for("code")
        edge.process.kill()
        assert sender.finish() == 1
    failed = sender.wait_for("failed")
    assert failed["outcome"] == "no_rendezvous"
    assert (
        "no peer within 1 s: the connection to the edge was lost, and no other edge was reachable" in failed["reason"]
    )
    assert "Connection refused" in failed["reason"]


def two_edges(stack: contextlib.ExitStack) -> tuple[dict[str, Command], str]:
    """Two edges by name, and the list of both; the first to answer is the nearest."""
    edges = {name: stack.enter_context(Command("edge", "--listen", "127.0.0.1:0", "--name", name)) for name in "xy"}
    return edges, ",".join(url_of(edge) for edge in edges.values())


def test_a_client_goes_on_at_another_edge_when_its_own_is_killed(file: Path, out: Path) -> None:
    with contextlib.ExitStack() as stack:
        edges, both = two_edges(stack)
        sender = stack.enter_context(send(both, file, "--code", CODE))
        sender.wait_for("code")
        first = sender.wait_for("registered")
        edges[first["edge"]].process.kill()
        sender.wait_for("edge_lost")
        receiver = stack.enter_context(receive(both, CODE, "--dir", out))
        assert receiver.finish() == 0
        assert sender.finish() == 0
    _, second = (event for event in sender.events if event["event"] == "registered")
    assert second["edge"] != first["edge"]
    assert second["local"] == first["local"]
    assert (out / file.name).read_bytes() == file.read_bytes()


def test_a_client_goes_on_at_another_edge_when_its_own_hangs(file: Path, out: Path) -> None:
    with contextlib.ExitStack() as stack:
        edges, both = two_edges(stack)
        sender = stack.enter_context(send(both, file, "--code", CODE))
        sender.wait_for("code")
        hung = edges.pop(sender.wait_for("registered")["edge"])
        hung.process.send_signal(signal.SIGSTOP)
        sender.wait_for("edge_lost")
        (other,) = edges.values()
        receiver = stack.enter_context(receive(url_of(other), CODE, "--dir", out))
        assert receiver.finish() == 0
        assert sender.finish() == 0
        hung.process.send_signal(signal.SIGCONT)


def test_an_edge_that_is_down_is_bad_input(file: Path) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{reserved.getsockname()[1]}"
        with send(url, file) as sender:
            assert sender.finish() == 2
    assert sender.wait_for("failed")["outcome"] == "no_rendezvous"
    (line,) = sender.errors
    assert line == f"punch: edge: {url!r} cannot be reached: Connection refused; expected a running `punch edge`"


def test_something_else_at_the_edge_s_address_is_bad_input(file: Path) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        sender = stack.enter_context(send(f"ws://127.0.0.1:{server.getsockname()[1]}", file))
        connection = stack.enter_context(server.accept()[0])
        connection.recv(1)
        connection.sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n")
        connection.shutdown(socket.SHUT_WR)
        assert sender.finish() == 2
    assert "it does not answer as an edge" in sender.errors[0]
