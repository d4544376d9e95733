"""The page of the client contract: the placeholders of a client's commands and the events that they print."""

from __future__ import annotations

from docs.generate import names

_PLACEHOLDERS = """\
A command is a sequence of words. A word may contain placeholders in braces:

- `{name}` is a placeholder only if the braces contain a name and nothing else. JSON in a word stays as it is.
- `{{name}}` is the literal text `{name}`.
- A tuple of words is optional: the lab omits the tuple if one of its placeholders has no value in the trial.

The lab checks all placeholders before it starts anything. An unknown placeholder is an `InputError`.
"""
_EVENTS = """\
A command prints one JSON object per line on standard output. The lab reads the events of this table and ignores other
lines. A field with the value null counts as absent. A field of a wrong type ends the trial with the outcome
`client_error`; the reason names the client, the role, the event and the field.
"""


def page() -> str:
    """The page."""
    return "\n\n".join(
        (
            "# The client contract",
            (
                "The lab runs a client under test as three commands: one for each edge, one for the sender and "
                "one for the "
                "receiver. This page defines what the lab puts into the commands and what it reads from them. "
                "[Test your client](../how-to/test-your-client.md) shows how to describe a client."
            ),
            "## Placeholders",
            _PLACEHOLDERS.strip(),
            names.contract.placeholders_table().rstrip(),
            "## Events",
            _EVENTS.strip(),
            names.contract.events_table(),
        )
    )
