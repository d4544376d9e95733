"""What a confined program sees of the machine's files, while programs before it have changed what they could."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from punchlab import Lab
from punchlab.lab.client.contract import SENDER
from punchlab.lab.client.description import Client
from punchlab.lab.client.processes import EventProcess, wait_for
from punchlab.lab.confinement import paths, shares
from punchlab.lab.confinement.paths import HERE
from punchlab.lab.confinement.shares import Plan, Share
from punchlab.lab.errors import InputError
from punchlab.lab.kernel import mounts
from punchlab.lab.lab import Lab as RunningLab
from punchlab.topologies import AB
from tests.commands import punchlab, run

USERS = {"root": (), "ordinary": ("unshare", "--user", "--map-user=1000", "--map-group=1000")}
"""Words that run a command as that user."""


@pytest.fixture(scope="module")
def lab() -> Iterator[RunningLab]:
    with Lab(AB(delay="0ms", edge_delay="0ms")) as built:
        yield built


def client(*words: str, reads: tuple[Path, ...] = (), writes: tuple[Path, ...] = ()) -> Client:
    """A client whose sender has that command."""
    return Client(
        name="mine",
        edge=("true",),
        sender=words,
        receiver=("true",),
        strategies=("none",),
        tells_code=False,
        reads=tuple(map(str, reads)),
        writes=tuple(map(str, writes)),
    )


def said(lab: RunningLab, mine: Client) -> str:
    """What the sender, a shell script, says on standard error."""
    process = EventProcess(lab["a"], mine.command(SENDER, {}), confined=mine.view(SENDER))
    try:
        wait_for([process], lambda: False, 20.0)
        return process.errors
    finally:
        process.end()


@pytest.mark.parametrize("nested", [False, True])
def test_a_client_cannot_choose_what_it_sees_later(nested: bool, lab: RunningLab, tmp_path: Path) -> None:
    own, secret = tmp_path / "own", tmp_path / "secret"
    (own / "lib").mkdir(parents=True)
    (own / "lib" / "x").write_text("mine")
    secret.mkdir()
    (secret / "x").write_text("a secret")
    script = f"cat {own}/lib/x >&2; echo changed > {own}/lib/x; mv {own}/lib {own}/was; ln -s {secret} {own}/lib"
    mine = client("sh", "-c", script, "sh", f"--lib={own}/lib/x", writes=(own, own / "lib") if nested else (own,))
    assert said(lab, mine) == "mine"
    assert (own / "lib").readlink() == secret
    assert "a secret" not in said(lab, mine)
    assert (secret / "x").read_text() == "a secret"


def test_what_a_client_can_change_in_the_working_directory_is_reached_by_no_link(
    lab: RunningLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder in (here / "out", elsewhere):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    assert said(lab, client("sh", "-c", "touch out/x && echo wrote >&2; touch y", writes=(here / "out",))) == (
        "wrote\ntouch: cannot touch 'y': Read-only file system"
    )
    (here / "link").symlink_to(elsewhere)
    for field in ("reads", "writes"):
        mine = client("sh", "-c", "ls link/", **{field: (here / "link",)})
        with pytest.raises(
            InputError, match=f"client mine, {field}: .*link.* no symbolic link in the working directory"
        ):
            mine.check()
        assert "No such file" in said(lab, mine)


def test_the_working_directory_is_the_one_in_which_the_command_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if another program exchanges its path for a link before it is mounted."""
    here, secret = tmp_path / "here", tmp_path / "secret"
    for folder in (here, secret):
        folder.mkdir()
        (folder / folder.name).touch()
    monkeypatch.chdir(here)
    with paths.opened() as known:
        resolved = shares.resolve(Plan((Share(HERE, writable=True),)), known)
        here.rename(tmp_path / "was")
        here.symlink_to(secret)
        ((found, writable),) = resolved.shares
        with mounts.cloned(found.descriptor) as tree:
            assert [path.name for path in Path(f"/proc/self/fd/{tree}").iterdir()] == ["here"]
    assert (found.path, writable) == (str(here), True)


def test_mount_points_are_made_in_the_view_whatever_links_are_in_it() -> None:
    root, device = Path("/run/root-of-a-view"), Path("/run/root-of-a-view/attached")
    root.mkdir()
    mounts.mount("tmpfs", str(root), "tmpfs")
    top = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        (root / "own").symlink_to("/target")
        os.close(paths.place(top, "/own/folder", folder=True))
        assert (root / "target" / "folder").is_dir()
        assert not Path("/target").exists()
        device.mkdir()
        mounts.mount("tmpfs", str(device), "tmpfs")
        (device / "link").symlink_to("/elsewhere")
        with pytest.raises(NotADirectoryError):
            paths.place(top, "/attached/link/folder", folder=True)
        assert not (root / "elsewhere").exists()
    finally:
        os.close(top)
        subprocess.run(["umount", "-R", root], check=True)
        root.rmdir()


@pytest.mark.parametrize("words", [("sandbox",), ("up", "ab", "--")], ids=" ".join)
@pytest.mark.parametrize("user", USERS)
def test_a_home_is_not_the_directory_of_a_project(user: str, words: tuple[str, ...], tmp_path: Path) -> None:
    home, linked = tmp_path / "home", tmp_path / "linked"
    home.mkdir()
    linked.symlink_to(home)
    for name in ("input", "secret"):
        (home / name).write_text(f"{name}\n")
    for own in (home, linked):
        script = "cat input; cat secret 2>&-; touch new 2>&-; pwd"
        command = punchlab(*words, "sh", "-c", script, "input", under=["env", f"HOME={own}", *USERS[user]])
        done = run(command, cwd=home)
        assert done.stdout == f"input\n{home}\n", done
        assert done.stderr.startswith(f"punchlab: {home} is not the directory of a project")
    assert sorted(path.name for path in home.iterdir()) == ["input", "secret"]


@pytest.mark.parametrize("user", USERS)
def test_links_of_the_user_s_are_followed(user: str, tmp_path: Path) -> None:
    """Those that lead to programs, in a home behind a link, and those inside the working directory."""
    here, real = tmp_path / "here", tmp_path / "real"
    for folder in (here / "src", real / "tool" / "bin", real / "other" / "bin"):
        folder.mkdir(parents=True)
    (tmp_path / "home").symlink_to("real")
    (here / "src" / "link").symlink_to("../data")
    (here / "data").write_text("data\n")
    for name in ("tool", "other"):
        program = real / name / "bin" / name
        program.write_text(f"#!/bin/sh\necho {name}\n")
        program.chmod(0o755)
    (real / "tool" / "bin" / "linked").symlink_to(real / "other" / "bin" / "other")
    (real / "tool" / "data").write_text("data of the tool\n")
    home = tmp_path / "home"
    under = [*USERS[user], "env", f"PATH={home}/tool/bin:{os.environ['PATH']}"]
    script = f"tool; cat src/link {home}/tool/data"
    done = run(punchlab("sandbox", "sh", "-c", script, under=under), cwd=here)
    assert done.stdout == "tool\ndata\ndata of the tool\n", done
    assert run(punchlab("sandbox", "linked", under=under), cwd=here).stdout == "other\n"
    assert run(punchlab("sandbox", f"{home}/tool/bin/linked", under=under), cwd=here).stdout == "other\n"
