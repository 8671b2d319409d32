"""Tidy overlap tables by matrix, layer and model, all from one selection pass."""

import itertools
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
import torch

from mmlib.importance import ImportanceScores, check_keep_ratios, math_specific, selection_size
from mmlib.masks import ParameterMask, check_comparable
from mmlib.models import layer_index


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
    first = next(iter(scores.values()))[0].weights
    for label, pair in scores.items():
        _check_same_weights(label, first, pair)
    check_keep_ratios(keep_ratios, first)
    sizes, overlaps = [], []
    for module, weight in first.items():
        sets = [math_specific(*pair, module, keep_ratios) for pair in scores.values()]
        at_ratio = [dict(zip(scores, masks, strict=True)) for masks in zip(*sets, strict=True)]
        counts = torch.stack([intersections(masks) for masks in at_ratio]).tolist()
        for ratio, count in zip(keep_ratios, counts, strict=True):
            found = dict(zip(pairs_of(scores), count, strict=True))
            about = {"module": module, "keep_ratio": ratio}
            sizes += [about | row for row in _size_rows(found, weight.numel(), ratio)]
            overlaps += [about | row for row in overlap_rows(found, weight.numel())]
    pairs = pd.DataFrame(overlaps, columns=["lang_a", "lang_b", *about, *OVERLAP_COUNTS])
    return (
        add_groups(pd.DataFrame(sizes), ["lang", "keep_ratio"]),
        add_groups(pairs, ["lang_a", "lang_b", "keep_ratio"]),
    )


def _check_same_weights(label: str, first: Mapping, pair: Sequence[ImportanceScores]) -> None:
    for scores in pair:
        differing = [
            n
            for n in first.keys() | scores.weights.keys()
            if n not in scores.weights
            or n not in first
            or scores.weights[n].shape != first[n].shape
        ]
        if differing:
            raise ValueError(f"the scores of {label!r} are over other weights: {differing[:3]}")


def _size_rows(found: Mapping[tuple[str, str], int], numel: int, ratio: float) -> list[dict]:
    kept = selection_size(numel, ratio)
    return [
        {"lang": a, "n_topk": kept, "n_math_specific": count, "n_scored": numel}
        for (a, b), count in found.items()
        if a == b
    ]


OVERLAP_COUNTS = ["size_a", "size_b", "intersection", "n_scored", "expected_intersection"]
COUNTS = ["n_topk", "n_math_specific", *OVERLAP_COUNTS]


def pairs_of(names: Iterable[str]) -> list[tuple[str, str]]:
    """All pairs of names, each name with itself too, in the order of `intersections`."""
    return list(itertools.combinations_with_replacement(names, 2))


def intersections(sets: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """|A ∩ B| of all `pairs_of` the sets of one matrix, int64, still on their device.

    A pair of a set with itself gives its size.
    """
    return torch.stack([(sets[a] & sets[b]).count_nonzero() for a, b in pairs_of(sets)])


def overlap_rows(found: Mapping[tuple[str, str], int], numel: int) -> list[dict]:
    """Counts of each pair of different sets in a matrix of `numel` weights, without ratios."""
    return [
        {
            "lang_a": a,
            "lang_b": b,
            "size_a": found[a, a],
            "size_b": found[b, b],
            "intersection": count,
            "n_scored": numel,
            "expected_intersection": found[a, a] * found[b, b] / numel,
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
        counts = intersections({name: members[module] for name, members in sets.items()}).tolist()
        found = dict(zip(pairs_of(sets), counts, strict=True))
        rows += [{"module": module} | row for row in overlap_rows(found, mask.numel())]
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
