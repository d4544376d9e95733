"""The client under test, described by its commands. `PUNCH` is the first such description, not a special case.

A client that is a Python function (`function`) is forked from a process that has imported it, and its commands are the
function's arguments; any other is started as its commands say.

A command is a sequence of words with placeholders in braces. A tuple of words is optional as a whole: it is left out
when one of its placeholders has no value in the trial. Placeholders:

    {python}        this interpreter
    {edge}          the anycast URL of the edges, ws://ADDRESS:PORT
    {listen}        edges: the endpoint to listen on        {name}  edges: the node's name
    {listen6}       edges: the IPv6 endpoint to listen on as well, in topologies whose edges speak IPv6
    {join}          edges: the URL of another edge; its tuple is repeated for each of the others
    {bus}           edges: URLs of NATS servers, with commas between, where they are to talk through those
    {stun}          edges: where to answer STUN; {alternate}  the same at the edge's second address, if it has one
    {url}           edges: the URL of this edge alone
    {file}          sender: the file to send                {directory}  receiver: where to put it
    {code}          the code that both share, where the lab chooses it
    {strategy}  {deadline_s}  {max_attempts}  {start_at}    options of the trial
    {relay}         hosts: `--relay` in a trial that may end at a relay
"""

from __future__ import annotations

import string
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lab.forked import Function

Words = Sequence[str | tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Client:
    """How to run a client.

    All of its commands print JSON events with the names of `punch --json`; a trial needs `listening` (edge), `done` and
    `failed` (hosts), and reads the others where they are there. With `tells_code` the sender announces its code in the
    event `code`, and the receiver gets it on a line of standard input; otherwise the lab chooses {code}. With
    `function` the commands are its arguments.
    """

    name: str
    edge: Words
    sender: Words
    receiver: Words
    strategies: Sequence[str]
    tells_code: bool
    function: Function | None = None


_STUN = (("--stun", "{stun}"), ("--stun-alternate", "{alternate}"))

PUNCH = Client(
    name="punch",
    edge=(
        *("edge", "--listen", "{listen}", ("--listen", "{listen6}"), "--name", "{name}"),
        *(("--join", "{join}"), ("--bus", "{bus}")),
        *(*_STUN, "--relay", "{url}", "--json"),
    ),
    sender=(
        *("send", "{file}", "--edge", "{edge}", "--json"),
        *(("--strategy", "{strategy}"), ("--deadline", "{deadline_s}")),
        *(("--max-attempts", "{max_attempts}"), ("--start-at", "{start_at}"), ("{relay}",)),
    ),
    receiver=(
        *("receive", "-", "--dir", "{directory}", "--edge", "{edge}", "--json"),
        *(("--strategy", "{strategy}"), ("--deadline", "{deadline_s}")),
        *(("--max-attempts", "{max_attempts}"), ("--start-at", "{start_at}"), ("{relay}",)),
    ),
    strategies=("auto", "reuse", "keep", "sync", "lowttl", "predict", "birthday", "portmap"),
    tells_code=True,
    function=Function(
        "punch.cli:main",
        preload=(
            *("punch.client.session", "punch.edge.process", "punch.sentences", "punch.strategy.catalog"),
            *("punch.strategy.auto", "punch.strategy.reuse", "punch.strategy.sync", "punch.strategy.lowttl"),
            # What those import late.
            *("concurrent.futures.thread", "cryptography.hazmat.backends.openssl.backend", "encodings.idna"),
        ),
    ),
)

CLIENTS: Mapping[str, Client] = {PUNCH.name: PUNCH}
"""Name on the command line -> description."""


def command(words: Words, values: Mapping[str, object], joins: Sequence[str] = ()) -> list[str]:
    """The words with their placeholders filled; an optional tuple with {join} once for each of `joins`."""
    known = {"python": sys.executable, **{key: value for key, value in values.items() if value is not None}}
    filled: list[str] = []
    for word in words:
        if isinstance(word, str):
            filled.append(word.format(**known))
        elif "join" in _placeholders(word):
            filled += [part.format(**known, join=url) for url in joins for part in word]
        elif _placeholders(word) <= known.keys():
            filled += [part.format(**known) for part in word]
    return filled


def _placeholders(words: Sequence[str]) -> set[str]:
    return {name for word in words for _text, name, _format, _conversion in string.Formatter().parse(word) if name}
