import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlib import masks
from mmlib.masks import ParameterMask, chance_jaccard, jaccard, random_mask
from mmlib.overlap import overlap_table

SHAPES = {
    "model.layers.0.a": (4, 5),
    "model.layers.0.b": (3, 3),
    "model.layers.1.a": (4, 5),
    "lm_head": (7, 2),
}


def drawn(seed, density=0.3):
    generator = torch.Generator().manual_seed(seed)
    return ParameterMask(
        {n: torch.rand(s, generator=generator) < density for n, s in SHAPES.items()}
    )


def members(mask):
    """The set as Python sees it: an independent route to every operation."""
    return {
        (name, *index)
        for name, tensor in mask.items()
        for index in itertools.product(*map(range, tensor.shape))
        if tensor[index]
    }


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.integers(0, 999))
def test_set_algebra_is_that_of_sets(seed_a, seed_b):
    a, b = drawn(seed_a), drawn(seed_b)
    sa, sb = members(a), members(b)
    assert members(a & b) == sa & sb
    assert members(a | b) == sa | sb
    assert members(a - b) == sa - sb
    assert len(~a) == a.n_scored - len(a)
    assert len(a) == len(sa)
    assert len(a - b) + len(a & b) == len(a)
    assert jaccard(a, b) == pytest.approx(len(sa & sb) / len(sa | sb))


def test_masks_of_two_models_do_not_mix():
    a = drawn(0)
    other = ParameterMask({**a.tensors, "model.layers.1.a": torch.zeros(5, 4, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"model\.layers\.1\.a"):
        a & other
    fewer = ParameterMask({n: t for n, t in a.items() if n != "lm_head"})
    with pytest.raises(ValueError, match="lm_head"):
        overlap_table({"en": a, "de": fewer})


def test_overlap_table_pools_counts():
    sets = {"en": drawn(0), "de": drawn(1), "hi": drawn(2)}
    table = overlap_table(sets)
    total = table[table.group == "global"].set_index(["lang_a", "lang_b"])
    for a, b in itertools.combinations(sets, 2):
        ma, mb = members(sets[a]), members(sets[b])
        row = total.loc[(a, b)]
        assert (row.intersection, row.union) == (len(ma & mb), len(ma | mb))
        assert row.jaccard == pytest.approx(len(ma & mb) / len(ma | mb))
        layer = table.query("lang_a == @a and lang_b == @b and group == 'layer' and layer == 0")
        in_zero = [{m for m in s if m[0].startswith("model.layers.0")} for s in (ma, mb)]
        assert layer.intersection.item() == len(in_zero[0] & in_zero[1])
        assert layer.size_a.item() == len(in_zero[0])
    counts = ["size_a", "size_b", "intersection", "n_scored", "expected_intersection"]
    sums = table.groupby("group")[counts].sum()
    np.testing.assert_allclose(sums.loc["global"], sums.loc["module"])
    np.testing.assert_allclose(sums.loc["global"], sums.loc["layer"] + sums.loc["lm_head"])


def test_an_overlap_needs_two_sets():
    with pytest.raises(ValueError, match="two sets"):
        overlap_table({"en": drawn(0)})


def test_random_mask_matches_the_size_of_every_matrix_and_the_chance_level():
    generator = torch.Generator().manual_seed(0)
    like = ParameterMask(
        {
            "model.layers.0.w": torch.rand(600, 500, generator=generator) < 0.05,
            "model.layers.1.w": torch.rand(300, 500, generator=generator) < 0.4,
        }
    )
    a, b = random_mask(like, seed=1), random_mask(like, seed=2)
    for name in like.tensors:
        assert a[name].sum() == like[name].sum()
    assert a == random_mask(like, seed=1)
    row = overlap_table({"a": a, "b": b}).query("group == 'global'").iloc[0]
    matched = chance_jaccard(row.size_a, row.size_b, row.expected_intersection)
    assert row.jaccard == pytest.approx(matched, rel=0.02)
    pooled = chance_jaccard(row.size_a, row.size_b, row.size_a * row.size_b / row.n_scored)
    assert abs(row.jaccard - matched) < abs(row.jaccard - pooled)


def test_a_set_drawn_among_others_lies_in_them():
    generator = torch.Generator().manual_seed(0)
    shape = (60, 50)
    whole = ParameterMask({"model.layers.0.w": torch.rand(shape, generator=generator) < 0.3})
    like = ParameterMask({"model.layers.0.w": torch.rand(shape, generator=generator) < 0.05})
    drawn = random_mask(like, seed=1, among=whole)
    assert len(drawn) == len(like)
    assert len(drawn - whole) == 0
    assert drawn != random_mask(like, seed=2, among=whole)
    assert random_mask(whole, seed=1, among=whole) == whole
    with pytest.raises(ValueError, match=r"model.layers.0.w: \d+ weights cannot be drawn among"):
        random_mask(whole, seed=1, among=like)
    with pytest.raises(ValueError, match="not both"):
        random_mask(like, seed=1, among=whole, within={"model.layers.0.w": torch.ones(shape)})


def test_a_set_drawn_among_neighbours_has_the_same_values():
    generator = torch.Generator().manual_seed(0)
    values = {
        f"model.layers.{k}.w": torch.randn(61, 83 + k, generator=generator).abs() for k in (0, 1)
    }
    like = ParameterMask(  # mostly large weights
        {n: torch.rand(v.shape, generator=generator) < v**2 / 8 for n, v in values.items()}
    )
    matched = random_mask(like, seed=1, within=values)
    plain = random_mask(like, seed=1)
    assert matched == random_mask(like, seed=1, within=values)
    assert matched != random_mask(like, seed=2, within=values)
    for name, value in values.items():
        assert matched[name].sum() == like[name].sum()
        cuts = torch.linspace(0.1, 0.9, 9)
        wanted = value[like[name]].quantile(cuts)
        assert (value[matched[name]].quantile(cuts) - wanted).abs().max() < 0.15
        assert (value[plain[name]].quantile(cuts) - wanted).abs().max() > 0.45
        edges = value.flatten().sort().values[:: masks.STRATUM].contiguous()
        counts = [
            torch.bucketize(value[m[name]], edges, right=True).bincount(minlength=199)
            for m in (like, matched)
        ]
        assert torch.equal(*counts)
    assert len(matched & like) < len(like)


def test_equal_values_are_drawn_at_random_wherever_they_stand():
    """bfloat16 has few values, and a set may fill whole rows: position must not decide."""
    generator = torch.Generator().manual_seed(0)
    values = {"w": torch.rand(256, 256, generator=generator).bfloat16()}
    rows = torch.zeros(256, 256, dtype=torch.bool)
    rows[:32] = True
    like = ParameterMask({"w": rows})
    inside = len(random_mask(like, seed=1, within=values) & like) / len(like)
    assert inside == pytest.approx(32 / 256, abs=0.02)


def test_values_of_another_shape_are_refused():
    like = ParameterMask({"w": torch.ones(4, 4, dtype=torch.bool)})
    for within in ({}, {"w": torch.ones(4, 5)}):
        with pytest.raises(ValueError, match="w has the shape"):
            random_mask(like, seed=1, within=within)
