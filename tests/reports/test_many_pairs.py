"""More pairs of NATs than a picture has room for figures: maps by colour, and the figures in the table."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.reports.pages import page, svg_words, write
from tests.reports.sample import matrix

MANY = [f"nat_{number:02}" for number in range(18)]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("many"), matrix("ab", trials=1, nats=MANY))


def test_many_pairs_are_a_map_that_names_every_nat(many: Path) -> None:
    for name in ("success-ab", "latency-ab"):
        words = svg_words(many, name)
        assert all(words.count(nat) == 2 for nat in MANY)
        assert "1/1" not in words
        with Image.open(many / "charts" / f"{name}.png") as picture:
            assert max(picture.size) < 2000


def test_the_page_has_the_figures_of_every_pair(many: Path) -> None:
    shown = page(many)
    for nat_a in MANY:
        for nat_b in MANY:
            row = shown.pair(nat_a, nat_b)
            assert row[2] == "1/1"
            assert row[6].endswith(" ms")
            assert row[7] == "40.0 ms"


def test_few_pairs_have_their_figures_in_the_picture(tmp_path: Path) -> None:
    write(tmp_path, matrix("ab", trials=1, nats=MANY[:3]))
    assert svg_words(tmp_path, "success-ab").count("1/1") == 9
