"""The rules that decide the claims of layer swapping on runs of ours.

The paper's table by language could not be read, so that nothing published can decide them. Experts
are paired by their training: the first math expert with the first language expert, and so on.
"""

from __future__ import annotations

from functools import partial

import pandas as pd

from mmlib.claims.rules import (
    NotTestableError,
    Tables,
    leads,
    ours,
    record,
    table_of,
    trained_grades,
    trained_losses,
)
from mmlib.study.stats import cell_tests, rank_correlation
from mmlib.study.tables import MATH_PARTS

claim = partial(record, paper="Layer Swapping (2410.01335)")

ALTERNATIVES = (
    "math expert",
    "language expert",
    "joint",
    "soup",
    "adjusted soup",
    "task arithmetic",
    "TIES",
)
"""What the paper compares a swap with: the experts, training on both, other ways of merging."""
CONTROLS = ("bottom only", "top only", "reversed", "revert", "random")
"""Parts of a swap, the experts exchanged, layers of the base in place of the language's, and random
layers."""
_WEAK, _STRONG = ("sw", "bn", "hi", "te"), ("de", "ja")
_MEAN = ["seed", "problem"]
"""Levels of effects that are means over the languages: a problem counts once in all of them."""


def _swaps(tables: Tables) -> pd.DataFrame:
    return table_of(tables, "swap", "target", "lang", "system", "draw")


def _grades(tables: Tables, *systems: str) -> pd.DataFrame:
    """Math by training, language and problem, asked in the language of the language expert."""
    table = _swaps(tables)
    return trained_grades(table[table.lang == table.target], MATH_PARTS, *systems)


def _means(tables: Tables, *systems: str) -> pd.DataFrame:
    return _grades(tables, *systems).groupby(_MEAN).mean()


def _fit(tables: Tables) -> str:
    """Each expert beats the base at what it was trained for, beyond its interval.

    The math expert in English math; the language experts in the held-out text of their language
    and in math that is asked in it.
    """
    table = _swaps(tables)
    english = table[(table.lang == "en") & table.system.isin(["base", "math expert"])]
    english = english.drop_duplicates(["system", "seed", "part", "correct"])
    of_math = trained_grades(english, MATH_PARTS, "base", "math expert").groupby(_MEAN).mean()
    of_language = _means(tables, "base", "language expert")
    gains = {
        "English math by the math expert": of_math["math expert"] - of_math.base,
        "math in their language by the language experts": of_language["language expert"]
        - of_language.base,
    }
    unfit = []
    for words, gain in gains.items():
        row = 100 * cell_tests(gain).iloc[0]
        if not row.low > 0:
            spread = f"{row.effect:.1f} ({row.low:.1f} to {row.high:.1f})"
            unfit.append(f"{words}, against the base: {spread} points, where a gain is needed")
    recipe = ["model", "steps", "embeddings", "learning_rate"]
    log = tables["evidence/expert_log"].merge(table[recipe].drop_duplicates())
    log = log[log.role != "math"]
    losses = log.groupby(["role", "seed"]).heldout_loss.agg(["first", "last"])
    if (worse := losses["last"] >= losses["first"]).any():
        unfit.append(f"the held-out loss of the expert {worse.idxmax()[0]} does not fall")
    return "; ".join(unfit)


_TRAINED = {"unit": "trainings and items", "keep_ratios": (), "committed": "2026-11-22"}
_TRAINED |= {"seen": "2026-11-22", "reach": 1.0}
_GATED = _TRAINED | {"precondition": _fit}


@claim(
    "L1",
    "Merged models beat the individual experts and other merging methods on MGSM by 10 % across"
    " four languages.",
    "mean over the four languages of swap / best alternative - 1 is about .10",
    "swap",
    "evidence/expert_log",
    where="abstract (seed 003)",
    satisfied="not_testable",
    figure="only the headline is known; no per-language table could be read; whether 10 % is "
    "relative is not said in the abstract",
    differs="checked against each alternative, relative, with organisms' languages",
    changed="half of the 10 % was asked until 2026-11-29; the organisms' results, of an unfit "
    "laboratory, were known",
    **_GATED | {"committed": "2026-11-29", "reach": 1.1},
)
def _beats_alternatives(tables: Tables) -> pd.Series:
    """Accuracy of the swap - 1.1 times that of each alternative, mean over the languages.

    Alternatives: either expert, training on both data sets, an equal soup, one adjusted by
    magnitude, task arithmetic, TIES.
    """
    means = _means(tables, "swap", *ALTERNATIVES)
    means[[*ALTERNATIVES]] *= 1.1
    return leads(means, "swap", *ALTERNATIVES)


@claim(
    "L2",
    "The advantage is largest for the lower-resource languages (Swahili, Telugu, Bengali); for "
    "Japanese swapping is below the math experts on average.",
    "sign of (swap - mean of math experts) is + for sw, te, bn and - for ja",
    "swap",
    "evidence/expert_log",
    where="reviews (second-hand)",
    satisfied="not_testable",
    figure="qualitative only",
    differs="Hindi counts as lower-resource here, German as Japanese does there",
    **_GATED,
)
def _weak_languages_gain(tables: Tables) -> pd.Series:
    """Gain of the swap over the math expert in sw, bn, hi and te; -1 times that in de and ja."""
    wide = _grades(tables, "swap", "math expert")
    gains = wide["swap"] - wide["math expert"]
    lang = gains.index.get_level_values("lang")
    sides = [gains[lang.isin(_WEAK)], -gains[lang.isin(_STRONG)]]
    if any(side.empty for side in sides):
        raise NotTestableError(f"needs one of {', '.join(_WEAK)} and one of {', '.join(_STRONG)}")
    return pd.concat(sides)


@claim(
    "L3",
    "Training-free swap needs no transition zones: adding them makes no significant difference.",
    "|swap with - swap without transition layers| not significant",
    "swap",
    where="seed 004; second-hand notes",
    satisfied="not_testable",
    figure="qualitative only",
    test="equal",
    threshold=0.02,
    **_TRAINED,
)
def _transition_is_idle(tables: Tables) -> pd.Series:
    """Mean accuracy over languages with transition layers - that without."""
    means = _means(tables, "swap", "no transition")
    return means["swap"] - means["no transition"]


@ours(
    "L4",
    "A swap needs both ends, and these layers.",
    "mean accuracy of the swap above that of its bottom or top alone, of the experts exchanged,"
    " of the base's layers in their place and of random layers",
    "swap",
    "evidence/expert_log",
    **_GATED | {"changed": "the base's own layers became a control after losses were seen"},
)
def _every_part_counts(tables: Tables) -> pd.Series:
    """Accuracy of the swap - that of each of its parts and controls, mean over the languages.

    These are the bottom alone, the top alone, the experts exchanged, layers of the base instead of
    the language expert's, and the mean of random layers.
    """
    return leads(_means(tables, "swap", *CONTROLS), "swap", *CONTROLS)


@ours(
    "L5",
    "Transition zones matter once the experts were trained for long.",
    "the gain by averaged layers grows from the shortest to the longest training",
    "swap_lengths",
    **_TRAINED | {"reach": 2.0},
)
def _long_training_needs_transition(tables: Tables) -> pd.Series:
    """Gain by a transition layer on each side after the longest training - after the shortest."""
    table = table_of(tables, "swap_lengths", "transition", "length", "lang")
    table = table[(table.lang != "en") & table.transition.isin([0, 1])]
    table = table.assign(system=table.transition.map({0: "none", 1: "one"}))
    lengths = sorted(set(table.length))
    if len(lengths) < 2:
        raise NotTestableError("needs two lengths of training or more")
    shortest, longest = (
        trained_grades(table[table.length == length], MATH_PARTS, "none", "one")
        for length in (lengths[0], lengths[-1])
    )
    gain = (longest.one - longest.none) - (shortest.one - shortest.none)
    if gain.isna().any():
        raise NotTestableError("needs the same trainings, languages and problems at both lengths")
    return gain.groupby(_MEAN).mean()


@ours(
    "L6",
    "The weaker a language, the more a swap brings it.",
    "rank correlation of gain over the math expert and accuracy of the base is negative",
    "swap",
    "evidence/expert_log",
    **_GATED | {"unit": "trainings"},
)
def _weaker_gains_more(tables: Tables) -> pd.Series:
    """-1 times the rank correlation, over languages, of gain and accuracy of the base."""
    means = _grades(tables, "swap", "math expert", "base").groupby(["seed", "lang"]).mean()
    gains = (means["swap"] - means["math expert"]).unstack("lang")
    base = means.base.unstack("lang")
    if gains.shape[1] < 4:
        raise NotTestableError(f"needs 4 languages, there are {gains.shape[1]}")
    if (gains.nunique(axis=1) < 2).any() or (base.nunique(axis=1) < 2).any():
        raise NotTestableError("languages that are all equal have no ranks")
    return pd.Series(-rank_correlation(base.to_numpy(), gains.to_numpy()), base.index)


# --- likelihoods of a real LLM --------------------------------------------------------------------


def _nats(tables: Tables, task: str, *systems: str) -> pd.DataFrame:
    """Losses of one kind of text in nats per token: a column per system, of draws their mean.

    By seed, target (language of the language expert), lang (in which is asked) and problem.
    """
    by = ("seed", "target", "lang", "problem")
    wide = trained_losses(tables, "swap_losses", task, *systems, by=by)[[*systems]]
    if wide.unstack("seed").isna().any(axis=None):
        raise NotTestableError(f"needs {', '.join(systems)} in every training and language")
    return wide


def _gained(tables: Tables) -> pd.DataFrame:
    """What experts gain over the base in nats per token, tested by what is read and language."""
    solved = _nats(tables, "solution", "base", "math expert", "language expert")
    text = _nats(tables, "text", "base", "language expert").droplevel("lang")
    english = solved.xs("en", level="lang")
    asked = solved.drop("en", level="lang").droplevel("lang")
    # The math expert is the same one for every language.
    of_math = (english.base - english["math expert"]).groupby(_MEAN).mean()
    gains = {"English solutions": pd.concat({"en": of_math}, names=["target"])}
    gains["solutions of problems that are asked in it"] = asked.base - asked["language expert"]
    gains["held-out text"] = text.base - text["language expert"]
    return pd.concat({words: cell_tests(gain) for words, gain in gains.items()}, names=["read"])


def _fit_languages(gained: pd.DataFrame) -> list[str]:
    """Those whose expert beats the base beyond its interval at all that is read."""
    lows = gained.drop("en", level="target").low.groupby("target", sort=False)
    return [lang for lang, low in lows if (low > 0).all()]


def _likely(tables: Tables, *systems: str) -> pd.DataFrame:
    """Log-likelihoods per token of English solutions, by target: of problems asked in it.

    Of the languages whose expert is fit, or else of all.
    """
    wide = -_nats(tables, "solution", *systems).drop("en", level="lang").droplevel("lang")
    counted = _fit_languages(_gained(tables))
    return wide[wide.index.isin(counted, "target")] if counted else wide


def _fit_by_likelihood(tables: Tables) -> str:
    """Each expert beats the base at what it was trained for, beyond its interval.

    The math expert makes English solutions more likely; an expert in a language held-out text of it
    and English solutions of problems that are asked in it. Other languages do not count.
    """
    gained = _gained(tables)
    if _fit_languages(gained):
        gained = gained.xs("en", level="target", drop_level=False)
    unfit = gained[~(gained.low > 0)]
    return "; ".join(
        f"{words} ({lang}) gain {row.effect:.3f} ({row.low:.3f} to {row.high:.3f}) nats per token "
        "by their expert, where more than 0 is needed"
        for (words, lang), row in unfit.iterrows()
    )


_LIKELY = {"unit": "trainings and items", "keep_ratios": (), "committed": "2026-11-30"}
_LIKELY |= {
    "seen": "2026-11-30",
    "precondition": _fit_by_likelihood,
    "note": "experts are trained for equally long, at rates chosen on other texts: the highest "
    "that were tried; held-out text of the language and English stand beside it on the page",
}
MERGED = tuple(name for name in ALTERNATIVES if name != "joint")
"""What a swap is compared with where nobody trained on both data sets."""


@ours(
    "L7",
    "A swap makes solutions more likely than any other way to use the two experts.",
    "English solutions of problems asked in the language are more likely by the swap than by either"
    " expert, soup, adjusted soup, task arithmetic and TIES",
    "swap_losses",
    **_LIKELY,
)
def _likelier_than_alternatives(tables: Tables) -> pd.Series:
    """Log-likelihood per token of solutions by the swap - that by each alternative, by language."""
    return leads(_likely(tables, "swap", *MERGED), "swap", *MERGED)


@ours(
    "L8",
    "It takes both ends, and these layers, by likelihood.",
    "English solutions of problems asked in the language are more likely by the swap than by its"
    " bottom or top alone, the experts exchanged, the base's layers and random layers",
    "swap_losses",
    **_LIKELY,
)
def _likelier_than_parts(tables: Tables) -> pd.Series:
    """Log-likelihood per token of solutions by the swap - that by each control, by language."""
    return leads(_likely(tables, "swap", *CONTROLS), "swap", *CONTROLS)


@ours(
    "L9",
    "Transition layers are idle, by likelihood.",
    "English solutions of problems asked in the language change by less than .02 nats per token",
    "swap_losses",
    test="equal",
    threshold=0.02,
    **_LIKELY,
)
def _idle_by_likelihood(tables: Tables) -> pd.Series:
    """Log-likelihood per token with transition layers - that without, by language."""
    wide = _likely(tables, "swap", "no transition")
    return wide["swap"] - wide["no transition"]
