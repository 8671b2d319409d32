"""What an edit costs per token, beside sets pruned by hand and likelihoods asked one by one."""

import math
from dataclasses import asdict

import pandas as pd
import pytest
import torch

from mmlib import batches, collect_norms, pruned
from mmlib.masks import ParameterMask
from mmlib.models import load_model
from mmlib.study import likelihoods
from mmlib.study.evidence import AuditError
from mmlib.study.tables import item_costs, item_losses, pack_losses
from mmlib.tasks.evaluation import evaluate, gold_likelihood, text_likelihood
from mmlib.tasks.problems import calibration

GIVEN = {
    "model": "organism-even",
    "languages": ["en", "hi"],
    "math": "organism-math",
    "nonmath": "organism-reading",
    "data_dir": "",
    "num_samples": 6,
    "drawing": "blocks",
    "seeds": [1, 2],
    "keep_ratios": [0.1],
    "conditions": ["math-specific", "random"],
    "factors": [0.0],
    "fractions": [1.0],
    "sample_seeds": [0],
    "by_layer": False,
    "travel": False,
    "tasks": ["organism-math"],
    "texts": ["organism-reading"],
    "items": 4,
    "batch_size": 8,
    "example_sets": ["hi"],
    "solve": 2,
    "solved": ["none", "random"],
    "audit": False,
    "audit_seed": 1,
}


@pytest.fixture(scope="module")
def bench():
    return likelihoods.bench(GIVEN)


@pytest.fixture(scope="module")
def packed(bench):
    return bench.losses()


def test_losses_are_those_of_a_model_that_is_pruned_by_hand(packed):
    model, tokenizer = load_model("organism-even", dtype="float32")
    norms = [
        collect_norms(
            model, batches(tokenizer, calibration(task, "hi", samples=6, seed=2, drawing="blocks"))
        )
        for task in ("organism-math", "organism-reading")
    ]
    mask = norms[0].math_specific(norms[1], model, keep_ratio=0.1)
    weights = dict(model.named_modules())
    with torch.no_grad():
        for name, members in mask.items():
            weights[name].weight[members] = 0
    wanted = "condition == 'math-specific' and edited == 'hi' and seed == 2 and lang == 'hi'"
    rows = item_losses(packed.query(wanted))
    for measure, task in (
        (gold_likelihood, "organism-math"),
        (text_likelihood, "organism-reading"),
    ):
        own = rows[rows.task == task]
        assert (own.n_weights == len(mask)).all()
        values = measure(model, tokenizer, task, languages=["hi"], limit=4).log_likelihood
        assert own.nats.tolist() == pytest.approx((-values).tolist(), abs=1e-3)


def test_every_set_is_asked_in_its_language_or_in_all(packed):
    edits = packed[packed.condition != "none"]
    assert (edits.edited == edits.lang).all()
    assert len(packed) == 2 * 2 + 2 * 2 * 2 * 2  # unedited; sets, languages, blocks, tasks
    assert set(packed[packed.condition == "none"].edited) == {""}
    everywhere = likelihoods.planned(GIVEN | {"travel": True})
    assert everywhere.asked.map(len).tolist() == [1, 1] + 8 * [2]


def test_a_cost_is_paired_by_problem(packed):
    table = item_costs(packed)
    losses = item_losses(packed)
    for row in table.sample(12, random_state=0).itertuples():
        same = losses[(losses.lang == row.lang) & (losses.problem == row.problem)]
        (before,) = same[same.condition == "none"].nats
        edited = same[(same.condition == row.condition) & (same.seed == row.seed)]
        assert row.cost == pytest.approx(edited.nats.item() - before)
    means = likelihoods.summary(packed).set_index(["task", "condition", "lang"])
    own = table.query("task == 'organism-math' and condition == 'random' and lang == 'en'")
    by_block = own.groupby("seed").cost.mean()
    mean = means.loc["organism-math", "random", "en"]
    assert (mean["mean"], mean.n) == (pytest.approx(by_block.mean()), 2)


def test_sets_can_be_enlarged_and_edited_in_part(bench):
    """By hand: the weights of a part are those of the set that have another value afterwards."""
    given = GIVEN | {"languages": ["hi"], "seeds": [2], "texts": [], "items": 2}
    given |= {"factors": [1.5], "fractions": [0.5, 1.0], "sample_seeds": [7, 8]}
    given |= {"conditions": ["math-specific", "highest first", "random"]}
    part = bench._replace(given=given)
    table = part.losses().query("condition != 'none'")
    assert (table.factor == 1.5).all()
    # Only what is drawn has a row per draw.
    whole, half = (table[table.fraction == share] for share in (1.0, 0.5))
    assert whole.condition.value_counts().to_dict() == {
        "math-specific": 1,
        "highest first": 1,
        "random": 2,
    }
    assert half.condition.value_counts()["math-specific"] == 2
    assert (half.n_weights - whole.n_weights.iloc[0] / 2).abs().max() <= 1
    same = whole.set_index("condition").nats
    assert same["math-specific"] == same["highest first"]
    assert whole[whole.condition == "random"].nats.nunique() == 2
    (state,) = part._states(likelihoods.planned(given).query("condition == 'highest first'")[1:])
    before = {name: p.clone() for name, p in bench.model.named_parameters()}
    with state.change() as edited, torch.no_grad():
        moved = {
            name: (parameter / before[name])[parameter != before[name]]
            for name, parameter in bench.model.named_parameters()
        }
    assert sum(len(ratio) for ratio in moved.values()) == edited.columns["n_weights"]
    assert all(torch.allclose(ratio, torch.tensor(1.5)) for ratio in moved.values())


def test_layers_of_a_set_are_edited_one_at_a_time(bench):
    """The layers make up the set, and each costs what it costs when it is pruned by hand."""
    given = GIVEN | {"languages": ["en"], "seeds": [1], "conditions": ["math-specific"]}
    given |= {"texts": [], "items": 2, "example_sets": []}
    whole, layers = (bench._replace(given=given | {"by_layer": by}).losses() for by in (0, 1))
    layers = layers.dropna(subset="layer").set_index("layer")
    assert list(layers.index) == list(range(bench.model.config.num_hidden_layers))
    assert layers.n_weights.sum() == whole.n_weights.max()
    cell = likelihoods.planned(given).iloc[1].to_dict()
    part = {n: m for n, m in bench.sets.mask(cell).items() if n.startswith("model.layers.1.")}
    with pruned(bench.model, ParameterMask(part)):
        asking = {"limit": 2, "batch_size": 8, "languages": ["en"]}
        nats = gold_likelihood(bench.model, bench.tokenizer, ["organism-math"], **asking)
    by_hand = list(-nats.log_likelihood)
    assert [*map(float, layers.nats[1].split())] == pytest.approx(by_hand, abs=1e-3)


def test_what_a_set_costs_beyond_random_weights_is_a_difference_of_means():
    rows = [
        ("none", 0, "", "en", "1.0 2.0"),
        *[("math-specific", 1, whose, "en", "1.5 3.5") for whose in ("en", "hi")],
        ("random", 1, "en", "en", "1.0 2.2"),
        ("random", 1, "en", "en", "1.2 2.0"),
        ("random", 1, "hi", "en", "1.0 2.0"),
    ]
    packed = pd.DataFrame(rows, columns=["condition", "seed", "edited", "lang", "nats"])
    packed = packed.assign(model="m", task="gsm8k", problems="p", keep_ratio=0.01)
    packed = packed.assign(factor=(packed.condition == "none").astype(float), fraction=1.0)
    costs = likelihoods.beyond_random(packed).set_index("edited").cost
    assert costs.to_dict() == pytest.approx({"en": 1.0 - 0.1, "hi": 1.0})


def test_states_that_solve_are_graded_like_the_model_itself(bench):
    table = bench.answers().query("extraction == 'strict'")
    plain = table[table.condition == "none"].set_index("lang")
    for code in GIVEN["languages"]:
        answers = evaluate(
            bench.model, bench.tokenizer, "organism-math", languages=[code], limit=2
        ).query("extraction == 'strict'")
        right = plain.correct[code].replace("1", "x")
        assert [c == "x" for c in right] == answers.sort_values("problem_id").correct.tolist()
    assert len(table) == 2 + 2 * 2
    assert set(table.condition) == {"none", "random"}


@pytest.mark.parametrize("solved", [(0, 2, 3), ()])
def test_the_example_is_the_median_of_what_is_solved(bench, packed, monkeypatch, solved):
    """Of all, where nothing is solved."""

    def grades(model, tokenizer, tasks, **asked):
        rows = evaluate(model, tokenizer, tasks, **asked)
        return rows.assign(correct=[row.Index // 2 in solved for row in rows.itertuples()])

    monkeypatch.setattr(likelihoods, "evaluate", grades)
    table = bench.example(packed)
    states = [("none", ""), ("math-specific", "hi"), ("random", "en")]
    assert list(table[["condition", "edited"]].drop_duplicates().itertuples(index=False)) == states
    assert table.groupby("condition").lang.agg(list).map(sorted).tolist() == 3 * [["en", "hi"]]
    costs = item_costs(packed).query("condition == 'math-specific' and edited == 'en'")
    means = costs[costs.task == "organism-math"].groupby("problem").cost.mean()
    means.index = [int(problem.split()[1]) for problem in means.index]
    place = means[list(solved) or means.index].sort_values().index[1]  # of four the lower
    asked = {"languages": ["en"], "limit": 4}
    answers = evaluate(bench.model, bench.tokenizer, "organism-math", **asked)
    plain = answers[answers.extraction == "strict"].iloc[place]
    shown = table[(table.condition == "none") & (table.lang == "en")].iloc[0]
    assert (shown.problem_id, shown.response) == (plain.problem_id, plain.response)


def test_an_audit_measures_a_drawn_slice_and_stops_at_other_numbers(bench, packed, monkeypatch):
    one = likelihoods.drawn(GIVEN)
    assert [len(one[name]) for name in ("languages", "seeds")] == [1, 1]
    part = packed[packed.lang.isin(one["languages"]) & packed.seed.isin([0, *one["seeds"]])]
    made = asdict(bench.run)
    manifest = {"run": {"parameters": {"runs": [made]}}}
    monkeypatch.setattr(likelihoods, "read_evidence", lambda name: (packed, manifest))
    table = likelihoods.audit(part, bench.run)
    assert table.set_index("value").largest.to_dict() == {"nats": 0, "n_weights": 0}
    other = part.assign(nats=part.nats.str.replace(r"^\S+", "9.0", regex=True))
    with pytest.raises(AuditError, match="nats is 9, but"):
        likelihoods.audit(other, bench.run)
    made["parameters"] = made["parameters"] | {"num_samples": 7}
    with pytest.raises(ValueError, match="the shipped cells have num_samples=7, not 6"):
        likelihoods.audit(part, bench.run)


def test_numbers_of_the_page_are_those_of_the_table(packed):
    told = likelihoods.told(likelihoods.Desk(packed, None, None, 6), 0.1)
    means = likelihoods.summary(packed).query("condition == 'math-specific'")
    solutions = means[means.task == "organism-math"].set_index("lang")["mean"]
    assert (told["desk_math_high"], told["desk_math_high_lang"]) == (
        solutions.max(),
        solutions.idxmax(),
    )
    assert (told["desk_blocks"], told["desk_problems"], told["desk_k"]) == (2, 4, 0.1)
    no_texts = likelihoods.Desk(packed[packed.task == "organism-math"], None, None, 6)
    assert math.isnan(likelihoods.told(no_texts, 0.1)["desk_text_low"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"texts": ["organism-math"]}, "'organism-math' is in tasks and in texts"),
        ({"example_sets": ["sw"]}, "example_sets has 'sw', which is not among the languages"),
        ({"conditions": ["all"]}, "unknown condition 'all'"),
        ({"by_layer": True, "fractions": [0.5]}, "whole sets alone"),
    ],
)
def test_what_is_wrong_is_told_before_the_work(change, told):
    with pytest.raises(ValueError, match=told):
        likelihoods.bench(GIVEN | change)


def test_packed_losses_come_back_and_other_problems_are_refused():
    rows = [("en", "t", name, -value, 7) for name, value in (("a", 0.5), ("b", 1.25))]
    names = ["lang", "task", "problem_id", "log_likelihood", "n_tokens"]
    packed = pack_losses(pd.DataFrame(rows, columns=names), ["lang", "task"])
    assert packed[["n_tokens", "nats"]].values.tolist() == [[14, "0.5000 1.2500"]]
    table = item_losses(packed)
    assert table.nats.tolist() == [0.5, 1.25]
    assert table.problem.tolist() == ["t 0", "t 1"]
    with pytest.raises(ValueError, match="task t, lang en: its rows were asked different problems"):
        item_losses(pd.concat([packed, packed.assign(problems="x")]))
