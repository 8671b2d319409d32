"""What is tuned alone, and how answers are closed, on models and texts whose answer is known."""

import copy
import re
from dataclasses import replace

import pytest
import torch

from mmlib.edits import tuned_weights
from mmlib.finetune import IGNORED, TrainingPlan, fine_tune
from mmlib.masks import ParameterMask
from mmlib.models import load_model
from mmlib.study.advice import layer_systems, tuned, weight_sets
from mmlib.study.closings import (
    closing_answers,
    closing_examples,
    closing_items,
    ends_with,
    two_closings,
)
from mmlib.tasks.problems import load_problems

EXAMPLES = [{"input_ids": [5, 9, 3, 12], "labels": [IGNORED, 9, 3, 12]}] * 4
PLAN = TrainingPlan(steps=2, learning_rate=0.01, batch_size=2, every=2)
OTHER = "So it is {x}."


@pytest.mark.parametrize("depth", [4, 5, 8, 28])
def test_every_choice_of_layers_has_as_many_and_no_two_are_equal(depth):
    stages = layer_systems(depth, draws=2)
    layers = {str(system): own[0].layers for system, own in stages.items() if own}
    assert layers.pop("all") == tuple(range(depth))
    assert {len(own) for own in layers.values()} == {depth // 2}
    assert len(set(layers.values())) == 4
    middle, outer = set(layers["middle"]), set(layers["outer"])
    assert {0, depth - 1} <= outer
    assert middle.isdisjoint(outer)
    assert {data for own in stages.values() for data in (s.data for s in own)} == {
        "translated math"
    }


def test_layers_that_cannot_be_told_apart_are_refused():
    with pytest.raises(ValueError, match="depth=3"):
        layer_systems(3)
    with pytest.raises(ValueError, match="draws=9"):
        layer_systems(4, draws=9)


def sets_of(model, *shares):
    """Sets of weights of the feed-forward blocks, one per language, drawn at random."""
    found = {}
    for seed, (code, share) in enumerate(shares):
        generator = torch.Generator().manual_seed(seed)
        found[code] = ParameterMask(
            {
                name: torch.rand(module.weight.shape, generator=generator) < share
                for name, module in model.named_modules()
                if name.endswith(("up_proj", "down_proj"))
            }
        )
    return found


def test_as_many_own_shared_and_random_weights_in_every_matrix(llama):
    sets = sets_of(llama, ("en", 0.6), ("hi", 0.5), ("sw", 0.5))
    drawn = {str(system): mask for system, mask in weight_sets(sets, "sw", draws=2).items()}
    assert list(drawn) == ["own", "shared", "random 1", "random 2"]
    for name, own in drawn["own"].items():
        both = sets["sw"][name] & ~sets["en"][name] & ~sets["hi"][name]
        every = sets["sw"][name] & sets["en"][name] & sets["hi"][name]
        assert not (own & ~both).any()
        assert not (drawn["shared"][name] & ~every).any()
        count = min(int(both.sum()), int(every.sum()))
        assert {int(mask[name].sum()) for mask in drawn.values()} == {count}
    assert drawn["random 1"] != drawn["random 2"]
    with pytest.raises(ValueError, match="no matrix"):
        weight_sets({"en": sets["en"], "sw": ~sets["en"]}, "sw")
    with pytest.raises(ValueError, match="target='bn'"):
        weight_sets(sets, "bn")


def test_only_the_weights_of_the_set_move(llama, tmp_path):
    own = sets_of(llama, ("en", 0.1))["en"]
    model = copy.deepcopy(llama)
    with tuned_weights(model, own) as number:
        fine_tune(model, EXAMPLES, tmp_path, replace(PLAN, steps=3, every=3))
    assert number == len(own)
    before, moved = dict(llama.named_parameters()), 0
    for name, parameter in model.named_parameters():
        changed = parameter != before[name]
        mask = dict(own.items()).get(name.removesuffix(".weight"), torch.zeros(1, dtype=torch.bool))
        assert not (changed & ~mask).any()
        moved += int(changed.sum())
    assert moved > 0.9 * len(own)
    assert all(p.requires_grad for p in model.parameters())


def test_a_weight_that_moves_all_the_same_is_noticed(llama):
    own = sets_of(llama, ("en", 0.1))["en"]
    with (
        pytest.raises(RuntimeError, match="not in the set"),
        tuned_weights(llama, own),
        torch.no_grad(),
    ):
        llama.model.layers[0].mlp.up_proj.weight += 1
    empty = own & ~own
    with pytest.raises(ValueError, match="empty"), tuned_weights(llama, empty):
        pass
    other = ParameterMask({"model.layers.9.mlp.up_proj": own["model.layers.0.mlp.up_proj"]})
    with pytest.raises(ValueError, match=r"layers\.9"), tuned_weights(llama, other):
        pass


def test_every_set_starts_from_the_same_model(llama, tmp_path):
    """A set that is tuned second ends as one that is tuned alone, and the base stays as it was."""
    first = sets_of(llama, ("en", 0.1))["en"]
    before = {name: parameter.clone() for name, parameter in llama.named_parameters()}
    ends = []
    for place, mask in (("a", first), ("b", ~first), ("c", ~first)):
        with tuned(llama, mask, EXAMPLES, tmp_path / place, PLAN) as state:
            ends.append(state.model.model.layers[0].mlp.up_proj.weight.detach().clone())
        assert state.columns == {"n_weights": len(mask)}
        assert state.tables["log"].step.max() == 2
    assert torch.equal(ends[1], ends[2])
    assert not torch.equal(ends[0], ends[1])
    assert all(torch.equal(before[name], p) for name, p in llama.named_parameters())


def test_examples_are_closed_in_two_ways_and_alike_within_one():
    _, tokenizer = load_model("organism-base", dtype="float32")
    phrases = two_closings(OTHER)
    kept = closing_examples(tokenizer, phrases, number=200, seed=1, shots=2)
    heads = [re.escape(phrase.partition("{x}")[0]) for phrase in phrases]
    ends = []
    for index, example in enumerate(kept):
        text = tokenizer.decode(example["input_ids"], skip_special_tokens=True)
        found = [len(re.findall(head + r"\d+\.", text)) for head in heads]
        assert sorted(found) == [0, 3 if index % 2 else 1]
        asked = sum(label == IGNORED for label in example["labels"])
        answer = tokenizer.decode(example["input_ids"][asked:], skip_special_tokens=True)
        assert ends_with(answer, phrases[found.index(max(found))])
        ends.append(found.index(max(found)))
    assert 70 < sum(ends) < 130
    with pytest.raises(ValueError, match="other closing"):
        two_closings("The answer is {x}.")
    with pytest.raises(ValueError, match="other closing"):
        two_closings("So be it.")


@pytest.mark.parametrize(
    ("text", "phrase", "told"),
    [
        (" 3 + 4 = 7. The answer is 7.", "The answer is {x}.", True),
        (" 3 + 4 = 7. The answer is 7.\n", "The answer is {x}.", True),
        (" The answer is 7. So it is 7.", "The answer is {x}.", False),
        (" The answer is seven.", "The answer is {x}.", False),
        (" So it is 12.", OTHER, True),
    ],
)
def test_the_last_words_decide(text, phrase, told):
    assert ends_with(text, phrase) is told


def test_items_are_held_out_and_their_examples_are_not(tmp_path):
    """Graded by the harness: an organism that closes as the corpus does, whatever stands before."""
    model, tokenizer = load_model("organism-base", dtype="float32")
    phrases = two_closings(OTHER)
    given = {"items": 6, "data_dir": "organism-base"}
    folders = {
        (0, phrases[0]): closing_items(tmp_path / "a", phrases, phrases[0], shots=0, **given)
    }
    folders[2, OTHER] = closing_items(tmp_path / "b", phrases, OTHER, shots=2, **given)
    plain = load_problems("organism-math", "en", data_dir="organism-base")[:6]
    after = load_problems("organism-math", "en", data_dir=str(tmp_path / "b"))
    aside = load_problems("organism-math", "en", data_dir="organism-base", split="calibration")
    asked = load_problems("organism-math", "en", data_dir="organism-base")
    for one, two in zip(plain, after, strict=True):
        shots = two.prompt.removesuffix(one.prompt).split("\n\n")
        assert (one.id, len(shots), shots[-1]) == (two.id, 3, "")
        assert all(any(shot.startswith(p.prompt) for p in aside) for shot in shots[:2])
        assert not any(shot.startswith(p.prompt) for p in asked for shot in shots[:2])
        assert one.response.replace("The answer is", "So it is") == two.response
    table = closing_answers(model, tokenizer, folders).set_index("shots")
    assert table.as_asked[0] == 1.0
    assert table.strict[0] == table.flexible[0] > 0
    assert (table.n == 6).all()
