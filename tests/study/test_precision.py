"""Laws of running sums in bfloat16, against sums made by hand."""

import pandas as pd
import pytest
import torch

from mmlib.forward import batches
from mmlib.importance import ActivationNorms, ImportanceScores
from mmlib.masks import jaccard
from mmlib.models import load_model
from mmlib.study.localisation import collect_scores, draw_samples, score_samples
from mmlib.study.precision import compare, growing_sums, shifts, tied

TASKS = {"math": "organism-math", "nonmath": "organism-reading"}


@pytest.fixture(scope="module")
def organism():
    model, tokenizer = load_model("organism-skewed", dtype="float32")
    samples = draw_samples(list(TASKS.values()), ["en", "hi"], [1], num_samples=6)
    return model, tokenizer, samples


def test_growing_sums_are_those_of_the_first_texts(organism):
    model, tokenizer, samples = organism
    sample = samples["en", "organism-math", 1]
    grown = growing_sums(model, tokenizer, sample, [1, 4, 6])
    for size, scores in grown.items():
        texts = batches(tokenizer, sample.texts[:size], sort=False)
        alone = collect_scores(model, texts, accumulation="as-published")
        assert all(torch.equal(scores.matrix(n), alone.matrix(n)) for n in scores.weights)
    name = next(iter(grown[1].weights))
    assert (grown[1].matrix(name) <= grown[6].matrix(name)).all()
    assert (grown[1].matrix(name) < grown[6].matrix(name)).any()
    with pytest.raises(ValueError, match="from 1 to 6"):
        growing_sums(model, tokenizer, sample, [7])


def test_ties_are_counted_at_the_cut_only():
    values = torch.tensor([[9.0, 9.0, 5.0, 5.0, 5.0], [5.0, 1.0, 1.0, 0.0, 0.0]])
    scores = ImportanceScores({"h.0.mlp": values}, None)
    assert tied(scores, 0.4) == 2 / 4  # 9 9 5 5, of four fives
    assert tied(scores, 0.2) == 2 / 2
    assert tied(scores, 0.1) == 1.0  # a single weight equals itself
    distinct = ImportanceScores({"h.0.mlp": torch.arange(100.0).view(10, 10)}, None)
    assert tied(distinct, 0.2) == 1 / 20


def test_bfloat16_sums_stagnate():
    """256 + 1 is 256 in bfloat16, so that a sum of ones stops there."""
    total = torch.zeros((), dtype=torch.bfloat16)
    for _ in range(500):
        total += torch.ones((), dtype=torch.bfloat16)
    assert total.item() == 256


def test_the_same_scores_differ_in_nothing(organism):
    model, tokenizer, samples = organism
    exact = score_samples(model, tokenizer, samples)
    table = compare(exact, exact, **TASKS, keep_ratios=[0.1])
    assert (table.value == table.exact).all()
    counts = table.what.value_counts()
    assert counts["overlap"] == 1
    assert counts["membership"] == 2


def test_numbers_are_those_of_the_sets(organism):
    model, tokenizer, samples = organism
    exact = score_samples(model, tokenizer, samples)
    rounded = score_samples(model, tokenizer, samples, accumulation="as-published")
    table = compare(rounded, exact, **TASKS, keep_ratios=[0.01]).set_index(["what", "lang_a"])
    sets = [
        {
            code: s[code, TASKS["math"], 1].top(0.01) - s[code, TASKS["nonmath"], 1].top(0.01)
            for code in ("en", "hi")
        }
        for s in (rounded, exact)
    ]
    assert table.value["membership", "hi"] == jaccard(sets[0]["hi"], sets[1]["hi"])
    assert table.value["membership", "hi"] < 1
    assert table.value["overlap", "en"] == jaccard(sets[0]["en"], sets[0]["hi"])
    assert table.exact["overlap", "en"] == jaccard(sets[1]["en"], sets[1]["hi"])
    assert table.value["set size", "en"] == len(sets[0]["en"])
    assert table.value["ties", "en"] > table.exact["ties", "en"]


def test_copies_of_sums_stay_and_norms_are_not_copied():
    sums = ImportanceScores({"a": torch.ones(2, 2)}, None)
    kept = sums.copy()
    sums.weights["a"] += 1
    assert kept.weights["a"].sum() == 4
    norms = ActivationNorms({"a": torch.ones(2)}, {"a": "a"}, 1)
    derived = ImportanceScores({"a": torch.ones(2, 2)}, norms)
    assert derived.copy() is derived


def test_shifts_of_sizes_are_shares_and_those_of_overlaps_differences():
    rows = [("set size", 110.0, 100.0), ("overlap", 0.45, 0.5), ("ties", 1.0, 0.0)]
    table = shifts(pd.DataFrame(rows, columns=["what", "value", "exact"]))
    changes = table.set_index("what").change.to_dict()
    assert changes == pytest.approx({"set size": 0.1, "overlap": -0.05})
