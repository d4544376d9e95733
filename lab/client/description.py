"""The client under test, described by its commands. `PUNCH` is the first such description, without special cases.

A client that is a Python function (`function`) is forked from a process that has imported it; its commands are the
function's arguments. Other clients are started as commands.

A command is a sequence of words with placeholders in braces (syntax: `lab.client.placeholders`, names:
`lab.client.contract.PLACEHOLDERS`). A tuple of words is optional: it is omitted if one of its placeholders has no value
in the trial.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from punchlab.lab.client import placeholders as syntax
from punchlab.lab.client.contract import EDGE, PLACEHOLDERS, RECEIVER, SENDER
from punchlab.lab.confinement import shares
from punchlab.lab.confinement.shares import Needs, Plan, Share
from punchlab.lab.errors import InputError
from punchlab.lab.process.forked import Function

Words = Sequence[str | tuple[str, ...]]

_JOIN = "join"
_CODE = "code"


@dataclass(frozen=True, slots=True)
class Client:
    """How to run a client.

    All of its commands print JSON events as defined by `lab.client.contract.EVENTS`. With `tells_code`, the sender
    prints its code in the event `code`, and the receiver reads it from standard input; otherwise the lab chooses
    {code}. With `function`, the commands are its arguments.

    A client is confined (`lab.confinement`). It has read-only access to the machine's programs and libraries, the
    working directory, and the folders of files that its commands name. It can write to private folders and {directory}.
    `reads` and `writes` are additional files and folders (absolute paths) to read, or to read and write.

    Raises `InputError` naming the client and the field for a value of a wrong type. A trial checks the placeholders of
    the commands (`check`).
    """

    name: str
    edge: Words
    sender: Words
    receiver: Words
    strategies: Sequence[str]
    tells_code: bool
    function: Function | None = None
    reads: Sequence[str] = ()
    writes: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not _is_name(self.name):
            raise InputError("name of a client", self.name, "printable text")
        if not isinstance(self.tells_code, bool):
            raise InputError(f"client {self.name}, tells_code", self.tells_code, "True or False")
        if self.function is not None and not isinstance(self.function, Function):
            raise InputError(f"client {self.name}, function", self.function, "a punchlab.Function")
        names = self.strategies
        if isinstance(names, str) or not isinstance(names, Collection) or not names or not all(map(_is_name, names)):
            raise InputError(f"client {self.name}, strategies", names, "a sequence of names, at least one")
        for field in ("reads", "writes"):
            paths = getattr(self, field)
            if isinstance(paths, str) or not isinstance(paths, Sequence) or not all(map(_is_path, paths)):
                raise InputError(f"client {self.name}, {field}", paths, "a sequence of absolute paths")
        for role in (EDGE, SENDER, RECEIVER):
            self._check_types(role)

    def command_of(self, role: str) -> Words:
        """Return the command of a role."""
        found: Words = {EDGE: self.edge, SENDER: self.sender, RECEIVER: self.receiver}[role]
        return found

    def command(self, role: str, values: Mapping[str, object], joins: Sequence[str] = ()) -> list[str]:
        """Return the command of a role with its placeholders replaced, as `command` does. Raises `InputError`."""
        try:
            return command(self.command_of(role), values, joins)
        except InputError as error:
            raise InputError(f"client {self.name}, {role}", error.value, error.expected) from None

    def uses(self, role: str, placeholder: str) -> bool:
        """Return whether the command of a role contains the placeholder."""
        return any(placeholder in syntax.placeholders(part) for part, _optional in _each(self.command_of(role)))

    def view(self, role: str, given: Iterable[Share] = ()) -> Plan:
        """Return the files that the client can access in that role, including those `given` by the trial."""
        words = tuple(word for word, _optional in _each(self.command_of(role)) if not syntax.placeholders(word))
        program = () if self.function is not None else words[:1]
        module = None if self.function is None else self.function.name.partition(":")[0].partition(".")[0]
        own = [*(Share(path) for path in self.reads), *(Share(path, writable=True) for path in self.writes)]
        return Plan((*own, *given), Needs(tuple(program), words, module))

    def check(self) -> None:
        """Raise `InputError` for a path that does not exist, or a placeholder that its role does not have."""
        for field in ("reads", "writes"):
            for path in getattr(self, field):
                if not os.path.exists(path):  # noqa: PTH110 - text
                    raise InputError(f"client {self.name}, {field}", path, "a file or folder that exists")
                if shares.leads_through_a_link(path):
                    expected = "a path that leads through no symbolic link in the working directory"
                    raise InputError(f"client {self.name}, {field}", path, expected)
        for role in (EDGE, SENDER, RECEIVER):
            field = f"client {self.name}, {role}"
            known = [
                name
                for name, placeholder in PLACEHOLDERS.items()
                if role in placeholder.roles and not (name == _CODE and self.tells_code)
            ]
            for word, optional in _each(self.command_of(role)):
                syntax.check(field, word, known)
                if not optional and _JOIN in syntax.placeholders(word):
                    raise InputError(field, word, "a tuple around {join}, repeated for each other edge")

    def _check_types(self, role: str) -> None:
        field, words = f"client {self.name}, {role}", self.command_of(role)
        if isinstance(words, str) or not isinstance(words, Sequence):
            raise InputError(field, words, "a sequence of words")
        if not words and self.function is None:
            raise InputError(field, words, "at least one word")
        for word, _optional in _each(words):
            if not isinstance(word, str) or "\0" in word or not _is_argument(word):
                raise InputError(field, word, "a str without NUL characters, or a tuple of such")


def _each(words: Words) -> list[tuple[str, bool]]:
    """Return the words, each with whether it is in a tuple."""
    found: list[tuple[str, bool]] = []
    for word in words:
        if isinstance(word, str) or not isinstance(word, Sequence):
            found.append((word, False))
        else:
            found += [(part, True) for part in word]
    return found


def _is_path(path: object) -> bool:
    return isinstance(path, str) and path.startswith("/") and "\0" not in path


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name.isprintable() and name.strip() != ""


def _is_argument(word: str) -> bool:
    try:
        os.fsencode(word)
    except UnicodeEncodeError:
        return False
    return True


_STUN = (("--stun", "{stun}"), ("--stun-alternate", "{alternate}"))

PUNCH = Client(
    name="punch",
    edge=(
        *("edge", "--listen", "{listen}", ("--listen", "{listen6}"), "--name", "{name}"),
        *(("--join", "{join}"), ("--bus", "{bus}"), "--mesh-from", "0.0.0.0/0"),
        *(*_STUN, "--relay", "{url}", "--json"),
    ),
    sender=(
        *("send", "{file}", "--edge", "{edge}", "--json"),
        *(("--strategy", "{strategy}"), ("--deadline", "{deadline_s}")),
        *(("--max-attempts", "{max_attempts}"), ("--start-at", "{start_at}"), ("{relay}",)),
    ),
    receiver=(
        *("receive", "-", "--yes", "--dir", "{directory}", "--edge", "{edge}", "--json"),
        *(("--strategy", "{strategy}"), ("--deadline", "{deadline_s}")),
        *(("--max-attempts", "{max_attempts}"), ("--start-at", "{start_at}"), ("{relay}",)),
    ),
    strategies=("auto", "reuse", "keep", "sync", "lowttl", "predict", "birthday", "portmap"),
    tells_code=True,
    function=Function(
        "punchlab.punch.cli:main",
        preload=(
            *(f"punchlab.punch.{name}" for name in ("transfer.session", "sentences", "strategy.catalog")),
            *(f"punchlab.punch.edge.{name}" for name in ("process", "memory", "bus.address")),
            *(f"punchlab.punch.strategy.{name}" for name in ("auto", "reuse", "sync", "lowttl")),
            # Modules that these import late.
            *("concurrent.futures.thread", "cryptography.hazmat.backends.openssl.backend", "encodings.idna"),
        ),
    ),
)

CLIENTS: Mapping[str, Client] = {PUNCH.name: PUNCH}
"""Name on the command line -> description."""


def command(words: Words, values: Mapping[str, object], joins: Sequence[str] = ()) -> list[str]:
    """Return the words with placeholders replaced. An optional tuple with {join} is repeated for each of `joins`.

    Raises `InputError` for an unknown placeholder, or for one without a value outside a tuple.
    """
    known = {"python": sys.executable, **{key: value for key, value in values.items() if value is not None}}
    for part, _optional in _each(words):
        syntax.check("word", part, PLACEHOLDERS)
    done: list[str] = []
    for word in words:
        if isinstance(word, str):
            done.append(syntax.filled(word, known))
            continue
        wanted = set().union(*map(syntax.placeholders, word))
        if _JOIN in wanted:
            done += [syntax.filled(part, known | {_JOIN: url}) for url in joins for part in word]
        elif wanted <= known.keys():
            done += [syntax.filled(part, known) for part in word]
    return done
