"""Plans of swaps, what a merger of two experts holds, and what is told of their answers."""

import numpy as np
import pandas as pd
import pytest
import torch

from mmlib.models import load_model
from mmlib.study import swaps
from mmlib.study.swaps import SWAP, Merger, all_bands, mergers, named_plans, select, wanted_answers
from mmlib.tasks.evaluation import part_answers


@pytest.fixture(scope="module")
def base():
    return load_model("organism-base", dtype="float32")


@pytest.fixture(scope="module")
def experts():
    """A math expert and a Swahili one."""
    names = ("organism-base-math", "organism-base-sw")
    return [load_model(name, dtype="float32")[0] for name in names]


@pytest.mark.parametrize("depth", [4, 8, 16, 32])
def test_named_plans(depth):
    plans = {str(m): np.array(plan.weights) for m, plan in named_plans(depth, draws=3).items()}
    swap = plans["swap"]
    assert {len(plan) for plan in plans.values()} == {depth}
    assert np.array_equal(plans["reversed"], 1 - swap)
    assert np.array_equal(plans["bottom only"] + plans["top only"], swap)
    assert plans["bottom only"][0] == plans["top only"][-1] == 1
    assert plans["bottom only"][-1] == plans["top only"][0] == 0
    assert set(plans["no transition"]) == {0, 1}
    for number in (1, 2, 3):
        drawn = plans[f"random {number}"]
        assert sorted(drawn) == sorted(swap)
        assert not np.array_equal(drawn, swap)


def test_named_plans_are_the_published_ones_at_32_layers():
    plans = named_plans(32)
    assert plans[SWAP].weights == (1,) * 5 + (0.5,) + (0,) * 23 + (0.5,) + (1,) * 2
    assert plans[Merger("6 + 2 of 32")].weights == (1,) * 6 + (0,) * 24 + (1,) * 2


def test_all_bands_fit():
    plans = all_bands(8, [0, 2, 4], [0, 2, 4], [0, 1])
    assert Merger("bands", 4, 4, 0) in plans
    assert Merger("bands", 4, 4, 1) not in plans
    assert plans[Merger("bands", 2, 0, 1)].weights == (1, 1, 0.5, 0, 0, 0, 0, 0)
    assert all(len(plan.weights) == 8 for plan in plans.values())


def test_names_of_mergers_tell_them_apart():
    every = [*named_plans(8, draws=3), *all_bands(8, [0, 1, 2], [0, 1], [0, 1])]
    assert len({str(merger) for merger in every}) == len(every)


def test_systems_are_selected_with_all_their_draws():
    plans = named_plans(8, draws=2)
    assert list(select(plans, ["random", "swap"])) == [
        Merger("random", draw=1),
        Merger("random", draw=2),
        SWAP,
    ]
    assert list(select(plans, [])) == list(plans)
    with pytest.raises(ValueError, match="no merger 'soup': choose from swap, no transition"):
        select(plans, ["soup"])


def test_mergers_hold_what_their_names_say(base, experts):
    model, both = base[0], experts
    made = mergers(model, *both, named_plans(8), others="math", joint=both[1])
    own, math, language = ({n: p.detach() for n, p in m.named_parameters()} for m in (model, *both))
    inner, outer, top = (f"model.layers.{k}.mlp.up_proj.weight" for k in (4, 0, 7))
    held = {str(merger): weights() for merger, weights in made.items()}
    assert torch.equal(held["swap"][inner], math[inner])
    assert torch.equal(held["swap"][outer], language[outer])
    assert torch.equal(held["revert"][outer], own[outer])
    assert torch.equal(held["revert"][inner], math[inner])
    assert torch.equal(held["reversed"][inner], language[inner])
    assert torch.equal(held["bottom only"][outer], language[outer])
    assert torch.equal(held["bottom only"][top], math[top])
    assert torch.equal(held["top only"][top], language[top])
    assert torch.equal(held["joint"][inner], language[inner])
    for system, share in (
        ("soup, 1/4 language", 0.25),
        ("soup", 0.5),
        ("soup, 3/4 language", 0.75),
    ):
        mean = (1 - share) * math[inner] + share * language[inner]
        assert torch.allclose(held[system][inner], mean, atol=1e-7)
    total = math[inner] + language[inner] - own[inner]
    assert torch.allclose(held["task arithmetic"][inner], total, atol=1e-6)
    assert not torch.allclose(held["TIES"][inner], total, atol=1e-6)
    size = [sum((t[n] - own[n]).abs().sum() for n in own) for t in (math, language)]
    share = size[0] / sum(size)
    mean = (1 - share) * math[inner] + share * language[inner]
    assert torch.allclose(held["adjusted soup"][inner], mean, atol=1e-6)
    assert any(torch.equal(held["by update"][outer], t[outer]) for t in (math, language))


def test_mergers_without_a_swap_have_nothing_to_revert(base, experts):
    made = mergers(base[0], *experts, all_bands(8, [1], [1], [0]))
    assert Merger("revert") not in made
    assert Merger("bands", 1, 1, 0) in made


def test_merged_answers_are_those_of_the_weights_and_leave_the_model(base):
    model, tokenizer = base
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    blank = {name: torch.zeros_like(p) for name, p in before.items()}
    made = {Merger("base"): lambda: before, Merger("random", draw=2): lambda: blank}
    given = {"tasks": ["organism-math"], "parts": ["math-1"], "ask_dir": "organism-base"}
    given |= {"skill_tasks": ["organism-reading"], "skill_parts": ["reading-mixed"]}
    given |= {"languages": ["sw"]}
    questions = swaps.Questions.of(given, 4)
    ask = questions.ask(tokenizer, "sw")
    packed = swaps.merged_answers(model, made, ask, {"target": "sw"})
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    asked = [("math-1", "en"), ("math-1", "sw"), ("reading-mixed", "sw")]
    assert {(*k,) for k in packed[["part", "lang"]].to_numpy()} == set(asked)
    assert len(questions.problems("sw")) == 8
    assert set(packed.target) == {"sw"}
    right = packed.set_index(["system", "draw", "part", "lang"]).correct
    assert right["random", 2, "math-1", "en"] == "0000"
    asking = {"tasks": ["organism-math"], "parts": ["math-1"], "items": 4}
    alone = part_answers(model, tokenizer, languages=["en"], data_dir="organism-base", **asking)
    assert right["base", 0, "math-1", "en"].count("1") == alone.correct.sum() > 0


def test_wanted_rows_are_those_that_are_asked():
    pairs = [("sw", 1, 1), ("sw", 1, 2), ("en", 1, 1)]
    given = {"math_parts": ["math-1", "math-new"], "skill_parts": ["knowledge"]}
    table = wanted_answers(pairs, [Merger("base"), SWAP], [SWAP], **given)
    sizes = table.groupby(["target", "lang_seed", "system"]).size()
    assert sizes.to_dict() == {
        ("en", 1, "base"): 3,
        ("en", 1, "swap"): 3,
        ("sw", 1, "base"): 5,
        ("sw", 1, "swap"): 5,
        ("sw", 2, "swap"): 5,
    }
    assert not table.duplicated().any()
    own = table.query("target == 'sw' and lang_seed == 2")
    assert set(own[own.part == "knowledge"].lang) == {"sw"}
    assert set(own[own.part == "math-new"].lang) == {"en", "sw"}


def accuracies(*rows):
    """Rows of one language and training: bottom, top, transition, steps, accuracy."""
    names = ["bottom", "top", "transition", "steps", "accuracy"]
    table = pd.DataFrame(rows, columns=names).assign(system="bands", draw=0, model="m")
    return table.assign(target="sw", math_seed=1, part="math-1", lang="sw", label="")


def test_no_border_stands_among_all_averaged_layers():
    rows = accuracies((0, 0, 0, 9, 0.5), (1, 0, 0, 9, 0.6), (1, 0, 1, 9, 0.7), (1, 1, 2, 9, 0.1))
    table = swaps.band_accuracies(rows).set_index(["transition", "bottom", "top"]).accuracy
    expected = {(0, 0, 0): 0.5, (0, 1, 0): 0.6, (1, 0, 0): 0.5, (1, 1, 0): 0.7}
    assert table.to_dict() == expected


def test_groups_of_swaps_by_length():
    rows = accuracies((1, 1, 1, 9, 0.5), (2, 1, 0, 9, 0.6), (1, 2, 0, 9, 0.7), (2, 2, 0, 9, 0.1))
    rows = pd.concat([rows, rows.head(1), rows.head(1).assign(system="base", bottom=0)])
    told = swaps.length_accuracies(rows.reset_index(drop=True))
    assert told.group.tolist() == ["1 averaged", "more layers", "more layers", "base"]


def test_experts_with_other_embeddings_are_compared_problem_by_problem():
    rows = accuracies((0, 0, 0, 9, 0.5)).assign(system="math expert", correct="0110")
    rows = pd.concat([rows.assign(embeddings=False), rows.assign(embeddings=True, correct="0111")])
    assert swaps.same_when_embedded(rows) == 0.75
    assert swaps.same_when_embedded(rows.head(1)) == 0


def test_gains_are_those_of_the_language_problem_by_problem():
    rows = [
        (system, target, seed, str(item), item < count)
        for system, count in (("math expert", 1), ("swap", 3))
        for target in ("sw", "de")
        for seed in (1, 2)
        for item in range(4)
    ]
    table = pd.DataFrame(rows, columns=["system", "target", "seed", "problem_id", "correct"])
    table = table.assign(kind="math", part="math-1", lang=table.target)
    gains = swaps.gains(table)
    assert gains.difference.to_dict() == pytest.approx({"sw": 0.5, "de": 0.5})
    assert set(gains.n) == {8}
