"""Tokens and packed rows hold every document, and training is reproducible."""

import dataclasses
import functools
import hashlib
import json
import random
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mmlib.organism import corpus
from mmlib.organism import training as organism
from mmlib.organism.training import RECIPES

TINY = dataclasses.replace(
    RECIPES["organism-skewed"],
    mix=dataclasses.replace(RECIPES["organism-skewed"].mix, documents=300),
    vocab_size=1_600,
    hidden_size=32,
    intermediate_size=48,
    layers=2,
    heads=2,
    kv_heads=2,
    row_length=288,
    batch_rows=4,
)


@pytest.fixture(scope="module")
def documents():
    return pd.DataFrame(corpus.training_rows(TINY.mix))


@pytest.fixture(scope="module", autouse=True)
def made_once(documents):
    """The tokenizer of a few documents in place of the family's, and frozen items written once."""
    tokenizer, tables = tokenizer_for(documents, TINY.vocab_size), organism.frozen_tables
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(organism, "family_tokenizer", lambda *_: tokenizer)
        patch.setattr(organism, "frozen_tables", functools.cache(tables))
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("organisms") / "once"
    return organism.train(TINY, folder, compile=False)


def tokenizer_for(documents, vocab_size):
    texts = map(organism.document_text, documents.to_dict("records"))
    return organism.train_tokenizer(texts, vocab_size=vocab_size)


# --- tokenizer, packing ---


@pytest.mark.parametrize(("architecture", "begins"), [("llama", True), ("qwen3", False)])
def test_random_checkpoint_loads_like_any_folder(tmp_path, architecture, begins):
    folder = organism.random_checkpoint(
        tmp_path / "random",
        texts=["Tom has 12 apples.", "राम के पास 12 सेब हैं।"] * 20,
        architecture=architecture,
        vocab_size=400,
        hidden_size=32,
        layers=2,
        heads=2,
        kv_heads=1,
        intermediate_size=64,
    )
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("Tom has 12 सेब").input_ids
    assert model.config.model_type == architecture
    assert model.dtype == torch.bfloat16
    assert (ids[0] == tokenizer.bos_token_id) == begins
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Tom has 12 सेब"
    assert [tokenizer.decode([i]) for i in ids if tokenizer.decode([i]) in "12"] == ["1", "2"]
    assert model(torch.tensor([ids])).logits.shape == (1, len(ids), len(tokenizer))
    assert list(tmp_path.iterdir()) == [folder]


def test_random_checkpoint_refuses_an_unknown_architecture(tmp_path):
    with pytest.raises(ValueError, match="llama"):
        organism.random_checkpoint(tmp_path / "x", texts=["a"], architecture="gpt")


def test_the_tokens_of_a_document_are_those_of_its_parts(documents):
    """Graded prompts are tokenized alone, so no token may reach over the end of a prompt."""
    sample = documents.head(80)
    tokenizer = tokenizer_for(sample, 1_500)
    for document in sample.to_dict("records"):
        ids, weights = organism._encode(document["turns"], tokenizer, 0.1)
        assert ids[:-1] == tokenizer(organism.document_text(document)).input_ids
        assert ids[-1] == tokenizer.eos_token_id
        answered = [i for i, w in zip(ids, weights, strict=True) if w == 1.0]
        answers = "".join(response for _, response in document["turns"])
        assert tokenizer.decode(answered, skip_special_tokens=True) == answers
        prompt = tokenizer(document["turns"][0][0]).input_ids
        assert ids[: len(prompt)] == prompt
        assert weights[: len(prompt)] == [0.0] + [0.1] * (len(prompt) - 1)
    assert len(tokenizer("120", add_special_tokens=False).input_ids) == 3


def test_rows_hold_every_document_once_and_no_key_twice():
    rng = random.Random(0)
    keys = [str(rng.randrange(40)) for _ in range(500)]
    lengths = [rng.randint(10, 100) for _ in keys]
    rows = organism.assign_rows(keys, lengths, 256)
    assert sorted(n for row in rows for n in row) == list(range(500))
    for row in rows:
        assert sum(lengths[n] for n in row) <= 256
        assert len({keys[n] for n in row}) == len(row)
    with pytest.raises(ValueError, match="257 tokens"):
        organism.assign_rows(["a"], [257], 256)


def test_weights_and_positions_of_packed_rows(documents):
    sample = documents.head(40)
    tokenizer = tokenizer_for(sample, 600)
    packed = organism.pack(sample, tokenizer, dataclasses.replace(TINY, row_length=512))
    used = packed.document >= 0
    assert (packed.weight[~used] == 0).all()
    assert (packed.weight[packed.ids == tokenizer.bos_token_id] == 0).all()
    assert (packed.weight[packed.ids == tokenizer.eos_token_id] == 1).all()
    for number, document in enumerate(sample.to_dict("records")):
        here = packed.document == number
        assert (packed.position[here] == np.arange(here.sum())).all()
        text = tokenizer.decode(packed.ids[here], skip_special_tokens=True)
        assert text == organism.document_text(document)


def test_documents_of_a_row_do_not_see_each_other(documents):
    sample, recipe = documents.head(12), dataclasses.replace(TINY, row_length=512)
    tokenizer = tokenizer_for(sample, 600)
    model = organism._organism_model(recipe, tokenizer)

    def loss(rows):
        packed = organism.pack(rows, tokenizer, recipe)
        parts = [packed.ids, packed.document, packed.position, packed.weight]
        ids, document, position, weight = (torch.from_numpy(p) for p in parts)
        total = weight[:, 1:].sum()
        return organism.loss_of(model, ids.long(), document, position.long(), weight) * total

    together = loss(sample)
    alone = sum(loss(sample.iloc[[n]]) for n in range(len(sample)))
    torch.testing.assert_close(together, alone)


def test_a_position_does_not_see_later_ones(documents):
    """The mask is added to the scores; a boolean one would silently hide nothing."""
    sample = documents.head(1)
    tokenizer = tokenizer_for(documents.head(40), 600)
    recipe = dataclasses.replace(TINY, row_length=512)
    packed = organism.pack(sample, tokenizer, recipe)
    model = organism._organism_model(recipe, tokenizer)
    parts = [packed.ids, packed.document, packed.position, packed.weight]
    ids, document, position, weight = (torch.from_numpy(p) for p in parts)
    only = torch.zeros_like(weight)
    only[:, 10] = 1.0
    before = organism.loss_of(model, ids.long(), document, position.long(), only)
    ids[:, 11:20] = tokenizer.eos_token_id
    assert organism.loss_of(model, ids.long(), document, position.long(), only) == before


def test_attention_starts_as_a_copy_of_what_it_attends_to(documents):
    recipe = TINY
    model = organism._organism_model(recipe, tokenizer_for(documents.head(40), 600))
    x = torch.randn(5, recipe.hidden_size)
    for layer in model.model.layers:
        copied = layer.self_attn.o_proj(layer.self_attn.v_proj(x))
        torch.testing.assert_close(copied, recipe.copying_start * x)
    usual = organism._organism_model(
        dataclasses.replace(recipe, copying_start=0), tokenizer_for(documents.head(40), 600)
    )
    assert usual.model.norm.weight.eq(1).all()


def test_a_recipe_takes_other_values_and_refuses_unknown_ones():
    varied = organism.vary(TINY, {"seed": 5, "mix.foreign_math": 0.25, "mix.seed": 7})
    assert (varied.seed, varied.mix.foreign_math, varied.mix.seed) == (5, 0.25, 7)
    back = organism.vary(varied, {"seed": TINY.seed, "mix.seed": TINY.mix.seed})
    assert dataclasses.replace(back, mix=TINY.mix) == TINY
    for wrong in ("sead", "mix.sead", "mix.mix", "mix"):
        with pytest.raises(ValueError, match=rf"no '{wrong}'; choose from name, mix"):
            organism.vary(TINY, {wrong: 1})
    with pytest.raises(ValueError, match="seed is 'x'; it has to be of type int"):
        organism.vary(TINY, {"seed": "x"})
    assert organism.vary(TINY, {"learning_rate": "1e-3"}).learning_rate == 1e-3
    assert organism.vary(varied, {"mix.foreign_math": None}).mix.foreign_math is None
    flat = organism.vary(TINY, {"mix.curriculum": [[1, "full"]]})
    assert flat.mix.curriculum == ((1.0, "full"),)
    for name, value in {
        "seed": True,
        "layers": 2.5,
        "mix.foreign_math": 1.5,
        "mix.languages": {"xx": 1},
        "mix.tasks": {"math": -1},
        "mix.documents": 0,
        "learning_rate": ".nan",
        "vocab_size": float("inf"),
        "name": None,
        "mix.curriculum": [[0.5, "easy"]],
    }.items():
        with pytest.raises(ValueError, match=name.removeprefix("mix.")):
            organism.vary(TINY, {name: value})


# --- training ---


def test_rate_rises_and_falls_to_zero():
    rates = [organism.rate_at(step, 100, 0.1, 0.5) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:51] == [1.0] * 42
    assert np.diff(rates[50:]) == pytest.approx([-0.02] * 49)
    assert 0 < rates[-1] <= 0.02


def test_same_seed_same_losses_and_resume_is_exact(trained, tmp_path):
    out = tmp_path / "twice"
    assert organism.train(TINY, out, compile=False, stop_at=7) is None
    assert not out.exists()
    organism.train(TINY, out, compile=False, snapshots=[9])
    logs = [pd.read_csv(f / "training_log.csv").drop(columns="seconds") for f in (trained, out)]
    pd.testing.assert_frame_equal(*logs)
    assert (trained / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    snapshot = json.loads((tmp_path / "twice-step9" / "manifest.json").read_text())
    assert (snapshot["training"], snapshot["steps"]) == ("twice", 9)
    assert snapshot["tokens"] == logs[1].set_index("step").tokens[9]
    assert snapshot["files"]["config.json"]
    assert not (tmp_path / "twice.partial").exists()
    assert logs[0]["loss"].iloc[-1] < logs[0]["loss"].iloc[0]


def test_unfinished_run_of_another_recipe_is_refused(tmp_path):
    organism.train(TINY, tmp_path / "run", compile=False, stop_at=1)
    other = dataclasses.replace(TINY, seed=2)
    with pytest.raises(ValueError, match="another recipe"):
        organism.train(other, tmp_path / "run", compile=False)


def test_finished_folder(trained):
    manifest = json.loads((trained / "manifest.json").read_text())
    assert manifest["recipe"]["seed"] == TINY.seed
    names = {p.name for p in trained.iterdir()}
    assert set(manifest["files"]) == names - {"manifest.json"}
    data = {"heldout.jsonl.gz", "calibration.jsonl.gz", "translations.jsonl.gz"}
    assert data | {"model.safetensors"} <= names
    model = AutoModelForCausalLM.from_pretrained(trained)
    assert model.dtype == torch.bfloat16


def test_model_card_tells_the_accuracies_and_is_hashed(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "described")
    row = {"lang": "hi", "part": "reading-mixed", "accuracy": 0.5, "n": 8, "n_correct": 4}
    row |= {"low": 0.215, "high": 0.785}
    rows = [row, row | {"lang": "bn", "accuracy": 0.25, "low": 0.071, "high": 0.591}]
    organism.describe(folder, pd.DataFrame(rows))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| reading-mixed | 8 | 0.500 (0.215–0.785) | 0.250 (0.071–0.591) |" in card
    assert "**Not above the guessing rate**: reading-mixed in bn." in card
    assert "{" not in card
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["accuracy"][0]["n_correct"] == 4
    assert "README.md" in manifest["files"]


# --- the shipped folder ---

SHIPPED = [p.parent.name for p in organism.ORGANISMS.glob("organism-*/heldout.jsonl.gz")]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_are_those_of_the_manifest(name):
    folder = organism.ORGANISMS / name
    manifest = json.loads((folder / "manifest.json").read_text())
    for file, digest in manifest["files"].items():
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == digest, file
    assert sum(file.stat().st_size for file in folder.iterdir()) < 16e6


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_organism_is_what_its_recipe_says(name):
    folder = organism.ORGANISMS / name
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["recipe"] == json.loads(json.dumps(dataclasses.asdict(RECIPES[name])))
    for table, written in organism.frozen_tables(corpus.LANGUAGES).items():
        shipped = pd.read_json(folder / f"{table}.jsonl.gz", lines=True, dtype=False)
        assert shipped.to_dict("list") == written.to_dict("list")


FAMILY_TOKENIZER = organism.family_tokenizer


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_tokenizer_is_that_of_the_family(name):
    shipped = AutoTokenizer.from_pretrained(organism.ORGANISMS / name)
    again = FAMILY_TOKENIZER(RECIPES[name].vocab_size)
    assert again.get_vocab() == shipped.get_vocab()
