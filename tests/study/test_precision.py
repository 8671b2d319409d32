"""Laws of running sums in bfloat16 and of ties, against sums and sets made by hand."""

import itertools
from dataclasses import replace

import pandas as pd
import pytest
import torch

from mmlib.forward import batches
from mmlib.importance import ActivationNorms, ImportanceScores, math_specific
from mmlib.masks import jaccard
from mmlib.models import linear_modules, load_model
from mmlib.study.localisation import Sample, collect_scores, score_samples
from mmlib.study.precision import (
    STORED,
    compare,
    compare_quantised,
    float32_products,
    growing_sums,
    moved,
    padding,
    quantised,
    shifts,
    tied,
)
from mmlib.study.settings import Sampling

TASKS = {"math": "organism-math", "nonmath": "organism-reading"}
EN = Sample("en", "organism-math", 1)


@pytest.fixture(scope="module")
def organism():
    model, tokenizer = load_model("organism-skewed", dtype="float32")
    samples = Sampling(*TASKS.values(), ["en", "hi"], [1], num_samples=6).draw()
    return model, tokenizer, samples


@pytest.fixture(scope="module")
def scored(organism):
    """Scores of the samples by rounded and by exact sums."""
    return [score_samples(*organism, accumulation=how) for how in ("as-published", "float32")]


def test_growing_sums_are_those_of_the_first_texts(organism):
    model, tokenizer, samples = organism
    texts = samples[EN].texts
    twice = {EN: replace(samples[EN], texts=[*texts[:4], *texts[:2]])}
    grown = growing_sums(model, tokenizer, twice, [1, 4, 6])
    for size, how in itertools.product((1, 4, 6), ("as-published", "float32")):
        read = batches(tokenizer, twice[EN].texts[:size], sort=False, batch_size=1)
        alone = collect_scores(model, read, accumulation=how)
        found = (grown.rounded if how == "as-published" else grown.exact)[size][EN]
        for name in alone.weights:
            torch.testing.assert_close(found.matrix(name), alone.matrix(name))
        assert found.ties == {"as-published": "topk", "float32": "index"}[how]
    name = next(iter(alone.weights))
    few, many = (grown.rounded[size][EN].matrix(name) for size in (1, 6))
    assert (few <= many).all()
    assert (few < many).any()
    with pytest.raises(ValueError, match="from 1 to 6"):
        growing_sums(model, tokenizer, twice, [7])


def test_ties_are_counted_at_the_cut_only():
    values = torch.tensor([[9.0, 9.0, 5.0, 5.0, 5.0], [5.0, 1.0, 1.0, 0.0, 0.0]])
    scores = ImportanceScores({"h.0.mlp": values}, None)
    shares = [tied(scores, top) for top in scores.tops([0.4, 0.2, 0.1])]
    assert shares == [2 / 4, 2 / 2, 1.0]  # 9 9 5 5, of four fives; a single weight equals itself
    distinct = ImportanceScores({"h.0.mlp": torch.arange(100.0).view(10, 10)}, None)
    assert tied(distinct, distinct.top(0.2)) == 1 / 20


def test_bfloat16_sums_stagnate():
    """256 + 1 is 256 in bfloat16, so that a sum of ones stops there."""
    total = torch.zeros((), dtype=torch.bfloat16)
    for _ in range(500):
        total += torch.ones((), dtype=torch.bfloat16)
    assert total.item() == 256


def test_the_same_scores_differ_in_nothing_but_the_rule(scored):
    exact = scored[1]
    table = compare(exact, exact, **TASKS, keep_ratios=[0.1])
    assert (table.value == table.exact).all()
    counts = table.groupby("ties").what.value_counts()
    assert counts["index", "overlap"] == counts["topk", "overlap"] == 1
    assert counts["index", "membership"] == counts["topk", "membership"] == 2
    assert (table.value[table.what.str.endswith("membership")] == 1).all()
    assert (table.value[(table.ties == "index") & table.what.str.endswith("rule")] == 1).all()


def members(scores, ratio, rule):
    """The top-K set as (matrix, index) pairs, by a stable sort or by `torch.topk`."""
    found = set()
    for name in scores.weights:
        flat = scores.matrix(name).flatten()
        size = int(len(flat) * ratio)
        ranked = torch.sort(flat, descending=True, stable=True).indices[:size]
        chosen = ranked if rule == "index" else torch.topk(flat, size).indices
        found |= {(name, place) for place in chosen.tolist()}
    return found


def both_in_either(a, b):
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("rule", ["index", "topk"])
def test_numbers_are_those_of_the_sets(scored, rule):
    rows = compare(*scored, **TASKS, keep_ratios=[0.1, 0.01]).query("keep_ratio == 0.01")
    table = rows[rows.ties == rule].set_index(["what", "lang_a"])
    tops = [{key: members(s[key], 0.01, rule) for key in s} for s in scored]
    low, high = (
        {
            code: top[code, TASKS["math"], 1] - top[code, TASKS["nonmath"], 1]
            for code in ("en", "hi")
        }
        for top in tops
    )
    assert table.value["membership", "hi"] == both_in_either(low["hi"], high["hi"]) < 1
    assert table.value["top-K membership", "en"] == both_in_either(*(top[EN] for top in tops))
    assert table.value["overlap", "en"] == both_in_either(low["en"], low["hi"])
    assert table.exact["overlap", "en"] == both_in_either(high["en"], high["hi"])
    assert table.value["set size", "en"] == len(low["en"])
    assert table.value["ties", "en"] > table.exact["ties", "en"]
    by_index = members(scored[0][EN], 0.01, "index")
    assert table.value["top-K rule", "en"] == both_in_either(tops[0][EN], by_index)
    assert (table.value["rule", "en"] < 1) == (rule == "topk")


def test_products_of_bfloat16_are_rounded_once():
    model, _ = load_model("organism-skewed", dtype="bfloat16")
    module = model.model.layers[0].mlp.down_proj
    inputs = torch.randn(5, module.in_features, generator=torch.Generator().manual_seed(1))
    inputs = inputs.bfloat16()
    with float32_products(model):
        found = module(inputs)
    assert torch.equal(found, (inputs.float() @ module.weight.float().T).bfloat16())
    assert "forward" not in vars(module)


def test_padding_is_told_of_exact_sums(scored):
    exact = scored[1]
    table = padding(exact, exact, **TASKS, keep_ratios=[0.1])
    assert (table[["value", "exact"]] == 1).all(axis=None)
    mixed = {key: exact[("en", *key[1:])] for key in exact}
    other = padding(exact, mixed, **TASKS, keep_ratios=[0.1]).set_index(["what", "lang_a"]).exact
    hi, en = (members(exact[code, TASKS["math"], 1], 0.1, "index") for code in ("hi", "en"))
    assert other["top-K padding", "hi"] == both_in_either(hi, en) < other["padding", "en"] == 1


def test_members_moved_are_a_share_of_sets_of_one_size():
    """Of two sets of 4 that share 3, 3 of 5 are in both: a quarter of either is moved."""
    rows = [("topk", "top-K rule", 3 / 5, 1.0), ("index", "top-K rule", 1.0, 1.0)]
    rows += [("index", "top-K padding", 1.0, 7 / 9)]
    table = pd.DataFrame(rows, columns=["ties", "what", "value", "exact"])
    early = table.assign(num_samples=10, value=0.0, exact=0.0)
    told = moved(pd.concat([early, table.assign(num_samples=50)]).assign(keep_ratio=0.1))
    assert told[0.1].to_dict() == pytest.approx(
        {"bfloat16 sums, rule": 1 / 4, "exact sums, rule": 0.0, "exact sums, padding": 1 / 8}
    )


def test_copies_of_sums_stay_and_norms_are_not_copied():
    sums = ImportanceScores({"a": torch.ones(2, 2)}, None, ties="topk")
    kept = sums.copy()
    sums.weights["a"] += 1
    assert kept.weights["a"].sum() == 4
    assert kept.ties == "topk"
    norms = ActivationNorms({"a": torch.ones(2)}, {"a": "a"}, 1)
    derived = ImportanceScores({"a": torch.ones(2, 2)}, norms)
    assert derived.copy() is derived


def test_shifts_of_sizes_are_shares_and_those_of_overlaps_differences():
    rows = [("set size", 110.0, 100.0), ("overlap", 0.45, 0.5), ("ties", 1.0, 0.0)]
    table = shifts(pd.DataFrame(rows, columns=["what", "value", "exact"]))
    changes = table.set_index("what").change.to_dict()
    assert changes == pytest.approx({"set size": 0.1, "overlap": -0.05})


# --- few bits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stored", "levels"), [("Q8_0", 256), ("Q5_0", 32), ("Q4_0", 16)])
def test_a_block_keeps_a_scale_and_few_levels(organism, stored, levels):
    model, _, _ = organism
    name, module = next(iter(linear_modules(model).items()))
    before = {n: p.clone() for n, p in model.named_parameters()}
    with quantised(model, stored):
        blocks = module.weight.detach().reshape(-1, 32)
        whole = before[f"{name}.weight"].reshape(-1, 32)
        # Multiples of one step in every block, none further off than a step (the ends are cut).
        steps = whole.abs().max(1).values / (levels / 2 - (stored == "Q8_0"))
        counts = blocks / steps[:, None]
        assert (counts - counts.round()).abs().max() < 0.02 * levels / 16
        assert ((blocks - whole).abs() <= 1.01 * steps[:, None]).all()
        assert not torch.equal(blocks, whole)
        kept = {n for n, p in model.named_parameters() if torch.equal(p, before[n])}
        assert kept == {n for n in before if n.removesuffix(".weight") not in linear_modules(model)}
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_sets_in_few_bits_are_those_of_the_rounded_weights(organism):
    model, tokenizer, samples = organism
    table = compare_quantised(model, tokenizer, samples, **TASKS, keep_ratios=[0.1])
    assert set(table.stored) == set(STORED)
    of = table.set_index(["stored", "what", "lang_a", "lang_b"])
    math, nonmath = (Sample("en", task, 1) for task in TASKS.values())
    for stored in ("Q8_0", "Q4_0"):
        with quantised(model, stored):
            scores = score_samples(model, tokenizer, samples)
            sets = [math_specific(scores[math], scores[nonmath], 0.1)]
            sets += [scores[math].top(0.1) - scores[nonmath].top(0.1)]
            assert sets[0] == sets[1]
            assert of.value[stored, "set size", "en", "en"] == len(sets[0])
        own = score_samples(model, tokenizer, samples)
        exact = math_specific(own[math], own[nonmath], 0.1)
        assert of.exact[stored, "set size", "en", "en"] == len(exact)
        assert of.value[stored, "membership", "en", "en"] == jaccard(sets[0], exact)
    members = table[table.what == "membership"].groupby("stored").value.mean()
    assert members["Q8_0"] > members["Q5_0"] > members["Q4_0"]


def test_rows_that_no_block_fits_are_refused(llama):
    with pytest.raises(ValueError, match="Q5_0 needs 32s"), quantised(llama, "Q5_0"):
        pass
