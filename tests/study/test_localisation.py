import itertools
from dataclasses import replace

import pytest
import torch
from conftest import pad

from mmlib.forward import batches
from mmlib.importance import ImportanceScores
from mmlib.masks import jaccard
from mmlib.models import load_model
from mmlib.study.localisation import (
    Sample,
    collect_scores,
    score_samples,
    set_tables,
)
from mmlib.study.settings import Sampling

RATIOS = [0.05, 0.2]
SEEDS = [1, 101, 201]


@pytest.fixture
def scores(llama):
    """Scores of a small model on other random prompts for every language, task and seed."""
    generator = torch.Generator().manual_seed(2)
    keys = itertools.starmap(Sample, itertools.product(["en", "hi"], ["gsm8k", "mmlu"], SEEDS))
    prompts = lambda: [torch.randint(1, 97, (6,), generator=generator) for _ in range(3)]  # noqa: E731
    return {key: collect_scores(llama, [pad(prompts())]) for key in keys}


def at(table, **values):
    """The one global row with these values."""
    for name, value in values.items():
        table = table[table[name] == value]
    (row,) = table[table.group == "global"].itertuples()
    return row


def specific(scores, language, seed, ratio):
    tops = [scores[language, task, seed].top(ratio) for task in ("gsm8k", "mmlu")]
    return tops[0] - tops[1]


def test_samples_scored_together_are_those_scored_alone(tmp_path, monkeypatch):
    """Texts are repeated within samples, and shared by them."""
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path))
    model, tokenizer = load_model("organism-skewed", dtype="float32")
    tasks = ("organism-math", "organism-reading")
    drawn = Sampling(*tasks, ["en", "hi"], [1, 2, 3], num_samples=20).draw()
    drawn = {key: sample for key, sample in drawn.items() if key.task == tasks[0]}
    samples = {}
    for start, key in enumerate(drawn):
        pool = drawn[key._replace(seed=1)].texts  # of one seed, so that neighbours share most
        samples[key] = replace(drawn[key], texts=pool[start : start + 10] + pool[start : start + 3])
    found = score_samples(model, tokenizer, samples, batch_size=7)
    assert list(found) == list(samples)
    for key, sample in samples.items():
        alone = collect_scores(model, batches(tokenizer, sample.texts))
        for name in alone.weights:
            assert torch.allclose(found[key].matrix(name), alone.matrix(name), rtol=1e-4)


def test_languages_are_compared_within_a_seed(scores):
    sizes, overlap = set_tables(scores, "gsm8k", "mmlu", RATIOS)[:2]
    for seed, ratio in itertools.product(SEEDS, RATIOS):
        en, hi = (specific(scores, code, seed, ratio) for code in ("en", "hi"))
        assert at(sizes, lang="hi", seed=seed, keep_ratio=ratio).n_math_specific == len(hi)
        row = at(overlap, seed=seed, keep_ratio=ratio)
        assert (row.lang_a, row.lang_b, row.nonmath) == ("en", "hi", "mmlu")
        assert row.jaccard == pytest.approx(jaccard(en, hi))


def test_ceiling_compares_all_samples_of_one_language(scores):
    table = set_tables(scores, "gsm8k", "mmlu", RATIOS).ceiling
    found = table[(table.group == "global") & (table.lang_a == "hi") & (table.keep_ratio == 0.2)]
    sets = [specific(scores, "hi", seed, 0.2) for seed in SEEDS]
    expected = [jaccard(a, b) for a, b in itertools.combinations(sets, 2)]
    assert sorted(found.jaccard) == pytest.approx(sorted(expected))
    assert (table.lang_a == table.lang_b).all()


def test_floor_subtracts_another_sample_of_the_same_text(scores):
    noise = set_tables(scores, "gsm8k", "mmlu", RATIOS).floor
    first, second = (scores["en", "gsm8k", seed].top(0.2) for seed in (1, 101))
    assert at(noise, lang="en", seed=1, keep_ratio=0.2).n_math_specific == len(first - second)
    assert set(noise.seed) == set(SEEDS)


def test_every_matrix_is_scored_once_per_sample(scores, monkeypatch):
    asked = []
    matrix = ImportanceScores.matrix
    monkeypatch.setattr(
        ImportanceScores, "matrix", lambda s, name: asked.append((id(s), name)) or matrix(s, name)
    )
    set_tables(scores, "gsm8k", "mmlu", RATIOS)
    modules = next(iter(scores.values())).weights
    assert len(asked) == len(set(asked)) == len(scores) * len(modules)


def test_one_seed_has_no_ceiling_and_no_floor(scores):
    one = {key: value for key, value in scores.items() if key.seed == 1}
    tables = set_tables(one, "gsm8k", "mmlu", RATIOS)
    assert tables.ceiling.empty
    assert tables.floor.empty


def test_no_scores_have_empty_tables():
    assert all(table.empty for table in set_tables({}, "gsm8k", "mmlu", RATIOS))


def test_doubled_or_missing_values_are_refused():
    with pytest.raises(ValueError, match=r"languages=\['en', 'en'\]"):
        Sampling("gsm8k", "mmlu", ["en", "en"], [1]).draw()
    with pytest.raises(ValueError, match=r"seeds=\[\]"):
        Sampling("gsm8k", "mmlu", ["en"], []).draw()
