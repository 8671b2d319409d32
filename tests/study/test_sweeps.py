"""A sweep is single edits in a row: the same sets, answers and grades, and nothing left behind."""

import functools
import zlib
from dataclasses import asdict, replace

import pandas as pd
import pytest
import torch

from mmlib.edits import scaled
from mmlib.models import linear_modules
from mmlib.study import evidence, sweeps
from mmlib.study.localisation import score_samples
from mmlib.study.settings import Sampling
from mmlib.study.tables import RunInfo, unpack_answers
from mmlib.tasks.evaluation import choose_items, part_answers

TASKS = ("organism-math", "organism-reading")


@pytest.fixture(scope="module")
def localised(checkpoint, heldout, tmp_path_factory):
    """Model, tokenizer, and scores on a few held-out texts."""
    folder = tmp_path_factory.mktemp("calibration")
    (folder / "calibration.jsonl.gz").write_bytes((heldout / "heldout.jsonl.gz").read_bytes())
    drawn = {"num_samples": 6, "drawing": "replacement", "data_dir": str(folder)}
    samples = Sampling(*TASKS, ["en", "sw"], [1, 2], **drawn).draw()
    return *checkpoint, score_samples(*checkpoint, samples)


def sets(localised, **options):
    scores = localised[2]
    pair = scores["en", TASKS[0], 1], scores["en", TASKS[1], 1]
    return {name: sweeps.edit_set(name, *pair, 0.1, **options) for name in sweeps.CONDITIONS}


def test_conditions_are_the_sets_they_say(localised):
    scores, found = localised[2], sets(localised, seed=3)
    math, nonmath = (scores["en", task, 1].top(0.1) for task in TASKS)
    own = found["math-specific"]
    assert own == math - nonmath
    assert 0 < len(own) < len(math)
    assert found["nonmath-specific"] == nonmath - math
    assert found["top-K math"] == math
    assert found["highest first"] == found["lowest first"] == own
    for name in ("random", "same magnitude"):
        sizes = {module: int(mask.sum()) for module, mask in found[name].items()}
        assert sizes == {module: int(mask.sum()) for module, mask in own.items()}
        assert found[name] == sets(localised, seed=3)[name] != sets(localised, seed=4)[name]
    weights = {name: m.weight.abs() for name, m in linear_modules(localised[0]).items()}
    means = {
        name: torch.cat([weights[module][mask] for module, mask in found[name].items()]).mean()
        for name in found
    }
    matched = abs(means["same magnitude"] - means["math-specific"])
    assert matched < 0.2 * abs(means["random"] - means["math-specific"])


@pytest.mark.parametrize("condition", sweeps.ORDERED)
def test_ordered_fractions_have_the_extreme_scores_of_the_whole_set(localised, condition):
    scores = localised[2]["en", TASKS[0], 1]
    own = sets(localised)["math-specific"]
    for fraction in (0.0, 0.25, 0.5):
        chosen = sets(localised, fraction=fraction)[condition]
        assert len(chosen) == round(fraction * len(own))
        assert len(chosen - own) == 0
        inside = [scores.matrix(name)[mask] for name, mask in chosen.items()]
        outside = [scores.matrix(name)[mask] for name, mask in (own - chosen).items()]
        if fraction:
            high, low = (inside, outside) if condition == "highest first" else (outside, inside)
            assert torch.cat(high).min() >= torch.cat(low).max()


def test_a_sweep_is_its_edits_one_by_one(localised, heldout):
    model, tokenizer, scores = localised
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    options = {"tasks": ["organism-math"], "parts": ["math-1"], "items": 4, "data_dir": heldout}
    ask = functools.partial(part_answers, tokenizer=tokenizer, **options)
    wanted = sweeps.cells(
        languages=["en", "sw"],
        seeds=[1, 2],
        keep_ratios=[0.1],
        conditions=["math-specific", "random"],
        factors=[0.0, 30.0],
        fractions=[0.5],
        sample_seeds=[7],
    )
    assert len(wanted) == 2 + 2 * 2 * 2 * 2
    sets_of = sweeps.Sets(scores, *TASKS)
    table = sweeps.sweep({"float32": model}, sets_of, wanted, ask)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    problems = ask(model, languages=["en"])[["problem_id", "part"]]
    answers = unpack_answers(table, problems)
    assert len(answers) == 4 * len(wanted)
    own = scores["sw", TASKS[0], 2].top(0.1) - scores["sw", TASKS[1], 2].top(0.1)
    with scaled(model, own, factor=30.0, fraction=0.5, seed=zlib.crc32(b"sw 2 7")) as count:
        direct = ask(model, languages=["sw"])
    cell = "lang == 'sw' and condition == 'math-specific' and factor == 30 and seed == 2"
    assert answers.query(cell).correct.tolist() == direct.sort_values("problem_id").correct.tolist()
    assert table.query(cell).n_weights.item() == count == round(0.5 * len(own))
    masks = table[table.condition == "math-specific"].groupby(["lang", "seed"])["mask"].nunique()
    assert masks.eq(1).all()
    assert table[table.condition == "math-specific"]["mask"].nunique() == 4
    drawn = table.groupby(["lang", "condition"], sort=False).sample(1, random_state=1)
    again = drawn[[*sweeps.CELL, "part"]]
    assert again.value_counts(["lang", "condition"]).to_dict() == dict.fromkeys(
        [(lang, name) for lang in ("en", "sw") for name in ("none", "math-specific", "random")], 1
    )
    repeated = sweeps.sweep({"float32": model}, sets_of, again, ask)
    assert len(again) == 6
    columns = [*sweeps.CELL, "part"]
    pd.testing.assert_frame_equal(
        repeated.sort_values(columns, ignore_index=True),
        table.merge(again, on=columns).sort_values(columns, ignore_index=True),
    )


def test_a_cell_is_asked_all_its_parts_in_one_call(localised, heldout):
    model, tokenizer, scores = localised
    calls = []

    def ask(model, **given):
        calls.append(given)
        return part_answers(model, tokenizer, tasks=TASKS, items=2, data_dir=heldout, **given)

    cell = sweeps.cells(languages=["en"], seeds=[1], keep_ratios=[0.1], conditions=["random"])
    parts = list(choose_items(TASKS, data_dir=heldout).part.unique())
    assert len(parts) > 1
    wanted = cell.merge(pd.DataFrame({"part": parts}), how="cross")
    sets_of = sweeps.Sets(scores, *TASKS)
    table = sweeps.sweep({"float32": model}, sets_of, wanted, ask)
    assert calls == 2 * [{"languages": ["en"], "parts": parts}]
    assert table[["condition", "part"]].equals(wanted[["condition", "part"]])


def test_an_edit_is_asked_in_the_language_of_its_set(localised, heldout):
    model, tokenizer, scores = localised
    asked = []

    def ask(model, *, languages):
        asked.append(languages)
        how = {"tasks": TASKS[:1], "items": 1, "data_dir": heldout}
        return part_answers(model, tokenizer, languages=languages, **how)

    grid = {"languages": ["en", "sw"], "keep_ratios": [0.1], "conditions": ["random"]}
    wanted = sweeps.cells(seeds=[1], **grid)
    sweeps.sweep({"float32": model}, sweeps.Sets(scores, *TASKS), wanted, ask)
    assert asked == [[code] for code in wanted.lang]
    assert set(wanted.lang) == {"en", "sw"}


def test_edits_that_no_draw_changes_stand_once():
    table = sweeps.cells(
        languages=["en"], seeds=[1], keep_ratios=[0.1], fractions=[0.5, 1.0], sample_seeds=[1, 2]
    )
    count = table.value_counts("condition").to_dict()
    assert count.pop("none") == 1
    halves = dict.fromkeys(("math-specific", "nonmath-specific", "top-K math"), 2 + 1)
    ordered = {"highest first": 2, "lowest first": 2}
    assert count == halves | {"random": 4, "same magnitude": 4} | ordered


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"languages": "en"}, "languages is 'en'"),
        ({"seeds": [1, 1]}, "each once"),
        ({"keep_ratios": [7]}, "keep_ratios has 7"),
        ({"fractions": [0.0]}, "fractions has 0.0"),
        ({"factors": [float("nan")]}, "factors has nan"),
    ],
)
def test_cells_that_cannot_be_are_refused(wrong, message):
    given = {"languages": ["en"], "seeds": [1], "keep_ratios": [0.1]} | wrong
    with pytest.raises(ValueError, match=message):
        sweeps.cells(**given)


def test_unknown_conditions_are_refused(localised):
    with pytest.raises(ValueError, match="unknown condition 'all': choose"):
        sweeps.cells(languages=["en"], seeds=[1], keep_ratios=[0.1], conditions=["all"])
    pair = localised[2]["en", TASKS[0], 1], localised[2]["en", TASKS[1], 1]
    with pytest.raises(ValueError, match="choose from math-specific"):
        sweeps.edit_set("all", *pair, 0.1)


RUN = RunInfo(
    "toy",
    dtype="float32",
    checkpoint_hash="abc",
    parameters={"math": "m", "nonmath": "r", "num_samples": 5, "data_dir": "", "items": 2},
)


def evidence_of(wanted, run=RUN):
    table = wanted.assign(model="toy", correct="10", n_weights=3)
    other = table.assign(model="else", correct="00")
    return pd.concat([table, table, other]), {"run": {"parameters": {"runs": [asdict(run)]}}}


def test_shipped_cells_are_those_of_the_model_that_are_wanted():
    grid = {"languages": ["en", "de"], "keep_ratios": [0.1], "conditions": ["random"]}
    wanted = sweeps.cells(seeds=[1], **grid).assign(part="math-1")
    table, manifest = evidence_of(wanted)
    found = evidence.shipped(wanted, table, manifest, RUN)
    pd.testing.assert_frame_equal(found[[*wanted]], wanted)
    assert (found.model == "toy").all()
    assert (found.correct == "10").all()
    pd.testing.assert_frame_equal(
        evidence.shipped(wanted[2:], table, manifest, RUN)[[*wanted]],
        wanted[2:].reset_index(drop=True),
    )
    more = sweeps.cells(seeds=[1, 2], **grid).assign(part="math-1")
    with pytest.raises(ValueError, match=r"2 of 6 that .*'seed': 2.* sweep=true"):
        evidence.shipped(more, table, manifest, RUN)
    with pytest.raises(ValueError, match="4 of 4"):
        evidence.shipped(wanted.assign(part="math-3"), table, manifest, RUN)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint_hash": "xyz"}, "checkpoint_hash='abc', not 'xyz'"),
        ({"dtype": "bfloat16"}, "dtype='float32', not 'bfloat16'"),
        ({"parameters": RUN.parameters | {"nonmath": "race"}}, "nonmath='r', not 'race'"),
    ],
)
def test_cells_made_with_other_weights_or_texts_are_refused(change, message):
    grid = {"languages": ["en"], "keep_ratios": [0.1], "conditions": ["random"], "seeds": [1]}
    wanted = sweeps.cells(**grid).assign(part="math-1")
    with pytest.raises(ValueError, match=message):
        evidence.shipped(wanted, *evidence_of(wanted), replace(RUN, **change))
