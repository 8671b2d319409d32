"""Only chosen weights move, the loss is the target's, and an interrupted run goes on."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import peft
import pytest
import torch
from conftest import build
from filelock import FileLock
from transformers import Trainer

from mmlib import finetune
from mmlib.edits import trainable_only
from mmlib.files import save_tensors
from mmlib.finetune import IGNORED, TrainingPlan, digest, encode, fine_tune, mean_loss
from mmlib.merging import update_magnitude
from mmlib.models import load_model
from mmlib.neurons import firing_rates
from mmlib.study.pairs import translation_prompt

PAIRS = [("a b c", " d e"), ("f g", " h"), ("i", " j k l"), ("m n o p", " q")]
FAST = TrainingPlan(steps=4, learning_rate=1e-3, batch_size=2, every=2)


@pytest.fixture
def organism():
    return load_model("organism-skewed", dtype="float32")


def test_the_prompt_is_the_published_one():
    prompt = translation_prompt("Hallo.", "de")
    assert prompt == "Translate this from [German] to [English]:\n[German]: Hallo.\n[English]: "
    with pytest.raises(ValueError, match="'xx'"):
        translation_prompt("Hallo.", "xx")
    bare = translation_prompt("Hallo.", "de", form="no brackets")
    assert bare == "Translate this from German to English:\nGerman: Hallo.\nEnglish: "
    dialogue = translation_prompt("[Hallo.]", "de", form="dialogue")
    assert dialogue == f"Human: {prompt.replace('Hallo.', '[Hallo.]')}\nAssistant: "
    with pytest.raises(ValueError, match=r"form='alma': choose from published, no brackets"):
        translation_prompt("Hallo.", "de", form="alma")


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
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="end=False"):
        encode(tokenizer, PAIRS)
    assert encode(tokenizer, PAIRS, end=False)


def trainable_share(model):
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, grad in counts if grad) / sum(n for n, _ in counts)


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


def test_a_frozen_weight_that_moves_is_told(llama, tmp_path, monkeypatch):
    def train(model, *_):
        with torch.no_grad():
            model.get_input_embeddings().weight[0, 0] += 1

    monkeypatch.setattr(finetune, "_train", train)
    examples = [{"input_ids": [1, 2], "labels": [1, 2]}]
    with trainable_only(llama, [0]), pytest.raises(RuntimeError, match="without gradient"):
        fine_tune(llama, examples, tmp_path / "run", FAST)
    assert not (tmp_path / "run" / "finished.safetensors").exists()


def test_finetuning_changes_what_it_may_and_nothing_else(organism, tmp_path):
    model, tokenizer = organism
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    examples = encode(tokenizer, PAIRS * 4)
    with trainable_only(model, [1]) as names:
        log = fine_tune(model, examples, tmp_path / "run", FAST, heldout=examples[:4])
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == set(names)
    assert list(log.step) == [0, 2, 4]
    assert log.heldout_loss.iloc[-1] < log.heldout_loss.iloc[0]
    with pytest.raises(ValueError, match="no parameter has gradients"):
        fine_tune(model.requires_grad_(False), examples, tmp_path / "x", FAST)


def test_the_loss_is_that_of_the_targets(organism, tmp_path):
    model, tokenizer = organism
    examples = encode(tokenizer, PAIRS[:1])
    ids = torch.tensor([examples[0]["input_ids"]])
    start = sum(i == IGNORED for i in examples[0]["labels"])
    with torch.no_grad():
        logs = torch.log_softmax(model(ids).logits[0, start - 1 : -1].float(), -1)
    by_hand = -logs.gather(1, ids[0, start:, None]).mean().item()
    with trainable_only(model, [0]):
        log = fine_tune(model, examples, tmp_path, FAST, heldout=examples)
    assert log.heldout_loss.iloc[0] == pytest.approx(by_hand, rel=1e-3)


def one_run(folder, monkeypatch, most=99, **changes):
    """A run of four steps that is killed before step `most` + 1; its model and its steps."""
    step, calls = Trainer.training_step, []

    def stops(*args, **options):
        calls.append(1)
        if len(calls) > most:
            raise KeyboardInterrupt
        return step(*args, **options)

    model, tokenizer = load_model("organism-skewed", dtype="float32")
    examples = encode(tokenizer, PAIRS * 4)
    with monkeypatch.context() as patch, trainable_only(model, changes.pop("layers", [0])):
        patch.setattr(Trainer, "training_step", stops)
        heldout = changes.pop("heldout", examples[:4])
        log = fine_tune(model, examples, folder, replace(FAST, **changes), heldout=heldout)
    return model.model.layers[0].mlp.up_proj.weight.detach(), len(calls), log


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    whole, steps, log = one_run(tmp_path / "whole", monkeypatch)
    assert steps == 4
    with pytest.raises(KeyboardInterrupt):
        one_run(tmp_path / "parts", monkeypatch, most=3)
    torn = tmp_path / "parts" / "checkpoint-3"
    torn.mkdir()
    parts, steps, resumed = one_run(tmp_path / "parts", monkeypatch)
    assert steps == 2
    assert torch.equal(whole, parts)
    assert resumed.heldout_loss.tolist() == log.heldout_loss.tolist()
    assert not torn.exists()


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    first, _, log = one_run(tmp_path, monkeypatch, steps=5)
    again, steps, same = one_run(tmp_path, monkeypatch, steps=5)
    assert steps == 0
    assert torch.equal(first, again)
    assert same.equals(log)


def test_two_processes_do_not_train_one_run(tmp_path, monkeypatch):
    """The second one waits, and takes over what the first has made in the meantime."""
    with ThreadPoolExecutor() as pool:
        with FileLock(tmp_path / "lock"):
            second = pool.submit(one_run, tmp_path, monkeypatch, steps=1)
            with pytest.raises(TimeoutError):
                second.result(timeout=2)
            save_tensors(tmp_path / "finished.safetensors", {}, {})
            (tmp_path / "log.csv").write_text("step,loss\n")
        _, steps, _ = second.result()
    assert steps == 0


@pytest.mark.parametrize(
    "changes", [{"layers": [1]}, {"learning_rate": 2e-3}, {"accumulation": 2}, {"heldout": ()}]
)
def test_a_folder_of_another_run_is_refused(tmp_path, monkeypatch, changes):
    one_run(tmp_path, monkeypatch, steps=1)
    with pytest.raises(ValueError, match="holds a run of another model"):
        one_run(tmp_path, monkeypatch, **({"steps": 1} | changes))


def test_mode_and_configuration_stay_and_low_precision_is_refused(organism, tmp_path):
    base, tokenizer = organism
    expert, _ = load_model("organism-skewed", dtype="float32")
    before = expert.config.to_dict()
    with trainable_only(expert, None, modules=[]):
        log = fine_tune(expert, encode(tokenizer, PAIRS), tmp_path / "a", replace(FAST, every=9))
    assert not expert.training
    assert expert.config.to_dict() == before
    assert set(log) == {"step", "loss", "heldout_loss", "seconds"}
    assert update_magnitude(base, expert).absolute.max() > 0  # they are comparable
    half, _ = load_model("organism-skewed", dtype="bfloat16")
    with trainable_only(half, [0]), pytest.raises(ValueError, match=r"bfloat16.*bf16=True"):
        fine_tune(half, encode(tokenizer, PAIRS), tmp_path / "b", FAST)


def test_a_selected_layer_cannot_move_its_own_firing(organism, tmp_path):
    """Gates are frozen, so that only later layers fire differently (slam.md, section 5)."""
    model, tokenizer = organism
    text = [tokenizer("12 + 30 = 42", return_tensors="pt")]
    before = firing_rates(model, text).counts
    with trainable_only(model, [2]):
        frozen = digest(model, trainable=False)
        fine_tune(model, encode(tokenizer, PAIRS), tmp_path, FAST)
        assert digest(model, trainable=False) == frozen
    after = firing_rates(model, text).counts
    assert (after[:, :3] == before[:, :3]).all()
    assert (after[:, 3:] != before[:, 3:]).any()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_models_of_peft_are_trained_too(organism, tmp_path):
    model, tokenizer = organism
    config = peft.LoraConfig(r=2, target_modules=["up_proj", "down_proj"], task_type="CAUSAL_LM")
    before = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    adapted = peft.get_peft_model(model, config)
    frozen = digest(adapted, trainable=False)
    fine_tune(adapted, encode(tokenizer, PAIRS), tmp_path, FAST)
    assert digest(adapted, trainable=False) == frozen
    moved = adapted.merge_and_unload().model.layers[0].mlp.up_proj.weight - before
    assert torch.linalg.matrix_rank(moved.float(), rtol=1e-4) == 2


def test_mean_loss_counts_every_target_token_once():
    model, tokenizer = load_model("organism-skewed", dtype="float32")
    examples = encode(tokenizer, PAIRS)
    logs = []
    for example in examples:
        with torch.no_grad():
            scores = model(torch.tensor([example["input_ids"]])).logits[0].log_softmax(-1)
        after = [(i, t) for i, t in enumerate(example["labels"]) if t != IGNORED]
        logs += [-scores[i - 1, t].item() for i, t in after]
    assert mean_loss(model, examples, batch_size=3) == pytest.approx(
        sum(logs) / len(logs), rel=1e-4
    )
