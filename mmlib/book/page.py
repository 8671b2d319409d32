"""Put results on a page: themed SVG figures, verdict badges, the ledger, the provenance strip.

Everything here is self-contained HTML: it needs no script, and what a stylesheet adds (colours of
badges, cards on a narrow page) is in ``book/_static/mmlib.css``.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML

# A notebook asks this module for all that it puts on its page.
from mmlib.book.exercises import Exercise  # noqa: F401
from mmlib.book.figures import (  # noqa: F401
    Figure,
    bars,
    curves,
    dots,
    layer_profile,
    matrix,
    overlap_heatmap,
    overlap_pairs,
    scatter,
    set_sizes,
    shared_by_layer,
    training_curve,
)
from mmlib.book.tables import install as show_tables
from mmlib.book.tables import table_html
from mmlib.claims import rules
from mmlib.study.stats import seed_intervals as seed_intervals
from mmlib.study.tables import RANDOM, RunInfo, check_name, load_table, output_dir, write_table

VERDICTS = {"yes": "yes", "no": "no", "undecided": "undecided"}
VERDICTS |= {"exploratory yes": "exploratory", "exploratory no": "exploratory"}
VERDICTS |= {"not testable here": "none", "no run yet": "none"}


def badge(verdict: str) -> str:
    """Return a verdict as an HTML badge; the word carries it, the colour repeats it."""
    if verdict not in VERDICTS:
        raise ValueError(f"unknown verdict {verdict!r}; choose one of {list(VERDICTS)}")
    return f'<span class="mm-badge mm-{VERDICTS[verdict]}">{verdict}</span>'


_VERDICTS_OF = {
    "published_data": ("Published data", "published_"),
    "real_llm": ("Real LLM", "real_"),
    "organism": ("Organism", ""),
}
"""Head of a verdict, and what the columns of its numbers begin with."""
_RECORD = {
    "where": "Where",
    "restatement": "Checked on the published numbers",
    "published_numbers": "Published numbers",
    "measured": "Effect",
    "unit": "Intervals cover",
    "test": "Test",
    "precondition": "Precondition",
    "committed": "Effect and threshold committed",
    "seen": "Results first seen",
    "changed": "Changed after a look",
}
"""Columns of the ledger that a row shows on demand."""


def ledger_html(ledger: pd.DataFrame, *, links: Mapping[str, str] | None = None) -> str:
    """Return the claims ledger as an HTML table, which is a pile of cards on a narrow page.

    Every row can be linked to, as `#claim-ID`, and opens to show the record of its claim. It says
    paper and verdicts in `data-…`, by which `book/_static/mmlib.js` filters.

    Args:
        ledger: The result of `claims.ledger`, all of it or some claims.
        links: Page of the chapter that treats a claim, by claim id; `#figure` at its end is the
            figure or table that decides it.
    """
    missing = [column for column in ("id", "claim", *_VERDICTS_OF) if column not in ledger]
    if missing:
        raise ValueError(f"the ledger has no column {missing[0]!r}; it has {list(ledger.columns)}")
    body = ""
    for row in ledger.to_dict("records"):
        page, _, figure = (links or {}).get(row["id"], "").partition("#")
        name = f'<a href="{escape(page)}">{row["id"]}</a>' if page else escape(row["id"])
        at = (
            f'<a href="{escape(page)}#{escape(figure)}">What decides {row["id"]}</a>'
            if figure
            else ""
        )
        notes = [row[column] for column in ("differs", "note") if row.get(column)]
        small = "".join(f"<small>{escape(note)}</small> " for note in notes)
        cells = f'<th scope="row" role="rowheader">{name} {escape(row["claim"])} {small}'
        cells += f"{at}{_record_html(row)}</th>"
        for column, (head, prefix) in _VERDICTS_OF.items():
            words = rules.told(row, prefix) or (prefix and row.get(f"{prefix}numbers", ""))
            verdict = f"{badge(row[column])} {escape(words)}"
            cells += f'<td role="cell" data-label="{head}">{verdict}</td>'
        told = {"paper": row["paper"], **{column: row[column] for column in _VERDICTS_OF}}
        told = " ".join(f'data-{name}="{escape(value)}"' for name, value in told.items())
        body += f'<tr role="row" id="claim-{escape(row["id"])}" {told}>{cells}</tr>'
    heads = "".join(
        f'<th scope="col" role="columnheader">{head}</th>'
        for head in ("Claim", *(head for head, _ in _VERDICTS_OF.values()))
    )
    return (
        '<table class="mm-ledger" role="table"><caption>What the papers claim and what the numbers '
        f'say</caption><thead role="rowgroup"><tr role="row">{heads}</tr></thead>'
        f'<tbody role="rowgroup">{body}</tbody></table>'
    )


def _record_html(row: Mapping[str, Any]) -> str:
    """The record of a claim, folded."""
    shown = {column: row[column] for column in _RECORD}
    if not rules.told(row, "published_"):
        shown["published_numbers"] = ""  # they stand in the row
    told = f"{rules.TESTS[row['test']]} ({row['threshold']:.3g})"
    shown["test"] = told if row["unit"] else ""
    items = "".join(
        f"<dt>{_RECORD[column]}</dt><dd>{escape(str(value))}</dd>"
        for column, value in shown.items()
        if value
    )
    return f"<details><summary>Record</summary><dl>{items}</dl></details>"


def answers(table: pd.DataFrame | None) -> HTML | None:
    """What a model answered in full, by language and by which weights were pruned.

    Args:
        table: condition ("none": unedited), edited (whose set), lang, target, response, correct;
            None shows nothing.
    """
    if table is None:
        return None
    body = ""
    for lang, rows in table.groupby("lang", sort=False):
        parts = ""
        for row in rows.itertuples():
            pruned = f"{row.condition} weights of {row.edited}" if row.edited else "nothing"
            told = "right" if row.correct else "not right"
            parts += f"<dt>{escape(pruned)} pruned ({told})</dt>"
            parts += f'<dd lang="{lang}">{escape(row.response.strip()) or "(nothing)"}</dd>'
        target = escape(str(rows.target.iloc[0]))
        summary = f"<summary>{escape(lang)} (right: {target})</summary>"
        opened = "" if body else ' open=""'
        body += f"<details{opened}>{summary}<dl>{parts}</dl></details>"
    return HTML(f'<div class="mm-answers tex2jax_ignore">{body}</div>')


def provenance_html(
    run: object, *, seconds: float | None = None, told: Mapping[str, int] | None = None
) -> str:
    """Return what a chapter ends with, folded: model, code, machine and parameters of its run.

    Args:
        run: The `RunInfo` of the chapter's tables, or the `run` entry of a table's manifest.
        seconds: How long the chapter took.
        told: What the library told meanwhile, and how often.
    """
    run = dict(run) if isinstance(run, Mapping) else vars(run)
    about = {
        "model": "{model} {revision} {dtype}".format(**run),
        "checkpoint": run["checkpoint_hash"][:12],
        "code": f"mmlib {run['package_version']} {run['commit'][:12]}",
        "software": ", ".join(f"{name} {version}" for name, version in run["versions"].items()),
        "hardware": run["hardware"],
        "date": run["date"],
        "told": ", ".join(f"{count} × {text}" for text, count in (told or {}).items()),
        "duration": "" if seconds is None else f"{seconds:.0f} s",
        "parameters": ", ".join(f"{name}={value!r}" for name, value in run["parameters"].items()),
    }
    items = "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in about.items() if v.strip())
    return (
        '<details class="mm-provenance"><summary>Model, code, machine and parameters of this run'
        f"</summary><dl>{items}</dl></details>"
    )


# --- header and footer of a chapter ---------------------------------------------------------------


class _Told(logging.Handler):
    """Counts what the library tells while a chapter runs, such as where its norms come from."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        self.counts[record.getMessage()] += 1


@dataclass(frozen=True)
class Page:
    """A chapter while it runs: its parameters, its clock, and what the library tells."""

    parameters: Mapping[str, Any]
    started: float = field(default_factory=time.perf_counter)
    told: _Told = field(default_factory=_Told)

    def run(self, model: Any = None, *, name: str = "") -> RunInfo:
        """What made the tables of this page.

        `model` is the one whose weights count, if any; `name`: where no parameter `model` says it.
        """
        from mmlib.models import is_trained, model_hash  # brings torch

        given = self.parameters
        known = {name: given[name] for name in ("revision", "dtype") if name in given}
        if model is not None:
            known["checkpoint_hash"] = model_hash(model)
            known["weights"] = "" if is_trained(model) else RANDOM
        name = name or given.get("model", "")
        return RunInfo.collect(name, parameters=given, **known)


def open(namespace: Mapping[str, Any]) -> Page:
    """Begin a chapter: `this = page.open(globals())` behind its parameters.

    Args:
        namespace: Globals of the notebook; its annotated names are the parameters.
    """
    pd.set_option("display.max_rows", 200)
    show_tables()
    page = Page({name: namespace[name] for name in namespace["__annotations__"]})
    logger = logging.getLogger("mmlib")
    logger.setLevel(logging.INFO)
    logger.handlers = [page.told]  # of this chapter alone
    return page


def verdicts(
    tables: Mapping[str, pd.DataFrame],
    *claims: str,
    real_llm: Mapping[str, pd.DataFrame] | None = None,
) -> pd.DataFrame:
    """Decide claims on the tables of this page, and make their verdicts known to its text.

    Args:
        tables: See `mmlib.claims.rules.judge`.
        *claims: Ids. The text may say the verdicts `published_ID`, `real_ID` and `organism_ID`;
            with `_number` behind, the effect that decides and its interval too; and of the organism
            `effect_ID`, `low_ID`, `high_ID`, and `told_ID`, all in words.
        real_llm: Tables of a real LLM.

    Returns:
        The rows of the ledger by id.
    """
    rows = rules.verdicts(list(claims), tables, real_llm).set_index("id")
    for claim, row in rows.iterrows():
        for column, (_, prefix) in _VERDICTS_OF.items():
            name = f"{prefix or 'organism_'}{claim}"
            told = [row[column], rules.effect(row, prefix)]
            show(name, row[column])
            show(f"{name}_number", ", ".join(filter(None, told)))
        for number in ("effect", "low", "high"):
            show(f"{number}_{claim}", row[number])
        show(f"told_{claim}", rules.told(row))
    return rows


def audited(table: pd.DataFrame) -> HTML:
    """Tell how an audit (see `mmlib.study.evidence`) came out; rows that differ are folded."""
    if table.empty:
        return HTML("<p>Nothing is shipped to compare with: this run has computed it all.</p>")
    graded = "changed" in table
    what, unit = ("answers", "share right") if graded else ("values", "share of the value")
    differ, n = table["changed" if graded else "differing"], table.n.sum()
    far = (table.accuracy_again - table.accuracy_kept).abs() if graded else table.largest
    rows, which = (table[differ > 0], " that differ") if differ.any() else (table, "")
    heads = {"accuracy_kept": "share right, shipped", "accuracy_again": "share right, again"}
    heads |= {"n": "compared", "largest": f"largest ({unit})", "least_changed": "changed, at least"}
    first = rows.head(10).rename(columns=heads)
    return HTML(
        f"<p>{n:,} {what} compared in {len(table)} row(s): {n - differ.sum():,} are the same; "
        f"largest difference {far.max():.3g} ({unit}).</p><details><summary>{len(first)} of the "
        f"{len(rows)} row(s){which}</summary>{table_html(first)}</details>"
    )


def published_rows(name: str) -> pd.DataFrame:
    """The published numbers in the columns of a table of ours, as the rules of claims read them.

    Raises:
        ValueError: Nothing was published that is such a table.
    """
    for part in rules.PARTS.values():
        if name not in rules.PUBLISHED:
            import_module(f"mmlib.claims.{part}")
    if name not in rules.PUBLISHED:
        known = ", ".join(sorted(rules.PUBLISHED))
        raise ValueError(f"nothing published is a table {name!r}: choose from {known}")
    return rules.PUBLISHED[name]()


def show(name: str, value: Any) -> Figure | None:
    """Make a number or a figure known to the text of the page.

    Returns:
        A figure, so that a cell that ends in this call displays it in JupyterLab; the book has it
        where its text says, and takes the cell's output away (tag `remove-output`).
    """
    from myst_nb import glue

    # A number of numpy's would be shown with its type.
    glue(name, value.item() if isinstance(value, np.generic) else value, display=False)
    return value if isinstance(value, Figure) else None


def save(name: str, figure: Figure) -> None:
    """Write the first panel of a figure beside the tables of the page, as NAME.svg."""
    check_name(name)
    figure.save(output_dir() / f"{name}.svg")


def keep(
    run: RunInfo, name: str, make: Callable[..., pd.DataFrame], *arguments: Any
) -> pd.DataFrame:
    """A table that takes long: made, and written before the next cell can fail.

    A run that fails or is killed later leaves it in `MMLIB_KEPT`. The next one with the same code,
    parameters, weights and evidence takes it from there (see `mmlib.book.runner`).

    Args:
        run: What makes it.
        name: Its name; `close` needs not have it again.
        make: Computes it.
        *arguments: What `make` is called with.
    """
    kept = os.environ.get("MMLIB_KEPT")
    if not kept:
        write_table(table := make(*arguments), name, run)
        return table
    if not Path(kept, f"{name}.json").is_file():
        write_table(make(*arguments), name, run, folder=Path(kept))
    table, manifest = load_table(name, Path(kept))
    write_table(table, name, RunInfo(**manifest["run"]))
    return table


def close(
    this: Page,
    run: RunInfo,
    *,
    tables: Mapping[str, pd.DataFrame] | None = None,
    numbers: Mapping[str, Any] | None = None,
) -> HTML:
    """End a chapter: write its tables, glue its numbers, and say how it was made.

    Args:
        this: Result of `open`.
        run: Result of `this.run`.
        tables: Name -> table to write.
        numbers: Name -> value that the text repeats; `run_seconds` and `run_hardware` are known.
    """
    for name, table in (tables or {}).items():
        write_table(table, name, run)
    seconds = time.perf_counter() - this.started
    known = {"run_seconds": seconds, "run_hardware": run.hardware}
    for name, value in {**(numbers or {}), **known}.items():
        show(name, value)
    return HTML(provenance_html(run, seconds=seconds, told=this.told.counts))
