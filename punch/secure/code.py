"""The code that the sender's user gives to the receiver's user, such as `k7x2mq-amber-falcon-tulip`.

The first part is the name of the session, which is not secret. The three words (24 bits) are the secret. They are used
only in SPAKE2, which allows no offline guesses, and each side ends its session after two guesses
(`punch.secure.guesses`). An attacker of both sides succeeds with probability 1 in 4,194,304. The edge never receives
the words.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from punchlab.punch.errors import ArgumentError
from punchlab.punch.frames import SESSION_ID, SessionId

# 256 words whose first four letters are unique and whose edit distance is at least 3.
_WORDS = """
abacus acorn agenda album alley almond amber anchor ankle apron arch artist aspen atlas attic august autumn
avenue badge bakery ballad bamboo banjo basket beacon beaver bell bench berry bicycle biscuit bishop blossom
boat bonfire bottle boulder bread bronze broom buffalo butter cabin cactus camel canoe canvas captain carpet
castle cedar cement chalk chimney cinema circle clay cliff clover cobalt coconut coffee compass copper cotton
cradle crayon cricket crown crystal cushion cymbal daisy dancer delta dentist desert diamond dolphin donkey
drawer drum eagle echo eclipse elbow emerald engine falcon farmer feather fiddle field finger flame forest
fossil garden garlic gazelle giraffe glacier goblet granite grape guitar hamster harbor harvest helmet horizon
hotel ibis iceberg igloo indigo insect island ivory jaguar jasmine jewel journal jungle juniper kayak kernel
ketchup kitchen kite koala ladder lagoon lantern laurel lawn lemon lentil lettuce library lilac linen lobster
locket lotus magnet marble meadow mermaid meteor mirror mitten moon mosaic muffin museum mustard napkin needle
nest nickel nutmeg oasis oatmeal ocean octopus olive onion opera orange orbit orchid ostrich palace panda papaya
paper parrot parsley pasture peanut pebble pelican penguin piano pigeon pillow polar potato powder prairie
pumpkin puppet pyramid quarry queen quilt rabbit raccoon radish raft rainbow raven reef rhubarb ribbon rose ruby
saffron sailor saturn scarf school scooter seaweed silver slipper smoke snail spider spinach stable station
summer sunset swan tadpole teapot temple thimble thunder tractor trumpet tulip tunnel turtle unicorn vanilla
village vineyard violin volcano vulture walnut warrior wheat whisker window wizard wolf woodland yacht yogurt
zebra zenith zigzag
"""
WORDS = tuple(_WORDS.split())
SECRET_WORDS = 3
_SESSION_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # without letters and digits that look similar
_SESSION_LENGTH = 6


@dataclass(frozen=True)
class Code:
    """A session's public name and its secret words."""

    session: SessionId
    secret: str

    def __str__(self) -> str:
        return f"{self.session}-{self.secret}"

    def __repr__(self) -> str:
        return f"Code(session={self.session!r})"

    @classmethod
    def generate(cls) -> Code:
        """Return a new random code."""
        session = "".join(secrets.choice(_SESSION_LETTERS) for _ in range(_SESSION_LENGTH))
        return cls(SessionId(session), "-".join(secrets.choice(WORDS) for _ in range(SECRET_WORDS)))

    @classmethod
    def parse(cls, text: str, *, field: str = "code") -> Code:
        """Parse a code, ignoring case and surrounding whitespace. Raises `ArgumentError`."""
        expected = f"a session and {SECRET_WORDS} words, such as k7x2mq-amber-falcon-tulip"
        session, *words = text.strip().lower().split("-")
        if SESSION_ID.fullmatch(session) is None or len(words) != SECRET_WORDS:
            raise ArgumentError(field, _shortened(text), expected)
        for word in words:
            if word not in WORDS:
                raise ArgumentError(
                    field, _shortened(text), f"words of the word list; {_shortened(word)!r} is not one{_hint(word)}"
                )
        return cls(SessionId(session), "-".join(words))


def _hint(word: str) -> str:
    import difflib

    close = difflib.get_close_matches(word[:32], WORDS, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
