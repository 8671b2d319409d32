"""One style of tables: what a reader sees of a value, by itself and on every page."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from browsers import ROOT
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st

from mmlib.book.chapters import Project
from mmlib.book.tables import table_html


def cells(table):
    """Heads, and the texts of every row."""
    soup = BeautifulSoup(table_html(table), "lxml")
    heads = [tag.get_text(strip=True) for tag in soup.select("thead tr:last-child th")]
    rows = [[c.get_text() for c in row.select("th, td")] for row in soup.select("tbody tr")]
    return heads, rows


def column(*values, **options):
    return [row[0] for row in cells(pd.DataFrame({"x": pd.array(values, **options)}))[1]]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((0.12345, -0.0001, 1.0), ["0.123", "0.000", "1.000"]),
        ((99.26, 1.04, np.nan), ["99.3", "1.0", "–"]),
        ((57.5, 60.0, 1.25), ["57.5", "60.0", "1.2"]),
        ((12345.6, 3.2), ["12,346", "3"]),
        ((7.0, 10.0, 12000.0), ["7", "10", "12,000"]),
        ((0.1, 0.000001), ["0.1", "0.000001"]),
        ((0.00123456, 0.002), ["0.00123", "0.00200"]),
        ((0.5, 0.25), ["0.50", "0.25"]),
        ((0.0, -0.0), ["0", "0"]),
        ((), []),
    ],
)
def test_numbers_of_a_column_have_the_decimals_they_need_three_at_most(values, shown):
    assert column(*values, dtype="float64") == shown


def test_whole_numbers_have_separators_and_what_is_missing_a_dash():
    assert column(1, None, 300000, dtype="Int64") == ["1", "–", "300,000"]
    assert column("a < b", None, 12345, 0.00001234, True, dtype=object) == [
        "a < b", "–", "12,345", "0.0000123", "True",
    ]  # fmt: skip


def test_numbers_of_rows_go_and_names_of_rows_stand_in_the_one_row_of_heads():
    table = pd.DataFrame({"name": ["a", "b"], "x": [1, 2]}, index=[3102, 7])
    assert cells(table) == (["name", "x"], [["a", "1"], ["b", "2"]])
    named = table.set_index("name")
    assert cells(named) == (["name", "x"], [["a", "1"], ["b", "2"]])
    ratios = pd.DataFrame({"x": [1]}, index=pd.Index([0.025], name="keep_ratio"))
    assert cells(ratios) == (["keep_ratio", "x"], [["0.025", "1"]])


def test_text_stands_left_and_numbers_right_with_their_heads():
    html = table_html(pd.DataFrame({"name": ["a"], "share": ["3%"], "fits": [True]}))
    left = html.split("text-align: left")[:-1]
    assert [f".col{n} {{" in "".join(left) for n in range(3)] == [True, False, True]


def test_a_table_is_the_same_bytes_and_long_text_is_cut():
    table = pd.DataFrame({"x": ["long " * 40]})
    assert table_html(table) == table_html(table.copy())
    with pd.option_context("display.max_colwidth", 20):
        assert column("long " * 40) == ["long " * 4 + "…"]
    with pd.option_context("display.max_colwidth", None):
        assert column("long " * 40) == ["long " * 40]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1))
def test_no_column_shows_a_negative_nothing_or_loses_a_digit_that_counts(values):
    for value, text in zip(values, column(*values, dtype="float64"), strict=True):
        shown = float(text.replace(",", ""))
        assert not (shown == 0 and "-" in text)
        assert abs(shown - value) <= max(0.005 * max(map(abs, values)), 0.0005) * 1.0001


FAULTS = {
    "nothing": r"(<NA>|NaN|nan|None|NaT)",
    "minus nothing": r"-0(\.0*)?%?",
    "no separators": r"-?\d{5,}(\.\d+)?",
    "four decimals": r"-?(\d*[1-9]\d*\.\d{4,}|0\.0?[1-9]\d{3,})",
}
UNITS = re.compile(
    r"share|percent|points|nats|[Jj]accard|weights?\b|steps|seconds|minutes|MB|tokens|characters|ratio|"
    r"times|correlation|exponent|rank|kappa|R²|accuracy|absolute|measured|unit|thousands|^p$",
    re.M,
)
"""What the head of a table, or of its rows, calls its numbers by."""


@pytest.mark.parametrize("name", Project(ROOT).chapters)
def test_every_table_of_a_page_is_in_that_style(name):
    cells = json.loads(Project(ROOT).executed(name).read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    htmls = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs]
    for html in htmls:
        for table in BeautifulSoup(html, "lxml").select("table.dataframe"):
            assert (table.get("id") or "").startswith("T_"), "not shown by mmlib.book.tables"
            texts = [cell.get_text(strip=True) for cell in table.select("th, td")]
            found = {f: t for t in texts for f, like in FAULTS.items() if re.fullmatch(like, t)}
            assert found == {}
            heads = "\n".join(head.get_text(strip=True) for head in table.select("th"))
            values = [cell.get_text(strip=True) for cell in table.select("td")]
            numbers = [text for text in values if re.fullmatch(r"-?[\d,]*\.\d+", text)]
            assert not numbers or UNITS.search(heads), heads
