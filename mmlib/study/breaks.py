"""What breaks when sets of weights are pruned or scaled, skill by skill, and what does not."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
from torch import nn

from mmlib.masks import ParameterMask
from mmlib.study.evidence import Sweep, read_evidence
from mmlib.study.likelihoods import beyond_random, desk_losses
from mmlib.study.settings import Ask
from mmlib.study.stats import paired_changes, seed_intervals, summarize
from mmlib.study.sweeps import CELL, PROBLEM, Swept, cells, swept
from mmlib.study.tables import MATH_PARTS, item_grades, published

SWEEP = Sweep("interventions", name=[*CELL, "part"], per=["condition"], by=["lang", "condition"])
SKILLS = {
    "math": [*MATH_PARTS, "gsm8k"],
    "math, ranked": ["choice-ranked"],
    "reading": ["reading-mixed"],
    "reading, ranked": ["reading-mixed-ranked", "race"],
    "knowledge, ranked": ["mmlu"],
}
"""Skills and their parts; another part is a skill of its own."""
KEPT = 0.05
"""Largest fall (lower end of the interval) of a skill that counts as kept."""


class Example(NamedTuple):
    """One set, and a model that is edited with it by hand."""

    model: nn.Module
    mask: ParameterMask
    ask: Ask


@dataclass(frozen=True)
class Breaks(Swept):
    """What `rows` gives; the answers have a column `skill`."""

    masks: pd.DataFrame
    """Sets that this run edited: `CELL`, part, mask, shipped (its digest there) and same."""
    example: Example
    """Math-specific set of the first language."""


def planned(given: Mapping[str, Any]) -> pd.DataFrame:
    """Every cell and part of the sweep, by a page's parameters.

    All conditions are pruned at every keep ratio and asked `parts`, the first two are scaled and
    asked `scale_parts`; these again at `keep_ratio` in every precision.
    """
    grid = {"languages": given["languages"], "seeds": given["seeds"]}
    first = grid | {"dtypes": given["edit_dtypes"][:1], "keep_ratios": given["keep_ratios"]}
    in_all = grid | {"dtypes": given["edit_dtypes"], "keep_ratios": [given["keep_ratio"]]}
    two, factors = given["conditions"][:2], given["factors"]
    scaled = pd.concat(
        [
            cells(**first, conditions=two, factors=factors),
            cells(**in_all, conditions=two, factors=[0.0, *factors]),
        ]
    )
    pruned = cells(**first, conditions=given["conditions"])
    tables = [
        table.merge(pd.DataFrame({"part": given[asked]}), how="cross")
        for table, asked in ((pruned, "parts"), (scaled, "scale_parts"))
    ]
    return pd.concat(tables).drop_duplicates(ignore_index=True)


def rows(given: Mapping[str, Any]) -> Breaks:
    """Prune and scale sets of every language and ask it, or take what is shipped.

    Then one cell of every condition is asked `audit_items` items per part.
    """
    seeds = given["seeds"]
    used = seeds if given["sweep"] else [seeds[given["audit_seed"] % len(seeds)]]
    done = swept(given, planned(given), SWEEP, seeds=used, dtypes=given["edit_dtypes"])
    skills = {part: skill for skill, parts in SKILLS.items() for part in parts}
    name = ["model", *CELL, "part"]
    masks = done.made.loc[done.made.condition != "none", [*name, "mask"]]
    masks = masks.merge(done.packed[[*name, "mask"]].rename(columns={"mask": "shipped"}), on=name)
    first = {"lang": given["languages"][0], "seed": used[0], "keep_ratio": given["keep_ratio"]}
    cell = first | {"condition": "math-specific", "fraction": 1.0, "sample_seed": 0}
    model = done.models[given["edit_dtypes"][0]]
    answers = done.answers.assign(skill=done.answers.part.replace(skills))
    return Breaks(
        **vars(done) | {"answers": answers},
        masks=masks.assign(same=masks["mask"] == masks.shipped),
        example=Example(model, done.sets.mask(cell), done.ask),
    )


def changes(answers: pd.DataFrame) -> pd.DataFrame:
    """What every edit does to every skill of a language, over calibration seeds.

    From `Breaks.answers`: rows of `mmlib.study.stats.paired_changes` by dtype, lang, condition,
    factor, keep_ratio and skill; `falls` marks a change for the worse that counts.
    """
    plain = answers.condition == "none"
    by = ["dtype", "lang", "condition", "factor", "keep_ratio", "skill"]
    table = paired_changes(answers[~plain], answers[plain], by=by, on=PROBLEM)
    return table.assign(falls=(table.p_holm < 0.05) & (table.difference < 0))


def math_specific(pruned: pd.DataFrame) -> pd.DataFrame:
    """May a set be called math-specific? The rule of chapter 06, by keep ratio and language.

    From `changes` in one precision, of pruned sets only: index keep_ratio and lang; a boolean
    column per condition, and `math-specific`, all of them. A skill that was not asked neither falls
    nor is kept.
    """
    table = pruned[pruned.condition == "math-specific"].set_index(["keep_ratio", "lang", "skill"])
    falls = table.falls.unstack().reindex(columns=["math", "math, ranked"]).fillna(value=False)
    low = table.low.unstack().reindex(columns=["generation", "reading", "reading, ranked"])
    rule = falls.add_suffix(" falls").join((low > -KEPT).add_suffix(" kept")).astype(bool)
    return rule.assign(**{"math-specific": rule.all(axis=1)})


def desk_scaling() -> pd.DataFrame:
    """What enlarging the English set of a real LLM does to its losses, beyond random weights.

    Returns:
        Index task and factor; mean, low and high over calibration blocks, in nats per token: below
        0 what is read becomes more likely.
    """
    costs = beyond_random(desk_losses("scaling")).set_index(["task", "factor", "seed"]).cost
    return seed_intervals(costs, ["task", "factor"])


def desk_edits() -> pd.DataFrame:
    """What a real LLM answers, unedited and with a set pruned: packed; math is strictly read."""
    return read_evidence("desk_edits")[0].drop_duplicates()


def desk_accuracy() -> pd.DataFrame:
    """Accuracy of `desk_edits` by part, condition and keep_ratio, see `summarize`."""
    return summarize(item_grades(desk_edits()), by=["part", "condition", "keep_ratio"])


def published_curves() -> pd.DataFrame:
    """The published edits of RACE-based sets: model, lang, task, intervention, keep_ratio, value.

    `what` names model and task in a word.
    """
    table = published("mathlang_interventions").query("variant == 'main' and nonmath == 'race'")
    table = table.query("metric != 'flexible' and intervention != 'none'")
    return table.assign(what=table.model.str.split("/").str[1] + ", " + table.task)


def published_controls() -> pd.DataFrame:
    """The published controls by control, task and model: count, smallest and largest value."""
    table = published("mathlang_controls").query("metric != 'flexible'")
    table = table.assign(model=table.model.str.split("/").str[1])
    return table.groupby(["control", "task", "model"]).value.agg(["count", "min", "max"])
