"""What is selected of the scores: sets of the highest ones, their sizes, and tables of them."""

import math

import pandas as pd
import pytest
import torch
from conftest import one_by_one
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlib.importance import ImportanceScores, largest, selection_size
from mmlib.models import linear_modules
from mmlib.overlap import overlap_sweep, overlap_table
from mmlib.study.benchmark import Setup
from mmlib.study.localisation import collect_scores
from mmlib.study.tables import published

RATIOS = [0.01, 0.1, 0.25]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=40),
    st.lists(st.integers(0, 40), min_size=1, max_size=5),
)
def test_largest_is_a_stable_sort(values, sizes):
    sizes = [min(size, len(values)) for size in sizes]
    ranked = sorted(range(len(values)), key=lambda i: (-values[i], i))
    chosen = largest(torch.tensor(values, dtype=torch.float32), sizes)
    for size, mask in zip(sizes, chosen, strict=True):
        assert set(mask.nonzero().flatten().tolist()) == set(ranked[:size])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=30, max_size=90), st.integers(1, 30))
def test_ties_go_to_the_lower_index_or_to_what_torch_takes(values, size):
    matrix = torch.tensor(values[: len(values) // 5 * 5], dtype=torch.bfloat16).view(5, -1)
    flat = matrix.flatten()
    taken = torch.topk(flat, size).indices
    first = torch.sort(flat, descending=True, stable=True).indices[:size]
    for ties, chosen in {"topk": taken, "index": first}.items():
        scores = ImportanceScores({"h.0.mlp": matrix}, None, ties=ties)
        (mask,) = scores.top_of("h.0.mlp", [size / len(flat) + 1e-9])
        assert mask.flatten().nonzero().flatten().tolist() == sorted(chosen.tolist())


def test_the_rules_differ_in_ties_only():
    torch.manual_seed(0)
    distinct = torch.randperm(5_000).float()
    many = (distinct % 40).bfloat16().float()
    for scores, same in ((distinct, True), (many, False)):
        a, b = (largest(scores, [300, 800], ties) for ties in ("index", "topk"))
        assert all(map(torch.equal, a, b)) == same
        for one, other in zip(a, b, strict=True):
            assert one.sum() == other.sum()
            assert (scores[one ^ other] == scores[one].min()).all()
    with pytest.raises(ValueError, match="ties='random': choose from index, topk"):
        largest(distinct, [3], "random")


def test_top_sets_have_exact_sizes_and_are_nested(llama, prompts):
    scores = collect_scores(llama, one_by_one(prompts))
    for name, module in linear_modules(llama).items():
        sets = scores.top_of(name, RATIOS)
        for ratio, mask in zip(RATIOS, sets, strict=True):
            assert int(mask.sum()) == int(module.weight.numel() * ratio)
        assert not (sets[0] & ~sets[1]).any()
        assert torch.equal(sets[1], scores.top(RATIOS[1])[name])


def two_languages(model, prompts, how="float32"):
    batches = one_by_one(prompts)
    parts = {"en": (batches[:2], batches[2:4]), "hi": (batches[4:6], batches[5:])}
    return {
        code: tuple(collect_scores(model, part, accumulation=how) for part in pair)
        for code, pair in parts.items()
    }


@pytest.mark.parametrize("how", ["float32", "as-published"])
def test_sweep_equals_masks_made_one_at_a_time(llama, prompts, how):
    scores = two_languages(llama, prompts, how)
    assert {s.ties for pair in scores.values() for s in pair} == {
        {"float32": "index", "as-published": "topk"}[how]
    }
    sizes, overlap = overlap_sweep(scores, RATIOS)
    for ratio in RATIOS:
        sets = {code: pair[0].top(ratio) - pair[1].top(ratio) for code, pair in scores.items()}
        mine = overlap.query("keep_ratio == @ratio").drop(columns="keep_ratio")
        pd.testing.assert_frame_equal(
            mine.reset_index(drop=True), overlap_table(sets), check_like=True
        )
        for code, mask in sets.items():
            row = sizes.query("lang == @code and keep_ratio == @ratio and group == 'global'")
            assert row.n_math_specific.item() == len(mask)
            assert row.n_topk.item() == len(scores[code][0].top(ratio))
            assert row.n_scored.item() == mask.n_scored


def test_one_language_has_sizes_but_no_overlap(llama, prompts):
    scores = two_languages(llama, prompts)
    sizes, overlap = overlap_sweep({"en": scores["en"]}, RATIOS)
    assert set(sizes.lang) == {"en"}
    assert overlap.empty


PUBLISHED = {
    "meta-llama/Llama-3.2-1B-Instruct": "1B",
    "Qwen/Qwen3-4B-Instruct-2507": "4B",
    "meta-llama/Llama-3.1-8B-Instruct": "8B",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_set_sizes_follow_from_the_real_shapes(name):
    model = Setup(PUBLISHED[name], [], batch_size=1, repeats=1, device="meta").model()
    numels = [m.weight.numel() for m in linear_modules(model, include_head=True).values()]
    table = published("mathlang_set_sizes").query("model == @name and group == 'global'")
    assert table.keep_ratio.nunique() == 10
    for ratio, rows in table.groupby("keep_ratio"):
        assert set(rows.n_topk) == {sum(selection_size(n, ratio) for n in numels)}


def test_a_ratio_that_selects_nothing_warns_with_the_smallest_usable_one(llama, prompts):
    scores = collect_scores(llama, one_by_one(prompts))
    with pytest.warns(UserWarning, match="selects 0 of the 512 weights of .*k_proj") as caught:
        mask = scores.top(0.001)
    usable = float(str(caught[0].message).split()[-1])
    assert len(mask) == 3 * sum(
        int(m.weight.numel() * 0.001) for n, m in linear_modules(llama).items() if ".0." in n
    )
    assert selection_size(512, usable) >= 1 > selection_size(512, usable * 0.98)


@pytest.mark.parametrize("ratio", [0, 1.5, -0.1, "a lot", True, math.nan])
def test_impossible_keep_ratios_are_refused(llama, prompts, ratio):
    scores = collect_scores(llama, one_by_one(prompts))
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        scores.top(ratio)
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        overlap_sweep({"en": (scores, scores)}, [0.1, ratio])


@pytest.mark.parametrize("ratios", [[], [0.1, 0.1]])
def test_no_ratio_or_one_twice_is_refused(llama, prompts, ratios):
    scores = collect_scores(llama, one_by_one(prompts))
    with pytest.raises(ValueError, match="one or more, each once"):
        overlap_sweep({"en": (scores, scores)}, ratios)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_selection_equals_the_cpu(prompts):
    scores = torch.rand(10_000).mul(50).floor()
    sizes = [1, 77, 500, 9_999]
    for ours, theirs in zip(largest(scores.cuda(), sizes), largest(scores, sizes), strict=True):
        assert torch.equal(ours.cpu(), theirs)
