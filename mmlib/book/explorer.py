"""The numbers of the explorer, a page that draws them in the reader's browser.

Sphinx writes them while it builds the book, from the tables that the chapters show: they are never
typed, and never older than the tables. The page is `book/explorer.md`, what draws is
`book/_static/explorer.js`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmlib.book.figures import styles
from mmlib.claims.parameters import published_edits
from mmlib.masks import chance_of
from mmlib.study.stats import seed_intervals
from mmlib.study.tables import PACKAGE, item_costs, load_table, published
from mmlib.tasks.languages import LANGUAGES

REAL, SMALL, PUBLISHED = "a real LLM, our run", "small model of ours", "published"
NUMBERS = ["before", "mean", "low", "high", "items", "samples"]
"""What is told of an edit in a language: the value before, its change and the interval of that,
how many problems and how many calibration samples."""
_TOLD = {"interval": "95\u00a0% intervals over calibration samples", "before": "the unedited model"}
ACCURACY = {"unit": "points of accuracy", "scale": 100, "digits": 1, "worse": "left", **_TOLD}
NATS = {"unit": "nats per token", "scale": 1, "digits": 2, "worse": "right", **_TOLD}


def _named(model: str, kind: str, page: str) -> dict[str, Any]:
    return {"id": model.rsplit("/")[-1], "kind": kind, "page": f"chapters/{page}"}


def _stacked(table: pd.DataFrame, controls: pd.DataFrame | None) -> pd.DataFrame:
    """Overlaps and their controls with `pair`, `control`, `chance` and `place`.

    The whole model is at place 0, then come the layers. *Same language* are the rows of either
    language of a pair.
    """
    tables = [table.assign(control="pair")]
    if controls is not None:
        same = controls.control == "same language"
        tables.append(controls[~same])
        pairs = table[["lang_a", "lang_b"]].drop_duplicates().itertuples(index=False)
        whose = {"-".join(pair): controls.lang_a.isin(pair) for pair in pairs}
        tables += [controls[same & rows].assign(pair=pair) for pair, rows in whose.items()]
    rows = pd.concat(tables).query("group in ['global', 'layer']").dropna(subset="jaccard")
    named = rows.lang_a + "-" + rows.lang_b
    return rows.assign(
        pair=rows.pair.fillna(named) if "pair" in rows else named,
        chance=chance_of(rows),
        place=(rows.layer + 1).fillna(0).astype(int),
    ).sort_values("keep_ratio", kind="stable")


def _overlaps(kind: str, table: pd.DataFrame, controls: pd.DataFrame | None = None) -> Iterator:
    """Overlaps of each model by keep ratio and pair, as lists over places (see `_stacked`).

    A pair has mean and interval, `chance` at the same set sizes and `n` samples, of its controls
    mean and n.
    """
    rows = _stacked(table, controls)
    by = ["model", "keep_ratio", "pair", "control", "place"]
    means = rows.groupby(by, sort=False).agg(
        mean=("jaccard", "mean"), n=("jaccard", "size"), chance=("chance", "mean")
    )
    several = rows[(rows.control == "pair") & rows.duplicated(by, keep=False)]
    if len(several):
        bounds = seed_intervals(several.set_index(by).jaccard, by)
        means = means.join(bounds[["low", "high"]])
    for model, of_model in means.groupby("model", sort=False):
        depth, values = int(of_model.index.get_level_values("place").max()), {}
        for (ratio, pair, control), part in of_model.groupby(by[1:4], sort=False):
            part = part.droplevel(by[:4]).reindex(range(depth + 1))
            n = int(part.pop("n").max())
            lists = part if control == "pair" else part[["mean"]]
            cell = values.setdefault(np.format_float_positional(ratio), {}).setdefault(pair, {})
            cell[control] = {**lists.dropna(axis=1, how="all").to_dict("list"), "n": n}
        yield {**_named(model, kind, "04_overlap"), "depth": depth, "values": values}


def _edits(named: dict[str, Any], told: dict[str, Any], rows: pd.DataFrame) -> dict[str, Any]:
    """What edits do to a model, and which of them is the control of which."""
    values: dict[str, dict] = {edit: {} for edit in rows.edit.unique()}
    for row in rows.sort_values("keep_ratio", kind="stable").to_dict("records"):
        ratios = values[row["edit"]].setdefault(row["measure"], {})
        cells = ratios.setdefault(np.format_float_positional(row["keep_ratio"]), {})
        cells[row["lang"]] = [row[c] for c in NUMBERS]
    random = {edit: f"{edit.partition(':')[0]}: random" for edit in values}
    controls = {edit: name for edit, name in random.items() if name in values and name != edit}
    languages = [code for code in LANGUAGES if code in set(rows.lang)]
    return {**named, **told, "languages": languages, "values": values, "controls": controls}


def _verb(factor: pd.Series) -> pd.Series:
    return factor.map(lambda x: f"scale ×{x:g}: " if x else "prune: ")


def _likelihoods(packed: pd.DataFrame) -> Iterator[dict]:
    """What pruning the set of a language costs its texts."""
    costs = item_costs(packed).query("edited == lang").rename(columns={"task": "measure"})
    cell = ["model", "lang", "measure", "condition", "keep_ratio"]
    runs = costs.groupby([*cell, "seed"], sort=False)
    runs = runs.agg(before=("plain", "mean"), items=("plain", "size"), cost=("cost", "mean"))
    cell += ["before", "items"]
    table = seed_intervals(runs.reset_index().set_index(cell).cost, cell)
    table = table.rename(columns={"n": "samples"}).reset_index()
    for model, rows in table.assign(edit="prune: " + table.condition).groupby("model", sort=False):
        yield _edits(_named(model, REAL, "22_likelihood"), NATS, rows)


def _published() -> Iterator[dict]:
    """What the published edits change, from the unedited accuracies that the rules take."""
    cell = ["model", "lang", "part", "nonmath", "factor", "keep_ratio"]
    known = published_edits().query("condition == 'math-specific'").set_index(cell)
    runs = published("mathlang_interventions").rename(columns={"task": "part"})
    runs = runs.query("variant == 'main' and metric != 'flexible' and intervention != 'none'")
    table = seed_intervals(runs.set_index(cell).value, cell).rename(columns={"n": "samples"})
    table = table.join(known[["base", "n"]])
    table = table.assign(**{c: table[c] - table.base for c in ("mean", "low", "high")})
    table = table.reset_index().rename(columns={"part": "measure", "base": "before", "n": "items"})
    edit = _verb(table.factor) + "math-specific, against " + table.nonmath.str.upper()
    for model, rows in table.assign(edit=edit).groupby("model", sort=False):
        yield _edits(_named(model, PUBLISHED, "06_what_breaks"), ACCURACY, rows)


def _organism(results: Path) -> Iterator[dict]:
    """What edits change in the organism, and what the set of a language does to all languages."""
    table, manifest = load_table("changes", results)
    told = ACCURACY | {"interval": "95\u00a0% intervals over problems"}
    table = table[table.dtype == table.dtype.iloc[0]].rename(
        columns={"skill": "measure", "plain": "before", "difference": "mean", "n": "items"}
    )
    edit = _verb(table.factor) + table.condition
    table = table.assign(edit=edit, samples=table.replicates)
    model = manifest["run"]["model"]
    yield _edits(_named(model, SMALL, "06_what_breaks"), told, table)
    table = load_table("transfer", results)[0].query("weights == 'whole' and drawn == ''")
    edit = "prune: the set of " + table.edited.map(lambda code: LANGUAGES[code].name)
    table = table.assign(edit=edit, measure=table.part.fillna("math"))
    blocks = table.groupby(["edit", "measure", "keep_ratio", "lang"], sort=False)
    change = {"mean": ("difference", "mean"), "low": ("high", "max"), "high": ("low", "min")}
    others = {"before": ("control", "mean"), "items": ("n", "first"), "samples": ("n", "size")}
    table = blocks.agg(**change, **others).reset_index()
    table[list(change)] *= -1  # there a loss is positive
    told |= {"before": "as many random weights"}
    told |= {"interval": "outermost 90\u00a0% intervals over problems, of every block"}
    named = _named(model, f"{SMALL}, one set for all languages", "10_travel")
    yield _edits(named | {"id": f"{model}-travel"}, told, table)


def explorer_data(results: Path) -> dict[str, Any]:
    """All that the explorer shows, in numbers of four digits.

    Args:
        results: Folder of the tables of the book's chapters; others are shipped with the package.

    Returns:
        `overlap` and `breaks`, a list of models each (see `_overlaps` and `_edits`), `languages`
        with their colours in the figures, `between`, that of two languages, and `pairs`.
    """
    desk = {n: load_table(f"evidence/desk_{n}", PACKAGE)[0] for n in ("overlap", "controls")}
    ours = [load_table(name, results)[0] for name in ("overlap", "overlap_controls")]
    overlap = [*_overlaps(REAL, *desk.values()), *_overlaps(SMALL, *ours)]
    overlap += _overlaps(PUBLISHED, published("mathlang_overlap"))
    breaks = [*_likelihoods(load_table("evidence/desk_likelihoods", PACKAGE)[0])]
    breaks += [*_organism(results), *_published()]
    codes = [code for code in LANGUAGES if any(code in m["languages"] for m in breaks)]
    pairs = dict.fromkeys(pair for m in overlap for cell in m["values"].values() for pair in cell)
    looks = styles([*codes, "two languages"])
    data = {
        "languages": {c: {"name": LANGUAGES[c].name, "colour": looks[c]["color"]} for c in codes},
        "between": looks["two languages"]["color"],
        "pairs": list(pairs),
        "overlap": overlap,
        "breaks": breaks,
    }
    digits = {"parse_float": lambda x: float(f"{float(x):.4g}"), "parse_constant": lambda _: None}
    return json.loads(json.dumps(data), **digits)


def _write(app: Any) -> None:
    if app.builder.format == "html":
        path = Path(app.outdir) / "_static" / "explorer_data.js"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(explorer_data(Path(app.srcdir) / "results"), separators=(",", ":"))
        path.write_text(f"window.MM_EXPLORER = {text};\n", encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Write the numbers when Sphinx builds the book: an extension, named in `_config.yml`."""
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
