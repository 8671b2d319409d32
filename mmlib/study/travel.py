"""Do edits travel? Prune what belongs to one language, ask every language."""

import itertools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial, reduce
from typing import Any

import pandas as pd
import statsmodels.formula.api as smf
from torch import nn

from mmlib.importance import ImportanceScores
from mmlib.masks import ParameterMask, random_mask
from mmlib.overlap import overlap_table
from mmlib.study.evidence import MADE_WITH, Sweep, Taken, read_evidence
from mmlib.study.likelihoods import beyond_random, desk_losses
from mmlib.study.localisation import Sample, math_sets
from mmlib.study.settings import Ask, Asking, Loading, Sampling
from mmlib.study.stats import equivalence
from mmlib.study.variants import Variant, edited, record

WEIGHTS = {
    "whole": "T, the math-specific set of a language",
    "own": "what the set of a language has and the set of no other language has",
    "shared": "what the sets of all languages have in common",
}
"""What is pruned."""
DRAWN = {
    "": "the weights themselves",
    "matrices": "as many weights of every matrix, drawn at random",
    "sets": "as many weights of the whole set of a language, drawn once per set",
}
"""What stands in the place of the weights; the last for the own and the shared part only."""
ALL = "all"
"""In place of a language: the shared part belongs to none."""
CELL = ["weights", "drawn", "edited", "keep_ratio", "seed", "sample_seed"]
"""What names an edit: the weights, what is drawn in their place, whose they are, both seeds."""
SWEEP = Sweep(
    "transfer",
    name=[*CELL, "part"],
    per=["weights", "drawn"],
    by=["weights", "drawn", "lang"],
    made_with=(*MADE_WITH, "other_items", "edit_dtype"),
)


def edits(
    *,
    languages: Sequence[str],
    keep_ratios: Sequence[float],
    seeds: Sequence[int],
    sample_seeds: Sequence[int] = (1,),
    weights: Sequence[str] = tuple(WEIGHTS),
) -> pd.DataFrame:
    """The edits of all languages, each beside its random counterparts, of the matrix and the set.

    There are two languages or more, since the shared and the own parts are relative to them.
    `seeds` are those of calibration, `sample_seeds` those of the random counterparts.

    Returns:
        Columns `CELL`; the unedited model first ("none", keep_ratio 0, seeds 0).

    Raises:
        ValueError: Fewer than two languages, or an unknown kind of weights.
    """
    if len(set(languages)) < max(2, len(languages)):
        raise ValueError(f"languages={list(languages)}: give two or more, each once")
    if not sample_seeds:
        raise ValueError("sample_seeds is empty: give at least one draw")
    if wrong := [name for name in weights if name not in WEIGHTS]:
        raise ValueError(f"unknown weights {wrong[0]!r}: choose from {', '.join(WEIGHTS)}")
    rows: list[tuple] = [("none", "", "", 0.0, 0, 0)]
    for name, ratio, seed in itertools.product(weights, keep_ratios, seeds):
        whose = (ALL,) if name == "shared" else languages
        for code in whose:
            rows.append((name, "", code, ratio, seed, 0))
            rows += [(name, "matrices", code, ratio, seed, draw) for draw in sample_seeds]
        if name != "whole":
            rows += [(name, "sets", code, ratio, seed, sample_seeds[0]) for code in languages]
    return pd.DataFrame(rows, columns=CELL)


def parts_of(sets: Mapping[str, ParameterMask]) -> dict[tuple[str, str], ParameterMask]:
    """Split the sets of languages, two or more over the same weights, into what `WEIGHTS` tells.

    (weights, language) -> set; the language of "shared" is `ALL`.
    """
    parts = {("whole", code): mask for code, mask in sets.items()}
    for code, mask in sets.items():
        others = [other for name, other in sets.items() if name != code]
        parts["own", code] = mask - reduce(ParameterMask.__or__, others)
    return parts | {("shared", ALL): reduce(ParameterMask.__and__, sets.values())}


class Sets:
    """Parts of the math-specific sets; only the latest pair of K and seed is kept."""

    def __init__(self, scores: Mapping[Sample, ImportanceScores], math: str, nonmath: str):
        """Scores of all languages that the shared and the own parts are relative to."""
        # Every part is a mask of the whole model.
        self.parts = lru_cache(1)(lambda *at: parts_of(math_sets(scores, math, nonmath, *at)))

    def whole(self, keep_ratio: float, seed: int) -> dict[str, ParameterMask]:
        """The math-specific set of every language."""
        parts = self.parts(keep_ratio, seed)
        return {code: mask for (weights, code), mask in parts.items() if weights == "whole"}

    def mask(self, edit: Mapping[str, Any]) -> ParameterMask | None:
        """The weights that an edit (see `CELL`) prunes; None of the unedited model."""
        weights, code = edit["weights"], edit["edited"]
        if weights == "none":
            return None
        parts = self.parts(edit["keep_ratio"], edit["seed"])
        whose = ALL if weights == "shared" else code
        if not edit["drawn"]:
            return parts[weights, code]
        # The seed is that of the shipped rows, which named what is drawn before the weights.
        word = {"matrices": "random", "sets": "within"}[edit["drawn"]]
        name = [f"{word} {weights}", *(edit[column] for column in CELL[2:])]
        seed = zlib.crc32(" ".join(map(str, name)).encode())
        among = parts["whole", code] if edit["drawn"] == "sets" else None
        return random_mask(parts[weights, whose], seed=seed, among=among)


def transfer(model: nn.Module, sets: Sets, wanted: pd.DataFrame, ask: Ask) -> pd.DataFrame:
    """Prune, ask every language, undo; once per edit.

    The model is in any precision, with the weights that were scored. `wanted` are `edits`; with
    columns `lang` and `part` one row per language and part that is asked (all parts of an edit in
    all its languages are).

    Returns:
        Packed answers (see `tables.pack_answers`) of every edit, language and part, with
        `n_weights` (how many were pruned) and `mask` (a digest of the set).
    """
    variants = []
    for values, rows in wanted.groupby(CELL, sort=False):
        edit = dict(zip(CELL, values, strict=True))
        given = {"lang": "languages", "part": "parts"}
        asked = {given[c]: list(dict.fromkeys(rows[c])) for c in given if c in rows}
        change = partial(edited, model, partial(sets.mask, edit), factor=0.0)
        variants.append(Variant(edit, change, asked))
    return record(variants, ask, by=[*CELL, "lang", "part"])


@dataclass(frozen=True)
class Travel(Taken):
    """What `rows` finds; the answers have `CELL` and lang."""

    predictors: pd.DataFrame
    """Result of `predictors` at every keep_ratio and seed."""


def planned(given: Mapping[str, Any]) -> pd.DataFrame:
    """Every edit, language and part of the sweep, by a page's parameters."""
    grid = {name: given[name] for name in ("languages", "keep_ratios", "seeds", "sample_seeds")}
    every = pd.DataFrame({"part": [*given["parts"], *given["other_parts"]]})
    table = edits(**grid).merge(every, how="cross")
    asked = table.part.isin(given["parts"]) | table.seed.isin([0, *given["other_seeds"]])
    return table[asked].merge(pd.DataFrame({"lang": given["languages"]}), how="cross")


def rows(given: Mapping[str, Any]) -> Travel:
    """Prune the sets of every language and ask every language, or take what is shipped.

    Then one edit of each kind is asked `audit_items` problems.
    """
    loading, sampling = Loading.of(given), Sampling.of(given)
    scored, tokenizer = loading.load()
    same = given["edit_dtype"] == given["dtype"]
    model = scored if same else loading.load(given["edit_dtype"])[0]
    run = loading.run(scored, given)
    scores = sampling.scores(scored, tokenizer)
    counts = dict.fromkeys(given["parts"], given["items"])
    counts |= dict.fromkeys(given["other_parts"], given["other_items"])
    few = {part: min(count, given["audit_items"]) for part, count in counts.items()}
    whole, again = (
        Asking.of(given, tasks=[*given["tasks"], *given["other_tasks"]], parts=None, items=items)
        for items in (counts, counts if given["sweep"] else few)
    )
    sets = Sets(scores, given["math"], given["nonmath"])
    compute = partial(transfer, model, sets, ask=again.ask(tokenizer))
    problems, asked_again = (
        asking.problems(given["languages"][0], parts=list(counts)) for asking in (whole, again)
    )
    asked = {"problems": problems, "asked_again": asked_again}
    done = SWEEP.taken(planned(given), compute, run, **asked)
    at = itertools.product(given["keep_ratios"], given["seeds"])
    overlaps = [predictors(sets.whole(k, s)).assign(keep_ratio=k, seed=s) for k, s in at]
    return Travel(**vars(done), predictors=pd.concat(overlaps))


def desk() -> pd.DataFrame:
    """What pruning the sets of a real LLM costs every language, beyond random weights.

    Returns:
        The columns of `mmlib.study.likelihoods.beyond_random` (worked solutions), with `difference`
        (the cost) and `jaccard` of the two sets in that block, and what else rules about travel
        read.
    """
    table = beyond_random(desk_losses("travel")).rename(columns={"cost": "difference"})
    overlap, _ = read_evidence("desk_overlap")
    overlap = overlap[overlap.group == "global"]
    sides = [overlap, overlap.rename(columns={"lang_a": "lang_b", "lang_b": "lang_a"})]
    both = pd.concat(sides).rename(columns={"lang_a": "edited", "lang_b": "lang"})
    on = ["model", "keep_ratio", "seed", "edited", "lang"]
    table = table.merge(both[[*on, "jaccard"]], on=on, how="left")
    return table.assign(weights="whole", drawn="", kind="math", nonmath=overlap.nonmath.iloc[0])


def losses(
    answers: pd.DataFrame,
    by: Sequence[str] = ("keep_ratio", "seed"),
    *,
    margin: float = 0.02,
    against: str = "matrices",
) -> pd.DataFrame:
    """What each edit costs each language beyond as many random weights, and whether it counts.

    Args:
        answers: One row per problem: `CELL`, lang, part, problem_id, correct.
        by: Columns that are kept apart besides the edit and the language asked.
        margin: Largest difference that is called no change.
        against: "matrices" or "sets", see `DRAWN`; the latter for the own and the shared part only
            (for the shared part the mean of the draws from all sets).

    Returns:
        One row per edit and language: weights, drawn, edited, lang, `by` and the columns of
        `stats.equivalence`; `difference` is accuracy after the random edit minus accuracy after the
        edit. Weights drawn from a set are compared with as many of every matrix too. `pair` tells
        a language itself from another one ("all": the shared part).
    """
    edited = answers[(answers.weights != "none") & (answers.drawn != against)]
    if against == "sets":
        edited = edited[(edited.drawn == "") & edited.weights.isin(["own", "shared"])]
    control = answers[answers.drawn == against].drop(columns="drawn")
    # The shared part is one for all languages, whichever set its counterparts are drawn from.
    named = edited[["weights", "drawn", "edited"]].drop_duplicates()
    whose, named["whose"] = (
        table.edited.where(table.weights != "shared", ALL) for table in (control, named)
    )
    control = control.assign(whose=whose).drop(columns="edited").merge(named)
    name = ["weights", "drawn", "edited", "lang", *dict.fromkeys(by)]
    on = [c for c in ("keep_ratio", "seed", "part", "problem_id") if c not in name]
    table = equivalence(edited, control, by=name, on=on, margin=margin)
    pair = (table.edited == table.lang).map({True: "itself", False: "another"})
    return table.assign(pair=pair.mask(table.edited == ALL, ALL))


def predictors(sets: Mapping[str, ParameterMask]) -> pd.DataFrame:
    """What the overlap of two sets says about an edit of one and its effect on the other.

    Returns:
        One row per ordered pair of different languages: edited, lang, jaccard, covered (the share
        of the set of `lang` that lies in that of `edited`), pruned (size of the set of `edited`).
    """
    rows = overlap_table(sets).query("group == 'global'")
    forth = {"lang_a": "edited", "lang_b": "lang", "size_a": "pruned", "size_b": "of"}
    back = {"lang_b": "edited", "lang_a": "lang", "size_b": "pruned", "size_a": "of"}
    table = pd.concat([rows.rename(columns=side) for side in (forth, back)], ignore_index=True)
    table["covered"] = table.intersection / table.of
    return table[["edited", "lang", "jaccard", "covered", "pruned"]]


def correlations(pairs: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation of each predictor with the loss, by keep_ratio and seed.

    `pairs` are losses by whole sets, one row per ordered pair: keep_ratio, seed, jaccard, covered,
    pruned, difference (in points), relative (as a share of what was right).
    """
    predicting, losing = ["jaccard", "covered", "pruned"], ["difference", "relative"]
    ranks = pairs.groupby(["keep_ratio", "seed"])[[*predicting, *losing]].corr("spearman")
    return ranks[losing].drop(losing, level=2)


def explained(pairs: pd.DataFrame) -> pd.DataFrame:
    """How much of the relative loss the Jaccard says, alone and beside the set and the language.

    Least squares with a constant per language edited and per language asked, of pairs as in
    `correlations`.

    Returns:
        Index "Jaccard alone", "set and language", "and the Jaccard": R², and the partial
        correlation of the Jaccard with the loss (missing where it is no term or stands alone).
    """
    terms = {"Jaccard alone": "jaccard", "set and language": "C(edited) + C(lang)"}
    terms["and the Jaccard"] = "C(edited) + C(lang) + jaccard"
    known = pairs.dropna(subset="relative")
    table = pd.DataFrame(index=list(terms), columns=["R²", "partial correlation"], dtype=float)
    for name, term in terms.items() if len(known) else ():
        fit = smf.ols(f"relative ~ {term}", known).fit()
        table.loc[name, "R²"] = fit.rsquared
        if name == "and the Jaccard":
            t = fit.tvalues["jaccard"]
            table.loc[name, "partial correlation"] = t / (t**2 + fit.df_resid) ** 0.5
    return table
