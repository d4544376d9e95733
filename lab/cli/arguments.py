"""The command line of `punchlab`. It imports no slow modules, so that `--help` is fast."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from punchlab.lab.inputs.numbers import of_text
from punchlab.lab.results.axes import AXES
from punchlab.punch import argument
from punchlab.punch.text import printable

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

PUNCHING = ("strategy", "deadline", "max_attempts", "skew_ms")
"""The axes that configure the punch of a client."""


class _Parser(argument.Parser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {printable(message)}; see {self.prog} --help\n")

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        # argparse's own method does not handle an output that cannot be written.
        (file or sys.stderr).write(message)


def path(word: str) -> Path:
    """Return a path that a user gives. An empty string is an unset variable, not the current directory."""
    if not word:
        raise argparse.ArgumentTypeError("'' cannot be used; expected a path")
    return Path(word)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the parsed arguments. `shell` is the command to run, for commands that run one."""
    own, command = _split(list(words))
    given = parser().parse_args(own)
    if command:
        given.shell = command
    return given


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the words for punchlab, and those of the command to run, which are not parsed."""
    match words:
        case ["sandbox", *rest]:
            own = words[: 2 if rest[:1] == ["--unconfined"] else 1]
            command = words[len(own) :]
            if command[:1] == ["--"]:
                return own, command[1:]
            return (own, command) if command and not command[0].startswith("-") else (words, [])
        case ["up", *_rest] if "--" in words:
            where = words.index("--")
            return words[:where], words[where + 1 :]
    return words, []


def parser() -> argparse.ArgumentParser:
    """Return the parser of `punchlab`. Every command sets `command` and `needs_sandbox`."""
    root = _Parser(
        prog="punchlab",
        description="An Internet in a box: build NATs, punch holes through them, and examine the packets.",
    )
    root.add_argument("--version", action=argument.Version)
    commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True)

    run = _command(commands, "run", "run trials for every combination of the axes, and write the results")
    _topology(run, several=True)
    _nats(run, several=True)
    _punching(run, several=True)
    many = run.add_argument_group("how many trials, and how")
    many.add_argument("--trials", metavar="N", help="per cell (default 5; with --until-ci: as many as it takes)")
    many.add_argument(
        "--until-ci",
        metavar="W",
        help="stop a cell when Wilson's interval of its success rate is within ±W, e.g. 0.05",
    )
    many.add_argument("--min-trials", metavar="N", help="with --until-ci: at least N per cell (default 5)")
    many.add_argument(
        "--budget",
        metavar="TIME",
        help="start only trials that fit into TIME (e.g. 10m), the most informative cells first",
    )
    _jobs(many)
    many.add_argument("--dask", metavar="ADDRESS", help="run the trials on the workers of a Dask scheduler")
    many.add_argument(
        "--out", type=path, metavar="DIR", help="folder for the results (default runs/TOPOLOGY-STRATEGY or runs/FILE)"
    )

    worker = _command(commands, "worker", "run trials for campaigns of other machines with Dask", needs_sandbox=False)
    worker.add_argument("address", metavar="ADDRESS", help="address of the Dask scheduler, e.g. tcp://scheduler:8786")
    _jobs(worker)

    trial = _command(commands, "trial", "run one trial, and print a summary")
    _topology(trial, several=False)
    _nats(trial, several=False)
    _punching(trial, several=False)
    shown = trial.add_mutually_exclusive_group()
    shown.add_argument("--timeline", action="store_true", help="print all packets instead; collapse repeated ones")
    shown.add_argument("--json", action="store_true", help="print the result record instead")
    trial.add_argument("--capture", type=path, metavar="FILE", help="write the packets to FILE (pcapng)")
    trial.add_argument("--full", action="store_true", help="record every packet, not only SYN, FIN, RST and ICMP")

    up = _command(commands, "up", "build a topology and open a shell in which `on NODE CMD` runs commands in its nodes")
    _topology(up, several=False)
    _nats(up, several=False)
    _unconfined(up)
    up.set_defaults(shell=[])
    up.usage = f"{up.format_usage().removeprefix('usage: ').rstrip()} [-- CMD...]"

    _predict(commands)

    report = _command(commands, "report", "draw charts and write a page for finished runs", needs_sandbox=False)
    report.add_argument("directory", type=path, nargs="+", metavar="DIR", help="folder of a run")
    report.add_argument("--out", type=path, metavar="DIR", help="where to write (default: the first folder)")

    _nat(commands)
    _command(commands, "schema", "print the JSON Schema of a result record", needs_sandbox=False)
    _command(commands, "doctor", "check what this machine provides and lacks", needs_sandbox=False)

    box = _command(commands, "sandbox", "run a command inside a fresh sandbox")
    box.set_defaults(shell=[])
    _unconfined(box)
    box.usage = f"{box.format_usage().removeprefix('usage: ').rstrip()} [CMD...]"
    box.epilog = (
        "CMD and the words after it are the command, e.g. tcpdump, or mn with --unconfined, because it mounts /sys. The"
        " default is $SHELL."
    )
    return root


def _unconfined(command: argparse._ActionsContainer) -> None:
    command.add_argument(
        "--unconfined",
        action="store_true",
        help="leave the host's files as they are; otherwise the command sees programs and the current directory,"
        " writes only there, and has its own HOME and /tmp",
    )


def _jobs(command: argparse._ActionsContainer) -> None:
    command.add_argument(
        "--jobs",
        type=of_text,
        metavar="N",
        help="maximum number of active trials; use 1 to measure latency (default: 6 per core)",
    )


def _predict(commands: argparse._SubParsersAction[_Parser]) -> None:
    predict = _command(
        commands, "predict", "predict whether hosts behind two NATs can connect, without a lab", needs_sandbox=False
    )
    for side, which in (("a", "first"), ("b", "second")):
        predict.add_argument(
            f"--nat-{side}",
            default="port_restricted_cone",
            metavar="NAT",
            help=f"NAT of the {which} host (default port_restricted_cone)",
        )
    _axes(predict, "unsolicited")
    way = predict.add_argument_group("the path between the two NATs, one way from end to end")
    way.add_argument("--delay", default="10ms", metavar="TIME", help="e.g. 20ms (default 10ms)")
    way.add_argument("--jitter", default="0ms", metavar="TIME", help="variation of the delay (default 0ms)")
    way.add_argument("--loss", type=of_text, default=0.0, metavar="PERCENT", help="loss of packets (default 0)")
    predict.add_argument(
        "--background",
        type=of_text,
        default=0.0,
        metavar="RATE",
        help="connections per second of other hosts through each NAT, for strategies that predict ports (default 0)",
    )
    _axes(predict.add_argument_group("punching"), *PUNCHING)
    predict.add_argument("--json", action="store_true", help="print one JSON object")


def _nat(commands: argparse._SubParsersAction[_Parser]) -> None:
    nat = commands.add_parser(
        "nat", help="list, show or check NAT presets", description="List, show or check NAT presets."
    )
    actions = nat.add_subparsers(dest="action", metavar="ACTION", required=True)
    _command(actions, "list", "all presets, with their sources and confidence", needs_sandbox=False)
    show = _command(actions, "show", "the behavior of one preset, field by field", needs_sandbox=False)
    show.add_argument("name", metavar="NAME", help="a preset, e.g. symmetric")
    _axes(show, "port_mapping")
    show.add_argument("--rules", action="store_true", help="print a script that turns a Linux router into the NAT")
    show.add_argument("--inside", default="lan0", metavar="IF", help="the router's inside interface (default lan0)")
    show.add_argument("--outside", default="wan0", metavar="IF", help="its outside interface (default wan0)")
    show.add_argument(
        "--address", default="203.0.113.1", metavar="ADDR", help="its (first) external address (default 203.0.113.1)"
    )
    check = _command(actions, "check", "probe NATs from inside, and compare the observations with their claims")
    check.epilog = (
        "Exit status: 0 all claims are confirmed, 1 a claim is refuted, 2 bad input, 3 no claim is refuted, but some "
        "could not be tested in three measurements because the machine is too busy."
    )
    check.add_argument("nat", metavar="NAT", help="names, comma-separated, `classics`, `firewalls` or `all`")
    _axes(check, "unsolicited")
    check.add_argument(
        "--jobs",
        type=of_text,
        default=2 * (os.cpu_count() or 1),
        metavar="N",
        help="NATs in parallel (default: 2 per core)",
    )
    check.add_argument(
        "--time-scale",
        type=of_text,
        metavar="N",
        help="divide the timeouts of the NATs by N for tests of idle mappings (default: replace each timeout by "
        "a few seconds)",
    )
    check.add_argument("--json", action="store_true", help="print one JSON object")


def _command(
    commands: argparse._SubParsersAction[_Parser], name: str, text: str, *, needs_sandbox: bool = True
) -> _Parser:
    made = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    made.set_defaults(needs_sandbox=needs_sandbox)
    return made


def _axes(command: argparse._ActionsContainer, *names: str, several: bool = False) -> None:
    """Add the options of axes; with `several` they take several values, and none is the default."""
    for name in names:
        axis = AXES[name]
        command.add_argument(
            axis.option,
            action="append" if several and name == "pair" else "store",
            type=of_text if axis.number and not several else str,
            default=None if several else axis.usual,
            metavar=axis.metavar,
            help=axis.help + _star(several),
        )


def _star(several: bool) -> str:
    return " *" if several else ""


def _topology(command: argparse.ArgumentParser, *, several: bool) -> None:
    topology = AXES["topology"]
    kinds, metavar = topology.help, topology.metavar
    if several:
        kinds, metavar = f"{kinds}, or several, or a campaign file (TOML)", f"{metavar}|FILE"
        command.epilog = (
            "Options marked * accept several comma-separated values (--pair: repeat it); every combination is a cell. "
            "`none` means no limit. Options override a campaign file."
        )
    command.add_argument("topology", metavar=metavar, help=kinds)
    _axes(command, "pair", several=several)
    shape = command.add_argument_group("links, in Mininet's syntax")
    _axes(shape, "delay", "jitter", "loss", "bw", several=several)
    shape.add_argument(
        "--links",
        default=None if several else "auto",
        metavar="KIND",
        help="the implementation that impairs links: auto, netem or nfqueue (default auto)",
    )
    shape.add_argument(
        "--seed",
        type=str if several else of_text,
        default=None if several else 0,
        metavar="N",
        help="seed of loss, jitter and background traffic (default 0)",
    )


def _nats(command: argparse.ArgumentParser, *, several: bool) -> None:
    kinds = "names, comma-separated, `classics`, `firewalls` or `all`" if several else "name"
    default = "classics, of firewalls all three" if several else "port_restricted_cone, of firewalls firewall"
    for name in ("nat_a", "nat_b"):
        axis = AXES[name]
        text = f"{axis.help}: {kinds} (default {default}){_star(several)}"
        command.add_argument(axis.option, metavar=axis.metavar, help=text)
    _axes(command, "cgn", "unsolicited", "port_mapping", "background", several=several)


def _punching(command: argparse.ArgumentParser, *, several: bool) -> None:
    punch = command.add_argument_group("punching")
    _axes(punch, "client", *PUNCHING, several=several)
