"""Does the training text decide sets and overlap? Organisms that differ in what they read."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mmlib.study.evidence import Measured, Numbers, take_all
from mmlib.study.profiles import profiles, trainings
from mmlib.study.settings import Asking, Sampling
from mmlib.study.stats import seed_intervals
from mmlib.study.tables import RunInfo, published_sizes

_PAIR = ["model", "lang_a", "lang_b", "control", "keep_ratio", "seed"]
NUMBERS = {
    "sizes": Numbers(
        "data_sizes", ["model", "lang", "keep_ratio", "seed"], ["n_math_specific"], 0.05
    ),
    "overlap": Numbers("data_overlap", _PAIR, ["jaccard"], 0.05),
    "accuracy": Numbers("data_accuracy", ["model", "part", "lang"], ["accuracy"], 0.05),
    "trainings": Numbers("data_trainings", ["training"], ["tokens"], 0.05),
}
"""What is shipped of it."""
LATIN = ("en", "de", "fr", "sw")
"""Languages of the organisms in Latin script."""
FACTORS = ["skewed_share", "accuracy", "text_tokens"]
"""What set sizes may go with."""


def rows(given: Mapping[str, Any]) -> Measured:
    """Profile every organism, or take what is shipped and profile one again.

    Tables "sizes" and "overlap" of the whole model and "accuracy" (see `profiles`), and
    "trainings".
    """
    names = ", ".join(name.split("/")[-1] for name in given["models"])
    run = RunInfo.collect(names, dtype=given["dtype"], parameters=given)
    read = [*given["models"], *given["cut"]]
    languages, parts, counted = given["languages"], given["parts"], [*read, *given["others"]]
    if not given["sweep"]:
        read = counted = given["audit_models"]
        languages, parts = given["audit_languages"], parts[:1]
    sampling = Sampling.of(given, languages=languages)
    asking = Asking.of(given, languages=languages, parts=parts)
    how = {"dtype": given["dtype"], "keep_ratios": given["keep_ratios"]}
    profiled = profiles(read, sampling, asking, **how)
    made = {name: profiled[name].assign(nonmath=given["nonmath"]) for name in ("sizes", "overlap")}
    made = {name: table[table.group == "global"] for name, table in made.items()}
    made |= {"accuracy": profiled["accuracy"], "trainings": trainings(counted)}
    return take_all(NUMBERS, made, run)


def by_language(sizes: pd.DataFrame, accuracy: pd.DataFrame) -> pd.DataFrame:
    """Set sizes by model and language beside what they may go with.

    From "sizes" at one keep ratio and "accuracy" of one part: mix, width, training_seed,
    n_math_specific, `size` (over the mean of the model's languages), share (of the model's text),
    and `FACTORS`; a language that the skewed mix does not have counts as Hindi.
    """
    name = ["model", "mix", "width", "training_seed", "lang"]
    table = sizes.groupby(name, sort=False)[["n_math_specific", "share", "text_tokens"]].mean()
    table = table.reset_index().merge(
        accuracy[["model", "lang", "accuracy"]], on=["model", "lang"], how="left"
    )
    mean = table.groupby("model").n_math_specific.transform("mean")
    shares = table[table.mix == "skewed"].groupby("lang").share.first()
    skewed = table.lang.map(shares).fillna(shares.get("hi"))
    return table.assign(size=table.n_math_specific / mean, skewed_share=skewed)


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation of set size with each of `FACTORS`, over the languages of each model.

    Index width, mix, model; missing where a factor does not vary.
    """
    ranks = table.groupby(["width", "mix", "model"])[["size", *FACTORS]].corr("spearman")["size"]
    return ranks.unstack()[FACTORS]


def over_trainings(ranks: pd.DataFrame) -> pd.DataFrame:
    """Mean and interval of `correlations` over the trainings of a mix."""
    long = ranks.rename_axis(columns="factor").stack(future_stack=True).dropna().rename("rho")
    return seed_intervals(long, ["width", "mix", "factor"])


def language_pairs(overlap: pd.DataFrame) -> pd.DataFrame:
    """Overlaps of two languages, with `pair` and the `scripts` of its two.

    Romanised Hindi is called hi: its pairs stand beside those of Hindi, under its usual script.
    """
    table = overlap[overlap.control == "two languages"]
    a, b = (table[side].replace("hi-Latn", "hi") for side in ("lang_a", "lang_b"))
    words = {2: "both Latin", 1: "one Latin", 0: "neither"}
    scripts = (a.isin(LATIN).astype(int) + b.isin(LATIN)).map(words)
    return table.assign(a=a, b=b, pair=a + "-" + b, scripts=scripts)


def spread(table: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Mean, low and high of a value, lowest and highest of the trainings."""
    ends = table.groupby(list(by), sort=False)[value].agg(mean="mean", low="min", high="max")
    return ends.reset_index()


def published_ratios(keep_ratio: float) -> pd.Series:
    """How much larger the English set is than the Hindi one, see `tables.published_sizes`."""
    theirs = published_sizes()
    theirs = theirs[(theirs.group == "global") & (theirs.keep_ratio == keep_ratio)]
    sizes = theirs.pivot(index="model", columns="lang", values="n_math_specific")
    return sizes.en / sizes.hi
