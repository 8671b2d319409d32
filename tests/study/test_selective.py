"""Selective alignment judged by likelihoods."""

import copy

import pandas as pd
import pytest
import torch

from mmlib.finetune import encode, mean_loss
from mmlib.models import load_model
from mmlib.study import selective
from mmlib.study.tables import item_losses, pack_losses
from mmlib.tasks.problems import load_problems

# Used by peft.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")

GIVEN = {
    **{"model": "organism-base", "data_dir": "organism-base", "languages": ["en", "hi"]},
    **{"others": ["sw"], "pair_source": "organism", "pair_kinds": ["math"], "heldout": 3},
    **{"pair_split": "calibration", "longest": 200, "task": "organism-math", "first_item": 2},
    **{"split": "calibration", "solutions": "organism-math", "questions": "organism-math"},
    **{"items": 3, "start_steps": 5, "start_rate": 0.003, "layers": [1, 2], "steps": 5},
    **{"systems": ["SLAM", "random layers"], "seeds": [1, 2], "rate_part": 0.01},
    **{"rate_full": 0.001, "rate_lora": 0.01, "train_batch": 2, "bf16": False},
}


def test_only_the_question_changes_its_language():
    table = selective.problems_in(GIVEN).set_index(["lang", "id"])
    problems = load_problems("organism-math", "en", data_dir="organism-base")[2:5]
    assert list(table.index.unique("lang")) == ["en", "hi", "sw"]
    for problem in problems:
        assert table.prompt["en", problem.id] == problem.prompt
        for code in ("hi", "sw"):
            assert table.response[code, problem.id] == problem.response
            asked = table.prompt[code, problem.id]
            assert asked != problem.prompt
            assert asked.splitlines()[-1] == problem.prompt.splitlines()[-1]  # calls for an answer


def test_questions_of_other_items_are_refused():
    with pytest.raises(ValueError, match="parallel to solutions='organism-math'"):
        selective.problems_in(GIVEN | {"questions": "organism-knowledge"})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return selective.rows(GIVEN | {"runs_dir": str(tmp_path_factory.mktemp("selective"))})


def test_every_system_starts_from_one_expert_and_is_read_alike(made):
    losses = (
        item_losses(made.losses)
        .set_index(["system", "seed", "task", "lang", "place"])
        .nats.sort_index()
    )
    assert losses.index.is_unique
    systems = {("base", 0)} | {(s, n) for s in ("SLAM", "random layers") for n in (1, 2)}
    assert {*losses.index.droplevel([2, 3, 4])} == systems
    read = {("solution", code) for code in ("en", "hi", "sw")}
    read |= {(task, "hi") for task in ("translation", "without its source")}
    assert {*losses.droplevel([0, 1, 4]).index} == read
    for system, seed in systems - {("base", 0)}:
        assert losses[system, seed]["translation"].mean() < losses["base", 0]["translation"].mean()
    assert made.start.heldout_loss.dropna().iloc[-1] < made.start.heldout_loss.iloc[0]
    assert set(made.costs.trained) == {made.costs.trained.iloc[0]}  # as many weights each


def test_the_expert_is_no_other_for_systems_of_another_length(tmp_path):
    short, long = (
        selective.Bench(GIVEN | {"runs_dir": str(tmp_path), "steps": steps}) for steps in (5, 7)
    )
    expert, log = short.start()
    again, other = long.start()
    assert log.equals(other)
    pairs = zip(expert.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_losses_are_those_of_single_texts():
    model, tokenizer = load_model("organism-base")
    texts = [("Q: 1 + 1?\nA:", " It is 2."), ("Q: 2 + 3?\nA:", " It is 5, and no more.")]
    asked = {("solution", "en"): (["a", "b"], encode(tokenizer, texts))}
    before = copy.deepcopy(model.state_dict())
    for bf16 in (False, True):
        table = item_losses(selective.losses(model, asked, bf16=bf16))
        read = copy.deepcopy(model).to(torch.bfloat16) if bf16 else model
        by_hand = [mean_loss(read, encode(tokenizer, [text])) for text in texts]
        assert list(table.nats) == pytest.approx(by_hand, abs=1e-4)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def packed(system, seed, nats, **more):
    rows = [("solution", code, i, -x, 4) for code in ("en", "sw") for i, x in enumerate(nats)]
    table = pd.DataFrame(rows, columns=["task", "lang", "problem_id", "log_likelihood", "n_tokens"])
    about = {"system": system, "seed": seed, "model": "m", "start_steps": 5, "start_rate": 0.1}
    rate = 0.0 if system == "base" else 0.5
    table = pack_losses(table.astype({"problem_id": str}), ["task", "lang"])
    return table.assign(**about, learning_rate=rate, steps=9, **more)


def test_a_gain_is_what_the_expert_loses_more():
    base = packed("base", 0, [2.0, 4.0])
    table = pd.concat([base, packed("SLAM", 1, [1.5, 4.5]), base, packed("SLAM", 2, [1.0, 3.0])])
    assert list(selective.gains(table).gain) == [0.5, -0.5] * 2 + [1.0, 1.0] * 2
    summary = selective.summary(table).set_index("lang")
    assert summary["mean"].to_dict() == pytest.approx({"en": 0.5, "sw": 0.5})
    tried = selective.tried(table.assign(task="translation"))
    assert tried.translations.item() == pytest.approx(2.5)
    assert selective.tried(table)["English loses"].item() == pytest.approx(-0.5)
