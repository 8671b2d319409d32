"""In which way answers are wrong: kinds of error, by a rule that raters were asked to follow."""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mmlib.study.evidence import read_evidence
from mmlib.study.settings import Asking
from mmlib.study.stats import paired_changes
from mmlib.study.sweeps import CELL, PROBLEM, worked_solutions
from mmlib.study.tables import RunInfo, unpack_answers
from mmlib.tasks import skills
from mmlib.tasks.errors import KINDS, error_kind, recovered

RIGHT = "right"
"""In place of a kind of error."""


class Mistakes(NamedTuple):
    """What `rows` gives."""

    labelled: pd.DataFrame
    """Answers that two raters labelled: item, task, lang, …, rater_a, rater_b, classifier."""
    spoilt: pd.DataFrame
    """Result of `mmlib.tasks.errors.recovered`."""
    packed: pd.DataFrame
    """Shipped answers to math, see `mmlib.study.tables.pack_answers`."""
    answers: pd.DataFrame
    """The same, one row per cell and problem: `CELL`, part, correct, kind, …"""
    run: RunInfo


def rows(given: Mapping[str, Any]) -> Mistakes:
    """Classify labelled answers and spoilt solutions, and read the errors behind the edits."""
    languages, asking = given["languages"], Asking.of(given)
    labelled = read_evidence("labelled_errors")[0].query("lang in @languages")
    task, folder, kinds = "organism-math", given["data_dir"], []
    solutions = worked_solutions([task], languages, folder)
    for row in labelled.itertuples():
        solution = solutions[row.task, row.lang, row.problem_id]
        kinds.append(
            error_kind(row.response, row.target, row.lang, solution=solution, by_step=True)
        )
    known = {code: skills.documents(task, code, folder or None) for code in languages}
    known = pd.concat(
        pd.DataFrame(part[: given["spoilt"]]).assign(lang=code) for code, part in known.items()
    )
    packed = read_evidence("interventions")[0].drop_duplicates(["model", *CELL, "part"])
    packed = packed[packed.model == given["model"]]
    packed = packed[packed.lang.isin(languages) & packed.part.isin(given["parts"])]
    answers = unpack_answers(packed, asking.problems(languages[0]))
    grade = {"1": RIGHT} | {kind[0]: kind for kind in KINDS}
    return Mistakes(
        labelled=labelled.assign(classifier=kinds),
        spoilt=recovered(known, others=["en", "de"]),
        packed=packed,
        answers=answers.assign(kind=answers.grade.map(grade)),
        run=RunInfo.collect(given["model"], dtype=given["edit_dtype"], parameters=given),
    )


def rater_agreement(labelled: pd.DataFrame) -> pd.DataFrame:
    """How far both raters and the classifier agree beyond chance, by statsmodels.

    From `Mistakes.labelled`, a row per pair: rater_a, rater_b, n, same (answers with the same
    label), kappa (Cohen's), low, high (asymptotic 95 % interval, cut at 1).

    Raises:
        ValueError: A label that is none of `KINDS`.
    """
    from statsmodels.stats.inter_rater import cohens_kappa

    if unknown := sorted(
        {*labelled[["rater_a", "rater_b", "classifier"]].to_numpy().flat} - {*KINDS}
    ):
        raise ValueError(f"label {unknown[0]!r}: choose from {', '.join(KINDS)}")
    rows = []
    for a, b in itertools.combinations(["rater_a", "rater_b", "classifier"], 2):
        counts = pd.crosstab(labelled[a], labelled[b])
        counts = counts.reindex(index=KINDS, columns=KINDS, fill_value=0).to_numpy()
        kappa = cohens_kappa(counts)
        same, high = int(np.trace(counts)), min(float(kappa.kappa_upp), 1.0)
        rows.append((a, b, len(labelled), same, float(kappa.kappa), float(kappa.kappa_low), high))
    return pd.DataFrame(rows, columns=["rater_a", "rater_b", "n", "same", "kappa", "low", "high"])


def shares(answers: pd.DataFrame) -> pd.DataFrame:
    """Share of every kind of answer by condition, keep ratio and language."""
    by = [answers.condition, answers.keep_ratio, answers.lang]
    table = pd.crosstab(by, answers.kind, normalize="index")
    return table.reindex(columns=[RIGHT, *KINDS], fill_value=0.0)


def flips(answers: pd.DataFrame) -> pd.DataFrame:
    """Every answer after an edit beside that before it.

    The rows of edited models in `Mistakes.answers`, with kind_before, correct_before and the
    booleans corrected, broken and corrected_slips (corrected, and a slip before).
    """
    plain = answers.condition == "none"
    before = answers.loc[plain, [*PROBLEM, "kind", "correct"]]
    table = answers[~plain].merge(before, on=PROBLEM, suffixes=("", "_before"))
    corrected = table.correct & ~table.correct_before
    return table.assign(
        corrected=corrected,
        broken=~table.correct & table.correct_before,
        corrected_slips=corrected & (table.kind_before == "slip"),
    )


def flip_counts(answers: pd.DataFrame) -> pd.DataFrame:
    """Flips by scaling, and the smallest p-value among its changes.

    From `Mistakes.answers`: index dtype, factor, condition; corrected, corrected_slips, broken and
    smallest_p_holm (sign test over the problems of one language and keep ratio, Holm over all).
    """
    table, by = flips(answers), ["dtype", "factor", "condition"]
    scaled = table[table.factor > 0]
    counts = scaled.groupby(by, sort=False)[["corrected", "corrected_slips", "broken"]].sum()
    plain = answers[answers.condition == "none"]
    tests = paired_changes(scaled, plain, by=[*by, "keep_ratio", "lang"], on=PROBLEM)
    return counts.assign(smallest_p_holm=tests.groupby(by).p_holm.min())
