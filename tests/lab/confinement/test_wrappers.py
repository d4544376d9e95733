"""What runs another program changes nothing of it: words, exit status, signals, standard streams, open files."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT, assert_one_clear_line, punchlab, run

WRAPPERS = (["sandbox"], ["up", "ab", "--"])
LISTENER = """
import signal, sys
wanted = [signal.Signals[name] for name in sys.argv[1:]]
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
print("ready", flush=True)
while True:
    print(signal.sigwait(wanted).name, flush=True)
"""


@pytest.mark.parametrize(
    ("words", "output"),
    [
        (["echo", "one", "--", "two"], "one -- two\n"),
        (["--", "echo", "--", "one"], "-- one\n"),
        (["sh", "-c", 'printf "[%s]" "$@"', "--", "a b", "--", "", "--help"], "[a b][--][][--help]"),
        (["printf", "%s", "--version"], "--version"),
    ],
)
def test_every_word_of_the_command_is_its_own(words: list[str], output: str) -> None:
    done = run(punchlab("sandbox", *words))
    assert (done.returncode, done.stdout, done.stderr) == (0, output, "")


def test_only_the_first_dashes_of_up_are_its_own() -> None:
    done = run(punchlab("up", "ab", "--", "sh", "-c", 'printf "[%s]" "$@"', "sh", "--", "x"))
    assert (done.returncode, done.stdout) == (0, "[--][x]")


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "--", "--nat-a", "symmetric"],
        ["trial", "ab", "--", "--nat-a", "symmetric"],
        ["nat", "list", "--", "more"],
        ["doctor", "--", "x"],
    ],
)
def test_a_command_that_runs_no_program_takes_no_words_after_dashes(words: list[str]) -> None:
    assert_one_clear_line(run(punchlab(*words)), "unrecognized arguments")


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=" ".join)
@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 0", 0),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        ("kill -INT $$", 130),
        ("kill -SEGV $$", 139),
    ],
)
def test_the_exit_status_is_that_of_a_shell(wrapper: list[str], script: str, status: int) -> None:
    assert run(punchlab(*wrapper, "sh", "-c", script)).returncode == status


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=" ".join)
def test_a_command_that_cannot_be_run_is_one_line_and_the_status_of_a_shell(wrapper: list[str], tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("no program")
    for command, status in (("no-such-program", 127), ("./plain", 126), (".", 126), ("./missing", 127)):
        done = run(punchlab(*wrapper, command), cwd=tmp_path)
        assert done.returncode == status, done
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"punchlab: command: '{command}' cannot be used; expected a program that can be run")


def test_a_script_that_names_no_interpreter_runs_as_in_a_shell(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text('echo "$1"\n')
    script.chmod(0o755)
    assert run(punchlab("sandbox", str(script), "word")).stdout == "word\n"


@pytest.mark.parametrize("to_the_group", [False, True], ids=["to the process", "to the group"])
def test_a_signal_reaches_the_command_once(to_the_group: bool) -> None:
    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]
    names = [number.name for number in numbers]
    command = punchlab("sandbox", sys.executable, "-c", LISTENER, *names, under=["env", "--default-signal=INT,QUIT"])
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, process_group=0) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        for number in numbers:
            (os.killpg if to_the_group else os.kill)(running.pid, number)
            # One that came twice would be read again, in the place of the next one.
            assert running.stdout.readline() == f"{number.name}\n"
        os.kill(running.pid, signal.SIGUSR1)
        assert running.stdout.readline() == "SIGUSR1\n"
        running.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_reaches_the_command_of_up(number: signal.Signals) -> None:
    command = punchlab(
        "up", "ab", "--", sys.executable, "-c", LISTENER, number.name, under=["env", "--default-signal=INT"]
    )
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, process_group=0) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        os.kill(running.pid, number)
        assert running.stdout.readline() == f"{number.name}\n"
        running.kill()


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=" ".join)
def test_standard_input_and_open_files_come_through(wrapper: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the file\n")
    command = shlex.join(punchlab(*wrapper, "sh", "-c", "cat; cat <&7"))
    done = run(["sh", "-c", f"echo from the pipe | {command} 7<file"], cwd=tmp_path)
    assert done.stdout == "from the pipe\nfrom the file\n", done


def test_a_stream_ends_when_the_command_closes_it() -> None:
    """Nothing else holds the command's output open: its reader sees the end while the command still runs."""
    words = punchlab("sandbox", "sh", "-c", "echo said; exec >&-; read line; exit 3")
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdin is not None
        assert running.stdout.read() == "said\n"
        assert running.poll() is None
        running.stdin.write("go on\n")
        running.stdin.close()
        assert running.wait(30) == 3


def test_a_broken_pipe_ends_the_command_in_silence() -> None:
    done = run(["bash", "-c", f"{shlex.join(punchlab('sandbox', 'yes'))} | head -1; echo ${{PIPESTATUS[0]}}"])
    assert (done.stdout, done.stderr) == ("y\n141\n", "")


def test_a_terminal_comes_through() -> None:
    words = punchlab("sandbox", "sh", "-c", "test -t 0 && test -t 1 && tty")
    done = run(["script", "-qec", shlex.join(words), "/dev/null"])
    assert done.returncode == 0, done
    assert done.stdout.strip() == "/dev/console"
