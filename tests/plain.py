"""What output of this project may hold, whoever worded it, by rules that are independent of the project's."""

from __future__ import annotations

import re
import unicodedata

FORBIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
INVISIBLE = "\u034f\u115f\u1160\u3164\uffa0\ufe0f\U000e0100"
ATTACKS = (
    "\x1b[31m",
    "\x1b]0;owned\x07",
    "\x9b2J",
    "\x7f\x08",
    "\u202e",
    "\u200e\u200f\u061c",
    "\u2066\u2069",
    "\u200b\ufeff\u2060",
    "\u2028\u2029\x85",
    "\U000e0041\ufffe\ue000",
    "\u3164\u034f",
    "##[error]owned",
    "##vso[task.setvariable variable=a]b",
)
"""Each of them commands a terminal or a CI run, or makes text look like other text."""
COMMAND_LINE = "\n::error::owned"
HOSTILE = "".join(ATTACKS) + COMMAND_LINE + "\r" + COMMAND_LINE
"""All of them, and lines of their own with commands for GitHub Actions."""


def is_plain(char: str) -> bool:
    return char in "\n\t" or (unicodedata.category(char) not in FORBIDDEN and char not in INVISIBLE)


def assert_plain(output: bytes | str) -> None:
    """Nothing in it commands a terminal or a CI run, and everything in it can be seen."""
    text = output if isinstance(output, str) else output.decode()
    for line in text.split("\n"):
        assert all(map(is_plain, line)), ascii(line[:1000])
        assert not re.match(r"\s*::", line), line
        assert not re.search(r"##\w*\[", line), line


def assert_plain_line(output: bytes | str) -> None:
    """It is one such line."""
    text = output if isinstance(output, str) else output.decode()
    assert_plain(text)
    assert text.endswith("\n"), ascii(text)
    assert text.count("\n") == 1, ascii(text)
