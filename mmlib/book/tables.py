"""Show tables in one style, in the book and in JupyterLab.

A number stands right, under its head, with at most three decimals, and as many in all of a column;
fewer where the table was rounded to fewer. Numbers of rows that mean nothing are left out.
"""

import re
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_float_dtype, is_integer_dtype
from pandas.io.formats.style import Styler

NONE = "–"
"""What stands where there is no value."""


def _decimals(values: np.ndarray) -> int:
    """Decimals that a column needs: three at most, of small numbers those of three digits."""
    largest = np.abs(values).max(initial=0)
    most = 3 if largest >= 0.01 or not largest else int(2 - np.floor(np.log10(largest)))
    most = most if largest < 10 else 1 if largest < 1000 else 0
    return next((d for d in range(most) if np.allclose(values, values.round(d), 0, 1e-9)), most)


def _value(value: Any) -> str:
    """A value by itself, such as a head or one of a row of different things."""
    if isinstance(value, float | np.floating) and np.isfinite(value):
        typed = f"{value:.2g}" == f"{value:g}"  # such as a keep ratio of 0.000001
        return np.format_float_positional(value, trim="-") if typed else _column([value])[0]
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}"
    missing = value is None or (np.ndim(value) == 0 and pd.isna(value))
    text, width = str(value), pd.get_option("display.max_colwidth")
    return NONE if missing else text if not width or len(text) <= width else f"{text[:width]}…"


def _column(values: Any) -> list[str]:
    """The values of a column in words."""
    values = pd.Series(values)
    if not is_float_dtype(values):
        return [*map(_value, values)]
    finite = values[np.isfinite(values.astype(float))].to_numpy(float)
    decimals = _decimals(finite)
    lost = (finite != 0) & (finite.round(decimals) == 0)
    if lost.any() and all(f"{value:.2g}" == f"{value:g}" for value in finite):
        return [*map(_value, values)]
    return [f"{x:z,.{decimals}f}" if np.isfinite(x) else _value(x) for x in values.astype(float)]


def _heads(index: pd.Index) -> pd.Index:
    """The labels of rows or columns in words, in which equal ones stay equal."""
    if isinstance(index, pd.MultiIndex):
        levels = [[*map(_value, index.get_level_values(n))] for n in range(index.nlevels)]
        return pd.MultiIndex.from_arrays(levels, names=index.names)
    return pd.Index([*map(_value, index)], name=index.name, dtype=object)


def table_html(table: pd.DataFrame) -> str:
    """Return a table as HTML; JupyterLab and the book show what a cell ends in so."""
    columns = [table.iloc[:, n] for n in range(table.shape[1])]
    shown = pd.DataFrame(dict(enumerate(map(_column, columns))), dtype=object)
    shown.index, shown.columns = _heads(table.index), _heads(table.columns)
    if table.index.nlevels == table.columns.nlevels == 1 and table.columns.name is None:
        shown.columns.name, shown.index.name = table.index.name, None  # one row of heads
    named = f"{crc32(shown.to_csv().encode()):08x}"
    style = Styler(shown, uuid=named, cell_ids=False).format(escape="html")
    for axis in (0, 1):
        style = style.format_index(escape="html", axis=axis)
    if table.index.nlevels == 1 and table.index.name is None and is_integer_dtype(table.index):
        style = style.hide(axis="index")
    left = [n for n, column in enumerate(columns) if not _is_number(column)]
    sides = [{"selector": "th, td", "props": "text-align: right"}]
    sides += [{"selector": f".row_heading, .index_name{''.join(f', .col{n}' for n in left)}",
               "props": "text-align: left"}]  # fmt: skip
    style = style.set_table_styles(sides).set_table_attributes('class="dataframe"')
    html = style.to_html(max_rows=pd.get_option("display.max_rows"))
    return re.sub(r'<th class="blank([^"]*)" >&nbsp;</th>', r'<td class="blank\1"></td>', html)


def _is_number(column: pd.Series) -> bool:
    if is_bool_dtype(column):
        return False
    numbers = pd.to_numeric(column.dropna().astype(str).str.rstrip("%"), errors="coerce")
    return bool(numbers.notna().all())


def install() -> None:
    """Show every table of a notebook so from now on."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is not None:
        shell.display_formatter.formatters["text/html"].for_type(pd.DataFrame, table_html)
