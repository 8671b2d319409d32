"""Do edits travel? Prune what belongs to one language, ask every language."""

import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import pandas as pd
from torch import nn

from mmlib.edits import pruned
from mmlib.importance import ImportanceScores
from mmlib.masks import ParameterMask, digest, random_mask
from mmlib.overlap import overlap_table
from mmlib.study.localisation import Key, math_sets
from mmlib.study.stats import equivalence
from mmlib.study.tables import pack_answers

WEIGHTS = {
    "whole": "T, the math-specific set of a language",
    "own": "what the set of a language has and the set of no other language has",
    "shared": "what the sets of all languages have in common",
}
"""What is pruned."""
RANDOM = "random "
"""Before a kind of weights: as many weights of every matrix, drawn at random."""
WITHIN = "within "
"""Before own or shared: as many weights of the whole set of a language, drawn once per set."""
ALL = "all"
"""In place of a language: the shared part belongs to none."""
CELL = ["weights", "edited", "keep_ratio", "seed", "sample_seed"]
"""What names an edit: the weights, whose they are, and the seeds of both draws."""


def edits(
    *,
    languages: Sequence[str],
    keep_ratios: Sequence[float],
    seeds: Sequence[int],
    sample_seeds: Sequence[int] = (1,),
    weights: Sequence[str] = tuple(WEIGHTS),
) -> pd.DataFrame:
    """The edits of all languages, each beside its random counterparts, of the matrix and the set.

    Args:
        languages: ISO 639-1 codes, two or more: the shared and the own parts are relative to them.
        keep_ratios: K.
        seeds: Calibration seeds.
        sample_seeds: Seeds of the random counterparts.
        weights: Some of `WEIGHTS`.

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
    rows: list[tuple] = [("none", "", 0.0, 0, 0)]
    for name, ratio, seed in itertools.product(weights, keep_ratios, seeds):
        whose = (ALL,) if name == "shared" else languages
        for edited in whose:
            rows.append((name, edited, ratio, seed, 0))
            rows += [(RANDOM + name, edited, ratio, seed, draw) for draw in sample_seeds]
        if name != "whole":
            rows += [(WITHIN + name, code, ratio, seed, sample_seeds[0]) for code in languages]
    return pd.DataFrame(rows, columns=CELL)


def parts_of(sets: Mapping[str, ParameterMask]) -> dict[tuple[str, str], ParameterMask]:
    """Split the sets of languages into what `WEIGHTS` tells.

    Args:
        sets: Language -> its set, two or more, over the same weights.

    Returns:
        (weights, language) -> set; the language of "shared" is `ALL`.
    """
    found = {("whole", code): mask for code, mask in sets.items()}
    for code, mask in sets.items():
        others = [other for name, other in sets.items() if name != code]
        found["own", code] = mask - reduce(ParameterMask.__or__, others)
    return found | {("shared", ALL): reduce(ParameterMask.__and__, sets.values())}


def transfer(
    model: nn.Module,
    scores: Mapping[Key, ImportanceScores],
    wanted: pd.DataFrame,
    ask: Callable[..., pd.DataFrame],
    *,
    math: str,
    nonmath: str,
) -> pd.DataFrame:
    """Prune, ask every language, undo; once per edit.

    Args:
        model: The model that is edited; in any precision, with the weights that were scored.
        scores: Result of `localisation.score_samples`, for all languages that the shared and
            the own parts are relative to.
        wanted: Edits, see `edits`; with columns `lang` and `part` one row per language and part
            that is asked (all parts of an edit in all its languages are asked).
        ask: Called with the model, perhaps with `languages=[…]` and `parts=[…]`; returns the
            answers, as `mmlib.tasks.evaluation.part_answers` does.
        math: Task of the math scores.
        nonmath: Task of the others.

    Returns:
        Packed answers (see `tables.pack_answers`) of every edit, language and part, with
        `n_weights` (how many were pruned) and `mask` (a digest of the set).
    """
    made: dict[tuple, dict] = {}
    tables = []
    for values, rows in wanted.groupby(CELL, sort=False):
        cell = dict(zip(CELL, values, strict=True))
        given = {"lang": "languages", "part": "parts"}
        only = {given[c]: list(dict.fromkeys(rows[c])) for c in given if c in rows}
        if cell["weights"] == "none":
            answers, about = ask(model, **only), {"n_weights": 0, "mask": ""}
        else:
            of = (cell["keep_ratio"], cell["seed"])
            # One pair of K and seed at a time: every part is a mask of the whole model.
            if of not in made:
                made = {of: parts_of(math_sets(scores, math, nonmath, *of))}
            mask = _mask(made[of], cell)
            with pruned(model, mask) as count:
                answers, about = ask(model, **only), {"n_weights": count, "mask": digest(mask)}
        answers = answers.assign(grade=answers.correct.map({True: "1", False: "0"}), **cell)
        tables.append(pack_answers(answers, by=[*CELL, "lang", "part"]).assign(**about))
    return pd.concat(tables, ignore_index=True)


def _mask(parts: Mapping[tuple[str, str], ParameterMask], cell: Mapping[str, Any]) -> ParameterMask:
    weights, edited = cell["weights"], cell["edited"]
    seed = zlib.crc32(" ".join(str(cell[column]) for column in CELL).encode())
    if weights.startswith(RANDOM):
        return random_mask(parts[weights.removeprefix(RANDOM), edited], seed=seed)
    if weights.startswith(WITHIN):
        name = weights.removeprefix(WITHIN)
        like = parts[name, ALL if name == "shared" else edited]
        return random_mask(like, seed=seed, among=parts["whole", edited])
    return parts[weights, edited]


def losses(
    answers: pd.DataFrame, by: Sequence[str], *, margin: float = 0.02, against: str = RANDOM
) -> pd.DataFrame:
    """What each edit costs each language beyond as many random weights, and whether it counts.

    Args:
        answers: One row per problem: `CELL`, lang, part, problem_id, correct.
        by: Columns that are kept apart besides the edit and the language asked.
        margin: Largest difference that is called no change.
        against: `RANDOM`, weights of every matrix, or `WITHIN`, weights of the set (of all sets,
            their mean, for the shared part); the latter for the own and the shared part only.

    Returns:
        One row per edit and language: edited, lang, weights, `by` and the columns of
        `stats.equivalence`; `difference` is accuracy after the random edit minus accuracy
        after the edit. Weights drawn within a set are compared with as many of every matrix too.
    """
    kind = answers.weights.where(answers.weights.isin(WEIGHTS))
    if against == WITHIN:
        drawn = answers[answers.weights.str.startswith(WITHIN)]
        control = drawn.assign(weights=drawn.weights.str.removeprefix(WITHIN))
        control.loc[control.weights == "shared", "edited"] = ALL
        edited = answers[kind.isin(control.weights)]
    else:
        drawn = answers[answers.weights.str.startswith(RANDOM)]
        control = drawn.assign(weights=drawn.weights.str.removeprefix(RANDOM))
        edited = answers[kind.notna() | answers.weights.str.startswith(WITHIN)]
        control = pd.concat([control, _for_within(control, edited)])
    name = ["weights", "edited", "lang", *dict.fromkeys(by)]
    on = [c for c in ("keep_ratio", "seed", "part", "problem_id") if c not in name]
    return equivalence(edited, control, by=name, on=on, margin=margin)


def _for_within(random: pd.DataFrame, edited: pd.DataFrame) -> pd.DataFrame:
    """The random counterparts once more, for the weights drawn within sets."""
    tables = []
    for kind, whose in edited.groupby("weights", sort=False).edited.unique().items():
        if kind.startswith(WITHIN):
            same = random[random.weights == kind.removeprefix(WITHIN)].assign(weights=kind)
            if (same.edited == ALL).all():
                same = same.drop(columns="edited")
                same = same.merge(pd.Series(whose, name="edited"), how="cross")
            tables.append(same)
    return pd.concat(tables) if tables else random[:0]


def predictors(sets: Mapping[str, ParameterMask]) -> pd.DataFrame:
    """What the overlap of two sets says about an edit of one and its effect on the other.

    Returns:
        One row per ordered pair of different languages: edited, lang, jaccard, covered (the share
        of the set of `lang` that lies in that of `edited`), pruned (size of the set of `edited`).
    """
    rows = overlap_table(sets).query("group == 'global'")
    sizes = {"size_a": "pruned", "size_b": "of"}
    forth = rows.rename(columns={"lang_a": "edited", "lang_b": "lang", **sizes})
    sizes = {"size_b": "pruned", "size_a": "of"}
    back = rows.rename(columns={"lang_b": "edited", "lang_a": "lang", **sizes})
    table = pd.concat([forth, back], ignore_index=True)
    table["covered"] = table.intersection / table.of
    return table[["edited", "lang", "jaccard", "covered", "pruned"]]
