"""Localise math weights in every language and compare them: the first study, one call per step."""

from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.data import Calibration, batches, load_calibration
from mmlib.importance import (
    ImportanceScores,
    cached_sample_norms,
    collect_scores,
    overlap_sweep,
)
from mmlib.masks import ParameterMask
from mmlib.models import model_hash

Key = tuple[str, str, int]
"""Language, task, calibration seed."""


def draw_samples(
    tasks: Sequence[str],
    languages: Sequence[str],
    seeds: Sequence[int],
    *,
    num_samples: int = 500,
    replacement: bool = True,
    data_dir: str = "",
) -> dict[Key, Calibration]:
    """Draw the calibration text of every language, task and seed.

    Args:
        tasks: The math task and the non-math task, see `mmlib.data.load_problems`.
        languages: ISO 639-1 codes.
        seeds: Calibration seeds; published are 1, 101 and 201.
        num_samples: Texts per sample.
        replacement: Draw with replacement, as published.
        data_dir: As in `load_problems`; empty for the default organism.

    Raises:
        ValueError: A doubled or missing task, language or seed, or as in `load_calibration`.
    """
    for what, values in (("tasks", tasks), ("languages", languages), ("seeds", seeds)):
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{what}={list(values)}: give one or more, each once")
    options = {"num_samples": num_samples, "replacement": replacement, "data_dir": data_dir or None}
    return {
        (language, task, seed): load_calibration(task, language, seed=seed, **options)
        for language in languages
        for task in tasks
        for seed in seeds
    }


def score_samples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    samples: Mapping[Key, Calibration],
    *,
    batch_size: int = 32,
    include_head: bool = False,
    accumulation: str = "float32",
) -> dict[Key, ImportanceScores]:
    """Score the weights of `model` on every sample; finished norms come from the cache.

    Samples of one language and task are scored together: a text that several have, or one has
    several times, is read once.

    Args:
        model: A Hugging Face causal language model made of `nn.Linear`.
        tokenizer: Its tokenizer.
        samples: Result of `draw_samples`.
        batch_size: Prompts per forward pass.
        include_head: Score the output projection too, unless it is tied.
        accumulation: See `mmlib.importance.collect_scores`.
    """
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    # The published sums depend on the order of the prompts, which is therefore kept.
    batching = {"batch_size": batch_size, "max_length": longest, "sort": False}
    if accumulation != "float32":
        options = {"accumulation": accumulation, "include_head": include_head}
        return {
            key: collect_scores(model, batches(tokenizer, sample, **batching), **options)
            for key, sample in samples.items()
        }
    scores, options = {}, {"include_head": include_head, "model_hash": model_hash(model)}
    for language, task in dict.fromkeys(key[:2] for key in samples):
        own = {key: sample for key, sample in samples.items() if key[:2] == (language, task)}
        texts, counts = _distinct(tokenizer, list(own.values()))
        norms = cached_sample_norms(model, batches(tokenizer, texts, **batching), counts, **options)
        scores |= {key: n.scores(model) for key, n in zip(own, norms, strict=True)}
    return {key: scores[key] for key in samples}


def _distinct(tokenizer, samples: Sequence[Calibration]) -> tuple[list[str], torch.Tensor]:
    """The texts of all samples, longest first, and how often each sample has them."""
    texts = list(dict.fromkeys(text for sample in samples for text in sample.texts))
    lengths = dict(zip(texts, map(len, tokenizer(texts).input_ids), strict=True))
    texts.sort(key=lambda text: -lengths[text])
    counts = [Counter(sample.texts) for sample in samples]
    return texts, torch.tensor([[own[text] for text in texts] for own in counts])


def math_sets(
    scores: Mapping[Key, ImportanceScores], math: str, nonmath: str, keep_ratio: float, seed: int
) -> dict[str, ParameterMask]:
    """The math-specific set T = top-K(math) - top-K(nonmath) of every language."""
    return {
        code: scores[code, math, seed].top(keep_ratio) - scores[code, nonmath, seed].top(keep_ratio)
        for code in _parts(scores, 0)
    }


def across_languages(
    scores: Mapping[Key, ImportanceScores], math: str, nonmath: str, keep_ratios: Sequence[float]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sizes of the math-specific sets T = math - nonmath, and their overlap between languages.

    Returns:
        The two tables of `mmlib.importance.overlap_sweep`, with `seed` and `nonmath`; both empty
        if there are no scores.
    """
    sizes, overlaps = [], []
    for seed in _parts(scores, 2):
        sets = {
            language: (scores[language, math, seed], scores[language, nonmath, seed])
            for language in _parts(scores, 0)
        }
        size, overlap = overlap_sweep(sets, keep_ratios)
        sizes.append(size.assign(seed=seed, nonmath=nonmath))
        overlaps.append(overlap.assign(seed=seed, nonmath=nonmath))
    return _joined(sizes), _joined(overlaps)


def across_samples(
    scores: Mapping[Key, ImportanceScores], math: str, nonmath: str, keep_ratios: Sequence[float]
) -> pd.DataFrame:
    """Ceiling: overlap of one language's sets between all pairs of calibration samples.

    Returns:
        Overlap table with `lang_a` = `lang_b`, `nonmath`, `control` = "same language", and the
        number of the pair in `seed`. Empty for a single seed.
    """
    tables = []
    for language in _parts(scores, 0):
        sets = {
            str(seed): (scores[language, math, seed], scores[language, nonmath, seed])
            for seed in _parts(scores, 2)
        }
        overlap = overlap_sweep(sets, keep_ratios)[1]
        pair = overlap.groupby(["lang_a", "lang_b"], sort=False).ngroup()
        tables.append(overlap.assign(seed=pair, lang_a=language, lang_b=language))
    return _joined(tables).assign(nonmath=nonmath, control="same language")


def sampling_noise(
    scores: Mapping[Key, ImportanceScores], math: str, keep_ratios: Sequence[float]
) -> pd.DataFrame:
    """Floor: size of top-K(math) minus top-K(another sample of the same math text).

    Each seed is paired with the next one, so every sample is used twice.

    Returns:
        Size table with `seed`, `nonmath` = the math task and `control` = "same text". Empty for a
        single seed.
    """
    seeds = _parts(scores, 2)
    tables = []
    for seed, other in zip(seeds, seeds[1:] + seeds[:1], strict=True):
        sets = {
            language: (scores[language, math, seed], scores[language, math, other])
            for language in _parts(scores, 0)
        }
        sizes = overlap_sweep(sets, keep_ratios)[0].assign(seed=seed)
        tables.append(sizes if seed != other else sizes.head(0))
    return _joined(tables).assign(nonmath=math, control="same text")


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _parts(scores: Mapping[Key, ImportanceScores], position: int) -> list:
    """The languages (0), tasks (1) or seeds (2) of the keys, in their order."""
    return list(dict.fromkeys(key[position] for key in scores))
