"""Localise math weights in every language and compare them: the first study, one call per step."""

import itertools
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import pandas as pd
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.forward import batches
from mmlib.importance import (
    EMPTY,
    ActivationNorms,
    Batch,
    ImportanceScores,
    collect_norms,
    collect_sample_norms,
    math_specific,
)
from mmlib.masks import ParameterMask
from mmlib.models import model_hash
from mmlib.overlap import SetCounts
from mmlib.study.norms import Kept, audit_norms, cached_sample_norms
from mmlib.tasks.problems import Calibration


@torch.no_grad()
def collect_scores(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    accumulation: Literal["float32", "as-published"] = "float32",
    include_head: bool = False,
) -> ImportanceScores:
    """Score all weights over the calibration prompts.

    Args:
        model: As in `collect_norms`.
        batches: Likewise.
        accumulation: "float32" keeps one vector per linear input and multiplies at the end.
            "as-published" repeats the published code: prompt by prompt, the norm is cast to
            bfloat16, multiplied by |W| in bfloat16, and added to a running bfloat16 matrix per
            module, which stagnates after some hundred prompts; of equal scores `torch.topk` chooses
            (see `mmlib.importance.largest`). The order of the prompts matters then. It needs a
            matrix per weight and is there for comparison only.
        include_head: Score the output projection too, unless it is tied.

    Raises:
        ValueError: As in `collect_norms`, or an unknown `accumulation`.
    """
    if accumulation == "float32":
        return collect_norms(model, batches, include_head=include_head).scores(model)
    if accumulation != "as-published":
        raise ValueError(f"accumulation={accumulation!r}: choose 'float32' or 'as-published'")
    prompts = norms_by_prompt(model, batches, include_head=include_head)
    last = deque(published_sums(model, prompts), maxlen=1)
    if not last:
        raise ValueError(EMPTY)
    return last[0]


def norms_by_prompt(
    model: nn.Module, batches: Iterable[Batch], *, include_head: bool = False
) -> Iterator[ActivationNorms]:
    """`collect_norms` of each prompt on its own, so that nothing is padded, in their order."""
    for batch in batches:
        for ids, inside in zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True):
            alone = ids[inside][None]
            prompt = {"input_ids": alone, "attention_mask": torch.ones_like(alone)}
            yield collect_norms(model, [prompt], include_head=include_head)


@torch.no_grad()
def published_sums(
    model: nn.Module, prompts: Iterable[ActivationNorms]
) -> Iterator[ImportanceScores]:
    """The running bfloat16 sums of the published code, after each prompt; their order matters.

    `prompts` are the norms of the model on each prompt, see `norms_by_prompt`.

    Yields:
        The same scores every time, with one prompt more in them: `copy` what is to be kept.
    """
    magnitudes: dict[str, torch.Tensor] = {}
    sums: dict[str, torch.Tensor] = {}
    for norms in prompts:
        if not sums:
            weights = norms.scores(model).weights
            magnitudes = {name: weight.abs().bfloat16() for name, weight in weights.items()}
            sums = {name: torch.zeros_like(magnitude) for name, magnitude in magnitudes.items()}
        for name, magnitude in magnitudes.items():
            sums[name] += magnitude * norms[name].to(magnitude)
        yield ImportanceScores(sums, None, ties="topk")


class Sample(NamedTuple):
    """Which calibration sample: it names the texts, and the scores that come from them."""

    lang: str
    task: str
    seed: int


_AUDITED: set[str] = set()
"""Models of which this session has computed shipped norms again."""


def score_samples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    samples: Mapping[Sample, Calibration],
    *,
    batch_size: int = 32,
    include_head: bool = False,
    accumulation: str = "float32",
    audit_seed: int = 1,
) -> dict[Sample, ImportanceScores]:
    """Score the weights of `model` on every sample; known norms are not computed again.

    Samples of one language and task are scored together: a text that several have, or one has
    several times, is read once. Norms come from the cache or from those that are shipped (see
    `mmlib.study.norms`); the first time that a session takes shipped ones of a model, it computes
    one of them again, drawn by `audit_seed`, and compares.

    `accumulation` is that of `collect_scores`; "as-published" is the published selection, too.

    Raises:
        ValueError: As in `collect_norms` and `mmlib.study.norms.cached_sample_norms`.
        AuditError: The shipped norms are not those computed again.
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
    digest, scope = model_hash(model), {"include_head": include_head}

    def read(keys: Iterable[Sample]) -> tuple[list[Batch], torch.Tensor]:
        texts, counts = _distinct(tokenizer, [samples[key] for key in keys])
        return batches(tokenizer, texts, **batching), counts

    kept: dict[Sample, Kept] = {}
    for pool in dict.fromkeys((key.lang, key.task) for key in samples):
        own = [key for key in samples if (key.lang, key.task) == pool]
        norms = cached_sample_norms(model, *read(own), model_hash=digest, **scope)
        kept |= zip(own, norms, strict=True)
    shipped = [key for key in samples if kept[key].source == "shipped"]
    if shipped and digest not in _AUDITED:
        drawn = random.Random(audit_seed).choice(shipped)
        (again,) = collect_sample_norms(model, *read([drawn]), **scope)
        audit_norms(kept[drawn].norms, again, f"{drawn.lang} {drawn.task}, seed {drawn.seed}")
        _AUDITED.add(digest)
    return {key: kept[key].norms.scores(model) for key in samples}


def _distinct(tokenizer, samples: Sequence[Calibration]) -> tuple[list[str], torch.Tensor]:
    """The texts of all samples, longest first, and how often each sample has them."""
    texts = list(dict.fromkeys(text for sample in samples for text in sample.texts))
    lengths = dict(zip(texts, map(len, tokenizer(texts).input_ids), strict=True))
    texts.sort(key=lambda text: -lengths[text])
    counts = [Counter(sample.texts) for sample in samples]
    return texts, torch.tensor([[own[text] for text in texts] for own in counts])


def math_sets(
    scores: Mapping[Sample, ImportanceScores], math: str, nonmath: str, keep_ratio: float, seed: int
) -> dict[str, ParameterMask]:
    """The math-specific set T = top-K(math) - top-K(nonmath) of every language."""
    tasks = (math, nonmath)
    return {
        code: math_specific(*(scores[Sample(code, task, seed)] for task in tasks), keep_ratio)
        for code in dict.fromkeys(key.lang for key in scores)
    }


class SetTables(NamedTuple):
    """Tables of the math-specific sets T = top-K(math) - top-K(nonmath); see `set_tables`."""

    sizes: pd.DataFrame
    """Sizes of the sets, with `seed` and `nonmath`."""
    overlap: pd.DataFrame
    """Overlap of the sets between languages, with `seed` and `nonmath`."""
    nonmath_overlap: pd.DataFrame
    """The same of the sets top-K(nonmath) - top-K(math); empty unless asked for."""
    ceiling: pd.DataFrame
    """Overlap of one language's sets between all pairs of calibration samples: `lang_a` =
    `lang_b`, `nonmath`, `control` = "same language", and the number of the pair in `seed`. Empty
    for a single seed."""
    floor: pd.DataFrame
    """Size of top-K(math) minus top-K(another sample of the same math text): `seed`, `nonmath` =
    the math task and `control` = "same text". Each seed is paired with the next one, so every
    sample is used twice. Empty for a single seed."""


def set_tables(
    scores: Mapping[Sample, ImportanceScores],
    math: str,
    nonmath: str,
    keep_ratios: Sequence[float],
    *,
    reverse: bool = False,
) -> SetTables:
    """All tables of sizes and overlaps, from one selection pass over the scores.

    `math` and `nonmath` are the tasks of the scores. With `reverse` the sets of the other direction
    are counted too; `nonmath_overlap` is empty otherwise.

    Returns:
        Tables with the columns of `mmlib.overlap.overlap_sweep`; empty if there are no scores.

    Raises:
        ValueError: An impossible keep ratio, or scores of different weights.
    """
    languages = list(dict.fromkeys(key.lang for key in scores))
    seeds = list(dict.fromkeys(key.seed for key in scores))
    following = dict(zip(seeds, seeds[1:] + seeds[:1], strict=True))
    kinds = {"math": (math, nonmath)} | ({"nonmath": (nonmath, math)} if reverse else {})
    sets = {
        (kind, code, seed): tuple(Sample(code, task, seed) for task in tasks)
        for kind, tasks in kinds.items()
        for code, seed in itertools.product(languages, seeds)
    }
    for code, seed in itertools.product(languages, seeds) if len(seeds) > 1 else ():
        sample = Sample(code, math, seed)
        sets["floor", code, seed] = (sample, sample._replace(seed=following[seed]))
    across = [
        ((kind, a, seed), (kind, b, seed))
        for kind, seed in itertools.product(kinds, seeds)
        for a, b in itertools.combinations(languages, 2)
    ]
    within = [
        (("math", code, a), ("math", code, b))
        for code in languages
        for a, b in itertools.combinations(seeds, 2)
    ]
    used = {key: scores[key] for keys in sets.values() for key in keys}
    if not used:
        return SetTables(*[pd.DataFrame()] * 5)
    counts = SetCounts.of(used, sets, across + within, keep_ratios)

    def by_seed(count: Callable[[dict], pd.DataFrame], kind: str) -> pd.DataFrame:
        named = {seed: {code: (kind, code, seed) for code in languages} for seed in seeds}
        tables = [count(labels).assign(seed=seed) for seed, labels in named.items()]
        return pd.concat(tables, ignore_index=True)

    ceilings = []
    for code in languages:
        table = counts.overlaps({str(seed): ("math", code, seed) for seed in seeds})
        pair = table.groupby(["lang_a", "lang_b"], sort=False).ngroup()
        ceilings.append(table.assign(seed=pair, lang_a=code, lang_b=code))
    ceiling, none = pd.concat(ceilings, ignore_index=True), pd.DataFrame()
    sizes = by_seed(counts.sizes, "math")
    floor = by_seed(counts.sizes, "floor") if len(seeds) > 1 else sizes.head(0)
    reversed_sets = by_seed(counts.overlaps, "nonmath").assign(nonmath=math) if reverse else none
    return SetTables(
        sizes=sizes.assign(nonmath=nonmath),
        overlap=by_seed(counts.overlaps, "math").assign(nonmath=nonmath),
        nonmath_overlap=reversed_sets,
        ceiling=ceiling.assign(nonmath=nonmath, control="same language"),
        floor=floor.assign(nonmath=math, control="same text"),
    )
