"""Swaps judged by likelihoods."""

import pandas as pd
import pytest
import torch

from mmlib.finetune import IGNORED, encode, mean_loss
from mmlib.merging import LayerPlan, merged
from mmlib.models import load_model
from mmlib.study import likely_swaps
from mmlib.study.pairs import translation_prompt
from mmlib.study.tables import item_losses

# Used by peft.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")

GIVEN = {
    **{"model": "organism-base", "data_dir": "organism-base", "languages": ["en", "sw"]},
    **{"pair_source": "organism", "pair_kinds": ["general"], "longest": 200, "heldout": 3},
    **{"pair_split": "calibration", "read_split": "calibration", "forms": ["text", "translation"]},
    **{"task": "organism-math", "split": "calibration", "solutions": "organism-math"},
    **{"questions": "organism-math", "first_item": 2, "items": 3, "steps": 5, "seeds": [1]},
    **{"rate_math": 0.003, "rate_language": 0.01, "train_batch": 2, "bf16": False, "draws": 2},
    **{"systems": ["base", "math expert", "language expert", "soup", "swap", "random"]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return {"runs_dir": str(tmp_path_factory.mktemp("swapped"))}


@pytest.fixture(scope="module")
def made(folder):
    return likely_swaps.rows(GIVEN | folder)


def test_sentences_have_a_loss_alone_or_after_their_english():
    _, tokenizer = load_model("organism-base")
    pairs = pd.DataFrame({"lang": "sw", "text": ["Moja.", "Mbili."], "english": ["One.", "Two."]})
    pairs = pd.concat([pairs, pairs.tail(1)])
    forms = ["text", "translation", "reading"]
    alone, after, back = likely_swaps.sentence_examples(tokenizer, pairs, forms)
    prompt = translation_prompt("Two.", "en", "sw")
    assert prompt.startswith("Translate this from [English] to [Swahili]:")
    assert [alone, after] == encode(tokenizer, [("", "Moja."), (prompt, "Mbili.")])
    assert sum(label == IGNORED for label in after["labels"]) == len(tokenizer(prompt).input_ids)
    assert [back] == encode(tokenizer, [(translation_prompt("Mbili.", "sw"), "Two.")])
    for forms in ([], ["verse"]):
        with pytest.raises(ValueError, match="give some of text, translation, reading"):
            likely_swaps.sentence_examples(tokenizer, pairs, forms)


def test_what_is_read_is_never_learned():
    bench = likely_swaps.Bench(GIVEN)
    assert not {*bench.pairs["sw"].id} & {*bench.aside["sw"].id}
    assert not {*bench.pairs["sw"].text} & {*bench.aside["sw"].text}


def test_mergers_are_read_as_the_weights_they_have(made, folder):
    """The swap and the experts, by weights and losses that are made here."""
    bench = likely_swaps.Bench(GIVEN | folder)
    math, language = (bench.expert(role, 1)[0] for role in ("math", "sw"))
    depth = math.config.num_hidden_layers
    swap = merged(math, language, LayerPlan.fitted(depth))
    nats = item_losses(made.losses).set_index(["system", "task", "lang"]).nats
    base, _ = load_model("organism-base", dtype="float32")
    weights = {"base": base.state_dict(), "math expert": math.state_dict()}
    for system, tensors in (weights | {"language expert": language.state_dict()}).items():
        base.load_state_dict(tensors)
        check(bench, base, nats.loc[system])
    base.load_state_dict(dict(base.state_dict()) | swap)
    check(bench, base, nats.loc["swap"])
    assert nats["language expert", "text", "sw"].mean() < nats["base", "text", "sw"].mean()


def check(bench, model, nats):
    for place, (_, examples) in bench.asked("sw").items():
        by_hand = [mean_loss(model, [example]) for example in examples]
        assert list(nats[place]) == pytest.approx(by_hand, abs=1e-3)


def test_an_expert_shares_what_it_does_not_train_and_leaves_the_model_alone(folder, made):
    bench, (fresh, _) = (
        likely_swaps.Bench(GIVEN | folder),
        load_model("organism-base", dtype="float32"),
    )
    expert, log = bench.expert("sw", 1)
    assert expert.get_input_embeddings().weight is bench.model.get_input_embeddings().weight
    pairs = zip(bench.model.parameters(), fresh.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    kept = made.log[made.log.role == "sw"].reset_index(drop=True)[list(log)]
    pd.testing.assert_frame_equal(kept, log)  # seconds too: it was not trained again


def test_gains_are_measured_from_the_base(made):
    table = likely_swaps.gains(made.losses)
    assert set(table.measure) == {
        "asked in English",
        "asked in the language",
        "text of the language",
    }
    assert list(table.gain) == pytest.approx(list(table.plain - table.nats))
    told = likely_swaps.told(made)
    mean = table[(table.system == "swap") & (table.measure == "text of the language")].gain.mean()
    assert told["swap_swap_text"] == pytest.approx(mean)
    assert told["swap_low"] == told["swap_high"] == pytest.approx(told["swap_swap_asked"])
