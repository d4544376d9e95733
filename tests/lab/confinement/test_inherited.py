"""Descriptors that a command in a sandbox inherits: it uses them as before, and changes no file through them."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.commands import assert_one_clear_line, punchlab, run

USERS = {"root": (), "ordinary": ("unshare", "--user", "--map-user=1000", "--map-group=1000")}
"""Words that run a command as that user."""

CHANGES = """
    for each in /proc/self/fd/{0} /proc/1/fd/*; do
        chmod 777 $each; chown 12 $each; touch -c -d @1 $each; true >> $each; true > $each
    done 2>&-
    echo tried"""


def state(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_mode, status.st_uid, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def redirected(redirections: str, *words: str) -> list[str]:
    """The command with those redirections of a shell."""
    return ["sh", "-c", f'exec "$@" {redirections}', "sh", *words]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("words", [("sandbox",), ("up", "ab", "--")], ids=" ".join)
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("number", [0, 7])
def test_a_file_that_is_open_for_reading_is_not_changed(
    number: int, user: str, words: tuple[str, ...], tmp_path: Path, here: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("as it was\n")
    before = state(file.stat())
    script = f"{CHANGES.format(number)}; cat <&{number}"
    command = punchlab(*words, "sh", "-c", script, under=USERS[user])
    done = run(redirected(f"{number}< {file}", *command), cwd=here)
    assert done.stdout == "tried\nas it was\n", done
    assert state(file.stat()) == before


@pytest.mark.parametrize("user", USERS)
def test_a_terminal_is_used_and_its_mode_is_not_changed(user: str, here: Path) -> None:
    terminal, end = os.openpty()
    try:
        before = os.fstat(end)
        script = f"{CHANGES.format(0)}; tty; read line; echo read $line > /dev/stdin"
        command = punchlab("sandbox", "sh", "-c", script, under=USERS[user])
        os.write(terminal, b"a line\n")
        done = subprocess.run(command, cwd=here, stdin=end, capture_output=True, text=True, check=False, timeout=60)
        assert done.stdout == "tried\n/dev/console\n", done
        assert b"read a line" in os.read(terminal, 4096)
        after = os.fstat(end)
        assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)
    finally:
        os.close(terminal)
        os.close(end)


def test_a_device_is_used_and_its_mode_is_not_changed(tmp_path: Path, here: Path) -> None:
    null = tmp_path / "null"
    try:
        os.mknod(null, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        null.read_bytes()
    except OSError:
        pytest.skip("no devices in the temporary directory")
    before = state(null.stat())
    command = punchlab("sandbox", "sh", "-c", f"{CHANGES.format(0)}; cat")
    assert run(redirected(f"< {null}", *command), cwd=here).stdout == "tried\n"
    assert state(null.stat()) == before


@pytest.mark.parametrize("user", USERS)
def test_redirections_work_as_in_a_shell(user: str, tmp_path: Path, here: Path) -> None:
    (tmp_path / "file").write_text("one\ntwo\nthree\n")
    script = """
        { "$@" sh -c 'read line; echo $line'; read line; echo then $line; } < ../file
        "$@" cat <<END
in the script
END
        "$@" echo written > ../output; "$@" echo appended >> ../output; cat ../output
        mkfifo ../pipe; echo through a named pipe > ../pipe & "$@" cat < ../pipe
        echo through a pipe | "$@" cat | cat
        tail -n 1 ../file > ../last; "$@" cat /dev/stdin < ../last
        "$@" cat < /dev/null
        "$@" sh -c 'echo to errors >&2' 2>&1
    """
    words = punchlab("sandbox", under=USERS[user])
    done = run(["sh", "-c", script, "sh", *words], cwd=here)
    assert done.stdout.splitlines() == [
        *("one", "then two", "in the script", "written", "appended"),
        *("through a named pipe", "through a pipe", "three", "to errors"),
    ], done


def test_a_device_with_contents_is_refused_as_a_standard_stream(tmp_path: Path, here: Path) -> None:
    memory = tmp_path / "memory"
    try:
        os.mknod(memory, 0o600 | stat.S_IFCHR, os.makedev(1, 11))  # the kernel's messages
        memory.open("rb").close()
    except OSError:
        pytest.skip("no devices in the temporary directory")
    done = run(redirected(f"< {memory}", *punchlab("sandbox", "cat")), cwd=here)
    assert_one_clear_line(done, "standard stream 0", str(memory), "expected a pipe, a terminal")
    done = run(redirected(f"7< {memory}", *punchlab("sandbox", "ls", "/proc/self/fd")), cwd=here)
    assert done.returncode == 0
    assert "7" not in done.stdout.split()
