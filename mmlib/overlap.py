"""Tidy overlap tables by matrix, layer and model, all from one selection pass."""

import itertools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch

from mmlib.importance import ImportanceScores, check_keep_ratios, selection_size
from mmlib.masks import ParameterMask, check_comparable, expected_intersection
from mmlib.models import layer_index

Key = TypeVar("Key", bound=Hashable)
Name = TypeVar("Name", bound=Hashable)

OVERLAP_COUNTS = ["size_a", "size_b", "intersection", "n_scored", "expected_intersection"]
COUNTS = ["n_topk", "n_math_specific", *OVERLAP_COUNTS]


def overlap_sweep(
    scores: Mapping[str, tuple[ImportanceScores, ImportanceScores]],
    keep_ratios: Sequence[float],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sizes and overlaps of the math-specific sets at every keep ratio, from one selection pass.

    Works through the model matrix by matrix, so that the sets of one matrix are all that is in
    memory besides the model: an 8B model needs no 8B masks.

    Args:
        scores: Name (usually a language) -> scores on math and on non-math text.
        keep_ratios: Shares of each matrix to keep, in (0, 1].

    Returns:
        Set sizes (`lang`, `keep_ratio`, `group`, `layer`, `module`, `n_topk`, `n_math_specific`,
        `n_scored`) and overlaps of all pairs (`lang_a`, `lang_b`, `keep_ratio`, `group`, `layer`,
        `module`, counts, `jaccard`; see `mmlib.overlap.add_groups`).

    Raises:
        ValueError: No scores, an impossible keep ratio, or scores of different weights.
    """
    if not scores:
        raise ValueError("overlap_sweep needs the scores of one language or more")
    both = {(name, part): pair[part] for name, pair in scores.items() for part in (0, 1)}
    sets = {name: ((name, 0), (name, 1)) for name in scores}
    counts = SetCounts.of(both, sets, itertools.combinations(sets, 2), keep_ratios)
    labels = {name: name for name in scores}
    return counts.sizes(labels), counts.overlaps(labels)


@dataclass(frozen=True)
class SetCounts:
    """Sizes and intersections of sets of weights, matrix by matrix, at every keep ratio."""

    keep_ratios: Sequence[float]
    modules: Mapping[str, tuple[int, Mapping[tuple[Any, Any], list[int]]]]
    """Module -> its number of weights, and pair of sets -> |A ∩ B| at every keep ratio; a set
    paired with itself has its size there."""

    @classmethod
    def of(
        cls,
        scores: Mapping[Key, ImportanceScores],
        sets: Mapping[Name, tuple[Key, Key]],
        pairs: Iterable[tuple[Name, Name]],
        keep_ratios: Sequence[float],
    ) -> "SetCounts":
        """Count from one walk over the model, in which every score is selected from once.

        Sets whose ties go to `torch.topk` need not be nested, and are selected per keep ratio.

        Args:
            scores: Key -> scores of all weights, all of one model.
            sets: Name of a set T = top-K(a) - top-K(b) -> the keys of a and b in `scores`.
            pairs: Names of the sets that are compared with each other.
            keep_ratios: Shares of each matrix to keep, in (0, 1].

        Raises:
            ValueError: An impossible keep ratio, or scores of different weights.
        """
        first = next(iter(scores.values())).weights
        for other in scores.values():
            check_comparable(first, other.weights)
        check_keep_ratios(keep_ratios, first)
        pairs = [*((name, name) for name in sets), *pairs]
        # A weight of level l is in the l largest top-K sets.
        largest_first = sorted(keep_ratios, reverse=True)
        nested = all(found.ties == "index" for found in scores.values())
        passes = [largest_first] if nested else [[ratio] for ratio in largest_first]
        modules = {}
        for module, weight in first.items():
            at_ratio: dict[float, Sequence[int]] = {}
            for ratios in passes:
                levels = {key: s.levels_of(module, ratios) for key, s in scores.items()}
                by_level = list(zip(*_counts(levels, sets, pairs, len(ratios)), strict=True))
                at_ratio |= dict(zip(ratios, by_level[1:], strict=True))
            in_order = zip(*(at_ratio[ratio] for ratio in keep_ratios), strict=True)
            modules[module] = (weight.numel(), dict(zip(pairs, map(list, in_order), strict=True)))
        return cls(keep_ratios, modules)

    def sizes(self, labels: Mapping[str, Hashable]) -> pd.DataFrame:
        """Sizes of the sets, as `overlap_sweep` gives them; `labels`: language -> set."""
        rows = [
            {
                "module": module,
                "keep_ratio": ratio,
                "lang": label,
                "n_topk": selection_size(numel, ratio),
                "n_math_specific": found[name, name][i],
                "n_scored": numel,
            }
            for module, (numel, found) in self.modules.items()
            for i, ratio in enumerate(self.keep_ratios)
            for label, name in labels.items()
        ]
        return add_groups(pd.DataFrame(rows), ["lang", "keep_ratio"])

    def overlaps(self, labels: Mapping[str, Hashable]) -> pd.DataFrame:
        """Overlaps of all pairs of the sets, as `overlap_sweep` gives them; as in `sizes`."""
        pairs = list(itertools.combinations_with_replacement(labels.items(), 2))
        rows = []
        for module, (numel, found) in self.modules.items():
            for i, ratio in enumerate(self.keep_ratios):
                at_ratio = {(a, b): found[set_a, set_b][i] for (a, set_a), (b, set_b) in pairs}
                place = {"module": module, "keep_ratio": ratio}
                rows += [place | row for row in _overlap_rows(at_ratio, numel)]
        columns = ["lang_a", "lang_b", "module", "keep_ratio", *OVERLAP_COUNTS]
        table = pd.DataFrame(rows, columns=columns)
        return add_groups(table, ["lang_a", "lang_b", "keep_ratio"])


def _counts(
    levels: Mapping[Key, torch.Tensor],
    sets: Mapping[Name, tuple[Key, Key]],
    pairs: Sequence[tuple[Name, Name]],
    num_ratios: int,
) -> list[list[int]]:
    """|A ∩ B| in one matrix of each pair, at level 0 (meaningless), 1, …, `num_ratios`.

    T = top-K(a) - top-K(b) has the weights with level in b < l <= level in a, so that two sets
    share those with max(level in b) < l <= min(level in a).
    """
    if next(iter(levels.values())).device.type != "cpu":
        shared = [_shared(levels, sets[a], sets[b], num_ratios) for a, b in pairs]
        return torch.stack(shared).tolist()
    arrays = {key: found.numpy() for key, found in levels.items()}
    members = {n: np.flatnonzero(arrays[a] > arrays[b]) for n, (a, b) in sets.items()}
    counts = []
    for a, b in pairs:
        inside = members[a]
        upper, lower = arrays[sets[a][0]][inside], arrays[sets[a][1]][inside]
        if a != b:
            upper = np.minimum(upper, arrays[sets[b][0]][inside])
            lower = np.maximum(lower, arrays[sets[b][1]][inside])
        counts.append(_steps(lower, upper, num_ratios))
    return counts


def _steps(lower: np.ndarray, upper: np.ndarray, num_ratios: int) -> list[int]:
    """How many pairs have lower < l <= upper, for every level l from 0."""
    width = num_ratios + 1
    joint = np.bincount(lower.astype(np.intp) * width + upper, minlength=width * width)
    joint = joint.reshape(width, width)
    return [int(joint[:level, level:].sum()) for level in range(width)]


def _shared(
    levels: Mapping[Key, torch.Tensor],
    first: tuple[Key, Key],
    second: tuple[Key, Key],
    num_ratios: int,
) -> torch.Tensor:
    """The same counts on an accelerator, over all weights and without waiting for it."""
    upper = torch.minimum(levels[first[0]], levels[second[0]])
    lower = torch.maximum(levels[first[1]], levels[second[1]])
    steps = range(num_ratios + 1)
    return torch.stack([((lower < step) & (upper >= step)).count_nonzero() for step in steps])


def _overlap_rows(found: Mapping[tuple[str, str], int], numel: int) -> list[dict[str, Any]]:
    """Counts of each pair of different sets in a matrix of `numel` weights, without ratios."""
    return [
        {
            "lang_a": a,
            "lang_b": b,
            "size_a": found[a, a],
            "size_b": found[b, b],
            "intersection": count,
            "n_scored": numel,
            "expected_intersection": expected_intersection(found[a, a], found[b, b], numel),
        }
        for (a, b), count in found.items()
        if a != b
    ]


def overlap_table(sets: Mapping[str, ParameterMask]) -> pd.DataFrame:
    """Overlap of all pairs of sets, per module, per layer and globally.

    Args:
        sets: Name (usually a language) -> set, two or more, all over the same weights.

    Returns:
        One row per pair and group; see `add_groups` for the columns.

    Raises:
        ValueError: Fewer than two sets, or sets over different weights.
    """
    if len(sets) < 2:
        raise ValueError(f"an overlap needs two sets or more, got {list(sets)}")
    first = next(iter(sets.values()))
    for other in sets.values():
        check_comparable(first, other)
    rows = []
    for module, mask in first.items():
        pairs = list(itertools.combinations_with_replacement(sets, 2))
        shared = [(sets[a][module] & sets[b][module]).count_nonzero() for a, b in pairs]
        found = dict(zip(pairs, torch.stack(shared).tolist(), strict=True))
        rows += [{"module": module} | row for row in _overlap_rows(found, mask.numel())]
    return add_groups(pd.DataFrame(rows), ["lang_a", "lang_b"])


def add_groups(per_module: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Pool counts per module into layers, the head and everything, and add union and Jaccard.

    Args:
        per_module: Rows with `module`, the `keys` and the count columns.
        keys: Columns that name what is compared; kept in every group.

    Returns:
        Tidy table with `group` (module, layer, lm_head or global), `layer` (NA for lm_head and
        global), `module` (NA unless group is module), the counts, and `union`, `jaccard`.
        Ratios are always made from pooled counts, never from averages of ratios.
    """
    counts = [column for column in COUNTS if column in per_module]
    table = per_module.assign(
        layer=per_module.module.map(layer_index).astype("Int64"), group="module"
    )
    in_layer = table.layer.notna()
    parts = [
        table,
        table[in_layer].groupby([*keys, "layer"], sort=False)[counts].sum().assign(group="layer"),
        table[~in_layer].groupby(keys, sort=False)[counts].sum().assign(group="lm_head"),
        table.groupby(keys, sort=False)[counts].sum().assign(group="global"),
    ]
    pooled = [parts[0], *(p.reset_index() for p in parts[1:] if len(p))]
    result = pd.concat(pooled, ignore_index=True).astype({"layer": "Int64"})
    if "intersection" in counts:
        result["union"] = result.size_a + result.size_b - result.intersection
        result["jaccard"] = result.intersection / result.union.where(result.union > 0)
    first = [*keys, "group", "layer", "module"]
    return result[[*first, *(c for c in result if c not in first)]]
