"""Descriptions of clients: words with placeholders, and invalid descriptions."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from punchlab import InputError
from punchlab.lab.client.contract import PLACEHOLDERS
from punchlab.lab.client.description import PUNCH, Client, command
from punchlab.lab.process.forked import Function
from punchlab.lab.trial.options import TrialOptions
from tests.examples import EXAMPLES

WORDS = ("client",)
MINE = Client("mine", WORDS, WORDS, WORDS, ("plain",), tells_code=False)


def changed(client: Client, **fields: Any) -> Client:
    return replace(client, **fields)


@pytest.mark.parametrize(
    ("word", "filled"),
    [
        ("{file}", "/f"),
        ("--in={file}:{file}", "--in=/f:/f"),
        ('{"log": "debug"}', '{"log": "debug"}'),
        ('{"a": {"b": {}}}', '{"a": {"b": {}}}'),
        ('{"path": "{file}"}', '{"path": "/f"}'),
        ('{"a": {"path": "{file}"}}', '{"a": {"path": "/f"}}'),
        ("STYLE={", "STYLE={"),
        ("}", "}"),
        ("{}", "{}"),
        ("[0-9]{3}", "[0-9]{3}"),
        ("{0}", "{0}"),
        ("{ file }", "{ file }"),
        ("{log: debug}", "{log: debug}"),
        ("f() { echo; }; f", "f() { echo; }; f"),
        ("{{file}}", "{file}"),
        ("{{{file}}}", "{/f}"),
        ("{{file.name}}", "{file.name}"),
        ("${{HOME}}", "${HOME}"),
        ('print(\'{{"event": "done"}}\')', 'print(\'{"event": "done"}\')'),
        ('{{"a": {{"b": 1}}}}', '{"a": {"b": 1}}'),
        ("}}", "}"),
    ],
)
def test_only_a_name_alone_in_braces_is_a_placeholder(word: str, filled: str) -> None:
    assert command([word], {"file": Path("/f")}) == [filled]
    assert command([("--", word)], {"file": Path("/f")}) == ["--", filled]


@given(st.text(alphabet='{}"file: .', max_size=20))
@settings(max_examples=EXAMPLES)
def test_any_word_is_filled_or_rejected(word: str) -> None:
    with contextlib.suppress(InputError):
        (filled,) = command([word], {"file": "/f"})
        assert "{file}" not in filled or "{{" in word


def test_an_optional_tuple_is_omitted_without_a_value_and_repeated_for_each_join() -> None:
    words = ("x", ("--attempts", "{max_attempts}"), ("--join", "{join}"))
    assert command(words, {"max_attempts": None}) == ["x"]
    assert command(words, {"max_attempts": 3}, ["ws://1", "ws://2"]) == (
        ["x", "--attempts", "3", "--join", "ws://1", "--join", "ws://2"]
    )


@pytest.mark.parametrize("role", ["edge", "sender", "receiver"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("x", "--bind={bind}"), r"'\{bind\}' cannot be used; expected one of .*\{python\}.* or \{\{bind\}\} for"),
        (("x", ("--at", "{pyton}")), r"'\{pyton\}' cannot be used; expected \{python\}, or \{\{pyton\}\} for"),
        (("x", "{python!r}"), r"'\{python!r\}' cannot be used; expected \{python\} alone"),
        ((), r"\(\) cannot be used; expected at least one word"),
        ("client --json", r"'client --json' cannot be used; expected a sequence of words"),
        (("x", 7000), r"7000 cannot be used; expected a str without NUL characters"),
        (("x", ("--port", 7000)), r"7000 cannot be used; expected a str without NUL characters"),
        (("x", "a\0b"), r"'a\\x00b' cannot be used; expected a str without NUL characters"),
        (("x", "\ud800"), r"'\\ud800' cannot be used; expected a str without NUL characters"),
        (None, r"missing; expected a sequence of words"),
    ],
)
def test_an_invalid_command_is_rejected_with_client_and_role(role: str, words: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"^client mine, {role}: {message}"):
        changed(MINE, **{role: words}).check()


@pytest.mark.parametrize(
    ("role", "name", "likely"),
    [("sender", "listen", ""), ("receiver", "join", ""), ("edge", "file", ""), ("sender", "dedline_s", "{deadline_s}")],
)
def test_a_placeholder_of_another_role_is_rejected(role: str, name: str, likely: str) -> None:
    with pytest.raises(InputError, match=rf"^client mine, {role}: '{{{name}}}' cannot be used; expected {likely}"):
        changed(MINE, **{role: ("x", ("--option", f"{{{name}}}"))}).check()


def test_the_lab_has_no_code_for_a_client_that_creates_its_own() -> None:
    for role in ("sender", "receiver"):
        words = ("x", ("--code", "{code}"))
        assert changed(MINE, **{role: words}).command(role, {"code": "abc"}) == ["x", "--code", "abc"]
        with pytest.raises(InputError, match=rf"^client mine, {role}: '{{code}}' cannot be used"):
            changed(MINE, tells_code=True, **{role: words}).check()


def test_join_belongs_in_a_tuple() -> None:
    with pytest.raises(InputError, match=r"^client mine, edge: '\{join\}' cannot be used; expected a tuple around"):
        replace(MINE, edge=("x", "{join}")).check()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "", "name of a client: ''"),
        ("name", "two\nlines", r"name of a client: 'two\\nlines'"),
        ("name", None, "name of a client: missing"),
        ("strategies", "plain", "client mine, strategies: 'plain'"),
        ("strategies", (), r"client mine, strategies: \(\)"),
        ("strategies", (1,), r"client mine, strategies: \(1,\)"),
        ("tells_code", "no", "client mine, tells_code: 'no' cannot be used; expected True or False"),
        ("function", "module:main", "client mine, function: 'module:main'"),
    ],
)
def test_the_other_fields_of_a_client_are_checked(field: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        changed(MINE, **{field: value})


@pytest.mark.parametrize("name", ["module", "module:", ":main", "module:a b", "my-module:main"])
def test_a_function_is_named_by_module_and_name(name: str) -> None:
    with pytest.raises(InputError, match=r"^function of a client: .* expected module:function"):
        Function(name)


def test_a_placeholder_without_a_value_is_named_with_client_and_role() -> None:
    mine = replace(MINE, sender=("x", "--attempts={max_attempts}"))
    assert mine.command("sender", {"max_attempts": 2}) == ["x", "--attempts=2"]
    with pytest.raises(InputError, match=r"^client mine, sender: .*a value for \{max_attempts\} in this trial"):
        mine.command("sender", {"max_attempts": None})


def test_every_placeholder_can_be_used_by_the_roles_that_have_it() -> None:
    for name, placeholder in PLACEHOLDERS.items():
        for role in ("edge", "sender", "receiver"):
            words = ("x", (f"{{{name}}}",))
            if role in placeholder.roles:
                assert changed(MINE, **{role: words}).uses(role, name)
            else:
                with pytest.raises(InputError):
                    changed(MINE, **{role: words}).check()
    PUNCH.check()


def test_the_options_of_a_trial_check_their_client() -> None:
    with pytest.raises(InputError, match=r"^client mine, sender: '\{bind\}' cannot be used"):
        TrialOptions(client=replace(MINE, sender=("x", "--bind={bind}")), strategy="plain")
