"""The documentation is true: its commands run, its examples pass, its links lead somewhere, its options exist.

A page is executed from top to bottom in a folder of its own: a block with a title becomes a file there, and the
commands of its blocks of shell run.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from docs.generate.__main__ import PAGES as REFERENCE
from punchlab import Lab
from punchlab.lab.client.processes import EventProcess, wait_for
from punchlab.topologies import AB, Home
from tests.commands import line, punchlab, run, started
from tests.documents import PAGES, PROJECT, blocks, commands, name

OPTION = r"(?<![\w-])--[a-z][a-z-]*"
SEND_FILES = PROJECT / "docs" / "how-to" / "send-files.md"
PROBE = PROJECT / "docs" / "how-to" / "probe.md"
MACHINES = PROJECT / "docs" / "how-to" / "several-machines.md"
HERE = "tests/test_documentation.py"
LISTENERS = "tests/lab/test_dask_listeners.py"
TLS_TEST = "test_with_tls_as_described_a_worker_serves_only_holders_of_a_certificate"
SEARCHED = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
"""PATH with the commands of this environment first."""

RUN_ELSEWHERE: Mapping[str, tuple[str, str]] = {
    "script/bootstrap": (".ci/run", "script/bootstrap"),
    ". .venv/bin/activate": (".ci/run", ". .venv/bin/activate"),
    "script/demo": (".ci/run", "script/demo"),
    "script/test": (".ci/run", "script/test"),
    "script/docs": ("script/test", "script/docs"),
    "pytest scenarios/test_nat_matrix.py -n 3": (".ci/run", "pytest scenarios/test_nat_matrix.py -n 3"),
    "pytest scenarios/": (".github/workflows/scenarios.yml", "pytest scenarios/"),
    "pytest tests/lab/oracle -q": ("script/test", "pytest -n 4 --dist worksteal"),
    "vagrant up": ("script/vagrant-e2e", "vagrant up"),
    "vagrant ssh -c 'pytest scenarios/'": (".ci/run", "pytest scenarios/"),
    "punch edge --listen 0.0.0.0:443 --tls-cert /etc/punch-edge/cert.pem "
    "--tls-key /etc/punch-edge/key.pem --drain 60": (
        "tests/punch/edge/test_running_page.py",
        "test_the_commands_on_the_page_are_valid_up_to_the_certificate",
    ),
    "dask scheduler --host 192.0.2.1 --dashboard-address 127.0.0.1:8787": (
        HERE,
        "test_a_campaign_is_run_on_other_machines_as_described",
    ),
    "punchlab worker tcp://192.0.2.1:8786": (HERE, "test_a_campaign_is_run_on_other_machines_as_described"),
    "punchlab run sweep.toml --dask tcp://192.0.2.1:8786": (
        HERE,
        "test_a_campaign_is_run_on_other_machines_as_described",
    ),
    "openssl req -x509 -newkey rsa:3072 -nodes -days 365 -subj /CN=dask -keyout dask-key.pem "
    "-out dask-certificate.pem": (LISTENERS, TLS_TEST),
    "dask scheduler --protocol tls --host 192.0.2.1 --dashboard-address 127.0.0.1:8787": (LISTENERS, TLS_TEST),
    "punchlab worker tls://192.0.2.1:8786": (LISTENERS, TLS_TEST),
    "punchlab run sweep.toml --dask tls://192.0.2.1:8786": (LISTENERS, TLS_TEST),
    "punch edge --listen 0.0.0.0:7000": (HERE, "test_a_file_is_sent_for_real_as_described"),
    "punch send FILE --edge ws://EDGE:7000": (HERE, "test_a_file_is_sent_for_real_as_described"),
    "punch receive CODE --edge ws://EDGE:7000": (HERE, "test_a_file_is_sent_for_real_as_described"),
    "punch edge --listen 0.0.0.0:7000 --stun IP:3478 --stun-alternate OTHER_IP:3479": (
        HERE,
        "test_a_nat_is_probed_as_described",
    ),
    "punch probe --edge ws://IP:7000": (HERE, "test_a_nat_is_probed_as_described"),
    "tar c photos | punch send - --name photos.tar": (HERE, "test_a_stream_is_sent_as_described"),
    "punch receive CODE --stdout | tar x": (HERE, "test_a_stream_is_sent_as_described"),
    "punch pipe --new": (HERE, "test_a_pipe_connects_both_sides_as_described"),
    "punch pipe CODE": (HERE, "test_a_pipe_connects_both_sides_as_described"),
    "punch forward --to 127.0.0.1:22": (HERE, "test_a_port_is_forwarded_as_described"),
    "punch forward CODE --listen 127.0.0.1:2222": (HERE, "test_a_port_is_forwarded_as_described"),
}
"""What takes too long for here or needs more than a folder: the command, the file that runs it, and its words there."""

OUTPUT: Mapping[str, str] = {
    r"ping -c 3": "3 received",
    r"^punchlab trial ": "direct",
    r"^punchlab predict --nat-a port_restricted_cone --nat-b symmetric$": "fails",
    r"^punchlab predict --nat-a restricted_cone --nat-b symmetric$": "direct",
    r"^punchlab report ": "index.html",
    r"^pytest .*test_\w+\.py$": " passed",
    r"^python rates\.py$": "port_restricted_cone full_cone 2 of 2",
}
"""What the output of a command contains, by a regular expression for the command."""


@pytest.mark.parametrize("command", RUN_ELSEWHERE)
def test_what_is_not_run_here_is_run_elsewhere(command: str) -> None:
    assert any(command in commands(page) for page in PAGES), "no page has this command"
    file, words = RUN_ELSEWHERE[command]
    assert words in (PROJECT / file).read_text()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_commands_and_examples_of_a_page_do_what_they_say(page: Path, tmp_path: Path) -> None:
    (tmp_path / "topologies").symlink_to(PROJECT / "topologies")
    (tmp_path / "runs").mkdir()
    (tmp_path / ".pre-commit-config.yaml").symlink_to(PROJECT / ".pre-commit-config.yaml")
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    environment = os.environ | {"PATH": SEARCHED}
    for block in blocks(page):
        if block.title is not None:
            (tmp_path / block.title).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / block.title).write_text(block.text)
        elif block.language == "sh":
            for command in block.commands:
                if command not in RUN_ELSEWHERE:
                    _execute(command, tmp_path, environment)
        elif block.language == "yaml":
            _check_workflow(block.text)
        else:
            # Output, pictures and unit files; the tests of the pages about an edge and about files check these.
            assert block.language in ("text", "ini"), f"no test executes a block of {block.language!r}"


def _execute(command: str, folder: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr  # Mininet writes to the latter
    assert done.returncode == 0, f"{command}\n{output}"
    for pattern, expected in OUTPUT.items():
        if re.search(pattern, command):
            assert expected in output, command


def _check_workflow(text: str) -> None:
    """A workflow of GitHub Actions whose steps are those that the project's own workflows have, but for the folder."""
    own = "".join(file.read_text() for file in (PROJECT / ".github" / "workflows").iterdir())
    for job in yaml.safe_load(text)["jobs"].values():
        assert job["runs-on"] in own
        for step in job["steps"]:
            words = step.get("uses") or step["run"].removeprefix("punchlab/").split()[0]
            assert words in own, words


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_example_is_executed(page: Path) -> None:
    executed = " ".join(commands(page))
    for block in blocks(page):
        if block.language == "python":
            assert block.title is not None, block.text
            folder = block.title.rpartition("/")[0]
            assert f" {block.title}" in executed or (folder and f"pytest {folder} " in executed), block.title


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" in target:
            continue
        file = page.parent / target
        assert file.exists() or (file.parent.name == "reference" and file.name in REFERENCE), target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_paths_of_the_project_exist(page: Path) -> None:
    folders = "bench|docs|lab|punch|reports|scenarios|script|tests|topologies"
    for path in re.findall(rf"`((?:{folders})/[\w./-]*)`", page.read_text()):
        assert (PROJECT / path).exists(), path


def _punch_commands(page: Path) -> list[list[str]]:
    """The words of the commands that need no shell, with `--json`."""
    return [
        [sys.executable, "-m", "punchlab.punch", *command.split()[1:], "--json"]
        for command in commands(page)
        if re.fullmatch("punch (edge|send|receive|probe) [^|]*", command)
    ]


def _filled(words: list[str], **values: str) -> list[str]:
    return [re.sub("|".join(values), lambda found: values[found[0]], word) for word in words]


def test_a_nat_is_probed_as_described() -> None:
    edge_words, probe_words = _punch_commands(PROBE)
    with Lab(Home(nat="restricted_cone", unsolicited="reset")) as lab:
        server = lab.edges[0]
        alternate = server.graph.addresses[-1].partition("/")[0]
        edge = EventProcess(server, _filled(edge_words, OTHER_IP=alternate, IP=server.address))
        assert wait_for([edge], lambda: edge.first("listening") is not None, 20), edge.errors
        found = json.loads(lab["a"].run(_filled(probe_words, IP=server.address)).stdout)
        edge.end()
    assert [found[transport]["filtering"] for transport in ("udp", "tcp")] == ["address-dependent"] * 2


def test_a_file_is_sent_for_real_as_described(tmp_path: Path) -> None:
    edge_words, send_words, receive_words = _punch_commands(SEND_FILES)
    content = os.urandom(10_000)
    (tmp_path / "sent").write_bytes(content)

    with Lab(AB()) as lab:
        edge = EventProcess(lab["edge1"], edge_words)
        assert wait_for([edge], lambda: edge.first("listening") is not None, 20)
        sender = EventProcess(lab["a"], _filled(send_words, EDGE=lab.anycast, FILE=str(tmp_path / "sent")))
        assert wait_for([sender], lambda: sender.first("code") is not None, 20)
        code = str((sender.first("code") or {})["code"])
        inbox = tmp_path / "inbox"
        inbox.mkdir()
        # Without a terminal there is nobody to ask.
        words = [*_filled(receive_words, EDGE=lab.anycast, CODE=code), "--dir", str(inbox), "--yes"]
        receiver = EventProcess(lab["b"], words)
        assert wait_for([sender, receiver], lambda: not (sender.open or receiver.open), 60)
        for process in (sender, receiver):
            assert process.returncode == 0, process.errors
            process.end()
        edge.end()
    assert (inbox / "sent").read_bytes() == content


@contextlib.contextmanager
def _edge() -> Iterator[Lab]:
    """A lab with the edge of the page."""
    with Lab(AB()) as lab:
        edge = EventProcess(lab["edge1"], _punch_commands(SEND_FILES)[0])
        assert wait_for([edge], lambda: edge.first("listening") is not None, 20), edge.errors
        yield lab
        edge.end()


@contextlib.contextmanager
def _both(
    lab: Lab, folder: Path, first: str, second: str, *, data_on_stdout: bool = False
) -> Iterator[tuple[subprocess.Popen[bytes], ...]]:
    """Both commands: the first one on host a in `folder`/a, the second one, with its code, on host b in `folder`/b.

    Standard input is the file `input` in these folders. With `data_on_stdout` the messages are on standard error.
    """
    assert {first, second} <= {*commands(SEND_FILES)}
    environment = os.environ | {"PATH": SEARCHED, "PUNCH_EDGE": f"ws://{lab.anycast}:7000"}
    with contextlib.ExitStack() as stack:

        def start(host: str, command: str) -> subprocess.Popen[bytes]:
            (folder / host).mkdir(exist_ok=True)
            (folder / host / "input").touch()
            return stack.enter_context(
                lab[host].popen(
                    ["bash", "-c", f"set -o pipefail; exec <input; {command}"],
                    cwd=folder / host,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            )

        one = start("a", first)
        messages = one.stderr if data_on_stdout else one.stdout
        assert messages is not None
        code = next(found[1] for line in messages if (found := re.match(rb"Code: (\S+)", line))).decode()
        other = start("b", second.replace("CODE", code))
        try:
            yield one, other
        finally:
            for process in (one, other):
                process.kill()


def test_a_stream_is_sent_as_described(tmp_path: Path) -> None:
    (tmp_path / "a" / "photos").mkdir(parents=True)
    (tmp_path / "a" / "photos" / "one").write_bytes(b"picture")
    first, second = "tar c photos | punch send - --name photos.tar", "punch receive CODE --stdout | tar x"
    with _edge() as lab, _both(lab, tmp_path, first, second) as processes:
        for process in processes:
            _output, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
    assert (tmp_path / "b" / "photos" / "one").read_bytes() == b"picture"


def test_a_pipe_connects_both_sides_as_described(tmp_path: Path) -> None:
    for host, text in (("a", "question"), ("b", "answer")):
        (tmp_path / host).mkdir()
        (tmp_path / host / "input").write_text(text)
    first, second = "punch pipe --new", "punch pipe CODE"
    with _edge() as lab, _both(lab, tmp_path, first, second, data_on_stdout=True) as (one, other):
        assert one.communicate(timeout=60)[0] == b"answer"
        assert other.communicate(timeout=60)[0] == b"question"
        assert one.returncode == other.returncode == 0


def test_a_port_is_forwarded_as_described(tmp_path: Path) -> None:
    service = """
import socket
with socket.create_server(("127.0.0.1", 22)) as server, server.accept()[0] as connection:
    connection.sendall(b"SSH")
"""
    client = """
import socket
with socket.create_connection(("127.0.0.1", 2222), 20) as connection:
    print(connection.recv(3).decode())
"""
    first, second = "punch forward --to 127.0.0.1:22", "punch forward CODE --listen 127.0.0.1:2222"
    with (
        _edge() as lab,
        lab["a"].popen([sys.executable, "-c", service]),
        _both(lab, tmp_path, first, second) as (
            _one,
            other,
        ),
    ):
        assert other.stdout is not None
        assert next(line for line in other.stdout if line.startswith(b"Forwarding 127.0.0.1:2222"))
        assert lab["b"].run([sys.executable, "-c", client]).stdout == "SSH\n"


def test_a_campaign_is_run_on_other_machines_as_described(tmp_path: Path) -> None:
    scheduler_words, worker_words, run_words = (command.split() for command in list(commands(MACHINES))[:3])
    (tmp_path / "sweep.toml").write_text('topology = "ab"\nnat_a = "none"\nnat_b = "none"\ntrials = 2\n')
    scripts = Path(sys.executable).parent
    local = ("--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0")
    with started(str(scripts / scheduler_words[0]), *scheduler_words[1:], *local) as scheduler:
        address = line(scheduler.stderr, "Scheduler at:").split()[-1]
        worker_words, run_words = (
            _filled(words, **{"tcp://192.0.2.1:8786": address}) for words in (worker_words, run_words)
        )
        with started(*punchlab(*worker_words[1:])) as worker:
            line(worker.stdout, "worker of")
            done = run(punchlab(*run_words[1:]), cwd=tmp_path)
    assert "2 trials, 0 disagree with the oracle, 0 lab errors" in done.stdout


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the generated pages, written by the command that `script/docs` runs."""
    folder = tmp_path_factory.mktemp("reference")
    done = run([sys.executable, "-m", "docs.generate", str(folder)])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


def test_the_site_has_every_page(reference: Path) -> None:
    site = (PROJECT / "mkdocs.yml").read_text()
    folder = PROJECT / "docs"
    pages = [str(page.relative_to(folder)) for page in PAGES if page.is_relative_to(folder)]
    for page in (*pages, *(f"reference/{page.name}" for page in reference.iterdir())):
        assert re.search(rf"^ +- (\w+: )?{re.escape(page)}$", site, flags=re.MULTILINE), page


def test_every_field_of_a_result_is_on_its_page(reference: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "punchlab.lab.cli", "trial", "ab", "--nat-a", "none", "--nat-b", "none", "--json"]
    record = json.loads(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
    page = (reference / "results.md").read_text()
    written = set(re.findall(r"^\| `([\w.]+)` \| \w", page, flags=re.MULTILINE))
    assert _fields(record) - {"schema"} - written == set()


def _fields(record: Mapping[str, object], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for field, value in record.items():
        if isinstance(value, dict) and field not in ("srflx_attempts", "chosen"):
            found |= _fields(value, f"{prefix}{field}.")
        elif value is not None:
            found.add(prefix + field)
    return found


def _options(*words: str) -> set[str]:
    """The options of a command and of its subcommands, by their help."""
    # On a wide terminal no line of the help breaks inside an option.
    page = run(["env", "COLUMNS=1000", sys.executable, "-m", *words, "--help"]).stdout
    found = set(re.findall(OPTION, page)) - {"--help", "--version"}
    return found.union(*(_options(*words, each) for each in re.findall(r"^    (\w+) ", page, flags=re.MULTILINE)))


FOREIGN = {
    *("--custom", "--topo", "--switch", "--controller", "--link"),  # of Mininet
    *("--junitxml", "--report", "--hypothesis-profile"),  # of pytest
    *("--dashboard-address", "--host", "--protocol"),  # of Dask
    *("--only", "--again", "--without-dev", "--serve"),  # of the scripts
    *("--check", "--privileged", "--random-fully", "--scope", "--wheel-dir"),
}
"""Options of other programs."""


def test_every_option_is_in_the_reference_and_every_option_of_a_page_exists(reference: Path) -> None:
    known = {"punchlab.md": _options("punchlab.lab.cli"), "punch.md": _options("punchlab.punch")}
    for page, options in known.items():
        written = set(re.findall(OPTION, (reference / page).read_text()))
        assert options - written == set(), page
    texts = [re.sub(r"^```text.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL) for page in PAGES]
    written = set().union(*(re.findall(OPTION, text) for text in texts))
    assert written - known["punchlab.md"] - known["punch.md"] - FOREIGN == set()


def test_every_preset_has_a_section_with_its_source(reference: Path) -> None:
    listed = run([sys.executable, "-m", "punchlab.lab.cli", "nat", "list"]).stdout
    page = (reference / "presets.md").read_text()
    sections = dict(re.findall(r"^## `(\w+)` .*\n\nSource: (.+)$", page, flags=re.MULTILINE))
    assert set(re.findall(r"[a-z]+(?:_\w+)*", listed)) >= sections.keys()
    assert {"none", "symmetric", "linux_masq"} <= sections.keys()
    assert all(sections.values())
