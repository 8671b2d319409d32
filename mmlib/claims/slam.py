"""The rules that decide the claims of SLAM on runs of ours.

As in `parameters`, each rule was committed before the run that decides it; of S2 a trial of 100
questions had been seen. Figures of the paper have no printed values, so that shapes are checked.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from mmlib.claims.rules import (
    PUBLISHED,
    NotTestableError,
    Tables,
    leads,
    ours,
    record,
    table_of,
    trained_grades,
    trained_losses,
)
from mmlib.study.tables import (
    MATH_PARTS,
    NEW_MATH_PARTS,
    published,
    require_columns,
)

claim = partial(record, paper="SLAM (seed 002)")

# --- shapes over the depth ------------------------------------------------------------------------

_OURS = {"keep_ratios": (), "committed": "2026-11-21", "seen": "2026-11-22"}
_SHAPES = _OURS | {"satisfied": "not_testable", "figure": "no numbers in the text"}


def _thirds(tables: Tables, name: str, value: str) -> pd.DataFrame:
    """Means of the first, middle and last third of the layers, by model, language and seed."""
    table = table_of(tables, name, "model", "seed", "lang", "layer", value)
    depth = table.groupby("model").layer.transform("max") + 1
    if depth.min() < 6:
        raise NotTestableError(f"needs at least 6 layers to tell a shape, there are {depth.min()}")
    if table.duplicated(["seed", "model", "lang", "layer"]).any():
        raise NotTestableError("needs one value per model, language, layer and seed")
    third = (table.layer * 3 // depth).map({0: "first", 1: "middle", 2: "last"})
    return table.assign(third=third).pivot_table(
        index=["model", "lang", "seed"], columns="third", values=value
    )


def _change_then_flat(early: pd.Series, late: pd.Series) -> dict[str, pd.Series]:
    """The early change exceeds the late one, whichever sign the late one has."""
    return {"above a later change": early - late, "above one the other way": early + late}


@claim(
    "S2",
    "The number of firing FFN neurons falls with depth and then flattens, for all languages.",
    "curves without printed values: check shape only",
    "firing",
    where="Sec. 3.1, Figs. 2, 11-14",
    unit="calibration samples",
    note="draws of questions share a pool: the interval is about this model alone",
    **_SHAPES | {"seen": "2026-11-21"},
)
def _falls_then_flattens(tables: Tables) -> pd.Series:
    """Fall of the rate from the first to the middle third of the layers, - the change after it.

    And + that change: the fall has to exceed it in both directions, in every language.
    """
    t = _thirds(tables, "firing", "rate")
    sides = _change_then_flat(t["first"] - t["middle"], t["middle"] - t["last"])
    return pd.concat(sides, names=["side"])


@claim(
    "S3",
    "Overlap of firing neurons with English rises with depth, then flattens; it is higher after"
    " training.",
    "curves without printed values: check shape only",
    "firing_overlap",
    where="Figs. 3, 6, 9",
    unit="trainings",
    note="one network before training, one training after it: a description",
    **_SHAPES,
)
def _rises_then_flattens(tables: Tables) -> pd.Series:
    """Rise of the overlap from the first to the middle third, - and + the change after it; gain.

    In every language. The shape is that before training; the gain is the mean over layers of the
    overlap after selective alignment - that before.
    """
    t = table_of(tables, "firing_overlap", "model", "seed", "lang", "overlap", "state")
    if not {"before", "after"} <= set(t.state):
        raise NotTestableError("needs the overlap before and after alignment")
    shape = _thirds({"before": t[t.state == "before"]}, "before", "overlap")
    sides = _change_then_flat(shape["middle"] - shape["first"], shape["last"] - shape["middle"])
    means = t.groupby(["model", "lang", "seed", "state"]).overlap.mean().unstack("state")
    return pd.concat({**sides, "gain": means.after - means.before}, names=["side"])


# --- fine-tuned systems: packed answers by system, training, part and language --------------------

_OTHERS = ("base", "QAlign stage 1", "QAlign", "LoRA", "MathOctopus")
_TIE = 0.01
"""Accuracies that differ by less than a point are called equal."""
_LOW_RESOURCE = ("bn", "th", "sw")
"""As the paper names them."""
LABORATORY = ("evidence/system_log", "evidence/rate_answers")
"""What `_reads` reads: losses by step, and answers after short trainings; the systems are those of
the first table that a claim needs."""


def _reads(tables: Tables) -> str:
    """The base can use the source, and the rate leaves English alone.

    Before training its loss of held-out translations is under 1 nat per token; in a trial of the
    learning rate SLAM lowered English by less than a point.
    """
    systems, (log, tried) = next(iter(tables.values())), (tables[name] for name in LABORATORY)
    recipe = ["model", "start", "pair_source"]
    require_columns(systems, [*recipe, "system", "learning_rate"], "the table of systems")
    made = systems.query("system == 'SLAM'")[[*recipe, "learning_rate"]].drop_duplicates()
    before = log[(log.system == "SLAM") & (log.step == 0)].merge(made[recipe]).heldout_loss.mean()
    told = []
    if not before < 1:
        told.append(
            f"the held-out translation loss is {before:.1f} nats per token before training, "
            "under 1 is needed"
        )
    tried = tried[(tried.lang == "en") & tried.part.isin(MATH_PARTS)]
    grades = [
        tried[tried.system == system].merge(made[on]).correct.astype(str).str.cat()
        for system, on in (("base", recipe), ("SLAM", [*recipe, "learning_rate"]))
    ]
    if not all(grades):
        told.append("English was not asked during the choice of the rate")
    elif (fall := np.subtract(*(text.count("1") / len(text) for text in grades))) >= _TIE:
        told.append(f"English falls by {100 * fall:.0f} points at this rate, under 1 is needed")
    return "; ".join(told)


_MADE = _OURS | {"unit": "trainings and items", "precondition": _reads, "reach": 1.0}


def _leads(
    tables: Tables,
    parts: tuple[str, ...],
    *others: str,
    name: str = "alignment",
    start: str = "MetaMath",
) -> pd.Series | pd.DataFrame:
    """Grade of SLAM - that of each other system, by other, seed, lang and problem.

    Published rows have a number of items: from this start (empty: from all) they give effect and
    se, by other, part, size, start and lang, without a pairing of items.
    """
    if "items" not in tables[name]:
        wide = trained_grades(tables[name], parts, "SLAM", *others)
        return leads(wide, "SLAM", *others, by="other")
    rows = tables[name][tables[name].start.isin([start] if start else set(tables[name].start))]
    if parts == NEW_MATH_PARTS:
        rows = rows[rows.part.isin(parts)]
    keys = ["part", "size", "start", "lang"]
    share = rows.pivot(index=[*keys, "items"], columns="system", values="accuracy")
    variance = (share * (1 - share)).div(share.index.get_level_values("items"), axis=0)
    printed = {
        other: pd.DataFrame(
            {
                "effect": share.SLAM - share[other],
                "se": np.sqrt(variance.SLAM + variance[other]),
            }
        )
        for other in others
        if other in share
    }
    return pd.concat(printed, names=["other"]).droplevel("items")


def _over_languages(effects: pd.Series | pd.DataFrame) -> pd.Series | pd.DataFrame:
    """Means over languages; standard errors add up, as translations of a problem may."""
    return effects.groupby([name for name in effects.index.names if name != "lang"]).mean()


def of_language(values: pd.Series | pd.DataFrame, *codes: str) -> pd.Series | pd.DataFrame:
    """The values of some languages, of which one has to be there."""
    chosen = values[values.index.get_level_values("lang").isin(codes)]
    if chosen.empty:
        raise NotTestableError(f"needs {' or '.join(codes)}")
    return chosen


def _printed(start: str, items: int, *tables: int) -> pd.DataFrame:
    """Published accuracies by language in our columns; `start` is the published base."""
    t = published("slam_accuracy")
    t = t[t.table.isin(tables) & ~t.lang.isin(["avg", "avg_non_en"])]
    names = {start: "base", f"{start}+SLAM": "SLAM", "QAlign+LoRA(r=256)": "LoRA"}
    told = {"system": t.system.replace(names), "part": t.benchmark.str.lower()}
    return t.assign(**told, accuracy=t.accuracy / 100, items=items, start=start)


def _printed_math() -> pd.DataFrame:
    starts = {"MetaMath": (2, 4), "RFT-MuggleMath": (11, 12)}
    tables = [
        _printed(start, items, table)
        for start, both in starts.items()
        for table, items in zip(both, (250, 1000), strict=True)
    ]
    return pd.concat(tables, ignore_index=True)


PUBLISHED["alignment"] = _printed_math
PUBLISHED["alignment_knowledge"] = partial(_printed, "Llama2-mono", 1000, 10)


@claim(
    "S1",
    "SLAM reaches at least the average accuracy of QAlign (and of every other baseline) while "
    "training 6.5-8 % of the parameters.",
    "printed averages: SLAM >= every other system of the same size in Tables 2 and 4, and "
    "trained_param_pct <= 8",
    "alignment",
    *LABORATORY,
    where="abstract; Tables 2, 4",
    satisfied="yes",
    figure="MGSM 7B: SLAM 49.6 vs QAlign 49.6 (recomputed 49.60 vs 49.64); MGSM 13B: SLAM 58.3 "
    "vs QAlign 57.1 (recomputed 58.36 vs 57.08); MSVAMP 7B: SLAM 60.5 vs QAlign 57.2 "
    "(recomputed 60.48 vs 57.36); MSVAMP 13B: SLAM 62.7 vs QAlign 62.6 (recomputed 62.72 vs "
    "62.60); so on MGSM-7B it is a tie that turns into -0.04 when recomputed",
    threshold=-_TIE,
    differs="claimed while at most 8 % of the weights are trained: the rule compares accuracies "
    "alone, and on the organism SLAM trains 9.1 %; a lead above -1 point counts as equal",
    note="WizardMath and MAmmoTH, published far below, did not run here",
    **_MADE,
)
def _as_good_as_any(tables: Tables) -> pd.Series | pd.DataFrame:
    """Mean accuracy of SLAM over languages - that of each other system; over -1 point."""
    return _over_languages(_leads(tables, MATH_PARTS, *_OTHERS))


@claim(
    "S4",
    "Prediction consistency with English (PCR) rises.",
    "figure without printed values",
    "alignment",
    *LABORATORY,
    where="Sec. 5.1, Fig. 7",
    satisfied="not_testable",
    figure="no numbers in the text",
    changed="made stricter after a look at a few problems: English may not fall",
    **_MADE | {"reach": np.inf},  # shares of shares
)
def _more_consistent(tables: Tables) -> pd.Series:
    """Rise of the consistency with English in every language; English's own change + 1 point.

    Consistency is the share of the problems right in English that are right in the language too.
    It rises as well where English falls; that is why English may not fall by a point. A share of
    shares is linear in its problems to the first order (delta method).
    """
    wide = trained_grades(tables["alignment"], MATH_PARTS, "SLAM", "base").unstack("lang")
    if "en" not in wide.columns.unique("lang"):
        raise NotTestableError("needs English, its share of right problems")
    rise = _consistency(wide.SLAM) - _consistency(wide.base)
    return rise.assign(en=wide[("SLAM", "en")] - wide[("base", "en")] + _TIE).stack()


def _consistency(grades: pd.DataFrame) -> pd.DataFrame:
    """By problem, so that the mean of a training is its consistency; a column per language."""
    both = grades.drop(columns="en").mul(grades.en, axis=0)
    right = grades.en.groupby(level="seed").transform("mean")
    if not right.all():
        raise NotTestableError("no problem is right in English after some training")
    share = both.groupby(level="seed").transform("mean").div(right, axis=0)
    return share + (both - share.mul(grades.en, axis=0)).div(right, axis=0)


@claim(
    "S5",
    "Compared with the English-only base (MetaMath), gains are concentrated in low-resource "
    "languages.",
    "for each benchmark and size, min gain over {bn,th,sw} > max gain over the other seven "
    "languages",
    "alignment",
    *LABORATORY,
    where="Sec. 5 and 5.2 (for sub-layers), Tables 2, 4",
    satisfied="yes",
    figure="MGSM 7B: bn/th/sw +24.4..+38.4, others -2.0..+12.0; MGSM 13B: bn/th/sw "
    "+33.2..+40.0, others -1.2..+12.8; MSVAMP 7B: bn/th/sw +33.5..+40.0, others -0.2..+8.7; "
    "MSVAMP 13B: bn/th/sw +31.9..+39.1, others -3.0..+5.5",
    differs="low-resource: here the half of the languages in which the base solves least",
    changed="made stricter after a look at a few problems: the weak languages have to gain",
    **_MADE | {"reach": 2.0},
)
def _weak_languages_gain(tables: Tables) -> pd.Series | pd.DataFrame:
    """Gain of each of the weaker half of the languages; and - that of each of the stronger half.

    Halves by the accuracy of the base, English included, on every second problem; the gains are
    those of the other problems. In the published rows the weaker are bn, th and sw.
    """
    gains, weak = _leads(tables, MATH_PARTS, "base"), list(_LOW_RESOURCE)
    if "problem" in gains.index.names:
        base = trained_grades(tables["alignment"], MATH_PARTS, "SLAM", "base").base
        base = base[~_even(base)].groupby(level="lang").mean()
        weak, gains = list(base.nsmallest(len(base) // 2).index), gains[_even(gains)]
    strong = sorted(set(gains.index.unique("lang")) - set(weak))
    of = {code: of_language(gains, code).droplevel("lang") for code in [*weak, *strong]}
    cells = {(code, "nothing"): of[code] for code in weak}
    cells |= {(low, high): _less(of[low], of[high]) for low in weak for high in strong}
    return pd.concat(cells, names=["lang", "than"])


def _even(values: pd.Series) -> np.ndarray:
    """Every second problem of a part."""
    numbers = values.index.get_level_values("problem").str.rsplit(" ", n=1).str[-1]
    return np.asarray(numbers.astype(int) % 2 == 0)


def _less(gains: pd.Series | pd.DataFrame, others: pd.Series | pd.DataFrame):
    if isinstance(gains, pd.Series):
        return gains - others
    effect, se = gains.effect - others.effect, np.hypot(gains.se, others.se)
    return pd.DataFrame({"effect": effect, "se": se})


@claim(
    "S6",
    "SLAM-7B gains on all 10 languages out of domain (MSVAMP).",
    "Table 4, 7B: SLAM > MetaMath in each of the 10 languages",
    "alignment",
    *LABORATORY,
    where="Sec. 5.1",
    satisfied="no",
    figure="gains bn +34.1, th +33.5, sw +40.0, ja +8.7, zh +8.7, de +3.7, fr +3.2, ru +4.8, es"
    " +3.3, en -0.2; English falls by 0.2 (against QAlign it ties at 65.3)",
    **_MADE,
)
def _gains_out_of_domain(tables: Tables) -> pd.Series | pd.DataFrame:
    """Gain in each language, English included, on sentences that training never showed."""
    gains = _leads(tables, NEW_MATH_PARTS, "base")
    return gains.xs("7B", level="size", drop_level=False) if "size" in gains.index.names else gains


def _of_that_size(tables: Tables) -> str:
    """The model has at least 6.5 billion weights: the published factors are of such models."""
    table = table_of(tables, "alignment_costs", "trained", "share")
    weights = (table.trained / table.share).max()
    if weights >= 6.5e9:
        return ""
    return (
        f"the model has {weights / 1e6:.1f} million weights, and the factor 4.1 is one of 7 billion"
    )


@claim(
    "S7",
    "Training is 4.1x (7B) and 11.9x (13B) cheaper than the two-stage QAlign.",
    "training_cost(QAlign)/training_cost(SLAM) equals 4.1 and 11.9 in Tables 2 and 4",
    "alignment_costs",
    where="abstract; Tables 2, 4",
    satisfied="yes",
    figure="as printed; but Table 3 gives MetaMath-7B 10.0x against 3.5x in Tables 2 and 4",
    unit="repeats",
    threshold=4.1,
    differs="the published factors are of models of 7 and 13 billion parameters, with other "
    "numbers of steps and devices; here every stage has as many steps",
    changed="the first, cold round of the timing was left out after it had been seen; and until "
    "2026-11-29 the rule asked for more than twice",
    precondition=_of_that_size,
    **_OURS,
)
def _cheaper(tables: Tables) -> pd.Series:
    """Seconds of QAlign's two stages over those of SLAM; both timed in turns in one run."""
    table = table_of(tables, "alignment_costs", "system", "seed", "seconds")
    spent = table.groupby(["seed", "system"]).seconds.sum().unstack()
    if not {"SLAM", "QAlign"} <= set(spent):
        raise NotTestableError("needs the costs of SLAM and QAlign")
    return spent.QAlign / spent.SLAM


claim(
    "S8",
    "Six layers' FFN make up 6.5-8 % of the parameters.",
    "Llama-2 shapes: 6 layers x 2 matrices (up, down) give the printed 8.0 and 6.5 % to one "
    "decimal (3 matrices would give 12.0 and 9.8 %)",
    where="abstract; Sec. 4.2",
    satisfied="yes",
    figure="7B 8.03 %, 13B 6.53 % with up+down only; with gate 12.04 and 9.79 %",
    reason="about another system: the shapes of Llama 2",
)


claim(
    "S9",
    "Gains stated in the text: 2.1, 29.2, 32.8, 5.8, 0.2 %, and 22.6, 13.2, 14.5 % on xCSQA "
    "Sw/Hi/Ar.",
    "each equals the relative change of the printed numbers to one decimal",
    where="Sec. 5.1, 6.1",
    satisfied="yes",
    figure="2.1: 2.10, 29.2: 29.17, 32.8: 32.80, 5.8: 5.77, 0.2: 0.16, 22.6: 22.62, 13.2: "
    "13.17, 14.5: 14.51 (so the text's percentages are relative, not points)",
    reason="about another system: percentages in the printed text",
)


claim(
    "S10",
    "On RFT-MuggleMath, non-English accuracy rises by 33.3 % for both 7B and 13B.",
    "relative gain of the mean over 9 non-English MGSM languages (Table 11) is within 1 point "
    "of 33.3 % for both sizes",
    where="Sec. 6.2, Table 6",
    satisfied="no",
    figure="7B 33.5 %; 13B 27.3 % from Table 11 (non-En mean 42.84), but 43.4 % from Table 6, "
    "whose 38.0 for RFT-13B does not follow from Table 11 (it equals the MSVAMP entry of "
    "RFT-7B)",
    reason="about another system: RFT-MuggleMath, which does not run here",
)


@claim(
    "S11",
    "The method carries over to commonsense reasoning: every xCSQA language improves.",
    "Table 10: SLAM > base in each of the 16 languages",
    "alignment_knowledge",
    *LABORATORY,
    where="Sec. 6.1, Table 10",
    satisfied="yes",
    figure="16 languages, gain +0.1 (en) to +5.0 (sw), mean +2.04; 1,000 items each, SE of one "
    "accuracy about 1.6 points",
    changed="made stricter after a look at a few problems: other questions are asked than those "
    "whose translations are trained",
    **_MADE,
)
def _other_tasks_gain(tables: Tables) -> pd.Series | pd.DataFrame:
    """Gain in each language on the knowledge task, aligned with other questions of it."""
    parts = ("knowledge", "xcsqa")
    return _leads(tables, parts, "base", name="alignment_knowledge", start="Llama2-mono")


claim(
    "S12",
    "SLAM beats LangBridge, which adds a 2B/7B encoder.",
    "Table 3: SLAM avg > LangBridge avg for both sizes and both benchmarks",
    where="Sec. 5.1, Table 3",
    satisfied="yes",
    figure="MGSM 7B: 49.6 vs 48.8; MGSM 13B: 58.3 vs 55.8; MSVAMP 7B: 60.5 vs 52.0; MSVAMP 13B:"
    " 62.7 vs 57.9",
    reason="about another system: LangBridge, which does not run here",
)


@claim(
    "S13",
    "The reasoning ability in English is not damaged by training only low layers.",
    "English accuracy after SLAM >= before, in all eight base/benchmark/size combinations "
    "(MetaMath, RFT-MuggleMath)",
    "alignment",
    *LABORATORY,
    where="Sec. 1, 5",
    satisfied="no",
    figure="English change (points): MetaMath MGSM 7B: 65.5->64.8; MetaMath MGSM 13B: "
    "68.4->71.2; MetaMath MSVAMP 7B: 65.5->65.3; MetaMath MSVAMP 13B: 68.9->69.5; RFT MGSM 7B: "
    "67.6->65.6; RFT MGSM 13B: 75.2->72.0; RFT MSVAMP 7B: 59.6->59.5; RFT MSVAMP 13B: "
    "66.3->65.5; largest fall 3.2 points (MGSM, 250 items, SE of one accuracy 2.7-3)",
    threshold=-_TIE,
    differs="a change above -1 point counts as undamaged",
    **_MADE,
)
def _english_stays(tables: Tables) -> pd.Series | pd.DataFrame:
    """Accuracy of SLAM in English - that of the base; over -1 point."""
    return of_language(_leads(tables, MATH_PARTS, "base", start=""), "en")


@ours(
    "S14",
    "Full fine-tuning on translations alone forgets math.",
    "English accuracy after stage 1 of QAlign is over 2 points below the base's",
    "alignment",
    *LABORATORY,
    threshold=0.02,
    **_MADE,
)
def _forgetting(tables: Tables) -> pd.Series:
    """English accuracy of the base - that after stage 1 of QAlign; over 2 points."""
    wide = trained_grades(tables["alignment"], MATH_PARTS, "QAlign stage 1", "base")
    return of_language(wide.base - wide["QAlign stage 1"], "en")


@ours(
    "S15",
    "Selective alignment brings translations of a question together.",
    "retrieval of the English question at two thirds of the depth rises in every language",
    "final_states",
    unit="trainings",
    note="the states before training are looked at once: their questions do not vary",
    **_OURS,
)
def _questions_meet(tables: Tables) -> pd.Series:
    """Rise of retrieval@1 at two thirds of the depth, in every language."""
    columns = ["system", "seed", "lang", "layer", "depth", "retrieval"]
    table = table_of(tables, "final_states", *columns)
    rows = table[table.layer == 2 * table.depth // 3]
    states = rows[rows.system == "SLAM"].set_index(["lang", "seed"]).retrieval
    rise = states.sub(rows[rows.system == "base"].set_index("lang").retrieval, level="lang")
    if rise.isna().any() or rise.empty:
        raise NotTestableError("needs the states before and after alignment in every language")
    return rise


def _both_solve(tables: Tables) -> str:
    """Systems with balanced and with unbalanced pairs solve over 10 % in these languages."""
    means = _few_pairs(tables).mean()
    if (means > 0.1).all():
        return ""
    told = " and ".join(f"{name} {share:.0%}" for name, share in means.items())
    return f"{told} solved in the languages with few pairs, over 10 % are needed"


def _few_pairs(tables: Tables) -> pd.DataFrame:
    """Grades with balanced and with unbalanced pairs, in the two languages with the fewest."""
    table = table_of(tables, "alignment", "pairs")
    wide = trained_grades(table, MATH_PARTS, "SLAM", "unbalanced pairs")
    few = table.query("system == 'unbalanced pairs'").groupby("lang").pairs.first()
    return of_language(wide, *few[few > 0].nsmallest(2).index)


@ours(
    "S16",
    "Languages with few pairs gain less than with balanced pairs.",
    "accuracy of the two languages with the fewest pairs, balanced above unbalanced",
    "alignment",
    **_MADE | {"precondition": _both_solve},
)
def _balance_matters(tables: Tables) -> pd.Series:
    """Accuracy with balanced - with unbalanced pairs, in both languages with the fewest pairs."""
    wide = _few_pairs(tables)
    return wide.SLAM - wide["unbalanced pairs"]


def _reads_and_is_stronger(tables: Tables) -> str:
    """The second expert can use the source, its rate leaves English alone, and it is stronger.

    Before training its loss of held-out translations is under 1 nat per token; in a trial of the
    learning rate SLAM lowered English by less than a point; it is right more often in English than
    the base of the main comparison.
    """
    first, second = (
        of_language(trained_grades(tables[name], MATH_PARTS, "SLAM", "base").base, "en").mean()
        for name in ("alignment", "alignment_stronger")
    )
    weaker = f"it solves {second:.0%} in English, the first expert {first:.0%}"
    told = [_reads(tables), "" if second > first else weaker]
    return "; ".join(filter(None, told))


@ours(
    "S17",
    "Selective alignment also helps a stronger English expert.",
    "mean accuracy of the other languages rises",
    "alignment_stronger",
    "alignment",
    *LABORATORY,
    note="all other languages together: a problem is one cluster",
    changed="asked of another expert after the first one had turned out weaker, and made stricter",
    **_MADE | {"precondition": _reads_and_is_stronger},
)
def _stronger_start(tables: Tables) -> pd.Series:
    """Mean gain of the other languages when SLAM starts from a stronger English expert."""
    gains = _leads(tables, MATH_PARTS, "base", name="alignment_stronger")
    return _over_languages(gains[gains.index.get_level_values("lang") != "en"])


# --- likelihoods of a real LLM --------------------------------------------------------------------

_ALIGNED = {"unit": "trainings and items", "keep_ratios": (), "committed": "2026-11-30"}
_ALIGNED |= {
    "seen": "2026-11-30",
    "note": "systems are trained for equally long, at rates chosen on other items: that of SLAM is"
    " the lowest that was tried",
}


def _read_by_the_expert(tables: Tables) -> pd.Series:
    """By language of the pairs the expert's loss of translations, as a share of it unsourced."""
    kinds = ("translation", "without its source")
    sides = [trained_losses(tables, "aligned_losses", kind).base for kind in kinds]
    seen, blind = (losses.groupby("lang").mean() for losses in sides)
    return seen / blind


def _solutions(tables: Tables, *systems: str) -> pd.DataFrame:
    """Losses of English solutions, asked in the languages that the expert reads, or else in all."""
    wide = trained_losses(tables, "aligned_losses", "solution", *systems)
    share = _read_by_the_expert(tables)
    share = share if (share <= 0.7).sum() < 2 else share[share <= 0.7]
    return wide[wide.index.isin(share.index, "lang")]


def _reads_its_source(tables: Tables) -> str:
    """The expert can use the source in two languages or more, and the rate leaves English alone.

    Its loss of held-out translations is at most 70 % of the loss without the source; other
    languages do not count. In the trial of the learning rates, at the rate that was taken, English
    solutions of other items lose less than .02 nats per token.
    """
    share, unfit = _read_by_the_expert(tables), []
    if (share <= 0.7).sum() < 2:
        told = ", ".join(f"{lang} {value:.0%}" for lang, value in share.items())
        unfit.append(f"of a translation's loss without its source remain with it: {told}")
    made = table_of(tables, "aligned_losses", "system", "learning_rate")
    taken = made[made.system == "SLAM"].learning_rate.unique()
    rates = table_of(tables, "aligned_rates", "system", "learning_rate")
    tried = rates[(rates.system == "base") | rates.learning_rate.isin(taken)]
    wide = trained_losses({"rates": tried}, "rates", "solution")
    if "SLAM" not in wide or "en" not in wide.index.unique("lang"):
        return "; ".join([*unfit, "the rate was not tried, or English not asked"])
    paid = (wide.SLAM - wide.base).groupby("lang").mean()["en"]
    if paid >= 0.02:
        unfit.append(f"at the rate that was taken English loses {paid:.2f} nats per token")
    return "; ".join(unfit)


_FIT = _ALIGNED | {
    "precondition": _reads_its_source,
    "changed": "the first form asked for every language of the pairs; with the expert's losses it "
    "was seen that Swahili is hardly read (.88), and the gate became one by language, before the "
    "runs of three seeds",
}
_TRIED = _FIT | {
    "changed": _FIT["changed"] + "; and a trial of another 62 steps, without the expert, had been "
    "seen: translations lost 1.09 to .77 nats (de), 2.06 to 1.44 (sw) and 1.26 to .94 (zh), and of "
    "64 problems of MSVAMP Swahili gained .14, English lost .11 and German .11"
}


@ours(
    "S18",
    "Selective alignment makes the English solution more likely, whichever language asks.",
    "English solutions of held-out problems gain, in every language of pairs that the expert reads",
    "aligned_losses",
    "aligned_rates",
    **_TRIED,
)
def _solutions_gain(tables: Tables) -> pd.Series:
    """Nats per token that English solutions gain by SLAM, in the languages that it reads."""
    wide = _solutions(tables, "SLAM")
    return wide.base - wide.SLAM


@ours(
    "S19",
    "English pays nothing for it.",
    "solutions of problems that are asked in English change by less than .02 nats per token",
    "aligned_losses",
    "aligned_rates",
    test="equal",
    threshold=0.02,
    **_TRIED,
)
def _english_pays_nothing(tables: Tables) -> pd.Series:
    """Nats per token that English solutions lose by SLAM when they are asked in English."""
    wide = trained_losses(tables, "aligned_losses", "solution")
    if "SLAM" not in wide or "en" not in wide.index.unique("lang"):
        raise NotTestableError("needs SLAM, asked in English")
    english = wide.xs("en", level="lang", drop_level=False)
    return english.SLAM - english.base


@ours(
    "S20",
    "It takes these layers: as many random ones do less.",
    "English solutions gain more by SLAM than by random layers, in every language of pairs that "
    "the expert reads",
    "aligned_losses",
    "aligned_rates",
    **_FIT,
)
def _these_layers(tables: Tables) -> pd.Series:
    """Loss of English solutions with random layers - that with SLAM; others in every training."""
    wide = _solutions(tables, "SLAM", "random layers")
    return wide["random layers"] - wide.SLAM
