"""The pages of the two commands, from their argument parsers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from docs.generate import names
from docs.generate.markdown import cell, code, sentence, table

_STATUS = {
    "punchlab": (
        ("0", "The command succeeded. For `trial`: the outcome is `direct`. For `nat check`: every claim is true."),
        ("1", "The command failed. For `trial`: the outcome is not `direct`. For `nat check`: a claim is false."),
        (
            "2",
            "The input is invalid, or the machine lacks what the command needs. One line gives the reason.",
        ),
        ("3", "For `nat check`: no claim is false, but some claims could not be tested."),
        ("130", "The user interrupted the command."),
        (
            "other",
            (
                "`up` and `sandbox` return the status of the command that they run, as a shell does: 128 + N if "
                "signal N "
                "killed it, 127 if it does not exist, 126 if it cannot be executed."
            ),
        ),
    ),
    "punch": (
        ("0", "The command succeeded: everything was transferred."),
        ("1", "The command failed or was declined. Standard error, or the event `failed`, gives outcome and reason."),
        ("2", "The input is invalid, or no edge can be reached. Nothing was done."),
        ("129, 130, 143", "SIGHUP, SIGINT or SIGTERM ended the command."),
    ),
}

_INTRODUCTION = {
    "punchlab": "`punchlab` builds labs, runs trials and campaigns, and writes reports.",
    "punch": "`punch` is the hole-punching client and the edge. It works without the lab.",
}


def page(name: str) -> str:
    """The page of the command `punchlab` or `punch`."""
    parser = {"punchlab": names.punchlab_parser, "punch": names.punch_parser}[name]()
    status = table(("exit status", "meaning"), _STATUS[name])
    parts = [f"# The command `{name}`", _INTRODUCTION[name], status, *_sections(parser)]
    return "\n\n".join(parts) + "\n"


def _sections(parser: argparse.ArgumentParser) -> Iterator[str]:
    """A section for each command that has options of its own, depth first."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in dict.fromkeys(action.choices.values()):
                yield from _sections(each)
            return
    yield f"## `{parser.prog}`"
    if parser.description:
        yield cell(sentence(parser.description))
    yield f"```text\n{_usage(parser)}\n```"
    for group in parser._action_groups:
        shown = [each for each in group._group_actions if each.help != argparse.SUPPRESS]
        rows = [_row(each) for each in shown if not isinstance(each, argparse._HelpAction)]
        if rows:
            title = group.title or "options"
            if title not in ("options", "positional arguments"):
                yield f"**{cell(sentence(title)).rstrip('.')}**"
            yield table(("argument" if title == "positional arguments" else "option", "meaning"), rows)
    if parser.epilog:
        yield cell(parser.epilog)


def _usage(parser: argparse.ArgumentParser) -> str:
    """The usage on one line, as far as a reader of a page needs it: options have a table."""
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    tail = usage[usage.rindex("[-- CMD") :] if "[-- CMD" in usage else "[CMD...]" if "[CMD...]" in usage else ""
    words = [parser.prog, "[OPTION]..."]
    for action in parser._get_positional_actions():
        name = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
        words.append(f"{name}..." if action.nargs == "+" else f"[{name}]" if action.nargs == "?" else name)
    return " ".join([*words, tail]).strip()


def _row(action: argparse.Action) -> tuple[str, str]:
    value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if not action.option_strings:
        return code(value), cell(action.help or "")
    takes = f" {value}" if action.nargs != 0 else ""
    spelled = ", ".join(code(each + takes) for each in action.option_strings)
    return spelled, cell((action.help or "") % {**vars(action), "prog": ""})
