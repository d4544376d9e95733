"""Command lines of this project: a parser that suggests the nearest valid words, and argument types."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from punchlab.punch.suggestion import one_of, suggestion


def path(text: str) -> str:
    """Return a path. An empty string is an error, because `pathlib` treats it as the current directory."""
    if not text:
        raise argparse.ArgumentTypeError("'' cannot be used; expected a path")
    return text


class Parser(argparse.ArgumentParser):
    """An argument parser that suggests the option, or the command, that is most like an unknown one."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As in `argparse`, but unknown arguments are an error of the command that they are given to."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            option = next((word.partition("=")[0] for word in unknown if word.startswith("--")), "")
            known = (name for name in self._option_string_actions if name.startswith("--"))
            self.error(f"unrecognized arguments: {' '.join(unknown)}{suggestion(option, known)}")
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            expected = one_of(value, list(map(str, action.choices)))
            raise argparse.ArgumentError(action, f"{value!r} cannot be used; expected {expected}")


class Version(argparse.Action):
    """The option `--version`."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_ignored: object) -> NoReturn:
        """Print the name of the command and the version of the package."""
        from importlib import metadata  # 10 ms that other commands need not wait for

        parser._print_message(f"{parser.prog} {metadata.version('punchlab')}\n", sys.stdout)
        parser.exit(0)
