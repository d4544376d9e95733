"""What a hostile client says to an edge: requests and frames that are wrong in one way or the other, by hypothesis."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from punchlab.punch.frames import MAX_FRAME
from scenarios.hostile.clients import registration, upgrade, ws_frame

_OTHER = registration("sender", "ffff")
"""Not of the session of the honest: whoever knows that could take a place in it."""

_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)
_fields = st.sampled_from(["type", "session", "role", "private", "pake", "extra"])
_nearly_right = st.dictionaries(_fields, _json_values, min_size=1, max_size=3).map(
    lambda changes: json.dumps({**json.loads(_OTHER), **changes}).encode()
)
_texts = st.one_of(
    _nearly_right,
    _json_values.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=200),
    st.text(max_size=200).map(str.encode),
    st.integers(1, 20_000).map(lambda depth: b"[" * depth),
    st.just(_OTHER.encode() * 2),
)
_frames = st.one_of(
    _texts.map(ws_frame),
    st.builds(ws_frame, _texts, st.integers(0, 15), fin=st.booleans(), masked=st.booleans(), rsv=st.integers(0, 7)),
    st.binary(min_size=1, max_size=64),
    _texts.map(lambda text: ws_frame(text)[:-1]),
    st.integers(0, 2**64 - 1).map(lambda length: b"\x81\xff" + length.to_bytes(8, "big") + bytes(4)),
    st.integers(1, 300).map(lambda count: ws_frame(b"", 1, fin=False) + ws_frame(b"", 0, fin=False) * count),
    st.builds(lambda first, then: ws_frame(first) + ws_frame(then), st.just(_OTHER.encode()), _texts),
    st.binary(max_size=125).map(lambda data: ws_frame(data, 9) * 20),
    st.integers(MAX_FRAME + 1, 3 * MAX_FRAME).map(lambda size: ws_frame(b"x" * size)),
)
hostile = st.one_of(
    _frames.map(lambda frame: upgrade("/") + frame),
    _frames.map(lambda frame: upgrade("/mesh") + frame),
    st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda text: f"GET {text} HTTP/1.1\r\n\r\n".encode())),
)
"""All that one connection says."""


def volleys(count: int, size: int) -> list[list[bytes]]:
    """At least `count` attacks, in volleys of `size`."""
    made: list[list[bytes]] = []

    @settings(
        max_examples=-(-count // size),
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    @given(st.lists(hostile, min_size=size, max_size=size))
    def collect(attacks: list[bytes]) -> None:
        made.append(attacks)

    collect()
    for number in range(-(-count // size) - len(made)):  # what hypothesis drew twice it left out
        made.append(made[number])
    return made
