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
    accuracy,
    curves,
    dots,
    layer_profile,
    matrix,
    overlap_heatmap,
    overlap_pairs,
    scatter,
    set_sizes,
    shared_by_layer,
    token_lengths,
    training_curve,
)
from mmlib.book.tables import install as show_tables
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
    "published_data": "Published data",
    "real_llm": "Real LLM",
    "organism": "Organism",
}
_RECORD = {
    "where": "Where",
    "restatement": "Checked on the published numbers",
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
        links: Page of the chapter that treats a claim, by claim id; `#figure` at its end is the one
            that decides it.
    """
    missing = [column for column in ("id", "claim", *_VERDICTS_OF) if column not in ledger]
    if missing:
        raise ValueError(f"the ledger has no column {missing[0]!r}; it has {list(ledger.columns)}")
    body = ""
    for row in ledger.to_dict("records"):
        page, _, figure = (links or {}).get(row["id"], "").partition("#")
        name = f'<a href="{escape(page)}">{row["id"]}</a>' if page else escape(row["id"])
        at = (
            f'<a href="{escape(page)}#{escape(figure)}">Figure of {row["id"]}</a>' if figure else ""
        )
        published = [row["published_numbers"], rules.told(row, "published_")]
        text = {
            "published_data": "; ".join(filter(None, published)),
            "real_llm": rules.told(row, "real_"),
            "organism": rules.told(row),
        }
        notes = [row[column] for column in ("differs", "note") if row.get(column)]
        small = "".join(f"<small>{escape(note)}</small> " for note in notes)
        cells = f'<th scope="row" role="rowheader">{name} {escape(row["claim"])} {small}'
        cells += f"{at}{_record_html(row)}</th>"
        for column, head in _VERDICTS_OF.items():
            verdict = f"{badge(row[column])} {escape(text[column])}"
            cells += f'<td role="cell" data-label="{head}">{verdict}</td>'
        told = {"paper": row["paper"], **{column: row[column] for column in _VERDICTS_OF}}
        told = " ".join(f'data-{name}="{escape(value)}"' for name, value in told.items())
        body += f'<tr role="row" id="claim-{escape(row["id"])}" {told}>{cells}</tr>'
    heads = "".join(
        f'<th scope="col" role="columnheader">{head}</th>'
        for head in ("Claim", *_VERDICTS_OF.values())
    )
    return (
        '<table class="mm-ledger" role="table"><caption>What the papers claim and what the numbers '
        f'say</caption><thead role="rowgroup"><tr role="row">{heads}</tr></thead>'
        f'<tbody role="rowgroup">{body}</tbody></table>'
    )


def _record_html(row: Mapping[str, Any]) -> str:
    """The record of a claim, folded."""
    shown = {column: row[column] for column in _RECORD}
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

        known = {
            name: self.parameters[name] for name in ("revision", "dtype") if name in self.parameters
        }
        if model is not None:
            known["checkpoint_hash"] = model_hash(model)
            known["weights"] = "" if is_trained(model) else RANDOM
        name = name or self.parameters.get("model", "")
        return RunInfo.collect(name, parameters=self.parameters, **known)


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
        *claims: Ids. The text may say `published_ID`, `real_ID`, `organism_ID`, and, of the
            organism, `effect_ID`, `low_ID`, `high_ID` of the cell that decides, `reason_ID`, and
            `told_ID`, all in words; of the real LLM `told_real_ID`.
        real_llm: Tables of a real LLM.

    Returns:
        The rows of the ledger by id.
    """
    rows = rules.verdicts(list(claims), tables, real_llm).set_index("id")
    for claim, row in rows.iterrows():
        show(f"published_{claim}", row.published_data)
        show(f"real_{claim}", row.real_llm)
        show(f"organism_{claim}", row.organism)
        for number in ("effect", "low", "high"):
            show(f"{number}_{claim}", row[number])
        show(f"told_{claim}", rules.told(row))
        show(f"told_real_{claim}", rules.told(row, "real_"))
        show(f"reason_{claim}", row.reason)
    return rows


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
