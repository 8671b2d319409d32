"""Which neurons fire, and which layers that selects: draws of questions, readings, resamples."""

from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
import pandas as pd

from mmlib.neurons import (
    Aggregation,
    Denominator,
    Firing,
    overlap_with_english,
    ranges,
    select_layers,
)
from mmlib.tasks.problems import load_problems


def draw_questions(
    task: str,
    languages: Sequence[str],
    *,
    number: int,
    seed: int,
    data_dir: str = "",
    split: str = "calibration",
) -> dict[str, list[str]]:
    """Draw the same questions in several languages, as they are asked, without their answers.

    Args:
        task: See `mmlib.tasks.problems.load_problems`.
        languages: ISO 639-1 codes.
        number: Questions per language, without replacement.
        seed: Of the draw.
        data_dir: As in `load_problems`.
        split: What is drawn from; layers are selected on text that grades nothing.

    Returns:
        Language -> prompts, of the same problems in the same order.

    Raises:
        ValueError: Fewer problems than that are there in all languages.
    """
    prompts = {}
    for code in languages:
        problems = load_problems(task, code, data_dir=data_dir or None, split=split)
        prompts[code] = {problem.id: problem.prompt for problem in problems}
    shared = sorted(set.intersection(*map(set, prompts.values())))
    if not 0 < number <= len(shared):
        raise ValueError(f"number={number}: {len(shared)} problems of {task} are in all languages")
    chosen = np.random.default_rng(seed).choice(shared, number, replace=False)
    return {code: [own[i] for i in chosen] for code, own in prompts.items()}


def overlap_by_question(
    firings: Mapping[str, Firing],
    *,
    english: str = "en",
    threshold: float = 0.5,
    of: Denominator = "english",
) -> pd.DataFrame:
    """As `overlap_with_english`, with the sets of every question for themselves: their mean.

    Args:
        firings: Language -> counts of the same questions in the same order.
        english: See there.
        threshold: See there; of the tokens of one question.
        of: See there.
    """
    questions = min(len(firing.tokens) for firing in firings.values())
    found = [
        overlap_with_english(
            {x: f.counts[q] / f.tokens[q] for x, f in firings.items()},
            english=english,
            threshold=threshold,
            of=of,
        )
        for q in range(questions)
    ]
    return pd.concat(found).groupby(level="layer").mean()


def bootstrap_layers(
    firings: Mapping[str, Firing],
    *,
    draws: int = 200,
    seed: int = 0,
    aggregation: Aggregation = "token_rate",
    english: str = "en",
    threshold: float | None = 0.5,
    of: Denominator = "english",
    **selecting: int | bool | None,
) -> pd.DataFrame:
    """How often each layer is selected when other questions had been drawn.

    Args:
        firings: Language -> counts of the same questions in the same order.
        draws: Resamples of the questions, with replacement; the same for all languages.
        seed: Of the resamples.
        aggregation: See `Firing.rates`.
        english: See `overlap_with_english`, as `threshold` and `of`.
        threshold: See there.
        of: See there.
        **selecting: Further arguments of `select_layers`.

    Returns:
        A row per layer: `selected`, the share of resamples that select it, and `peak`, the share
        that has the peak there; resamples without a selection count in neither.

    Raises:
        ValueError: Languages with different numbers of questions.
    """
    sizes = {language: len(f.tokens) for language, f in firings.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"languages have different numbers of questions: {sizes}")
    (n,), rng = set(sizes.values()), np.random.default_rng(seed)
    layers = next(iter(firings.values())).counts.shape[1]
    found, cut = np.zeros((layers, 2)), 0.5 if threshold is None else threshold
    for _ in range(draws):
        weights = rng.multinomial(n, np.full(n, 1 / n))
        rates = {x: f.rates(aggregation, weights, cut) for x, f in firings.items()}
        overlap = overlap_with_english(rates, english=english, threshold=threshold, of=of)
        try:
            chosen = select_layers(ranges(rates), overlap, **selecting)
        except ValueError:
            continue
        found[chosen.layers, 0] += 1
        found[chosen.peak, 1] += 1
    return pd.DataFrame(found / draws, columns=["selected", "peak"]).rename_axis("layer")


OVERLAPS = {
    "of English": {"of": "english"},
    "of the other": {"of": "other"},
    "of both": {"of": "union"},
    "rates": {"threshold": None},
    "of English, above .3": {"threshold": 0.3},
    "of English, above .7": {"threshold": 0.7},
    "of English, by question": {"by_question": True},
}
"""Ways to measure the overlap with English: options of `overlap_with_english`, or the sets of every
question for themselves (`overlap_by_question`)."""


def sensitivity(
    firings: Mapping[str, Firing],
    *,
    aggregations: Sequence[Aggregation] = get_args(Aggregation),
    overlaps: Mapping[str, Mapping] = OVERLAPS,
    english: str = "en",
    threshold: float = 0.5,
    last: bool = False,
) -> pd.DataFrame:
    """The selection under several readings of what the paper leaves open.

    Args:
        firings: Language -> counts of the same questions in the same order.
        aggregations: See `Firing.rates`.
        overlaps: See `OVERLAPS`.
        english: See there.
        threshold: See there.
        last: See `select_layers`.

    Returns:
        One row per aggregation, overlap and end (of the candidates, before the peak or with it):
        layers (joined by blanks), peak, theta, reason (why there are none, else empty).
    """
    rows, how = [], {"english": english, "threshold": threshold}
    by_question = {
        name: overlap_by_question(firings, **how)
        for name, options in overlaps.items()
        if options.get("by_question")
    }
    for aggregation in aggregations:
        rates = {x: f.rates(aggregation, threshold=threshold) for x, f in firings.items()}
        measured = {
            name: overlap_with_english(rates, **how | dict(options))
            for name, options in overlaps.items()
            if name not in by_question
            and (aggregation != "set" or "threshold" not in options)  # 0 and 1 have no other
        }
        for name, overlap in (measured | by_question).items():
            for end in ("before the peak", "with the peak"):
                try:
                    inclusive = end == "with the peak"
                    chosen = select_layers(ranges(rates), overlap, last=last, inclusive=inclusive)
                    told = (" ".join(map(str, chosen.layers)), chosen.peak, chosen.threshold, "")
                except ValueError as error:
                    told = ("", None, np.nan, str(error))
                rows.append((aggregation, name, end, *told))
    columns = ["aggregation", "overlap", "candidates", "layers", "peak", "theta", "reason"]
    return pd.DataFrame(rows, columns=columns).astype({"peak": "Int64"})
