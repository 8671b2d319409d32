"""The book's own claims about what the overlap means, and the rules that decide them.

As in `parameters`, each rule was committed before the run that decides it. The papers published
nothing that could decide these, so that only runs of ours do.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mmlib.claims.rules import (
    CELL,
    NotTestableError,
    Tables,
    ours,
    weakest,
)
from mmlib.study.stats import halfway, rank_correlation
from mmlib.study.tables import require_columns


def _rows(tables: Tables, name: str, columns: str, wanted: str) -> pd.DataFrame:
    """The rows of a table that a query wants, by seed."""
    require_columns(tables[name], [*CELL, *columns.split()], f"table {name!r}")
    rows = tables[name].query(wanted)
    if rows.empty:
        raise NotTestableError(f"needs rows of {name} with {wanted}")
    return rows.set_index("seed")


# --- ceilings -------------------------------------------------------------------------------------

_PAIR = ["model", "nonmath", "keep_ratio", "lang_a", "lang_b"]


def _beyond(tables: Tables, control: str) -> pd.Series:
    """Smallest difference between the Jaccard of a pair and that of a control, per seed."""
    columns = "lang_a lang_b group control jaccard"
    about = "group == 'global' and lang_a != lang_b and control == "
    sides = [
        _rows(tables, "ceilings", columns, about + repr(name)).set_index(_PAIR, append=True).jaccard
        for name in ("math-specific", control)
    ]
    if not sides[0].index.isin(sides[1].index).all():
        raise NotTestableError(f"needs {control} sets of every pair and seed")
    return weakest(sides[0] - sides[1].reindex(sides[0].index))


@ours(
    "O1",
    "Languages share more math weights than the same network does before training.",
    "Jaccard of every pair of languages above that of the untrained network",
    "ceilings",
    committed="2026-11-21",
    keep_ratios=(0.1,),
)
def _learned(tables: Tables) -> pd.Series:
    """Smallest difference over pairs between a Jaccard and that of the untrained network."""
    return _beyond(tables, "untrained")


@ours(
    "O2",
    "Sets made the other way round, nonmath - math, overlap less.",
    "Jaccard of every pair of languages above that of its sets nonmath - math",
    "ceilings",
    committed="2026-11-21",
    keep_ratios=(0.1,),
)
def _about_math(tables: Tables) -> pd.Series:
    """Smallest difference over pairs between a Jaccard and that of the sets nonmath - math."""
    return _beyond(tables, "nonmath-specific")


# --- edits that travel ----------------------------------------------------------------------------


def _travel(tables: Tables, weights: str) -> pd.DataFrame:
    """Losses of math in one language by an edit of another one's weights."""
    wanted = f"weights == '{weights}' and drawn == '' and kind == 'math' and edited != lang"
    return _rows(tables, "transfer", "weights drawn edited lang kind difference n", wanted)


@ours(
    "O3",
    "Edits travel: pruning the math weights of one language lowers math in every other.",
    "every ordered pair loses more than 2 points beyond random weights, as many per matrix",
    "transfer",
    committed="2026-11-21",
    keep_ratios=(0.01,),
)
def _edits_travel(tables: Tables) -> pd.Series:
    """Smallest loss of math over ordered pairs by pruning the whole set of another - 2 points.

    Losses are beyond those of random weights, as many of every matrix.
    """
    return weakest(_travel(tables, "whole").difference - 0.02)


@ours(
    "O4",
    "What only one language's set has does not matter to the others.",
    "every ordered pair loses less than 2 points beyond random weights, as many per matrix",
    "transfer",
    committed="2026-11-21",
    keep_ratios=(0.01,),
)
def _own_parts_stay(tables: Tables) -> pd.Series:
    """2 points - largest loss of math over ordered pairs by pruning another one's own part."""
    return weakest(0.02 - _travel(tables, "own").difference)


@ours(
    "O5",
    "The Jaccard of two languages predicts how far an edit travels between them.",
    "rank correlation of Jaccard and loss above 1/2 over the ordered pairs",
    "transfer",
    committed="2026-11-21",
    keep_ratios=(0.01,),
)
def _jaccard_predicts(tables: Tables) -> pd.Series:
    """Spearman's rho of Jaccard and loss over the ordered pairs - 1/2."""
    t = _travel(tables, "whole")
    require_columns(t, ["jaccard"], "table 'transfer'")
    if min(len(rows) for _, rows in t.groupby(level="seed")) < 12:
        raise NotTestableError("needs at least 12 ordered pairs to speak of an order")
    rhos = {
        seed: rank_correlation(rows.jaccard.to_numpy(), rows.difference.to_numpy()) - 0.5
        for seed, rows in t.groupby(level="seed")
    }
    return pd.Series(rhos).rename_axis("seed")


@ours(
    "O12",
    "The part that all languages share matters more than as many random weights of a set.",
    "in every language it costs over 2 points more than such a draw, shared weights among it, "
    "from any set",
    "transfer",
    committed="2026-11-21",
    keep_ratios=(0.01,),
)
def _shared_matters(tables: Tables) -> pd.Series:
    """Smallest excess loss by the shared part over as many random weights of a set - 2 points."""
    cell = ["model", "nonmath", "keep_ratio", "lang"]
    shared, within = (
        _rows(
            tables,
            "transfer",
            "weights drawn lang kind difference",
            f"weights == 'shared' and drawn == '{drawn}' and kind == 'math'",
        )
        .set_index(cell, append=True)
        .difference
        for drawn in ("", "sets")
    )
    most = within.groupby(level=within.index.names).max()
    return weakest(shared - most.reindex(shared.index) - 0.02)


# --- precision ------------------------------------------------------------------------------------


@ours(
    "O6",
    "Running sums in bfloat16, as published, select other weights than exact sums.",
    "Jaccard of the two sets below .95 in every language",
    "precision",
    committed="2026-11-21",
    keep_ratios=(0.01,),
)
def _sums_matter(tables: Tables) -> pd.Series:
    """.95 - largest Jaccard, over languages, of a set by bfloat16 sums with that by exact ones."""
    wanted = "what == 'membership' and num_samples == 500"
    return weakest(0.95 - _rows(tables, "precision", "what num_samples value", wanted).value)


@ours(
    "O7",
    "The overlap between languages does not depend on the precision of the sums.",
    "Jaccard of every pair of languages changes by less than .01",
    "precision",
    committed="2026-11-21",
    keep_ratios=(0.01, 0.1),
)
def _overlap_stays(tables: Tables) -> pd.Series:
    """.01 - largest change of the Jaccard of a pair by bfloat16 sums, over pairs and K."""
    wanted = "what == 'overlap' and num_samples == 500"
    rows = _rows(tables, "precision", "what num_samples value exact", wanted)
    return weakest(0.01 - (rows.value - rows.exact).abs())


# --- data -----------------------------------------------------------------------------------------

_TRAINED = {
    "keep_ratios": (0.1,),
}


def _sizes(tables: Tables, mix: str) -> pd.DataFrame:
    """Set sizes of the organisms of a mix: a row per training seed, a column per language."""
    t = _rows(tables, "mixes", "mix lang share n_math_specific", f"mix == '{mix}'")
    return t.pivot_table(index="seed", columns="lang", values="n_math_specific")


@ours(
    "O8",
    "Set sizes follow the shares of the training text.",
    "rank correlation of size and share is higher where the shares differ than where the same "
    "languages have equal shares",
    "mixes",
    committed="2026-11-21",
    **_TRAINED,
)
def _sizes_follow_shares(tables: Tables) -> pd.Series:
    """Spearman's rho of size and skewed share: skewed organisms - even ones of the same seed."""
    wanted = _rows(tables, "mixes", "mix lang share", "mix == 'skewed'")
    shares = wanted.groupby("lang").share.first()
    sizes = [_sizes(tables, mix)[shares.index] for mix in ("skewed", "even")]
    if list(sizes[0].index) != list(sizes[1].index):
        raise NotTestableError("needs skewed and even organisms of the same training seeds")
    skewed, even = (rank_correlation(s.to_numpy(), shares.to_numpy()[None]) for s in sizes)
    return pd.Series(skewed - even, sizes[0].index)


@ours(
    "O9",
    "A shared script raises the overlap with English.",
    "Jaccard of English and romanised Hindi above that of English and Hindi",
    "mix_overlap",
    committed="2026-11-21",
    **_TRAINED,
)
def _script_matters(tables: Tables) -> pd.Series:
    """Jaccard of English and romanised Hindi - that of English and Hindi, even shares."""
    sides = []
    for mix, code in (("latin", "hi-Latn"), ("even", "hi")):
        wanted = f"mix == '{mix}' and lang_a == 'en' and lang_b == '{code}' and group == 'global'"
        rows = _rows(tables, "mix_overlap", "mix lang_a lang_b group jaccard", wanted)
        sides.append(rows.groupby(level="seed").jaccard.mean())
    if list(sides[0].index) != list(sides[1].index):
        raise NotTestableError("needs organisms with either script of the same training seeds")
    return sides[0] - sides[1]


# --- format, emergence ----------------------------------------------------------------------------


@ours(
    "O10",
    "Some change of format moves the set further than a change of language does.",
    "English in some other format has a lower Jaccard with English than the other languages "
    "have on average",
    "formats",
    committed="2026-11-21",
    keep_ratios=(0.1,),
)
def _format_moves_more(tables: Tables) -> pd.Series:
    """Mean Jaccard of English and the other languages - lowest one of English in two formats."""
    columns = "what lang_a lang_b jaccard"
    formats = _rows(tables, "formats", columns, "what == 'format' and lang_a == 'en'")
    others = _rows(tables, "formats", columns, "what == 'language' and lang_a == 'en'")
    lowest = formats.groupby(level="seed").jaccard.min()
    return others.groupby(level="seed").jaccard.mean() - lowest


@ours(
    "O11",
    "Sharing comes before ability.",
    "overlap is halfway from untrained to final at an earlier step than accuracy is",
    "emergence",
    committed="2026-11-21",
    **_TRAINED,
)
def _sharing_first(tables: Tables) -> pd.Series:
    """log2 of the step at which accuracy is halfway over that at which the overlap is.

    Means over languages and pairs; halfway from the untrained network to the end, interpolated
    linearly between snapshots.
    """
    rows = _rows(tables, "emergence", "step accuracy jaccard", "step >= 0").reset_index()
    found = {}
    for seed, run in rows.groupby("seed"):
        means = run.groupby("step")[["accuracy", "jaccard"]].mean()
        if len(means) < 5:
            raise NotTestableError(f"needs at least 5 snapshots of every run, seed {seed} has less")
        found[seed] = np.log2(halfway(means.accuracy) / halfway(means.jaccard))
        if np.isnan(found[seed]):
            raise NotTestableError(f"needs an accuracy and an overlap that rise, see seed {seed}")
    return pd.Series(found).rename_axis("seed")
