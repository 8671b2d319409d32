"""What each system trains, counted from its shapes, and that stages follow each other."""

import copy
import functools
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from mmlib.finetune import IGNORED, TrainingPlan, digest, encode
from mmlib.forward import batches
from mmlib.models import load_model
from mmlib.neurons import firing_rates
from mmlib.study.firing import draw_questions
from mmlib.study.states import views
from mmlib.study.systems import (
    ATTENTION,
    FEED_FORWARD,
    Stage,
    Texts,
    align,
    compared,
    equal_rank,
    heard,
    replan,
    systems,
)
from mmlib.tasks.evaluation import part_answers

PAIRS = [("a b c", " d e"), ("f g", " h"), ("i", " j k l"), ("m n o p", " q")]
FAST = TrainingPlan(steps=2, learning_rate=1e-3, batch_size=2, every=2)
PLANS = dict.fromkeys(["part", "full", "lora"], FAST)


@pytest.fixture
def organism():
    return load_model("organism-skewed", dtype="float32")


def changed(before, model):
    return {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}


def test_the_systems_of_the_tables():
    found = systems([1, 0], 8, rank=3)
    assert found["base"] == ()
    assert found["SLAM"] == (Stage("pairs", (0, 1), FEED_FORWARD),)
    assert [stage.data for stage in found["QAlign"]] == ["pairs", "English math"]
    assert found["attention"][0].modules == ATTENTION
    assert [len(found[f"first {k}"][0].layers) for k in range(1, 9)] == list(range(1, 9))
    assert {stage.kind for stages in found.values() for stage in stages} == set(PLANS)
    assert found["first 2"] == found["SLAM"]


@pytest.mark.parametrize("selected", [[0, 1, 2], [0, 1, 2, 3, 4, 5]])
def test_random_layers_are_distinct(selected):
    for draw in (1, 2, 3):
        (stage,) = systems(selected, 8, rank=1)[f"random {draw}"]
        assert len(set(stage.layers)) == len(selected)
        if len(selected) <= 4:
            assert not set(stage.layers) & set(selected)


@pytest.mark.parametrize("selected", [[], [8]])
def test_impossible_layers(selected):
    with pytest.raises(ValueError, match="give some of the layers 0 to 7"):
        systems(selected, 8, rank=1)


def test_rank_of_equal_size(organism):
    model, _ = organism
    stage = Stage("pairs", (0, 1), FEED_FORWARD)
    rank = equal_rank(model, stage)
    wanted = 2 * 2 * 192 * 512
    size = 8 * rank * (4 * (192 + 192) + 3 * (192 + 512))
    assert abs(size - wanted) <= 8 * (4 * (192 + 192) + 3 * (192 + 512)) / 2


def test_stages_follow_each_other(organism, tmp_path):
    model, tokenizer = organism
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    examples = {"pairs": encode(tokenizer, PAIRS), "English math": encode(tokenizer, PAIRS[:2])}
    stages = (Stage("pairs", (1,), FEED_FORWARD), Stage("English math", (6,), ("gate_proj",)))
    held = {"heldout": examples["pairs"]}
    model, log, costs = align(model, stages, examples, tmp_path, PLANS, **held)
    names = {f"model.layers.1.mlp.{name}.weight" for name in FEED_FORWARD}
    assert changed(before, model) == names | {"model.layers.6.mlp.gate_proj.weight"}
    assert list(costs.trained) == [2 * 192 * 512, 192 * 512]
    assert list(costs.optimizer_bytes) == [8 * n for n in costs.trained]
    assert set(log.stage) == {1, 2}
    with pytest.raises(ValueError, match="no examples 'translated math'"):
        align(model, (Stage("translated math"),), examples, tmp_path, PLANS)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # used by peft
def test_adapters_are_merged_and_train_no_weight(organism, tmp_path):
    model, tokenizer = organism
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    examples = {"pairs": encode(tokenizer, PAIRS)}
    model, _, costs = align(model, (Stage("pairs", rank=2),), examples, tmp_path, PLANS)
    assert {name for name, _ in model.named_parameters()} == set(before)
    assert all(name.endswith("_proj.weight") for name in changed(before, model))
    assert costs.trained.item() == 2 * 8 * (4 * (192 + 192) + 3 * (192 + 512))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # used by peft
@pytest.mark.parametrize("stage", [Stage("pairs", (1,), FEED_FORWARD), Stage("pairs", rank=2)])
def test_a_finished_run_is_the_same_model_when_it_is_loaded_again(stage, tmp_path):
    """Also after training in bfloat16, and whatever was drawn before."""
    logits = []
    for draws in (0, 7):
        model, tokenizer = load_model("organism-skewed", dtype="float32")
        torch.rand(draws)
        examples = {"pairs": encode(tokenizer, PAIRS)}
        model, _, _ = align(model, (stage,), examples, tmp_path, replan(PLANS, bf16=True))
        logits.append(model(torch.tensor([[5, 6, 7]])).logits)
    assert torch.equal(*logits)


def test_shares_of_unbalanced_pairs_name_every_language(organism):
    _, tokenizer = organism
    texts = Texts(LANGS, pair_kinds=["math"], shares=[1.0], data_dir="organism-base")
    with pytest.raises(ValueError, match=r"give \['de', 'hi'\] shares above 0"):
        texts.examples(tokenizer, texts.pairs(), number=9, seed=1)


def test_texts_that_are_set_aside_are_in_no_pair_to_train_on():
    texts = Texts(LANGS, pair_kinds=["math"], heldout=7, data_dir="organism-base")
    pairs = texts.pairs()
    kept, aside = texts.parted(pairs)
    assert aside.id.nunique() == 7
    assert not set(kept.id) & set(aside.id)
    assert len(kept) + len(aside) == (pairs.doubt == "kept").sum()


def test_a_stopped_run_is_the_beginning_of_the_whole(tmp_path):
    logs = []
    for folder, stop in (("whole", 0), ("part", 2)):
        model, tokenizer = load_model("organism-skewed", dtype="float32")
        examples = {"pairs": encode(tokenizer, PAIRS * 4)}
        stage = Stage("pairs", (0,), FEED_FORWARD)
        plans = replan(PLANS, steps=6, every=1, stop=stop)
        _, log, _ = align(model, (stage,), examples, tmp_path / folder, plans)
        logs.append(log.set_index("step").loss)
        assert digest(model, trainable=True)
    assert list(logs[1].dropna().index) == [1, 2]
    assert logs[1].dropna().tolist() == pytest.approx(logs[0].loc[[1, 2]].tolist(), rel=1e-5)


LANGS = ["en", "de", "hi"]


def examples_of(tokenizer, number=30, **options):
    texts = Texts(LANGS, pair_kinds=["math"], shares=[4.0, 1.0], data_dir="organism-base")
    return texts.examples(tokenizer, texts.pairs(), number=number, seed=1, **options)


def test_examples_are_as_many_and_in_their_languages(organism):
    _, tokenizer = organism
    examples = examples_of(tokenizer)
    assert {name: len(own) for name, own in examples.items()} == {
        "pairs": 30,
        "bare pairs": 30,
        "dialogue": 30,
        "unbalanced pairs": 30,
        "English math": 30,
        "translated math": 30,
    }
    texts = {n: [tokenizer.decode(e["input_ids"]) for e in own] for n, own in examples.items()}
    for name, expected in {"pairs": (15, 15), "unbalanced pairs": (24, 6)}.items():
        found = Counter("from [German]" in text for text in texts[name])
        assert (found[True], found[False]) == expected
    assert all("[" not in text for text in texts["English math"] + texts["translated math"])
    for kind in ("bare pairs", "dialogue"):
        for text, other in zip(texts["pairs"], texts[kind], strict=True):
            assert other.endswith(text.split("English]: ")[1])
    assert all("[" not in text for text in texts["bare pairs"])
    assert all(text.count("\nAssistant: ") == 1 for text in texts["dialogue"])
    shown = examples["pairs"][0]
    target = tokenizer.decode([i for i in shown["labels"] if i != IGNORED])
    assert tokenizer.decode(shown["input_ids"]).endswith(target)


def test_views_are_those_of_the_model_itself(organism):
    model, tokenizer = organism
    questions = draw_questions("organism-math", LANGS, number=20, seed=3, data_dir="")
    found = views(model, tokenizer, questions, maps=[1])
    texts = batches(tokenizer, questions["hi"], batch_size=4, sort=False)
    rates = firing_rates(model, texts, skip=[tokenizer.bos_token_id]).rates().mean(1)
    mine = found["firing"].query("lang == 'hi'").sort_values("layer").rate
    assert mine.to_numpy() == pytest.approx(rates, rel=1e-5)
    assert found["firing"].query("lang == 'en'").overlap.isna().all()
    assert set(found["states"].lang) == {"de", "hi"}
    assert list(found["states"].layer.unique()) == [0, 2, 5, 7]
    assert len(found["maps"]) == 4 * 3 * 20
    # Retrieval at the last layer, one question at a time.
    states = {
        code: np.stack(
            [
                model.model(**tokenizer(text, return_tensors="pt"))
                .last_hidden_state[0, -1]
                .detach()
                .numpy()
                for text in questions[code]
            ]
        )
        for code in ("en", "de")
    }
    unit = {code: own - own.mean(0) for code, own in states.items()}
    unit = {c: own / np.linalg.norm(own, axis=1, keepdims=True) for c, own in unit.items()}
    right = ((unit["de"] @ unit["en"].T).argmax(1) == np.arange(20)).mean()
    last = found["states"].query("layer == 7 and lang == 'de'")
    assert last.retrieval.item() == pytest.approx(right)


def test_systems_are_trained_from_one_base_and_asked(organism, tmp_path):
    model, tokenizer = organism
    before = digest(model, trainable=True)
    recipes = systems([0], 8, rank=1)
    wanted = pd.DataFrame({"system": ["base", "SLAM", "first 1"], "seed": [0, 1, 1]})
    ask = functools.partial(
        part_answers,
        tokenizer=tokenizer,
        languages=["en", "de"],
        tasks=["organism-math"],
        parts=["math-1"],
        items=4,
    )
    made = compared(
        model,
        wanted,
        recipes,
        {1: examples_of(tokenizer, 8)},
        measure=lambda model: (
            heard(ask(model)) | {"weights": pd.DataFrame({"sum": [digest(model, trainable=True)]})}
        ),
        out=tmp_path,
        plans=PLANS,
    )
    assert digest(model, trainable=True) == before
    sums = made["weights"].set_index("system")["sum"]
    assert sums["base"] == before
    assert sums["SLAM"] == sums["first 1"] != before  # the same stage
    assert len(list(tmp_path.rglob("finished.safetensors"))) == 1  # trained once
    assert list(made["costs"].system) == ["SLAM", "first 1"]
    plain = ask(model).query("lang == 'de'").sort_values("problem_id").correct
    packed = made["answers"].query("system == 'base' and lang == 'de'").correct.item()
    assert packed == "".join("1" if right else "0" for right in plain)


def test_the_second_stage_stands_on_the_shared_first(organism, tmp_path):
    model, tokenizer = organism
    examples = {"pairs": encode(tokenizer, PAIRS), "English math": encode(tokenizer, PAIRS[:2])}
    recipes = systems([0], 8, rank=1)
    how = (examples, tmp_path, PLANS)
    first, log, _ = align(copy.deepcopy(model), recipes["QAlign stage 1"], *how)
    both, logs, _ = align(copy.deepcopy(model), recipes["QAlign"], *how)
    assert logs[logs.stage == 1].equals(log)  # its seconds too: it was not trained again
    alone, _, _ = align(first, recipes["English math"], examples, tmp_path / "on it", PLANS)
    assert digest(both, trainable=True) == digest(alone, trainable=True)


def test_unknown_systems_and_unwanted_examples(organism, tmp_path):
    model, tokenizer = organism
    wanted = pd.DataFrame({"system": ["SLAMM"], "seed": [1]})
    options = {"measure": lambda model: {}, "out": tmp_path, "plans": PLANS}
    with pytest.raises(ValueError, match="no system 'SLAMM': choose from base, SLAM"):
        compared(model, wanted, systems([0], 8, rank=1), {}, **options)
    assert set(examples_of(tokenizer, 8, kinds=["pairs"])) == {"pairs"}
