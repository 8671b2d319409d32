"""What running sums in bfloat16 do to sets of weights and to the numbers made from them."""

import itertools
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.forward import batches
from mmlib.importance import ImportanceScores, selection_size
from mmlib.masks import jaccard
from mmlib.study.localisation import Key, math_sets, published_sums
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
    running = enumerate(published_sums(model, texts), 1)
    return {n: scores.copy() for n, scores in running if n in sizes}


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
