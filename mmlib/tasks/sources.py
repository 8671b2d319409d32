"""Where benchmark files lie, on the hub and in a data folder, and how to read their tables."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mmlib.tasks.languages import LANGUAGES


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a data set lies. `{language}`, `{name}`, `{variant}` and `{split}` are filled in."""

    path: str
    """Below a data folder."""
    id: str
    """On the Hugging Face Hub."""
    revision: str
    """A commit, or a branch where we know of no commit: then the owner may change the rows."""
    licence: str
    columns: tuple[str, ...]
    """The columns we need."""
    folder_columns: tuple[str, ...] = ()
    """Those of the file in a data folder, where they are others."""
    config: str | None = None
    file: str | None = None
    """A tab-separated file of the repository, read in place of a configuration."""


_Columns = Sequence[str]


def _lines(path: Path) -> list[str]:
    """The lines of a text; other marks at which Python breaks lines (U+2028) are part of them."""
    return _text(path).removesuffix("\n").split("\n")


def _text(path: Path, **options: str) -> str:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig", **options) as file:
        text = file.read()
    if "\0" in text:
        raise ValueError("it has zeros in it: the file is damaged, or no text")
    return text


def _json_lines(path: Path, columns: _Columns) -> pd.DataFrame:
    """One object per line; numbers with a point stay as they are spelled."""
    rows = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_float=str)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(
                f"line {number} is not JSON: {error}; write one object a line"
            ) from None
        rows.append(_complete(row, columns, f"line {number}", line))
    return pd.DataFrame(rows, columns=None if rows else columns)


def _json(path: Path, columns: _Columns) -> pd.DataFrame:
    """One list of objects, as MSVAMP's owners write it, or one object per line."""
    text = "\n".join(_lines(path))
    if not text.lstrip().startswith("["):
        return _json_lines(path, columns)
    items = enumerate(json.loads(text, parse_float=str), 1)
    rows = [_complete(row, columns, f"item {number}", str(row)) for number, row in items]
    return pd.DataFrame(rows, columns=None if rows else columns)


def _complete(row: object, columns: _Columns, where: str, text: str) -> dict:
    absent = columns if not isinstance(row, dict) else [c for c in columns if c not in row]
    if absent:
        raise ValueError(f"{where} lacks the columns {list(absent)}: {text[:60]!r}")
    return row


def _rectangle(rows: list[tuple[int, list[str]]], columns: _Columns, advice: str) -> pd.DataFrame:
    """A table of rows, each with its line number, that have as many cells as columns."""
    for number, cells in rows:
        if len(cells) != len(columns):
            raise ValueError(
                f"line {number} has {len(cells)} columns instead of {len(columns)} "
                f"({', '.join(columns)}): {cells}; {advice}"
            )
    return pd.DataFrame([cells for _, cells in rows], columns=list(columns), dtype="str")


def _tab_separated(path: Path, columns: _Columns) -> pd.DataFrame:
    rows = [(number, line.split("\t")) for number, line in enumerate(_lines(path), 1) if line]
    return _rectangle(rows, columns, "separate those by one tab and nothing else")


def _comma_separated(path: Path, columns: _Columns) -> pd.DataFrame:
    """Rows with as many fields as the head, quoted fields with breaks and commas in them."""
    csv.field_size_limit(2**31 - 1)
    lines = csv.reader(io.StringIO(_text(path, newline=""), newline=""), strict=True)
    try:
        head = next(filter(None, lines), [])
        rows = [(lines.line_num, row) for row in lines if row]
    except csv.Error as error:
        raise ValueError(f"line {lines.line_num}: {error}") from None
    return _rectangle(rows, head, "quote the fields that have commas in them")


def _sentences(path: Path, columns: _Columns) -> pd.DataFrame:
    return pd.DataFrame({columns[0]: _lines(path)})


READERS: dict[str, Callable[[Path, _Columns], pd.DataFrame]] = {
    ".parquet": lambda path, _: pd.read_parquet(path, page_checksum_verification=True),
    ".csv": _comma_separated,
    ".tsv": _tab_separated,
    ".jsonl": _json_lines,
    ".json": _json,
    ".gz": _json_lines,
    ".txt": _sentences,
    ".dev": _sentences,
    ".devtest": _sentences,
}


UNREADABLE = (ValueError, OSError, EOFError, NotImplementedError, RecursionError, zlib.error)
UNREADABLE += (TypeError, KeyError, AttributeError)
"""What damaged files raise, also in pyarrow and json; the last line in pandas, of its notes in
Parquet."""


def read_table(path: Path, columns: Sequence[str], hint: str = "") -> pd.DataFrame:
    """Read a file that must have `columns` and at least one row.

    Args:
        path: A file with one of the endings of `READERS`.
        columns: Names of needed columns.
        hint: What to do about a missing file.

    Raises:
        FileNotFoundError: The file is not there; the message ends with `hint`.
        ValueError: It cannot be read, lacks a column or a value, or has no rows.
    """
    if not path.is_file():
        hint = hint or "check data_dir, task and language"
        raise FileNotFoundError(f"{path} is not there: {hint}")
    try:
        table = READERS[path.suffix](path, columns)
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    table = _checked(table, columns, str(path))
    # Not of the hub's rows: a copy of MGSM there has its gold in another column, and none here.
    if (absent := table[list(columns)].isna().any(axis=1)).any():
        raise ValueError(f"{path} row {absent.idxmax()} has no value in one of {list(columns)}")
    return table


def _checked(table: pd.DataFrame, columns: Sequence[str], where: str) -> pd.DataFrame:
    if missing := [column for column in columns if column not in table]:
        raise ValueError(f"{where} lacks the columns {missing}: it has {list(table.columns)}")
    if table.empty:
        raise ValueError(f"{where} has no rows")
    table.attrs["where"] = where
    return table


def fetch(
    source: Source, folder: Path | None, split: str, *, language: str = "", variant: str = ""
) -> pd.DataFrame:
    """Read the rows of one source, from a folder or, without one, from the hub.

    Args:
        source: Where they lie.
        folder: A data folder.
        split: The owners' name of the split.
        language: ISO 639-1 code, for sources with a file or a configuration per language.
        variant: "high" or "middle" for RACE, the owners' code of the language for xCSQA, FLORES
            and NTREX.

    Returns:
        The rows as their owners have them; `attrs["where"]` says where they come from.

    Raises:
        FileNotFoundError: The file is not there, or the hub cannot be reached.
        ValueError: As in `read_table`.
    """
    spoken = LANGUAGES[language].name if language else ""
    names = {"split": split, "language": language, "variant": variant, "name": spoken}
    if folder is None:
        return _from_hub(source, names)
    hint = f"put the file of {source.id} there, or leave data_dir out to load it from the hub"
    columns = source.folder_columns or source.columns
    return read_table(folder / source.path.format(**names), columns, hint)


def _from_hub(source: Source, names: dict[str, str]) -> pd.DataFrame:
    from datasets import load_dataset  # slow to import, and not needed for a folder

    config = source.config and source.config.format(**names)
    where = f"{source.id} ({config or source.file or 'default'}, {names['split']})"
    try:
        if source.file:
            file = f"hf://datasets/{source.id}@{source.revision}/{source.file.format(**names)}"
            form = {"sep": "\t", "column_names": list(source.columns), "quoting": 3}
            rows = load_dataset("csv", data_files=file, split="train", **form)
        else:
            options = {"split": names["split"], "revision": source.revision}
            rows = load_dataset(source.id, config, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise FileNotFoundError(
            f"{where} at {source.revision} cannot be loaded from the hub: {error}. Without a "
            f"network give data_dir, a folder with {source.path}; its revision "
            "stands in its file in mmlib/tasks/benchmarks"
        ) from error
    return _checked(rows.to_pandas(), source.columns, where)
