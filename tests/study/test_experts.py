"""What experts learn from, and what moves in them."""

import copy
import json
import random
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from mmlib import finetune
from mmlib.finetune import IGNORED, encode
from mmlib.models import load_model
from mmlib.organism.corpus import Mix, draw, frozen_items, is_heldout, render
from mmlib.study import experts
from mmlib.study.experts import Training, expert_recipe, load_pair
from mmlib.study.settings import Loading
from mmlib.tasks.problems import load_problems

GIVEN = {"number": 20, "heldout": 5, "math_tasks": ["organism-math"]}
GIVEN |= {"language_tasks": ["organism-reading", "organism-generation"]}
FAST = {k: v for k, v in GIVEN.items() if k != "number"} | {"steps": 2, "learning_rate": 1e-3}
FAST |= {"train_batch": 2, "bf16": False}
NAMED = {"name": "a/base", "seed": 1}


def expert_examples(role, tokenizer, *, number, seed, **data):
    training = Training(steps=1, learning_rate=1e-3, **data)
    return training.drawn(role, tokenizer, number=number, seed=seed)


@pytest.fixture(scope="module")
def base():
    return load_model("organism-base", dtype="float32")


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    """A math expert and a Swahili one after two steps, and their folders."""
    root = tmp_path_factory.mktemp("experts")
    training = Training(**FAST, experts_dir=str(root))
    made = {role: training.expert(*base, role, **NAMED) for role in ("math", "sw")}
    return {role: e.folder for role, e in made.items()}, {role: e.model for role, e in made.items()}


def texts(problems):
    return [(p.prompt, p.response) for p in problems]


def decoded(tokenizer, example):
    ids = [i for i, label in zip(*example.values(), strict=True) if label != IGNORED]
    return tokenizer.decode(ids, skip_special_tokens=True)


@pytest.fixture
def drawn(monkeypatch):
    """The items that are drawn for experts."""
    items = []
    monkeypatch.setattr(experts, "draw", lambda *a, **k: items.append(draw(*a, **k)) or items[-1])
    return items


def test_fresh_examples_are_math_in_english_that_is_never_asked(base, drawn):
    _, tokenizer = base
    kept, aside = expert_examples("math", tokenizer, seed=1, **GIVEN | {"number": 300})
    assert (len(kept), len(aside)) == (300, 5)
    assert len(drawn) >= 305
    assert not any(is_heldout(item) for item in drawn)
    assert all("The answer is" in decoded(tokenizer, example) for example in kept + aside)


def test_new_templates_but_never_an_item_that_is_asked(base):
    _, tokenizer = base
    given = GIVEN | {"math_tasks": ["organism-math-new"], "number": 600}
    kept, aside = expert_examples("math", tokenizer, seed=1, **given)
    written = [tokenizer.decode(e["input_ids"], skip_special_tokens=True) for e in kept + aside]
    asked = {i.key: i for i in frozen_items("heldout")["math-new"]}
    rng = random.Random(3)
    chosen = [draw(rng, "math", heldout_template=True) for _ in range(600)]
    assert sum(item.key in asked for item in chosen) > 5  # so that leaving them out matters
    told = [render(replace(i, layout=k), "en")["prompt"] for i in asked.values() for k in range(4)]
    assert not [text for text in written if text.startswith(tuple(told))]


def test_seeds_draw_other_examples_and_set_the_same_aside(base):
    _, tokenizer = base
    (one, aside), (two, again) = (
        expert_examples("sw", tokenizer, seed=seed, **GIVEN) for seed in (1, 2)
    )
    assert aside == again
    assert sum(example in one for example in two) < len(two) / 4
    assert expert_examples("sw", tokenizer, seed=1, **GIVEN)[0] == one


def test_nothing_set_aside_is_trained_even_where_there_is_little(base):
    given = GIVEN | {"language_tasks": ["organism-knowledge"], "heldout": 200, "number": 500}
    kept, aside = expert_examples("sw", base[1], seed=1, **given)
    assert (len(kept), len(aside)) == (500, 200)  # 300 facts, two phrasings: with repetitions
    assert not {tuple(e["input_ids"]) for e in kept} & {tuple(e["input_ids"]) for e in aside}


def test_tasks_have_the_shares_of_the_corpus(base, drawn):
    tasks = ["organism-generation", "organism-knowledge"]
    given = GIVEN | {"language_tasks": tasks, "number": 1000}
    expert_examples("sw", base[1], seed=1, **given)
    share = sum(item.task == "knowledge" for item in drawn) / len(drawn)
    assert share == pytest.approx(Mix().tasks["knowledge"] / 0.28, abs=0.04)


def test_too_little_text_is_told(base):
    given = GIVEN | {"language_tasks": ["organism-telling"], "heldout": 3000, "number": 10}
    with pytest.raises(ValueError, match=r"heldout=3000: the corpus has too little of .'telling'"):
        expert_examples("sw", base[1], seed=1, **given)


def test_both_parts_of_a_joint_role(base):
    _, tokenizer = base
    both, aside = expert_examples("math+sw", tokenizer, seed=1, **GIVEN)
    alone = [expert_examples(role, tokenizer, seed=1, **GIVEN)[0] for role in ("math", "sw")]
    assert both == alone[0] + alone[1]
    assert len(aside) == 10


@pytest.fixture
def train_data(real_data, tmp_path):
    """The head of GSM8K's training split, in its place."""
    (tmp_path / "gsm8k").mkdir()
    head = real_data / "gsm8k" / "train_head2000.jsonl"
    (tmp_path / "gsm8k" / "train.jsonl").write_text(head.read_text())
    return str(tmp_path)


def test_data_sets_give_their_training_split(base, train_data, real_data):
    _, tokenizer = base
    given = GIVEN | {"math_tasks": ["gsm8k"], "data_dir": train_data}
    kept, aside = expert_examples("math", tokenizer, seed=1, **given)
    solutions = load_problems("gsm8k", "en", data_dir=train_data, split="train")
    known = {tuple(e["input_ids"]) for e in encode(tokenizer, texts(solutions))}
    assert (len(kept), len(aside)) == (20, 5)
    assert {tuple(e["input_ids"]) for e in kept + aside} <= known
    assert expert_examples("math", tokenizer, seed=2, **given)[1] == aside
    with pytest.raises(FileNotFoundError):  # only its test split is there
        expert_examples("math", tokenizer, seed=1, **given | {"data_dir": str(real_data)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"number": 0}, "number=0, heldout=5: give at least 1"),
        (
            {"math_tasks": ["organism-telepathy"]},
            "unknown task 'organism-telepathy': choose",
        ),
        ({"math_tasks": ["organism-choice-new"]}, "unknown task 'organism-choice-new'"),
        ({"math_tasks": []}, "give some, of organisms or others"),
        ({"math_tasks": ["organism-math", "gsm8k"]}, "give some, of organisms or others"),
        ({"role": "math+klingon"}, "'klingon'"),
    ],
)
def test_impossible_examples(base, change, message):
    given = {"role": "math", "seed": 1, **GIVEN, **change}
    with pytest.raises(ValueError, match=message):
        expert_examples(given.pop("role"), base[1], **given)


def test_too_few_examples(base, train_data):
    given = GIVEN | {"math_tasks": ["gsm8k"], "number": 10**6, "data_dir": train_data}
    with pytest.raises(ValueError, match="number=1000000, heldout=5: gsm8k have"):
        expert_examples("math", base[1], seed=1, **given)


def test_only_layers_move_and_the_base_does_not(base, trained):
    model, _ = base
    fresh = load_model("organism-base", dtype="bfloat16")[0].state_dict()
    assert all(torch.equal(p.bfloat16(), fresh[n]) for n, p in model.named_parameters())
    plain = AutoModelForCausalLM.from_pretrained(trained[0]["sw"])
    assert plain.dtype == torch.float32
    kept = trained[1]["sw"].state_dict()
    assert all(torch.equal(p, kept[n]) for n, p in plain.named_parameters())
    moved = {n for n, p in plain.named_parameters() if not torch.equal(p, fresh[n].float())}
    assert moved
    assert all(".layers." in name for name in moved)
    assert {name.split(".")[2] for name in moved} == set(map(str, range(8)))


def test_embeddings_move_on_demand(base, tmp_path):
    model, _ = base
    training = Training(**FAST, experts_dir=str(tmp_path), embeddings=True)
    expert = training.expert(*base, "sw", **NAMED)
    assert expert.folder.parent.name == "a-base_sw_2_0.001_embeddings_1"
    moved = expert.model.get_input_embeddings().weight
    assert not torch.equal(moved, model.get_input_embeddings().weight)


def test_a_finished_expert_is_not_trained_again(base, trained, monkeypatch):
    path = trained[0]["math"]
    before = (path / "model.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(finetune, "_train", None)
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in FAST.items()}
    training = Training(**given, experts_dir=str(path.parents[1]))
    again = training.expert(*base, "math", **NAMED)
    assert again.folder == path
    assert (path / "model.safetensors").stat().st_mtime_ns == before
    kept = trained[1]["math"].state_dict()
    assert all(torch.equal(p, kept[n]) for n, p in again.model.named_parameters())


@pytest.mark.parametrize("change", [{"train_batch": 3}, {"heldout": 6}, {"bf16": True}])
def test_another_expert_is_not_taken_for_this_one(base, trained, change):
    training = Training(**FAST | change, experts_dir=str(trained[0]["math"].parents[1]))
    with pytest.raises(ValueError, match="a run of another model, with other examples or settings"):
        training.expert(*base, "math", **NAMED)


def test_an_expert_of_another_base_is_not_taken_for_this_one(base, trained):
    other = copy.deepcopy(base[0])
    with torch.no_grad():
        other.lm_head.weight[0, 0] += 1
    training = Training(**FAST, experts_dir=str(trained[0]["math"].parents[1]))
    with pytest.raises(ValueError, match="a run of another model"):
        training.expert(other, base[1], "math", **NAMED)


def test_a_joint_expert_has_the_steps_of_both(base, tmp_path):
    expert = Training(**FAST, experts_dir=str(tmp_path)).expert(*base, "math+sw", **NAMED)
    assert expert.log.step.max() == 4


def test_recipe(trained, tmp_path):
    told = expert_recipe(str(trained[0]["sw"]))
    assert (told["role"], told["seed"], told["steps"], told["embeddings"]) == ("sw", 1, 2, False)
    strange = tmp_path / "somebody-else"
    strange.mkdir()
    (strange / "config.json").write_text(json.dumps({}))
    assert expert_recipe(str(strange)) == {"role": "somebody-else", "seed": 0}


def test_a_pair_is_what_its_manifests_tell(base, trained):
    paths, models = trained
    given = {"math_expert": str(paths["math"]), "language_expert": str(paths["sw"]), "target": ""}
    pair = load_pair(Loading("organism-base"), base[1], given)
    assert (pair.target, pair.seeds) == ("sw", (1, 1))
    for loaded, role in ((pair.math, "math"), (pair.language, "sw")):
        name, weight = next(iter(models[role].named_parameters()))
        assert torch.equal(dict(loaded.named_parameters())[name], weight)
    assert load_pair(Loading("organism-base"), base[1], given | {"target": "de"}).target == "de"
