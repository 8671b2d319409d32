"""Laws of the controls of an overlap, against direct counts and simulations."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mmlib.book.chapters import Project, resolve
from mmlib.forward import batches
from mmlib.masks import ParameterMask, jaccard, random_mask
from mmlib.models import load_model
from mmlib.overlap import overlap_table
from mmlib.study import ceilings, sets
from mmlib.study.ceilings import (
    by_part,
    chance,
    coefficient,
    growing_scores,
    pair_lines,
    published_chance,
    shuffled,
)
from mmlib.study.localisation import collect_scores, score_samples, set_tables
from mmlib.study.settings import Loading, Sampling

TASKS = ["organism-math", "organism-reading"]


@pytest.fixture(scope="module")
def scored():
    model, tokenizer = load_model("organism-skewed", dtype="float32")
    samples = Sampling(*TASKS, ["en", "hi"], [1], num_samples=12).draw()
    return model, tokenizer, samples, score_samples(model, tokenizer, samples)


@pytest.fixture(scope="module")
def overlap(scored):
    return set_tables(scored[3], *TASKS, [0.1]).overlap


def test_shuffling_keeps_the_values_of_the_norms_and_their_pairing(scored):
    _, _, _, scores = scored
    mixed = shuffled(scores)
    for key, found in scores.items():
        for name, vector in found.norms.vectors.items():
            other = mixed[key].norms.vectors[name]
            assert torch.equal(vector.sort().values, other.sort().values)
    for code in ("en", "hi"):
        pair = [(code, task, 1) for task in TASKS]
        for name in scores[pair[0]].norms.vectors:
            before = torch.stack([scores[key].norms.vectors[name] for key in pair], 1)
            after = torch.stack([mixed[key].norms.vectors[name] for key in pair], 1)
            assert sorted(before.tolist()) == sorted(after.tolist())
    name = next(iter(scores["en", TASKS[0], 1].norms.vectors))
    assert not torch.equal(
        mixed["en", TASKS[0], 1].norms.vectors[name], scores["en", TASKS[0], 1].norms.vectors[name]
    )
    again = shuffled(scores)
    assert torch.equal(
        again["hi", TASKS[0], 1].norms.vectors[name], mixed["hi", TASKS[0], 1].norms.vectors[name]
    )


def test_shuffling_does_not_depend_on_the_order_in_which_norms_lie(scored):
    """Norms from the cache lie in another order than those just collected."""
    scores = dict(scored[3])
    mixed, key = shuffled(scores), ("hi", TASKS[1], 1)
    norms = scores[key].norms
    turned = replace(norms, vectors=dict(reversed(norms.vectors.items())))
    again = shuffled(scores | {key: replace(scores[key], norms=turned)})
    for name in norms.vectors:
        assert torch.equal(again[key].norms.vectors[name], mixed[key].norms.vectors[name])


def test_shuffling_destroys_overlap_but_not_what_magnitude_gives(scored, overlap):
    mixed = set_tables(shuffled(scored[3]), *TASKS, [0.1]).overlap
    before, after = (t[t.group == "global"].iloc[0] for t in (overlap, mixed))
    expected = after.expected_intersection / (after.size_a + after.size_b)
    assert expected < after.jaccard < before.jaccard / 2


def test_parts_add_up_to_the_whole(overlap):
    parts = by_part(overlap)
    assert list(parts.group) == ["attention", "MLP"]
    whole = overlap[overlap.group == "global"].iloc[0]
    for count in ("size_a", "size_b", "intersection", "n_scored"):
        assert parts[count].sum() == whole[count]
    modules = overlap[(overlap.group == "module") & overlap.module.str.contains("mlp")]
    union = modules.size_a + modules.size_b - modules.intersection
    assert parts.jaccard.iloc[1] == pytest.approx(modules.intersection.sum() / union.sum())


def test_a_module_of_neither_part_is_named(overlap):
    with pytest.raises(ValueError, match="lm_head is neither"):
        by_part(overlap.assign(module="lm_head"))


def test_coefficient_of_a_subset_is_one():
    small, large = torch.zeros(4, 5, dtype=torch.bool), torch.zeros(4, 5, dtype=torch.bool)
    small[0, :2] = large[0] = True
    sets = {"a": ParameterMask({"h.0.mlp": small}), "b": ParameterMask({"h.0.mlp": large})}
    row = coefficient(overlap_table(sets).query("group == 'global'")).iloc[0]
    assert (row.coefficient, row.jaccard) == (1.0, pytest.approx(2 / 5))


def test_chance_is_that_of_drawn_masks():
    rng = np.random.default_rng(0)
    like = {
        name: ParameterMask(
            {
                f"h.{i}.mlp": torch.from_numpy(rng.random((30, 40)) < share * (i + 1) / 2)
                for i in range(2)
            }
        )
        for name, share in {"a": 0.1, "b": 0.2}.items()
    }
    table = overlap_table(like).assign(keep_ratio=0.1, seed=1)
    row = chance(table).iloc[0]
    drawn = [
        jaccard(random_mask(like["a"], seed=2 * i), random_mask(like["b"], seed=2 * i + 1))
        for i in range(300)
    ]
    assert row.permuted == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 300**0.5)
    assert row.closed == pytest.approx(row.permuted, rel=0.02)
    assert row.low < np.quantile(drawn, 0.1) < np.quantile(drawn, 0.9) < row.high


def test_published_chance_is_that_of_random_differences():
    """Two sets of independent top-K less independent top-K, as in the paper's Appendix C."""
    rng = np.random.default_rng(1)
    a, b = ((rng.random(2_000_000) < 0.1) & ~(rng.random(2_000_000) < 0.1) for _ in range(2))
    assert published_chance(0.1) == pytest.approx((a & b).sum() / (a | b).sum(), rel=0.02)
    assert published_chance(0.1) == pytest.approx(0.0471, abs=5e-5)  # as in the paper's figure


def test_growing_scores_are_those_of_the_first_texts(scored):
    model, tokenizer, samples, _ = scored
    sample = samples["en", TASKS[0], 1]
    found = growing_scores(model, tokenizer, sample, [1, 5, 12])
    for size, scores in found.items():
        alone = collect_scores(model, batches(tokenizer, sample.texts[:size], batch_size=3))
        for name in scores.weights:
            assert torch.allclose(scores.matrix(name), alone.matrix(name), rtol=1e-4)
    with pytest.raises(ValueError, match="from 1 to 12"):
        growing_scores(model, tokenizer, sample, [5, 13])


def test_sums_of_matrices_cannot_be_shuffled(scored):
    model, tokenizer, samples, _ = scored
    key = ("en", TASKS[0], 1)
    summed = score_samples(model, tokenizer, {key: samples[key]}, accumulation="as-published")
    with pytest.raises(ValueError, match="float32 accumulation"):
        shuffled(summed)


def test_lines_of_a_pair_are_means_over_seeds_beside_chance():
    row = {"group": "global", "keep_ratio": 0.1, "lang_a": "en", "lang_b": "de", "size_a": 20}
    row |= {"size_b": 30, "expected_intersection": 5.0, "control": "math-specific"}
    rows = [row | {"seed": seed, "jaccard": value} for seed, value in enumerate((0.2, 0.4))]
    rows += [{**rows[0], "control": "untrained", "jaccard": 0.1}]
    rows += [{**rows[0], "lang_b": "en", "control": "same language"}]
    lines = pair_lines(pd.DataFrame(rows), 0.1).set_index(["pair", "control"])
    assert lines["mean"].to_dict() == {
        ("en-de", "math-specific"): pytest.approx(0.3),
        ("en-de", "untrained"): pytest.approx(0.1),
        ("en-de", "chance, same sizes"): pytest.approx(5 / 45),
    }


REFUSED = {
    ("04_overlap", "languages"): (["en"], r"languages=\['en'\]: give 2 or more"),
    ("04_overlap", "keep_ratio"): (0.07, r"keep_ratio=0\.07: .* 0\.15\], .* real_control=false"),
    ("09_ceilings", "languages"): (["en"], "give 2 or more"),
    ("09_ceilings", "seeds"): ([1], r"seeds=\[1\]: give 2 or more"),
    ("09_ceilings", "keep_ratio"): (0.05, r"choose one of \[0\.01, 0\.1\]"),
}


@pytest.mark.parametrize(("page", "name"), REFUSED)
def test_what_leaves_a_page_without_a_row_is_refused_before_any_work(monkeypatch, page, name):
    monkeypatch.setattr(Loading, "load", lambda *_: pytest.fail("a model is loaded"))
    value, message = REFUSED[page, name]
    project = Project(Path(__file__).parents[2])
    given, _ = resolve(project, page, {name: value})
    rows = {"04_overlap": sets.overlaps, "09_ceilings": ceilings.rows}[page]
    with pytest.raises(ValueError, match=message):
        rows(given)


def test_another_keep_ratio_is_taken_where_no_real_llm_is_shown(monkeypatch):
    monkeypatch.setattr(sets, "rows", lambda given: given["keep_ratio"])
    given = {"languages": ["en", "de"], "keep_ratio": 0.07, "real_control": False}
    assert sets.overlaps(given) == 0.07
    assert sets.overlaps(given | {"keep_ratio": 0.15, "real_control": True}) == 0.15
