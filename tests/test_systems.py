"""What each system trains, counted from its shapes, and that stages follow each other."""

import pytest
import torch

from mmlib.models import load_model
from mmlib.systems import ATTENTION, FEED_FORWARD, Stage, align, equal_rank, systems
from mmlib.training import digest, encode

PAIRS = [("a b c", " d e"), ("f g", " h"), ("i", " j k l"), ("m n o p", " q")]
FAST = {"batch_size": 2, "every": 2, "steps": 2}
RATES = {"part": 1e-3, "full": 1e-3, "lora": 1e-3}


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
    assert {stage.kind for stages in found.values() for stage in stages} == set(RATES)
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
    options = {"rates": RATES, "heldout": examples["pairs"], **FAST}
    model, log, costs = align(model, stages, examples, tmp_path, **options)
    names = {f"model.layers.1.mlp.{name}.weight" for name in FEED_FORWARD}
    assert changed(before, model) == names | {"model.layers.6.mlp.gate_proj.weight"}
    assert list(costs.trained) == [2 * 192 * 512, 192 * 512]
    assert list(costs.optimizer_bytes) == [8 * n for n in costs.trained]
    assert set(log.stage) == {1, 2}
    with pytest.raises(ValueError, match="no examples 'translated math'"):
        align(model, (Stage("translated math"),), examples, tmp_path, **options)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # used by peft
def test_adapters_are_merged_and_train_no_weight(organism, tmp_path):
    model, tokenizer = organism
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    examples = {"pairs": encode(tokenizer, PAIRS)}
    model, _, costs = align(
        model, (Stage("pairs", rank=2),), examples, tmp_path, rates=RATES, **FAST
    )
    assert {name for name, _ in model.named_parameters()} == set(before)
    assert all(name.endswith("_proj.weight") for name in changed(before, model))
    assert costs.trained.item() == 2 * 8 * (4 * (192 + 192) + 3 * (192 + 512))


def test_a_stopped_run_is_the_beginning_of_the_whole(tmp_path):
    logs = []
    for folder, stop in (("whole", 0), ("part", 2)):
        model, tokenizer = load_model("organism-skewed", dtype="float32")
        examples = {"pairs": encode(tokenizer, PAIRS * 4)}
        stage = Stage("pairs", (0,), FEED_FORWARD)
        options = FAST | {"steps": 6, "every": 1, "stop": stop, "rates": RATES}
        _, log, _ = align(model, (stage,), examples, tmp_path / folder, **options)
        logs.append(log.set_index("step").loss)
        assert digest(model, trainable=True)
    assert list(logs[1].dropna().index) == [1, 2]
    assert logs[1].dropna().tolist() == pytest.approx(logs[0].loc[[1, 2]].tolist(), rel=1e-5)
