"""What running sums in bfloat16 do to sets of weights and to the numbers made from them."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.forward import batches
from mmlib.importance import ImportanceScores, selection_size
from mmlib.masks import jaccard
from mmlib.study.ceilings import growing_scores
from mmlib.study.evidence import Numbers, read_evidence
from mmlib.study.localisation import (
    Key,
    draw_samples,
    math_sets,
    norms_by_prompt,
    published_sums,
)
from mmlib.study.settings import Asking, Loading
from mmlib.study.stats import paired_changes
from mmlib.study.sweeps import Sets, cells, sweep
from mmlib.study.tables import RunInfo, unpack_answers
from mmlib.tasks.problems import Calibration


def growing_sums(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sample: Calibration,
    sizes: Sequence[int],
) -> dict[int, ImportanceScores]:
    """Scores summed as published over the first n texts of a sample, for every n of `sizes`.

    Args:
        model: As in `mmlib.study.localisation.published_sums`.
        tokenizer: Its tokenizer.
        sample: Calibration texts, in the order in which they are added.
        sizes: Numbers of texts, from 1 to the size of the sample.

    Raises:
        ValueError: There are not as many texts.
    """
    if not sizes or not 1 <= min(sizes) <= max(sizes) <= len(sample.texts):
        raise ValueError(f"sizes={list(sizes)}: give numbers from 1 to {len(sample.texts)}")
    texts = batches(tokenizer, sample.texts[: max(sizes)], sort=False)
    running = enumerate(published_sums(model, norms_by_prompt(model, texts)), 1)
    # The shipped rows give ties to the lower index.
    return {n: replace(scores.copy(), ties="index") for n, scores in running if n in sizes}


def tied(scores: ImportanceScores, keep_ratio: float) -> float:
    """Share of a top-K set whose scores equal the lowest score in it, over all matrices.

    Of these, and of the equal scores outside, only the order of the indices says which are in.
    """
    equal = kept = 0
    for name in scores.weights:
        values = scores.matrix(name).flatten()
        size = selection_size(values.numel(), keep_ratio)
        if size:
            top = torch.topk(values, size).values
            equal, kept = equal + int((top == top[-1]).sum()), kept + size
    return equal / kept


def compare(
    rounded: Mapping[Key, ImportanceScores],
    exact: Mapping[Key, ImportanceScores],
    *,
    math: str,
    nonmath: str,
    keep_ratios: Sequence[float],
) -> pd.DataFrame:
    """Every number of the overlap study from rounded and from exact sums.

    Args:
        rounded: Scores with low precision.
        exact: Scores of the same languages, tasks and seeds with high precision.
        math: Task of the math scores.
        nonmath: Task of the others.
        keep_ratios: Shares of each matrix to keep.

    Returns:
        One row per number: lang_a, lang_b (equal where it is about one language), seed,
        keep_ratio, what, value (from rounded sums) and exact. `what` is "membership" (Jaccard of
        the two math-specific sets of a language), "top-K membership" (of its two top-K sets on
        math), "ties" (see `tied`, on math), "set size", or "overlap" (Jaccard of two languages).
    """
    rows = []
    for ratio, seed in itertools.product(keep_ratios, dict.fromkeys(key[2] for key in exact)):
        sets = [math_sets(scores, math, nonmath, ratio, seed) for scores in (rounded, exact)]
        for code in sets[0]:
            low, high = (found[code] for found in sets)
            pair = [scores[code, math, seed] for scores in (rounded, exact)]
            top = jaccard(*(scores.top(ratio) for scores in pair))
            about = (code, code, seed, ratio)
            rows.append((*about, "membership", jaccard(low, high), 1.0))
            rows.append((*about, "top-K membership", top, 1.0))
            rows.append((*about, "ties", *(tied(scores, ratio) for scores in pair)))
            rows.append((*about, "set size", len(low), len(high)))
        for a, b in itertools.combinations(sets[0], 2):
            both = [jaccard(found[a], found[b]) for found in sets]
            rows.append((a, b, seed, ratio, "overlap", *both))
    names = ["lang_a", "lang_b", "seed", "keep_ratio", "what", "value", "exact"]
    return pd.DataFrame(rows, columns=names)


NUMBERS = Numbers(
    "precision",
    ["model", "lang_a", "lang_b", "seed", "keep_ratio", "what", "num_samples"],
    ["value", "exact"],
    tolerance=0.02,
)


class Precision(NamedTuple):
    """What `rows` gives."""

    table: pd.DataFrame
    """Rows of `compare` with num_samples, model and nonmath, of this and of other models."""
    made: pd.DataFrame
    """Those that this run computed."""
    audited: pd.DataFrame
    """See `mmlib.study.evidence.audit_values`."""
    answers: pd.DataFrame
    """Packed answers after pruning the sets by either sum, with a column `sums`."""
    problems: pd.DataFrame
    """What was asked: part, problem_id."""
    run: RunInfo


def rows(given: Mapping[str, Any]) -> Precision:
    """Sum in both ways and prune by either, or take what is shipped and sum one language again.

    Args:
        given: Parameters of the page.

    Raises:
        ValueError: As in `draw_samples` and `growing_sums`.
        AuditError: What was computed again is not what was shipped.
    """
    loading, every = Loading.of(given), given["sweep"]
    model, tokenizer = loading.load()
    run = loading.run(model, given)
    languages, seeds, most = given["languages"], given["seeds"], given["num_samples"]
    if not every:
        languages = [languages[given["audit_seed"] % len(languages)]]
        seeds, most = seeds[:1], given["audit_prompts"]
    sizes = [n for n in given["prompts"] if n <= most]
    tasks = {name: given[name] for name in ("math", "nonmath")}
    texts = {name: given[name] for name in ("num_samples", "data_dir")}
    samples = draw_samples(list(tasks.values()), languages, seeds, **texts)
    sums = {
        name: {key: add(model, tokenizer, sample, sizes) for key, sample in samples.items()}
        for name, add in {"bfloat16": growing_sums, "float32": growing_scores}.items()
    }
    tables = []
    for n in sizes:
        pair = [{key: scores[n] for key, scores in growing.items()} for growing in sums.values()]
        table = compare(*pair, **tasks, keep_ratios=given["keep_ratios"])
        tables.append(table.assign(num_samples=n))
    made = pd.concat(tables, ignore_index=True).assign(model=run.model, nonmath=given["nonmath"])
    table, audited = NUMBERS.take(made, sweep=every)
    asking = Asking.of(given)
    if every and given["items"]:
        same = given["edit_dtype"] == given["dtype"]
        edited = model if same else loading.load(given["edit_dtype"])[0]
        wanted = cells(
            languages=languages,
            seeds=seeds,
            dtypes=[given["edit_dtype"]],
            keep_ratios=given["keep_ratios"],
            conditions=["math-specific"],
        ).merge(pd.DataFrame({"part": given["parts"]}), how="cross")
        answers = pd.concat(
            [
                sweep(
                    {given["edit_dtype"]: edited},
                    Sets({key: scores[sizes[-1]] for key, scores in growing.items()}, **tasks),
                    wanted,
                    asking.ask(tokenizer),
                ).assign(sums=name)
                for name, growing in sums.items()
            ],
            ignore_index=True,
        ).assign(model=run.model)
    else:
        answers = read_evidence("precision_answers")[0]
    return Precision(
        table=table,
        made=made,
        audited=audited,
        answers=answers,
        problems=asking.problems(given["languages"][0]),
        run=run,
    )


def shifts(table: pd.DataFrame) -> pd.DataFrame:
    """How rounded sums change set sizes and overlaps.

    Args:
        table: See `Precision`.

    Returns:
        Its rows of the two, with `change`: of sizes as a share of the exact one.
    """
    table = table[table.what.isin(["set size", "overlap"])]
    scale = table.exact.where(table.what == "set size", 1.0)
    return table.assign(change=(table.value - table.exact) / scale)


def pruned_by_either(sums: Precision, seed: int) -> pd.DataFrame:
    """Accuracy after pruning the set by bfloat16 sums (accuracy) and by exact ones (plain).

    Args:
        sums: Result of `rows`.
        seed: Calibration seed.

    Returns:
        Rows of `mmlib.study.stats.paired_changes` by keep_ratio and lang.
    """
    answers = unpack_answers(sums.answers, sums.problems)
    answers = answers[(answers.condition != "none") & (answers.seed == seed)]
    sides = {name: side.drop(columns="sums") for name, side in answers.groupby("sums")}
    by = ["keep_ratio", "lang"]
    on = [*by, "part", "problem_id"]
    return paired_changes(sides["bfloat16"], sides["float32"], by=by, on=on)
