"""The book's own claims about what the overlap means, and the rules that decide them.

As in `parameters`, each rule was committed before the run that decides it. The papers published
nothing that could decide these, so that only runs of ours do.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mmlib.claims.rules import CELL, DAYS, NotTestableError, Tables, ours, table_of
from mmlib.study.stats import halfway, rank_correlation
from mmlib.study.tables import MATH_PARTS, MATH_TASKS, item_costs, item_grades, item_losses


def _rows(tables: Tables, name: str, columns: str, wanted: str) -> pd.DataFrame:
    """The rows of a table that a query wants, by `CELL`."""
    rows = table_of(tables, name, *CELL, *columns.split()).query(wanted)
    if rows.empty:
        raise NotTestableError(f"needs rows of {name} with {wanted}")
    return rows.set_index(CELL)


_THIS_MODEL = {"unit": "calibration samples", "keep_ratios": (0.1,), **DAYS}
_ONLY_THIS = "prompts vary, and no training: the interval is about this model alone"
_DRAWN = "draws from one pool share texts: the interval is about this model alone"
_TRAINED = {"unit": "trainings", "keep_ratios": (0.1,), **DAYS}

# --- ceilings -------------------------------------------------------------------------------------


def _beyond(tables: Tables, control: str) -> pd.Series:
    """Jaccard of a pair - that of a control, of every pair of languages."""
    columns = "lang_a lang_b group control jaccard"
    about = "group == 'global' and lang_a != lang_b and control == "
    sides = [
        _rows(tables, "ceilings", columns, about + repr(name))
        .set_index(["lang_a", "lang_b"], append=True)
        .jaccard
        for name in ("math-specific", control)
    ]
    if not sides[0].index.isin(sides[1].index).all():
        raise NotTestableError(f"needs {control} sets of every pair and seed")
    return sides[0] - sides[1].reindex(sides[0].index)


@ours(
    "O1",
    "Languages share more math weights than the same network does before training.",
    "Jaccard of every pair of languages above that of the untrained network",
    "ceilings",
    note=f"the untrained network is one initialisation; {_ONLY_THIS}",
    **_THIS_MODEL,
)
def _learned(tables: Tables) -> pd.Series:
    """J - J of the same pair in the untrained network, of every pair."""
    return _beyond(tables, "untrained")


@ours(
    "O2",
    "Sets made the other way round, nonmath - math, overlap less.",
    "Jaccard of every pair of languages above that of its sets nonmath - math",
    "ceilings",
    note=_ONLY_THIS,
    **_THIS_MODEL,
)
def _about_math(tables: Tables) -> pd.Series:
    """J - J of the sets nonmath - math of the same pair, of every pair."""
    return _beyond(tables, "nonmath-specific")


# --- edits that travel ----------------------------------------------------------------------------

_EDIT = ["model", "keep_ratio", "seed", "edited", "lang", "problem"]
_TRAVEL = {
    "unit": "calibration blocks and items",
    "threshold": 0.02,
    "reach": 1.0,
    "keep_ratios": (0.01,),
    **DAYS,
}


def _grades(tables: Tables, weights: str, drawn: str) -> pd.Series:
    """Is a math problem solved after an edit? Mean over the draws of a control."""
    columns = [*_EDIT[:-1], "weights", "drawn", "part", "problems", "correct"]
    t = table_of(tables, "evidence/transfer", *columns)
    rows = t[t.part.isin(MATH_PARTS) & (t.weights == weights) & (t.drawn == drawn)]
    if rows.empty:
        raise NotTestableError(f"needs math after pruning {weights!r} weights, drawn {drawn!r}")
    return item_grades(rows).groupby(_EDIT).correct.mean()


def _paired_loss(control: pd.Series, edited: pd.Series) -> pd.Series:
    if not control.index.isin(edited.index).all():
        raise NotTestableError("needs the same problems after every edit and its random weights")
    return control - edited.reindex(control.index)


def _travel(tables: Tables, weights: str) -> pd.Series:
    """What pruning weights of one language costs another, beyond as many random weights."""
    lost = _paired_loss(_grades(tables, weights, "matrices"), _grades(tables, weights, ""))
    return lost[lost.index.get_level_values("edited") != lost.index.get_level_values("lang")]


@ours(
    "O3",
    "Edits travel: pruning the math weights of one language lowers math in every other.",
    "every ordered pair loses more than 2 points beyond random weights, as many per matrix",
    "evidence/transfer",
    **_TRAVEL,
)
def _edits_travel(tables: Tables) -> pd.Series:
    """Loss of math, as a share of the problems, by pruning the set of another language.

    Beyond that by random weights, as many of every matrix; of every ordered pair.
    """
    return _travel(tables, "whole")


@ours(
    "O4",
    "What only one language's set has does not matter to the others.",
    "every ordered pair changes by less than 2 points beyond random weights, as many per matrix",
    "evidence/transfer",
    test="equal",
    **_TRAVEL,
)
def _own_parts_stay(tables: Tables) -> pd.Series:
    """Loss of math by pruning what only another language's set has, of every ordered pair.

    Beyond that by random weights, as many of every matrix.
    """
    return _travel(tables, "own")


@ours(
    "O5",
    "The Jaccard of two languages predicts how far an edit travels between them.",
    "rank correlation of Jaccard and loss above 1/2 over the ordered pairs",
    "transfer",
    unit="calibration blocks",
    threshold=0.5,
    note="a correlation over pairs of the same languages: its interval is over calibration alone",
    keep_ratios=(0.01,),
    **DAYS,
)
def _jaccard_predicts(tables: Tables) -> pd.Series:
    """Spearman's rho of Jaccard and loss over the ordered pairs."""
    wanted = "weights == 'whole' and drawn == '' and kind == 'math' and edited != lang"
    columns = "weights drawn edited lang kind difference jaccard"
    blocks = _rows(tables, "transfer", columns, wanted).groupby(CELL)
    if blocks.size().min() < 12:
        raise NotTestableError("needs at least 12 ordered pairs to speak of an order")
    return blocks[["jaccard", "difference"]].apply(
        lambda pairs: rank_correlation(pairs.jaccard.to_numpy(), pairs.difference.to_numpy())
    )


@ours(
    "O12",
    "The part that all languages share matters more than as many random weights of a set.",
    "in every language it costs over 2 points more than such a draw, shared weights among it, "
    "from any set",
    "evidence/transfer",
    **_TRAVEL,
)
def _shared_matters(tables: Tables) -> pd.Series:
    """Loss of math by pruning the shared part, beyond as many random weights of a set.

    Of every language, and every set that is drawn from (`edited`).
    """
    shared = _grades(tables, "shared", "").droplevel("edited")
    within = _grades(tables, "shared", "sets")
    of_problem = within.index.droplevel("edited")
    return _paired_loss(within, pd.Series(shared.reindex(of_problem).to_numpy(), within.index))


# --- likelihoods ----------------------------------------------------------------------------------

_LIKELY = {
    "unit": "calibration blocks and items",
    "threshold": 0.1,
    "changed": "of the same real LLM one block and 32 problems had been seen before the rule was "
    "written: the English set cost solutions 1.13 (en), .85 (de), .80 (fr) and .37 nats (hi), "
    "English MMLU text .32",
    "keep_ratios": (0.01,),
    "committed": "2026-11-29",
    "seen": "2026-11-29",
}


_LOSS = ["model", "keep_ratio", "edited", "lang", "seed", "problem"]


def _losses(tables: Tables, name: str, *, math: bool = True) -> pd.DataFrame:
    """The packed losses of worked solutions, or of other text."""
    columns = "model condition factor keep_ratio seed fraction edited lang task problems nats"
    t = table_of(tables, name, *columns.split())
    t = t[t.task.isin(MATH_TASKS) == math]
    if t.empty:
        raise NotTestableError(f"needs likelihoods of {'worked solutions' if math else 'others'}")
    return t


def _beyond_random(t: pd.DataFrame, *more: str) -> pd.Series:
    """Nats per token after an edit of T - those after the edit of as many random weights.

    Of every problem, and by `_LOSS` and more columns; the mean over the draws of random weights.
    """
    of_set, random = (t[t.condition == condition] for condition in ("math-specific", "random"))
    if of_set.empty or random.empty:
        raise NotTestableError("needs the set and as many random weights of every language")
    by = [*more, *_LOSS]
    return _paired_loss(*(item_losses(side).groupby(by).nats.mean() for side in (of_set, random)))


def _cost(tables: Tables, *, math: bool) -> pd.Series:
    """What pruning T of a language costs its texts, beyond as many random weights, per problem."""
    t = _losses(tables, "likelihoods", math=math)
    t = t[(t.edited == t.lang) & (t.factor == 0) & (t.fraction == 1)]
    return _beyond_random(t).droplevel("edited")


@ours(
    "O13",
    "Worked solutions become less likely when the math-specific set of their language is pruned.",
    "in every language they lose over .1 nats per token more than by as many random weights",
    "likelihoods",
    **_LIKELY,
)
def _solutions_suffer(tables: Tables) -> pd.Series:
    """Nats per token of worked solutions lost by pruning the set, beyond random weights.

    As many of every matrix; of every language, in its own.
    """
    return _cost(tables, math=True)


@ours(
    "O14",
    "Text that is not math stays as likely.",
    "in every language it changes by less than .1 nats per token beyond as many random weights",
    "likelihoods",
    test="equal",
    **_LIKELY,
)
def _other_text_stays(tables: Tables) -> pd.Series:
    """Nats per token of other text lost by pruning the set, beyond random weights.

    As many of every matrix; of every language, in its own.
    """
    return _cost(tables, math=False)


_NATS = _LIKELY | {"committed": "2026-11-30", "seen": "2026-11-30", "changed": ""}


@ours(
    "O15",
    "Edits travel in the likelihood too: pruning one language's set makes worked solutions of "
    "every other less likely.",
    "every ordered pair loses over .1 nats per token more than by as many random weights",
    "travel_likelihoods",
    **_NATS
    | {
        "changed": "of the same real LLM one block and 32 problems had been seen before the rule "
        "was written: at a keep ratio of .001 the English, German and Hindi sets cost the other "
        "languages .05 to .35 nats, at .01 the English one .37 to .85",
    },
)
def _costs_travel(tables: Tables) -> pd.Series:
    """Nats per token that pruning a set costs another language, beyond random weights.

    As many of every matrix; of every ordered pair.
    """
    t = _losses(tables, "travel_likelihoods")
    return _beyond_random(t[(t.edited != t.lang) & (t.factor == 0)])


@ours(
    "O16",
    "No few weights of a set carry its effect on the likelihood.",
    "the 5 % of the English set with the highest scores cost solutions less than 30 % of what the "
    "whole set costs (C7b in nats)",
    "fraction_likelihoods",
    **_NATS | {"threshold": 0.0},
)
def _no_few_carry_it(tables: Tables) -> pd.Series:
    """.3 · nats that the whole set costs a solution - nats that its highest 5 % cost."""
    t = item_costs(_losses(tables, "fraction_likelihoods"))
    whole, few = (
        t[(t.condition == condition) & (t.fraction == share)].set_index(_LOSS).cost
        for condition, share in (("math-specific", 1.0), ("highest first", 0.05))
    )
    if whole.empty or few.empty:
        raise NotTestableError("needs the whole set, and its 5 % with the highest scores")
    return _paired_loss(0.3 * whole, few)


@ours(
    "O18",
    "Enlarging the math-specific set makes worked solutions more likely.",
    "by a factor of 1.01 or 1.1 English solutions gain nats per token over as many random weights "
    "that are enlarged (C5a in nats)",
    "scaling_likelihoods",
    test="some",
    **_NATS | {"threshold": 0.0},
)
def _scaling_helps(tables: Tables) -> pd.Series:
    """Nats per token that enlarging the set wins, beyond random weights, by factor."""
    t = _losses(tables, "scaling_likelihoods")
    return -_beyond_random(t[t.factor > 1], "factor")


# --- precision ------------------------------------------------------------------------------------

_SUMS = {
    "note": _DRAWN,
    "changed": "equal scores now go to the weights that the published selection takes, after an "
    "audit had seen what this changes",
    **_THIS_MODEL | {"keep_ratios": (0.01,)},
}


def _by_either(tables: Tables, what: str) -> pd.DataFrame:
    """Numbers by bfloat16 sums (value) and exact ones, after 500 prompts, of the published rule."""
    wanted = f"what == {what!r} and num_samples == 500"
    if "ties" in tables["precision"]:
        wanted += " and ties == 'topk'"
    columns = "lang_a lang_b what num_samples value exact"
    return _rows(tables, "precision", columns, wanted).set_index(["lang_a", "lang_b"], append=True)


@ours(
    "O6",
    "Running sums in bfloat16, as published, select other weights than exact sums.",
    "Jaccard of the two sets below .95 in every language",
    "precision",
    threshold=0.05,
    **_SUMS,
)
def _sums_matter(tables: Tables) -> pd.Series:
    """1 - J of a set by bfloat16 sums with that by exact ones, of every language."""
    return 1 - _by_either(tables, "membership").value.droplevel("lang_b")


@ours(
    "O7",
    "The overlap between languages does not depend on the precision of the sums.",
    "Jaccard of every pair of languages changes by less than .01",
    "precision",
    test="equal",
    threshold=0.01,
    **_SUMS | {"keep_ratios": (0.01, 0.1)},
)
def _overlap_stays(tables: Tables) -> pd.Series:
    """J by bfloat16 sums - J by exact ones, of every pair and K."""
    pairs = _by_either(tables, "overlap")
    return pairs.value - pairs.exact


@ours(
    "O17",
    "The overlap of two languages survives a release in few bits.",
    "Jaccard of every pair changes by less than .02, what another training moves, when the weights "
    "are stored in blocks of five bits (Q5_0)",
    "quantised",
    test="equal",
    threshold=0.02,
    note=_DRAWN,
    **_THIS_MODEL | {"keep_ratios": (0.01, 0.1), "committed": "2026-11-30", "seen": "2026-11-30"},
)
def _survives_few_bits(tables: Tables) -> pd.Series:
    """J of the sets of the model in few bits - J of its own, of every pair and K."""
    columns = "lang_a lang_b what stored value exact"
    pairs = _rows(tables, "quantised", columns, "what == 'overlap' and stored == 'Q5_0'")
    pairs = pairs.set_index(["lang_a", "lang_b"], append=True)
    return pairs.value - pairs.exact


# --- data -----------------------------------------------------------------------------------------


@ours(
    "O8",
    "Set sizes follow the shares of the training text.",
    "rank correlation of size and share is higher where the shares differ than where the same "
    "languages have equal shares",
    "mixes",
    **_TRAINED,
)
def _sizes_follow_shares(tables: Tables) -> pd.Series:
    """Spearman's rho of size and skewed share: skewed organisms - even ones of the same seed."""
    t = _rows(tables, "mixes", "mix lang share n_math_specific", "mix in ['skewed', 'even']")
    shares = t[t.mix == "skewed"].groupby("lang").share.first()
    wide = t.pivot_table(index=["mix", "seed"], columns="lang", values="n_math_specific")
    sizes = [wide.loc[wide.index.isin([mix], "mix"), shares.index] for mix in ("skewed", "even")]
    sizes = [each.droplevel("mix") for each in sizes]
    if list(sizes[0].index) != list(sizes[1].index):
        raise NotTestableError("needs skewed and even organisms of the same training seeds")
    skewed, even = (rank_correlation(s.to_numpy(), shares.to_numpy()[None]) for s in sizes)
    return pd.Series(skewed - even, sizes[0].index)


@ours(
    "O9",
    "A shared script raises the overlap with English.",
    "Jaccard of English and romanised Hindi above that of English and Hindi",
    "mix_overlap",
    note="the organisms with romanised Hindi have a tokenizer of their own, which may move "
    "overlaps too",
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
    test="some",
    note=_DRAWN,
    **_THIS_MODEL,
)
def _format_moves_more(tables: Tables) -> pd.Series:
    """Mean J of English and the other languages - J of English in two formats, of every format."""
    formats, others = (
        _rows(tables, "formats", "form what lang_a lang_b jaccard", f"what == '{what}'")
        .query("lang_a == 'en'")
        .set_index("form", append=True)
        .jaccard
        for what in ("format", "language")
    )
    mean = others.groupby(CELL).mean()
    return (
        pd.Series(mean.reindex(formats.index.droplevel("form")).to_numpy(), formats.index) - formats
    )


@ours(
    "O11",
    "Sharing comes before ability.",
    "overlap is halfway from untrained to final at an earlier step than the loss of right answers",
    "emergence",
    note="the overlap is halfway before the first snapshot, which then counts as its step: the "
    "effect is a lower bound",
    changed="ability was accuracy, and the step before the first snapshot was interpolated",
    **_TRAINED,
)
def _sharing_first(tables: Tables) -> pd.Series:
    """log2 of the step at which the loss is halfway over that at which the overlap is.

    Means over languages and pairs, linear between snapshots; a halfway before the first snapshot
    counts as that snapshot.
    """
    rows = _rows(tables, "emergence", "step loss jaccard", "step >= 0").reset_index()
    ratios = {}
    for seed, run in rows.groupby("seed"):
        means = run.groupby("step")[["loss", "jaccard"]].mean()
        if len(means) < 5:
            raise NotTestableError(f"needs at least 5 snapshots of every run, seed {seed} has less")
        halves = [halfway(values) for values in (-means.loss, means.jaccard)]
        if np.isnan(halves).any():
            raise NotTestableError(f"needs a loss that falls and an overlap that rises, see {seed}")
        ratios[seed] = -np.diff(np.log2(np.maximum(halves, means.index[1])))[0]
    return pd.Series(ratios).rename_axis("seed")
