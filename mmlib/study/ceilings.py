"""What a Jaccard of two math-specific sets has to be compared with."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.forward import batches
from mmlib.importance import ActivationNorms, ImportanceScores, collect_norms
from mmlib.masks import chance_jaccard, jaccard
from mmlib.models import untrained_like
from mmlib.overlap import OVERLAP_COUNTS
from mmlib.study.evidence import made_by, read_evidence
from mmlib.study.localisation import Sample, score_samples, set_tables
from mmlib.study.settings import Loading, Sampling, check_comparison
from mmlib.study.stats import seed_intervals
from mmlib.study.tables import RunInfo
from mmlib.tasks.problems import Calibration

PARTS = {"attn": "attention", "attention": "attention", "mlp": "MLP"}
"""What a module's name has in it -> the part of a layer that it belongs to."""


def shuffled(scores: Mapping[Sample, ImportanceScores]) -> dict[Sample, ImportanceScores]:
    """Scores whose input norms are permuted, in every language and calibration seed otherwise.

    The weights and the values of the norms stay, and so does which norms of the math and of the
    non-math text belong together; what is lost is which feature has them. The sets of two languages
    then have in common only what |W| gives them.

    Raises:
        ValueError: The scores are sums of matrices, which have no norms.
    """
    permuted = {}
    for key, found in scores.items():
        if found.norms is None:
            raise ValueError("scores summed as published have no norms: use float32 accumulation")
        generator = np.random.default_rng([0, key.seed, *key.lang.encode()])
        # By name: norms from the cache come in another order than those just collected.
        vectors = {
            name: vector[torch.from_numpy(generator.permutation(len(vector)))]
            for name, vector in sorted(found.norms.vectors.items())
        }
        permuted[key] = replace(found, norms=replace(found.norms, vectors=vectors))
    return permuted


def by_part(overlap: pd.DataFrame) -> pd.DataFrame:
    """Pool an overlap table over the attention and the MLP matrices of all layers.

    It needs rows of the group "module", see `mmlib.overlap.add_groups`. One row per comparison and
    part: the columns that name the comparison, `group` (attention or MLP), the pooled counts,
    union, jaccard and coefficient.

    Raises:
        ValueError: A module belongs to neither.
    """
    modules = overlap[overlap.group == "module"]
    found = modules.module.map(
        lambda name: next((part for key, part in PARTS.items() if key in name.lower()), "")
    )
    if (found == "").any():
        raise ValueError(f"{modules.module[found == ''].iloc[0]} is neither attention nor MLP")
    counted = [*OVERLAP_COUNTS, "group", "layer", "module", "union", "jaccard", "coefficient"]
    about = [column for column in overlap if column not in counted]
    pooled = modules.assign(group=found).groupby([*about, "group"], sort=False)[OVERLAP_COUNTS]
    pooled = pooled.sum().reset_index()
    union = pooled.size_a + pooled.size_b - pooled.intersection
    return coefficient(pooled.assign(union=union, jaccard=pooled.intersection / union))


def coefficient(overlap: pd.DataFrame) -> pd.DataFrame:
    """Add the overlap coefficient |A ∩ B| / min(|A|, |B|), which unequal sizes do not lower."""
    smaller = overlap[["size_a", "size_b"]].min(axis=1)
    return overlap.assign(coefficient=overlap.intersection / smaller.where(smaller > 0))


def published_chance(keep_ratio: float) -> float:
    """The authors' chance line K(1 - K) / (K² - K + 2), of random top-K sets less random ones."""
    return keep_ratio * (1 - keep_ratio) / (keep_ratio**2 - keep_ratio + 2)


def drawings() -> pd.DataFrame:
    """Overlaps over draws with replacement and over disjoint blocks of as many texts, as shipped.

    Returns:
        Columns of an overlap table, drawing ("draws" or "blocks"), control ("math-specific" or
        "same language") and num_samples.
    """
    tables = []
    kinds = {"overlap": "math-specific", "ceilings": "same language"}
    for drawing, (name, control) in itertools.product(("draws", "blocks"), kinds.items()):
        table, manifest = read_evidence(f"{drawing}_{name}")
        (run,) = made_by(manifest)
        count = run["parameters"]["num_samples"]
        tables.append(table.assign(drawing=drawing, control=control, num_samples=count))
    return pd.concat(tables, ignore_index=True)


def chance(overlap: pd.DataFrame) -> pd.DataFrame:
    """Chance of two sets of the same sizes in every matrix: in closed form, and by permutation.

    A permutation of the members within each matrix gives a hypergeometric intersection, which is
    drawn directly. `overlap` needs rows of the group "module", see `mmlib.overlap.add_groups`.

    Returns:
        One row per pair, keep ratio and seed: lang_a, lang_b, keep_ratio, seed, closed (Jaccard of
        the expected intersection), permuted (mean), low and high (95 % of the permutations).
    """
    rng = np.random.default_rng(0)
    name = ["lang_a", "lang_b", "keep_ratio", "seed"]
    rows = []
    for key, modules in overlap[overlap.group == "module"].groupby(name, sort=False):
        a, b, n = (modules[c].to_numpy(np.int64) for c in ("size_a", "size_b", "n_scored"))
        shared = rng.hypergeometric(a, n - a, b, size=(2000, len(a))).sum(axis=1)
        found = shared / (a.sum() + b.sum() - shared)
        expected = modules.expected_intersection.sum()
        closed = chance_jaccard(a.sum(), b.sum(), expected)
        rows.append((*key, closed, found.mean(), *np.quantile(found, [0.025, 0.975])))
    return pd.DataFrame(rows, columns=[*name, "closed", "permuted", "low", "high"])


def growing_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sample: Calibration,
    sizes: Sequence[int],
    *,
    batch_size: int = 32,
) -> dict[int, ImportanceScores]:
    """Scores on the first n texts of a sample, for every n of `sizes`, each text read once.

    Raises:
        ValueError: The sizes do not rise from 1 or more to at most the size of the sample.
    """
    if list(sizes) != sorted({*sizes}) or not all(1 <= n <= len(sample.texts) for n in sizes):
        raise ValueError(f"sizes={list(sizes)}: give rising numbers from 1 to {len(sample.texts)}")
    total: ActivationNorms | None = None
    found, start = {}, 0
    for size in sizes:
        more = batches(tokenizer, sample.texts[start:size], batch_size=batch_size)
        norms = collect_norms(model, more)
        total = norms if total is None else total + norms
        found[size], start = total.scores(model), size
    return found


def magnitude(scores: ImportanceScores) -> ImportanceScores:
    """Scores that are |W| alone: the part of the score that no text has a say in."""
    weights = {name: weight.detach().abs() for name, weight in scores.weights.items()}
    return ImportanceScores(weights, None)


class Ceilings(NamedTuple):
    """What `rows` finds."""

    table: pd.DataFrame
    """Overlaps of the sets and of their controls, told apart by `control`: see `mmlib.overlap`,
    with the groups of `by_part`, coefficient, model and nonmath."""
    chance: pd.DataFrame
    """See `chance`."""
    magnitude: pd.DataFrame
    """Jaccard of a top-K set with the largest weights, by task (index) and language."""
    growth: pd.DataFrame
    """Global overlaps at one keep ratio on the first `num_samples` texts of two samples: `line`
    tells "two languages" of one sample from the "same language" in both."""
    run: RunInfo


def rows(given: Mapping[str, Any]) -> Ceilings:
    """Overlaps of all languages, and everything that they are to be compared with.

    Raises:
        ValueError: A single language or seed, or a `keep_ratio` that a table of the page lacks.
    """
    ratios = {*given["keep_ratios"]} & {*drawings().keep_ratio}
    check_comparison(given, ratios, "of keep_ratios, and shipped", languages=2, seeds=2)
    loading, sampling, ratio = Loading.of(given), Sampling.of(given), given["keep_ratio"]
    model, tokenizer = loading.load()
    run = loading.run(model, given)
    samples, batching = sampling.draw(), {"batch_size": given["batch_size"]}
    scores = score_samples(model, tokenizer, samples, **batching)
    blank = untrained_like(model, seed=sampling.seeds[0])
    by_tasks = (sampling.math, sampling.nonmath, given["keep_ratios"])
    trained = set_tables(scores, *by_tasks, reverse=True)
    blank_scores = score_samples(blank, tokenizer, samples, **batching)
    untrained = set_tables(blank_scores, *by_tasks, reverse=True)
    overlaps = {
        "math-specific": trained.overlap,
        "same language": trained.ceiling,
        "nonmath-specific": trained.nonmath_overlap,
        "untrained": untrained.overlap,
        "untrained nonmath": untrained.nonmath_overlap,
        "shuffled norms": set_tables(shuffled(scores), *by_tasks).overlap,
    }
    table = pd.concat([part.assign(control=name) for name, part in overlaps.items()])
    table = coefficient(table.assign(model=run.model, nonmath=sampling.nonmath))
    sizes = [n for n in given["prompts"] if n < sampling.num_samples]
    grown = {
        key: growing_scores(model, tokenizer, sample, sizes, **batching)
        | {sampling.num_samples: scores[key]}
        for key, sample in samples.items()
        if key.seed in sampling.seeds[:2]
    }
    growth = []
    for size in (*sizes, sampling.num_samples):
        first = set_tables({key: of[size] for key, of in grown.items()}, *by_tasks[:2], [ratio])
        lines = {"two languages": first.overlap, "same language": first.ceiling}
        both = pd.concat([part.assign(line=line) for line, part in lines.items()])
        growth.append(both.assign(num_samples=size))
    codes, seed = sampling.languages, sampling.seeds[0]
    alone = magnitude(scores[Sample(codes[0], sampling.math, seed)]).top(ratio)
    shares = {
        task: {code: jaccard(scores[Sample(code, task, seed)].top(ratio), alone) for code in codes}
        for task in (sampling.math, sampling.nonmath)
    }
    return Ceilings(
        table=pd.concat([table, by_part(table)]),
        chance=chance(trained.overlap),
        magnitude=pd.DataFrame(shares).T,
        growth=pd.concat(growth).query("group == 'global'"),
        run=run,
    )


def pair_lines(table: pd.DataFrame, keep_ratio: float) -> pd.DataFrame:
    """Every pair of languages under every control, and chance at the sizes of its sets.

    From `Ceilings.table`, of one model.

    Returns:
        Columns pair, control, mean, low, high, n: the 95 % t interval over calibration seeds.
    """
    table = table[(table.group == "global") & (table.keep_ratio == keep_ratio)]
    table = table[table.lang_a != table.lang_b]
    table = table.assign(pair=table.lang_a + "-" + table.lang_b)
    sets = table[table.control == "math-specific"]
    expected = chance_jaccard(sets.size_a, sets.size_b, sets.expected_intersection)
    table = pd.concat([table, sets.assign(control="chance, same sizes", jaccard=expected)])
    by = ["pair", "control"]
    return seed_intervals(table.set_index(by).jaccard, by).reset_index()


def desk() -> tuple[pd.DataFrame, int]:
    """Overlaps of a real LLM as they are shipped, see `Ceilings.table`; and prompts per block."""
    table, manifest = read_evidence("desk_ceilings")
    return table, made_by(manifest)[0]["parameters"]["num_samples"]
