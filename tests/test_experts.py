"""What experts learn from, what moves in them, and what a merger of them holds."""

import json
import random

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from mmlib.corpus import draw, frozen_items
from mmlib.data import load_problems
from mmlib.evaluation import part_answers
from mmlib.experts import (
    all_bands,
    expert_examples,
    expert_recipe,
    merged_answers,
    mergers,
    named_plans,
    skill_answers,
    train_expert,
)
from mmlib.models import load_model
from mmlib.results import unpack_answers
from mmlib.training import IGNORED, encode

DATA = "organism-base"
GIVEN = {"number": 20, "heldout": 5, "math_tasks": ["organism-math"]}
GIVEN |= {"language_tasks": ["organism-reading", "organism-generation"]}
FAST = {"name": "a/base", "steps": 2, "batch_size": 2, "learning_rate": 1e-3, "every": 2}
FAST |= {"seed": 1, "bf16": False, "data": {k: v for k, v in GIVEN.items() if k != "number"}}


@pytest.fixture(scope="module")
def base():
    return load_model("organism-base", dtype="float32")


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    """A math expert and a Swahili one after two steps, and their folders."""
    root = tmp_path_factory.mktemp("experts")
    paths = {role: train_expert(*base, role, root, **FAST) for role in ("math", "sw")}
    return paths, {role: load_model(str(path), dtype="float32")[0] for role, path in paths.items()}


def texts(problems):
    return [(p.prompt, p.response) for p in problems]


def decoded(tokenizer, example):
    ids = [i for i, label in zip(*example.values(), strict=True) if label != IGNORED]
    return tokenizer.decode(ids, skip_special_tokens=True)


def test_fresh_examples_are_math_in_english_that_is_never_asked(base):
    _, tokenizer = base
    kept, aside = expert_examples("math", tokenizer, seed=1, **GIVEN)
    assert (len(kept), len(aside)) == (20, 5)
    asked = load_problems("organism-math", "en", data_dir=DATA, split="heldout")
    prompts = {p.prompt.split("\n")[0] for p in asked}
    for example in kept + aside:
        text = tokenizer.decode(example["input_ids"], skip_special_tokens=True)
        assert "The answer is" in decoded(tokenizer, example)
        assert text.split("\n")[0] not in prompts


def test_new_templates_but_never_an_item_that_is_asked(base):
    _, tokenizer = base
    given = GIVEN | {"math_tasks": ["organism-math-new"], "number": 400}
    kept, aside = expert_examples("math", tokenizer, seed=1, **given)
    asked = {i.key for i in frozen_items("heldout")["math-new"]}
    rng = random.Random(3)
    chosen = [draw(rng, "math", heldout_template=True) for _ in range(200)]
    assert any(item.key in asked for item in chosen)  # so that leaving them out matters
    texts_asked = {p.prompt for p in load_problems("organism-math-new", "en", data_dir=DATA)}
    written = [tokenizer.decode(e["input_ids"], skip_special_tokens=True) for e in kept + aside]
    assert len(written) == 405
    assert not [text for text in written if any(text.startswith(one) for one in texts_asked)]


def test_seeds_draw_other_examples_and_set_the_same_aside(base):
    _, tokenizer = base
    (one, aside), (two, again) = (
        expert_examples("sw", tokenizer, seed=seed, **GIVEN) for seed in (1, 2)
    )
    assert aside == again
    assert sum(example in one for example in two) < len(two)
    assert not any(example in aside for example in one + two)
    assert expert_examples("sw", tokenizer, seed=1, **GIVEN)[0] == one


def test_both_parts_of_a_joint_role(base):
    _, tokenizer = base
    both, aside = expert_examples("math+sw", tokenizer, seed=1, **GIVEN)
    alone = [expert_examples(role, tokenizer, seed=1, **GIVEN)[0] for role in ("math", "sw")]
    assert both == alone[0] + alone[1]
    assert len(aside) == 10


def test_data_sets_give_their_calibration_split(base, real_data):
    _, tokenizer = base
    given = GIVEN | {"math_tasks": ["gsm8k"], "data_dir": str(real_data)}
    kept, aside = expert_examples("math", tokenizer, seed=1, **given)
    solutions = load_problems("gsm8k", "en", data_dir=str(real_data), split="calibration")
    known = set(map(tuple, (e["input_ids"] for e in encode(tokenizer, texts(solutions)))))
    assert (len(kept), len(aside)) == (20, 5)
    assert {tuple(e["input_ids"]) for e in kept + aside} <= known


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"number": 0}, "number=0, heldout=5: give at least 1"),
        ({"math_tasks": ["organism-telepathy"]}, "no 'telepathy': choose from math, choice"),
        ({"math_tasks": []}, "give some, of organisms or others"),
        ({"math_tasks": ["organism-math", "gsm8k"]}, "give some, of organisms or others"),
        ({"role": "math+klingon"}, "'klingon'"),
    ],
)
def test_impossible_examples(base, change, message):
    given = {"role": "math", "seed": 1, **GIVEN, **change}
    with pytest.raises(ValueError, match=message):
        expert_examples(given.pop("role"), base[1], **given)


def test_too_few_examples(base, real_data):
    given = GIVEN | {"math_tasks": ["gsm8k"], "number": 10**6, "data_dir": str(real_data)}
    with pytest.raises(ValueError, match="number=1000000, heldout=5: gsm8k have"):
        expert_examples("math", base[1], seed=1, **given)


def test_only_layers_move_and_the_base_does_not(base, trained):
    model, _ = base
    fresh = load_model("organism-base", dtype="bfloat16")[0].state_dict()
    assert all(torch.equal(p.bfloat16(), fresh[n]) for n, p in model.named_parameters())
    plain = AutoModelForCausalLM.from_pretrained(trained[0]["sw"])
    assert plain.dtype == torch.bfloat16
    moved = {n for n, p in plain.named_parameters() if not torch.equal(p, fresh[n])}
    assert moved
    assert all(".layers." in name for name in moved)
    assert {name.split(".")[2] for name in moved} == set(map(str, range(8)))


def test_embeddings_move_on_demand(base, tmp_path):
    model, _ = base
    out = train_expert(*base, "sw", tmp_path, **FAST, embeddings=True)
    assert out.name == "a-base_sw_2_0.001_embeddings_1"
    there = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    assert not torch.equal(there.get_input_embeddings().weight, model.get_input_embeddings().weight)


def test_a_finished_expert_is_not_trained_again(base, trained):
    path = trained[0]["math"]
    before = (path / "model.safetensors").stat().st_mtime_ns
    assert train_expert(*base, "math", path.parent, **FAST) == path
    assert (path / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="holds another expert"):
        train_expert(*base, "math", path.parent, **(FAST | {"batch_size": 3}))
    assert {p.name for p in path.parent.iterdir()} == {p.name for p in trained[0].values()}


def test_a_joint_expert_has_the_steps_of_both(base, tmp_path):
    out = train_expert(*base, "math+sw", tmp_path, **FAST)
    assert pd.read_csv(out / "training_log.csv").step.max() == 4


def test_recipe(trained, tmp_path):
    told = expert_recipe(str(trained[0]["sw"]))
    assert (told["role"], told["seed"], told["steps"], told["embeddings"]) == ("sw", 1, 2, False)
    log = pd.read_csv(trained[0]["sw"] / "training_log.csv")
    assert log.step.max() == 2
    strange = tmp_path / "somebody-else"
    strange.mkdir()
    (strange / "config.json").write_text(json.dumps({}))
    assert expert_recipe(str(strange)) == {"role": "somebody-else", "seed": 0}


@pytest.mark.parametrize("depth", [4, 8, 16, 32])
def test_named_plans(depth):
    plans = {name: np.array(plan.weights) for name, plan in named_plans(depth, draws=3).items()}
    swap = plans["swap"]
    assert {len(plan) for plan in plans.values()} == {depth}
    assert np.array_equal(plans["reversed"], 1 - swap)
    assert np.array_equal(plans["bottom only"] + plans["top only"], swap)
    assert plans["bottom only"][0] == plans["top only"][-1] == 1
    assert plans["bottom only"][-1] == plans["top only"][0] == 0
    assert set(plans["no transition"]) == {0, 1}
    for number in (1, 2, 3):
        assert sorted(plans[f"random {number}"]) == sorted(swap)


def test_named_plans_are_the_published_ones_at_32_layers():
    plans = named_plans(32)
    assert plans["swap"].weights == (1,) * 5 + (0.5,) + (0,) * 23 + (0.5,) + (1,) * 2
    assert plans["6 + 2 of 32"].weights == (1,) * 6 + (0,) * 24 + (1,) * 2


def test_all_bands_fit():
    found = all_bands(8, [0, 2, 4], [0, 2, 4], [0, 1])
    assert "4 + 4, transition 0" in found
    assert "4 + 4, transition 1" not in found
    assert found["2 + 0, transition 1"].weights == (1, 1, 0.5, 0, 0, 0, 0, 0)
    assert all(len(plan.weights) == 8 for plan in found.values())


def test_mergers_hold_what_their_names_say(base, trained):
    model, experts = base[0], trained[1]
    both = [experts["math"], experts["sw"]]
    made = mergers(model, *both, named_plans(8), others="math", joint=experts["sw"])
    own, math, language = ({n: p.detach() for n, p in m.named_parameters()} for m in (model, *both))
    name, outer = (f"model.layers.{layer}.mlp.up_proj.weight" for layer in (4, 0))
    held = {system: weights() for system, weights in made.items()}
    assert torch.equal(held["swap"][name], math[name])
    assert torch.equal(held["swap"][outer], language[outer])
    assert torch.equal(held["revert"][outer], own[outer])
    assert torch.equal(held["reversed"][name], language[name])
    assert torch.equal(held["joint"][name], language[name])
    quarter = 0.75 * math[name] + 0.25 * language[name]
    assert torch.allclose(held["soup, 1/4 language"][name], quarter, atol=1e-7)
    total = math[name] + language[name] - own[name]
    assert torch.allclose(held["task arithmetic"][name], total, atol=1e-6)
    moved = [(t[name] - own[name]).abs().mean() for t in (math, language)]
    assert all(m > 0 for m in moved)


def test_merged_answers_and_exact_restoration(base, trained):
    model, tokenizer = base
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    experts = trained[1]
    made = mergers(model, experts["math"], experts["sw"], named_plans(8))
    made = {name: made[name] for name in ("base", "language expert")}
    math = {"tasks": ["organism-math"], "parts": ["math-1"], "items": 4}
    skills = {"tasks": ["organism-reading"], "parts": ["reading-mixed"], "items": 3}
    given = {"language": "sw", "math": math, "skills": skills, "data_dir": DATA}
    packed = merged_answers(model, made, lambda m: skill_answers(m, tokenizer, **given))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    asked = [("math-1", "en"), ("math-1", "sw"), ("reading-mixed", "sw")]
    assert {(*k,) for k in packed[["part", "lang"]].to_numpy()} == set(asked)
    alone = part_answers(experts["sw"], tokenizer, languages=["sw"], data_dir=DATA, **math)
    rows = packed[(packed.system == "language expert") & (packed.part == "math-1")]
    told = unpack_answers(rows[rows.lang == "sw"], alone[["part", "problem_id"]])
    assert told.correct.tolist() == alone.correct.tolist()
