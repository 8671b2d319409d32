"""When does the overlap come? Profiles along trainings, and of models of several sizes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mmlib.study.evidence import Measured, Numbers, take_all
from mmlib.study.profiles import answer_losses, beyond_random, profiles, snapshots
from mmlib.study.settings import Asking, Sampling
from mmlib.study.stats import halfway
from mmlib.study.tables import RunInfo

TRAINING = ["width", "training_seed"]
"""What names a training."""
CHECKPOINT = [*TRAINING, "model", "step"]
"""What names a snapshot."""
_WHERE = ["model", "group", "layer", "seed"]
_TRAVEL = ["model", "weights", "drawn", "edited", "lang"]
NUMBERS = {
    "sizes": Numbers("emergence_sizes", [*_WHERE, "lang"], ["n_math_specific"], 0.05),
    "overlap": Numbers(
        "emergence_overlap", [*_WHERE, "lang_a", "lang_b", "control"], ["jaccard"], 0.05
    ),
    "accuracy": Numbers("emergence_accuracy", ["model", "part", "lang"], ["accuracy"], 0.05),
    "travel": Numbers("emergence_travel", _TRAVEL, ["accuracy"], 0.05),
    "loss": Numbers("emergence_loss", ["model", "lang"], ["loss"], 0.05),
}
"""What is shipped of it."""


def rows(given: Mapping[str, Any]) -> Measured:
    """Profile every snapshot, or take what is shipped and profile a few again.

    Tables "sizes", "overlap", "accuracy" and "travel" (see `profiles`; of overlaps by layer those
    of the first seed), and "loss" (see `answer_losses`).
    """
    names = ", ".join(name.split("/")[-1] for name in given["runs"])
    run = RunInfo.collect(names, dtype=given["dtype"], parameters=given)
    along = [name for folder in given["runs"] for name in (*snapshots(folder), folder)]
    read, languages, edited = along, given["languages"], given["edited"]
    if not given["sweep"]:
        read, languages, edited = given["audit_runs"], given["audit_languages"], edited[:1]
    where = {"languages": languages, "dtype": given["dtype"], "data_dir": given["data_dir"]}
    sampling, asking = (kind.of(given, languages=languages) for kind in (Sampling, Asking))
    how = {"edited": edited, "edit_ratio": given["edit_ratio"], "dtype": given["dtype"]}
    made = profiles(read, sampling, asking, keep_ratios=[given["keep_ratio"]], **how)
    made["loss"] = answer_losses(read, task=given["math"], number=given["loss_items"], **where)
    by_layer = "group == 'layer' and control == 'two languages'"
    by_layer += f" and seed == {given['seeds'][0]}"
    made["overlap"] = made["overlap"].query("group == 'global' or " + by_layer)
    made["sizes"] = made["sizes"].query("group == 'global'").assign(nonmath=given["nonmath"])
    return take_all(NUMBERS, made, run)


def summarize(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per snapshot: means over languages and over pairs of languages.

    From the tables of `rows`: `CHECKPOINT`, finished (a training's end; these have the largest step
    of their width), a column per part (accuracy), overlap, ceiling, "other way round", "set size"
    (as a share of the top-K), "answer loss" (nats per token).
    """
    overlap = tables["overlap"][tables["overlap"].group == "global"]
    jaccard = overlap.groupby(["control", *CHECKPOINT]).jaccard.mean()
    sizes = tables["sizes"]
    share = (sizes.n_math_specific / sizes.n_topk).rename("share")
    asked = tables["accuracy"].pivot(index=[*CHECKPOINT, "lang"], columns="part", values="accuracy")
    asked = asked.groupby(CHECKPOINT).mean()
    measured = {
        "overlap": jaccard["two languages"],
        "ceiling": jaccard.get("same language", np.nan),
        "other way round": jaccard["nonmath-specific"],
        "set size": sizes.assign(share=share).groupby(CHECKPOINT).share.mean(),
        "answer loss": tables["loss"].groupby(CHECKPOINT).loss.mean(),
    }
    table = asked.join(pd.DataFrame(measured, index=asked.index)).reset_index()
    table = table.sort_values([*TRAINING, "step"])
    table["finished"] = table.step == table.groupby(TRAINING).step.transform("max")
    table.loc[table.finished, "step"] = table.groupby("width").step.transform("max")
    return table


def halves(trained: pd.DataFrame, rising: Sequence[str], falling: Sequence[str]) -> pd.DataFrame:
    """The step at which each quantity is halfway to its end, see `mmlib.study.stats.halfway`.

    From `summarize`, of columns that rise and of others that fall (halfway on the way down): a row
    per width and training_seed with more than two snapshots.
    """
    rows = {}
    for training, part in trained.set_index("step").groupby(TRAINING):
        if part.index.nunique() > 2:
            signed = {name: part[name] for name in rising} | {name: -part[name] for name in falling}
            rows[training] = {name: halfway(values) for name, values in signed.items()}
    index = pd.MultiIndex.from_tuples(list(rows), names=TRAINING)
    return pd.DataFrame(list(rows.values()), index, [*rising, *falling])


def layers(tables: Mapping[str, pd.DataFrame], summary: pd.DataFrame) -> pd.DataFrame:
    """Jaccard of two languages by layer, with the steps of `summarize`."""
    table = tables["overlap"][tables["overlap"].group == "layer"]
    return table.assign(step=table.model.map(summary.set_index("model").step))


def edit_losses(tables: Mapping[str, pd.DataFrame], summary: pd.DataFrame) -> pd.DataFrame:
    """Result of `beyond_random`, with the steps of `summarize`, and who is `asked`."""
    table = beyond_random(tables["travel"], CHECKPOINT)
    table["step"] = table.model.map(summary.set_index("model").step)
    return table.assign(asked=np.where(table.edited == table.lang, "itself", "another"))


def across_sizes(
    tables: Mapping[str, pd.DataFrame], summary: pd.DataFrame, models: Sequence[str]
) -> pd.DataFrame:
    """The ends of trainings of several sizes, by model, with `parameters`, in their order.

    Returns:
        Columns of `summarize`, parameters, and "en / hi", how much larger the English set is than
        the Hindi one (missing where a language was not profiled).
    """
    sizes = tables["sizes"]
    counts = sizes.groupby("model").parameters.first()
    of = sizes.pivot_table(index="model", columns="lang", values="n_math_specific")
    ratio = of["en"] / of["hi"] if {"en", "hi"} <= set(of) else pd.Series(np.nan, of.index)
    table = summary[summary.model.isin(models)].set_index("model")
    return table.assign(**{"parameters": counts, "en / hi": ratio}).sort_values("parameters")


def followed(summary: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """The snapshots of the trainings of some models, all where there are none; `size` in words."""
    training = pd.MultiIndex.from_frame(summary[TRAINING])
    mine = training.isin(training[summary.model.isin(models)])
    table = summary[mine] if mine.any() else summary
    return table.assign(size="width " + table.width.astype(int).astype(str))
