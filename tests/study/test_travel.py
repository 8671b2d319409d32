"""Laws of edits that travel, against sets and answers made by hand."""

import zlib

import numpy as np
import pandas as pd
import pytest
import torch

from mmlib.masks import ParameterMask, jaccard
from mmlib.study.localisation import score_samples
from mmlib.study.settings import Sampling
from mmlib.study.stats import equivalence
from mmlib.study.tables import unpack_answers
from mmlib.study.travel import (
    ALL,
    CELL,
    Sets,
    edits,
    losses,
    math_sets,
    parts_of,
    predictors,
    transfer,
)
from mmlib.tasks.evaluation import choose_items

LANGS = ["en", "de", "hi"]
TASKS = {"math": "organism-math", "nonmath": "organism-reading"}
ITEMS = 40


def mask(*members, size=12):
    flat = torch.zeros(size, dtype=torch.bool)
    flat[list(members)] = True
    return ParameterMask({"model.layers.0.q_proj": flat.view(3, 4)})


@pytest.fixture
def sets():
    return {"en": mask(0, 1, 2, 3), "de": mask(0, 2, 4), "hi": mask(0, 3, 5, 6)}


def members(found):
    return set(found["model.layers.0.q_proj"].flatten().nonzero().flatten().tolist())


def test_parts_are_those_of_set_algebra(sets):
    parts = parts_of(sets)
    assert members(parts["shared", ALL]) == {0}
    assert members(parts["own", "en"]) == {1}
    assert members(parts["own", "de"]) == {4}
    assert members(parts["own", "hi"]) == {5, 6}
    assert all(members(parts["whole", code]) == members(sets[code]) for code in sets)
    assert len(parts) == 7


def test_own_parts_of_two_languages_never_meet(sets):
    parts = parts_of(sets)
    for a in sets:
        for b in sets:
            expected = members(sets[a]) if a == b else set()
            assert members(parts["own", a]) & members(sets[b]) <= expected


def test_predictors_are_directed(sets):
    table = predictors(sets).set_index(["edited", "lang"])
    assert len(table) == 6
    assert table.covered["de", "en"] == pytest.approx(2 / 4)  # half of English lies in German
    assert table.covered["en", "de"] == pytest.approx(2 / 3)
    assert table.pruned["hi", "en"] == 4
    for a, b in table.index:
        assert table.jaccard[a, b] == pytest.approx(jaccard(sets[a], sets[b]))


def test_every_edit_stands_beside_its_random_counterparts():
    table = edits(languages=LANGS, keep_ratios=[0.01, 0.1], seeds=[1, 101], sample_seeds=[1, 2])
    assert (table.weights == "none").sum() == 1
    counts = table.groupby(["weights", "drawn"]).size()
    assert counts["whole", ""] == 3 * 4
    assert counts["whole", "matrices"] == 2 * counts["whole", ""]
    assert counts["shared", "matrices"] == 2 * counts["shared", ""] == 8
    assert set(table[(table.weights == "shared") & (table.drawn == "")].edited) == {ALL}
    # Of a set: once per set, however often the matrix is drawn from.
    assert counts["shared", "sets"] == counts["own", "sets"] == 3 * 4
    assert ("whole", "sets") not in counts
    assert not table.duplicated().any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"languages": ["en"]}, "two or more"),
        ({"languages": ["en", "en"]}, "each once"),
        ({"weights": ["half"]}, "unknown weights 'half': choose from whole, own, shared"),
    ],
)
def test_impossible_edits_are_refused(given, message):
    given = {"languages": LANGS, "keep_ratios": [0.1], "seeds": [1]} | given
    with pytest.raises(ValueError, match=message):
        edits(**given)


def answers(correct, n=1000):
    return pd.DataFrame({"problem_id": range(n), "correct": np.arange(n) < correct, "cell": "a"})


def paired_interval(b, c, n):
    """90 % interval of (b - c) / n with b and c one-sided changes, by the textbook formula."""
    mean = (b - c) / n
    sd = np.sqrt((b + c - n * mean**2) / (n - 1))
    from scipy.stats import t

    half = t.ppf(0.95, n - 1) * sd / np.sqrt(n)
    return mean - half, mean + half


@pytest.mark.parametrize(
    ("correct", "verdict"),
    [(800, "no measurable change"), (790, "no measurable change"), (600, "loss"), (950, "gain")],
)
def test_equivalence_against_the_textbook(correct, verdict):
    row = equivalence(answers(correct), answers(800), by=["cell"]).iloc[0]
    assert row.verdict == verdict
    low, high = paired_interval(max(800 - correct, 0), max(correct - 800, 0), 1000)
    assert (row.low, row.high) == pytest.approx((low, high))
    assert (row.p_equivalent < 0.05) == (verdict == "no measurable change")


def test_an_interval_across_the_margin_is_undecided():
    assert equivalence(answers(780), answers(800), by=["cell"]).verdict.item() == "undecided"
    # So few problems decide nothing, not even when all but one are alike.
    few = equivalence(answers(20, 21), answers(21, 21), by=["cell"])
    assert few.verdict.item() == "undecided"


def test_draws_of_the_control_are_averaged():
    draws = pd.concat([answers(700), answers(900)])
    row = equivalence(answers(800), draws, by=["cell"]).iloc[0]
    assert (row.control, row.difference) == pytest.approx((0.8, 0.0))
    with pytest.raises(ValueError, match="twice"):
        equivalence(draws, answers(800), by=["cell"])
    with pytest.raises(ValueError, match="no answer under the control"):
        equivalence(answers(800), answers(700, 900), by=["cell"])


def guesses(model, *, languages, parts):
    """Answers that only the weights decide: any edit of them spoils other answers."""
    problems = choose_items(["organism-math"], parts=parts, items=ITEMS)
    state = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    asked = problems.merge(pd.DataFrame({"lang": languages}), how="cross")
    drawn = np.random.default_rng(zlib.crc32(state)).random(len(asked))
    return asked.assign(correct=drawn < 0.5)


def test_edits_are_undone_and_matched(checkpoint):
    model, tokenizer = checkpoint
    scores = score_samples(
        model, tokenizer, Sampling(*TASKS.values(), LANGS, [1], num_samples=8).draw()
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wanted = edits(languages=LANGS, keep_ratios=[0.1], seeds=[1], sample_seeds=[1])
    cells = wanted.assign(part="math-1").merge(pd.DataFrame({"lang": LANGS}), how="cross")
    table = transfer(model, Sets(scores, **TASKS), cells, guesses)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert len(table) == len(wanted) * len(LANGS)
    by_edit = table.groupby(["weights", "drawn", "edited"]).n_weights.agg(["min", "max"])
    sets = math_sets(scores, **TASKS, keep_ratio=0.1, seed=1)
    for code in LANGS:
        assert set(by_edit.loc["whole", "", code]) == {len(sets[code])}
        assert set(by_edit.loc["whole", "matrices", code]) == {len(sets[code])}
        for part, whose in (("own", code), ("shared", ALL)):
            assert set(by_edit.loc[part, "sets", code]) == set(by_edit.loc[part, "", whose])
    assert by_edit.loc[("shared", "", ALL), "min"] < min(map(len, sets.values()))
    masks = table[table.weights != "none"].groupby([*CELL]).mask.first()
    assert masks.is_unique

    problems = choose_items(["organism-math"], parts=["math-1"], items=ITEMS)
    unpacked = unpack_answers(table, problems[["part", "problem_id"]])
    lost = losses(unpacked, ["keep_ratio", "seed"])
    compared = [name for name in by_edit.index if name[0] != "none" and name[1] != "matrices"]
    assert set(zip(lost.weights, lost.drawn, lost.edited, strict=True)) == set(compared)
    mean = unpacked.groupby(["weights", "drawn", "edited", "lang"]).correct.mean()
    lost = lost.set_index(["weights", "drawn", "edited", "lang"])
    for weights, drawn, edited, whose in (
        ("whole", "", "en", "en"),
        ("shared", "", ALL, ALL),
        ("own", "sets", "hi", "hi"),
        ("shared", "sets", "hi", ALL),
    ):
        row = lost.loc[weights, drawn, edited, "de"]
        control = mean[weights, "matrices", whose, "de"]
        assert row.difference == pytest.approx(control - mean[weights, drawn, edited, "de"])
        assert (row.n, row.pair) == (ITEMS, "another" if edited != ALL else ALL)
    of_set = losses(unpacked, ["keep_ratio", "seed"], against="sets")
    of_set = of_set.set_index(["weights", "drawn", "edited", "lang"])
    assert set(of_set.index.get_level_values("weights")) == {"own", "shared"}
    draws = [mean["shared", "sets", code, "de"] for code in LANGS]
    expected = sum(draws) / 3 - mean["shared", "", ALL, "de"]
    assert of_set.difference["shared", "", ALL, "de"] == pytest.approx(expected)
    expected = mean["own", "sets", "hi", "de"] - mean["own", "", "hi", "de"]
    assert of_set.difference["own", "", "hi", "de"] == pytest.approx(expected)
