"""Reports of hostile records and folders: no text in them controls a program that displays it."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from punchlab.lab.cli import main
from punchlab.reports.table import table_csv
from tests.plain import HOSTILE, assert_plain, assert_plain_line
from tests.reports.sample import matrix, record, write_run

WELL_FORMED = HOSTILE.encode(errors="replace").decode()
FORMULA_SIGNS = "=+-@\uff1d\uff0b\uff0d\uff20"


def hostile(number: int, **changes: Any) -> dict[str, Any]:
    texts = {name: f"{WELL_FORMED}{name}" for name in ("topology", "nat_a", "nat_b", "unsolicited", "client", "links")}
    made = record(number=number, **{**texts, "reason": WELL_FORMED * 3, "strategy": f"=x{WELL_FORMED}", **changes})
    made |= {"pair": [f"a{WELL_FORMED}", f"b{WELL_FORMED}"], "id": f"{WELL_FORMED}{number}", "capture": WELL_FORMED}
    made |= {
        "versions": {WELL_FORMED: WELL_FORMED},
        WELL_FORMED: WELL_FORMED,
        f"={WELL_FORMED}": {WELL_FORMED: [WELL_FORMED]},
    }
    made["outcome_prediction"] |= {"reason": WELL_FORMED}
    return made


def test_every_file_of_a_report_is_plain(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    folder = tmp_path / "\x1b[31m\u202e\n::error::x ##[error]"
    records = [hostile(number) for number in range(2)]
    records += [hostile(2, outcome="lab_error"), hostile(3, agrees=False, strategy="@y"), *matrix("ab")[:4]]
    run = write_run(folder, records)
    (run / "run.json").write_text(json.dumps({WELL_FORMED: WELL_FORMED, "x": [WELL_FORMED]}))
    other = write_run(tmp_path / "other", records)
    out = tmp_path / "out\u202e"
    assert main(["report", str(run), str(other), "--out", str(out)]) == 0
    sys.stdout.flush()
    said = capfdbinary.readouterr()
    assert_plain_line(said.out)
    assert said.err == b""
    written = [path for path in out.rglob("*") if path.is_file()]
    assert {path.suffix for path in written} >= {".html", ".md", ".csv", ".svg", ".png"}
    for path in written:
        assert path.relative_to(out).as_posix().isascii()
        assert str(path.relative_to(out)).isprintable()
        if path.suffix not in (".png", ".parquet"):
            assert_plain(path.read_bytes())
        if path.suffix == ".svg":
            ElementTree.parse(path)
    page = (out / "index.html").read_text()
    assert r"\x1b[31m" in page
    for line in (out / "summary.md").read_text().splitlines():
        assert not line.startswith(("::", "##["))


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        *((f"{sign}cmd|' /C calc'!A0", f"'{sign}cmd|' /C calc'!A0") for sign in FORMULA_SIGNS),
        (" =1+1", " '=1+1"),
        ("a;=1+1", "a;'=1+1"),
        ("a; @SUM(A1)", "a; '@SUM(A1)"),
        ('a;"=1+1', "a;\"'=1+1"),
        ('"=1+1', "\"'=1+1"),
        ('a; "" \'=1+1', "a; \"\" ''=1+1"),
        ('a;"-1"', 'a;"-1"'),
        (["x", "=1+1", "-2"], "x;'=1+1;-2"),
        ("\t=1+1", r"\t=1+1"),
        ("\r=1+1", r"\r=1+1"),
        ("\0=1+1", r"\x00=1+1"),
        ("-1+1", "'-1+1"),
        ("--1", "'--1"),
        ("-1", "-1"),
        ("+1.5e-3", "+1.5e-3"),
        (-1, "-1"),
        (-0.25, "-0.25"),
        (-1e-9, "-1e-09"),
        ([-1, 2], "-1;2"),
        (True, "true"),
        (None, ""),
        ("a=b-c@d", "a=b-c@d"),
        ('say "=1"', 'say "=1"'),
        ("a,=1", "a,=1"),
    ],
)
def test_a_cell_begins_no_formula_and_numbers_stay_numbers(value: object, cell: str) -> None:
    head, row = csv.reader(io.StringIO(table_csv([{"zz": value}])))
    assert dict(zip(head, row, strict=True))["zz"] == cell


def test_the_name_of_a_column_begins_no_formula() -> None:
    head, _row = csv.reader(io.StringIO(table_csv([{"=1+1": 1, "@x;-y": 2}])))
    assert {"'=1+1", "'@x;'-y"} <= set(head)


@given(st.lists(st.text(st.characters() | st.sampled_from(f'{FORMULA_SIGNS}; ,"\n1'), max_size=12), min_size=1))
def test_no_text_makes_a_formula_whichever_sign_separates_cells(texts: list[str]) -> None:
    written = table_csv([{f"c{number}": text for number, text in enumerate(texts)}])
    assert_plain(written.replace("::", "").encode(errors="surrogatepass"))
    for row in csv.reader(io.StringIO(written)):
        for cell in row:
            for part in cell.split(";"):
                text = part.lstrip()
                assert not text.startswith(tuple(FORMULA_SIGNS)) or is_number(text)


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
