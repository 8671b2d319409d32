"""Only chosen weights move, the loss is the target's, and an interrupted run goes on."""

from contextlib import nullcontext

import peft
import pytest
import torch
from conftest import build
from transformers import Trainer

from mmlib.alignment import firing_rates
from mmlib.models import load_model
from mmlib.training import (
    IGNORED,
    encode,
    finetune,
    frozen_digest,
    trainable_only,
    trainable_share,
    translation_prompt,
)

PAIRS = [("a b c", " d e"), ("f g", " h"), ("i", " j k l"), ("m n o p", " q")]
FAST = {"steps": 4, "learning_rate": 1e-3, "batch_size": 2, "every": 2}


@pytest.fixture
def organism():
    return load_model("organism-skewed", dtype="float32")


def test_the_prompt_is_the_published_one():
    prompt = translation_prompt("Hallo.", "de")
    assert prompt == "Translate this from [German] to [English]:\n[German]: Hallo.\n[English]: "
    with pytest.raises(ValueError, match="'xx'"):
        translation_prompt("Hallo.", "xx")


def test_labels_are_the_targets(organism):
    _, tokenizer = organism
    for (prompt, target), example in zip(PAIRS, encode(tokenizer, PAIRS), strict=True):
        kept = [i for i in example["labels"] if i != IGNORED]
        assert tokenizer.decode(kept[:-1]) == target
        assert kept[-1] == tokenizer.eos_token_id
        hidden = example["input_ids"][: len(example["labels"]) - len(kept)]
        assert hidden == tokenizer(prompt).input_ids
    with pytest.raises(ValueError, match="max_length=3"):
        encode(tokenizer, PAIRS, max_length=3)
    with pytest.raises(ValueError, match="empty"):
        encode(tokenizer, [("a", "")])
    with pytest.raises(ValueError, match="no pair"):
        encode(tokenizer, [])


def test_only_the_chosen_weights_have_gradients(llama):
    before = {name: p.requires_grad for name, p in llama.named_parameters()}
    with trainable_only(llama, [0, 2]) as names:
        assert set(names) == {
            f"model.layers.{i}.mlp.{m}_proj.weight" for i in (0, 2) for m in ("up", "down")
        }
        llama(torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
        moved = {n for n, p in llama.named_parameters() if p.grad is not None}
        assert moved == set(names)
        assert trainable_share(llama) == 4 * 32 * 48 / llama.num_parameters()
    assert {name: p.requires_grad for name, p in llama.named_parameters()} == before
    with trainable_only(llama, None, modules=["self_attn.q_proj"]) as names:
        assert len(names) == 3
    with trainable_only(llama, [1], modules=[]) as names:
        assert set(names) == {n for n in before if ".layers.1." in n}
    with pytest.raises(ValueError, match=r"layers \[3\]"), trainable_only(llama, [3]):
        pass
    with pytest.raises(ValueError, match="belongs to"), trainable_only(llama, [0], ["fc1"]):
        pass


@pytest.mark.parametrize(
    ("hidden", "inner", "depth", "trained", "share"),
    [(4096, 11008, 32, 6, 0.0803), (5120, 13824, 40, 6, 0.0653)],
)
def test_the_published_shares(hidden, inner, depth, trained, share):
    """8.03 % and 6.53 % from the shapes of Llama 2 alone, nothing allocated."""
    with torch.device("meta"):
        model = build(
            "llama",
            vocab_size=32001,
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=depth,
            num_attention_heads=hidden // 128,
            num_key_value_heads=hidden // 128,
            tie_word_embeddings=False,
        )
    with trainable_only(model, range(trained)):
        assert trainable_share(model) == pytest.approx(share, abs=5e-5)


def test_finetuning_changes_what_it_may_and_nothing_else(organism, tmp_path):
    model, tokenizer = organism
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    examples = encode(tokenizer, PAIRS * 4)
    with trainable_only(model, [1]) as names:
        log = finetune(model, tokenizer, examples, tmp_path / "run", heldout=examples[:4], **FAST)
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == set(names)
    assert list(log.step) == [0, 2, 4]
    assert log.heldout_loss.iloc[-1] < log.heldout_loss.iloc[0]
    with pytest.raises(ValueError, match="no parameter has gradients"):
        finetune(model.requires_grad_(False), tokenizer, examples, tmp_path / "x", **FAST)


def test_the_loss_is_that_of_the_targets(organism, tmp_path):
    model, tokenizer = organism
    examples = encode(tokenizer, PAIRS[:1])
    ids = torch.tensor([examples[0]["input_ids"]])
    start = sum(i == IGNORED for i in examples[0]["labels"])
    with torch.no_grad():
        logs = torch.log_softmax(model(ids).logits[0, start - 1 : -1].float(), -1)
    by_hand = -logs.gather(1, ids[0, start:, None]).mean().item()
    with trainable_only(model, [0]):
        log = finetune(model, tokenizer, examples, tmp_path, heldout=examples, **FAST)
    assert log.heldout_loss.iloc[0] == pytest.approx(by_hand, rel=1e-3)


def test_an_interrupted_run_goes_on_and_another_one_is_refused(tmp_path, monkeypatch):
    step, results = Trainer.training_step, []
    for name, limit in (("whole", 99), ("parts", 3)):
        for most in (limit, 99):
            calls = []

            def stops(*args, calls=calls, most=most, **options):
                calls.append(1)
                if len(calls) > most:
                    raise KeyboardInterrupt
                return step(*args, **options)

            monkeypatch.setattr(Trainer, "training_step", stops)
            model, tokenizer = load_model("organism-skewed", dtype="float32")
            examples = encode(tokenizer, PAIRS * 4)
            killed = pytest.raises(KeyboardInterrupt) if most == 3 else nullcontext()
            with trainable_only(model, [0]), killed:
                finetune(model, tokenizer, examples, tmp_path / name, **FAST)
            if most == limit == 99:
                break
        results.append(model.model.layers[0].mlp.up_proj.weight.detach())
    assert len(calls) == 2  # the last two of four steps
    assert torch.equal(*results)
    with trainable_only(model, [0]), pytest.raises(ValueError, match="other examples or settings"):
        finetune(model, tokenizer, examples[:3], tmp_path / "whole", **FAST)


def test_a_selected_layer_cannot_move_its_own_firing(organism, tmp_path):
    """Gates are frozen, so that only later layers fire differently (slam.md, section 5)."""
    model, tokenizer = organism
    text = [tokenizer("12 + 30 = 42", return_tensors="pt")]
    before = firing_rates(model, text).counts
    with trainable_only(model, [2]):
        frozen = frozen_digest(model)
        finetune(model, tokenizer, encode(tokenizer, PAIRS), tmp_path, **FAST)
        assert frozen_digest(model) == frozen
    after = firing_rates(model, text).counts
    assert (after[:, :3] == before[:, :3]).all()
    assert (after[:, 3:] != before[:, 3:]).any()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_models_of_peft_are_trained_too(organism, tmp_path):
    model, tokenizer = organism
    config = peft.LoraConfig(r=2, target_modules=["up_proj", "down_proj"], task_type="CAUSAL_LM")
    before = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    adapted = peft.get_peft_model(model, config)
    frozen = frozen_digest(adapted)
    finetune(adapted, tokenizer, encode(tokenizer, PAIRS), tmp_path, **FAST)
    assert frozen_digest(adapted) == frozen
    moved = adapted.merge_and_unload().model.layers[0].mlp.up_proj.weight - before
    assert torch.linalg.matrix_rank(moved.float(), rtol=1e-4) == 2
