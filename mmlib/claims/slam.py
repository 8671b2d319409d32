"""The rules that decide the claims of SLAM on runs of ours.

As in `parameters`, each rule was committed before the run that decides it; of S2 a trial of 100
questions had been seen. Figures of the paper have no printed values, so that shapes are checked.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mmlib.claims.rules import NotTestableError, Tables, decides, weakest
from mmlib.study.tables import require_columns

_SHAPES = {"keep_ratios": (), "replicates": "samples of questions"}


def _thirds(table: pd.DataFrame, value: str) -> pd.DataFrame:
    """Means of the first, middle and last third of the layers, by seed and language."""
    depth = table.groupby("model").layer.transform("max") + 1
    if depth.min() < 6:
        raise NotTestableError(f"needs at least 6 layers to tell a shape, there are {depth.min()}")
    if table.duplicated(["seed", "model", "lang", "layer"]).any():
        raise NotTestableError("needs one value per model, language, layer and seed")
    third = (table.layer * 3 // depth).map({0: "first", 1: "middle", 2: "last"})
    return table.assign(third=third).pivot_table(
        index=["seed", "model", "lang"], columns="third", values=value
    )


def _firing(tables: Tables, name: str, value: str) -> pd.DataFrame:
    require_columns(tables[name], ["model", "seed", "lang", "layer", value], f"table {name!r}")
    return tables[name]


@decides("S2", "firing", **_SHAPES)
def _falls_then_flattens(tables: Tables) -> pd.Series:
    """Smallest over languages of the fall from the first to the middle third - |later change|."""
    t = _thirds(_firing(tables, "firing", "rate"), "rate")
    return weakest((t["first"] - t["middle"]) - (t["middle"] - t["last"]).abs())


@decides("S3", "firing_overlap", keep_ratios=(), replicates="trainings")
def _rises_then_flattens(tables: Tables) -> pd.Series:
    """Smallest over languages of the rise - |later change|, and of the gain by training.

    The rise goes from the first to the middle third of the layers before training; the gain is the
    mean over layers of the overlap after selective alignment - that before.
    """
    t = _firing(tables, "firing_overlap", "overlap")
    require_columns(t, ["state"], "table 'firing_overlap'")
    if not {"before", "after"} <= set(t.state):
        raise NotTestableError("needs the overlap before and after alignment")
    shape = _thirds(t[t.state == "before"], "overlap")
    rise = (shape["middle"] - shape["first"]) - (shape["last"] - shape["middle"]).abs()
    means = t.groupby(["seed", "model", "lang", "state"]).overlap.mean().unstack("state")
    return weakest(pd.concat([rise, means.after - means.before]))


# --- fine-tuned systems: one row per system, training seed, part and language ---------------------

TRAININGS = {"keep_ratios": (), "replicates": "trainings"}
MATH = ("math-1", "math-2", "math-3", "mgsm")
_UNSEEN = ("math-new", "msvamp")
_OTHERS = ("base", "QAlign stage 1", "QAlign", "LoRA", "MathOctopus")
_TIE = 0.01
"""Accuracies that differ by less than a point are called equal."""


def accuracies(
    tables: Tables, parts: tuple[str, ...], *systems: str, name: str = "alignment"
) -> pd.DataFrame:
    """Mean accuracy over parts, by seed and language; a column per system.

    The base, which nobody trains, has its one value in every seed.
    """
    table = tables[name]
    require_columns(table, ["system", "seed", "part", "lang", "accuracy"], f"table {name!r}")
    rows = table[table.part.isin(parts) & table.system.isin(systems)]
    if absent := sorted(set(systems) - set(rows.system)):
        raise NotTestableError(f"needs {', '.join(absent)} on {' or '.join(parts)}")
    if rows.duplicated(["system", "seed", "part", "lang"]).any():
        raise NotTestableError("needs one value per system, training, part and language")
    base = rows[rows.system == "base"].groupby("lang").accuracy.mean()
    trained = rows[rows.system != "base"]
    wide = trained.pivot_table(index=["seed", "lang"], columns="system", values="accuracy")
    if "base" in systems:
        wide = wide.assign(base=base.reindex(wide.index.get_level_values("lang")).to_numpy())
    if wide.isna().any(axis=None):
        raise NotTestableError(f"needs {', '.join(systems)} in every training and language")
    return wide


def _gains(tables: Tables, parts: tuple[str, ...], name: str = "alignment") -> pd.Series:
    """Accuracy with SLAM - that of the base, by seed and language."""
    wide = accuracies(tables, parts, "SLAM", "base", name=name)
    return wide.SLAM - wide.base


def of_language(values: pd.Series, *codes: str) -> pd.Series:
    """The values of some languages, of which one has to be there."""
    chosen = values[values.index.get_level_values("lang").isin(codes)]
    if chosen.empty:
        raise NotTestableError(f"needs {' or '.join(codes)}")
    return chosen


@decides("S1", "alignment", **TRAININGS)
def _as_good_as_any(tables: Tables) -> pd.Series:
    """Mean accuracy of SLAM over languages - that of the best other system + 1 point."""
    wide = accuracies(tables, MATH, "SLAM", *_OTHERS).groupby(level="seed").mean()
    return wide.SLAM - wide[list(_OTHERS)].max(axis=1) + _TIE


@decides("S4", "consistency", **TRAININGS)
def _more_consistent(tables: Tables) -> pd.Series:
    """Smallest rise, over languages, of the consistency with English; 1 point + English's change.

    Consistency is relative to the problems right in English, so that it rises too where English
    falls; that is why English itself, its share of right problems, may not fall by a point.
    """
    table = tables["consistency"].assign(part="math-1").rename(columns={"consistency": "accuracy"})
    rise = _gains({"consistency": table}, ("math-1",), "consistency")
    english = rise.index.get_level_values("lang") == "en"
    if not english.any():
        raise NotTestableError("needs English, its share of right problems")
    return weakest(rise + _TIE * english)


@decides("S5", "alignment", **TRAININGS)
def _weak_languages_gain(tables: Tables) -> pd.Series:
    """Smallest gain of the weaker half of the languages - largest of the stronger half; it itself.

    The smaller of the two. Halves by the accuracy of the base, English included.
    """
    gains = _gains(tables, MATH)
    base = accuracies(tables, MATH, "SLAM", "base").base.groupby(level="lang").first()
    weak = base.nsmallest(len(base) // 2).index
    is_weak = gains.index.get_level_values("lang").isin(weak)
    smallest = weakest(gains[is_weak])
    return np.minimum(smallest, smallest - gains[~is_weak].groupby(level="seed").max())


@decides("S6", "alignment", **TRAININGS)
def _gains_out_of_domain(tables: Tables) -> pd.Series:
    """Smallest gain over languages, English included, on sentences that training never showed."""
    return weakest(_gains(tables, _UNSEEN))


@decides("S7", "alignment_costs", keep_ratios=(), replicates="interleaved repeats")
def _cheaper(tables: Tables) -> pd.Series:
    """Seconds of QAlign's two stages over those of SLAM, - 2.

    As many steps in every stage, which is our choice; both timed in turns in one run.
    """
    table = tables["alignment_costs"]
    require_columns(table, ["system", "seed", "seconds"], "table 'alignment_costs'")
    spent = table.groupby(["seed", "system"]).seconds.sum().unstack()
    if not {"SLAM", "QAlign"} <= set(spent):
        raise NotTestableError("needs the costs of SLAM and QAlign")
    return spent.QAlign / spent.SLAM - 2


@decides("S11", "alignment_knowledge", **TRAININGS)
def _other_tasks_gain(tables: Tables) -> pd.Series:
    """Smallest gain over languages on the knowledge task, aligned with other questions of it."""
    return weakest(_gains(tables, ("knowledge", "xcsqa"), "alignment_knowledge"))


@decides("S13", "alignment", **TRAININGS)
def _english_stays(tables: Tables) -> pd.Series:
    """Accuracy of SLAM in English - that of the base + 1 point."""
    return weakest(of_language(_gains(tables, MATH), "en") + _TIE)


@decides("S14", "alignment", **TRAININGS)
def _forgetting(tables: Tables) -> pd.Series:
    """English accuracy of the base - that after stage 1 of QAlign, - 2 points."""
    wide = accuracies(tables, MATH, "QAlign stage 1", "base")
    return weakest(of_language(wide.base - wide["QAlign stage 1"] - 0.02, "en"))


@decides("S15", "final_states", **TRAININGS)
def _questions_meet(tables: Tables) -> pd.Series:
    """Smallest rise over languages of retrieval@1 at two thirds of the depth."""
    table = tables["final_states"]
    columns = ["system", "seed", "lang", "layer", "depth", "retrieval"]
    require_columns(table, columns, "table 'final_states'")
    rows = table[table.layer == 2 * table.depth // 3].assign(part="math-1")
    rows = rows.rename(columns={"retrieval": "accuracy"})
    return weakest(_gains({"final_states": rows}, ("math-1",), "final_states"))


@decides("S16", "alignment", **TRAININGS)
def _balance_matters(tables: Tables) -> pd.Series:
    """Accuracy with balanced - with unbalanced pairs, mean of the two languages with the fewest."""
    require_columns(tables["alignment"], ["pairs"], "table 'alignment'")
    wide = accuracies(tables, MATH, "SLAM", "unbalanced pairs")
    few = tables["alignment"].query("system == 'unbalanced pairs'").groupby("lang").pairs.first()
    lost = of_language(wide.SLAM - wide["unbalanced pairs"], *few[few > 0].nsmallest(2).index)
    return lost.groupby(level="seed").mean()


@decides("S17", "alignment", "alignment_stronger", **TRAININGS)
def _stronger_start(tables: Tables) -> pd.Series:
    """Mean gain of the other languages when SLAM starts from a stronger English expert.

    Stronger: right more often in English than the base of the main comparison.
    """
    gains = _gains(tables, MATH, "alignment_stronger")
    starts = [
        of_language(accuracies(tables, MATH, "SLAM", "base", name=name).base, "en").mean()
        for name in ("alignment", "alignment_stronger")
    ]
    if not starts[1] > starts[0]:
        raise NotTestableError("the second expert is not stronger in English than the first")
    return gains[gains.index.get_level_values("lang") != "en"].groupby(level="seed").mean()
