"""The pictures of a report."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

from tests.reports.pages import svg_words, write
from tests.reports.sample import record


def test_many_trials_are_drawn_as_distributions(tmp_path: Path) -> None:
    records = [record(number=number) for number in range(20)] + [record("none", "none", number) for number in range(19)]
    write(tmp_path, records)
    assert "n = 20" in "\n".join(svg_words(tmp_path, "latency-cdf-ab"))
    assert "n = 19" in "\n".join(svg_words(tmp_path, "latency-ab"))
    assert "full_cone" not in "\n".join(svg_words(tmp_path, "latency-ab"))


def test_every_chart_is_a_valid_png_and_svg(two_topologies: Path) -> None:
    charts = sorted(path.name for path in (two_topologies / "charts").iterdir())
    kinds = (
        "comparison-latency",
        "comparison-success",
        "latency-ab",
        "latency-cd",
        "outcomes",
        "success-ab",
        "success-cd",
    )
    assert charts == sorted(f"{kind}.{ending}" for kind in kinds for ending in ("png", "svg"))
    for name in charts:
        content = (two_topologies / "charts" / name).read_bytes()
        if name.endswith(".png"):
            with Image.open(BytesIO(content)) as picture:
                picture.load()
                assert picture.width > 500
                assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10
        else:
            root = ElementTree.fromstring(content)
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
            assert b"<dc:date>" not in content
