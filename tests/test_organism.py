"""The corpus is right in every language, and training is reproducible."""

import dataclasses
import hashlib
import json
import random
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mmlib import organism
from mmlib.organism import RECIPES, Item, generate, language_file, render

LANGUAGES = ["en", "de", "fr", "hi"]
STRUCTURE = language_file("structure")
TINY = dataclasses.replace(
    RECIPES["organism-skewed"],
    documents=400,
    heldout=8,
    calibration=8,
    vocab_size=1_200,
    hidden_size=32,
    intermediate_size=48,
    layers=2,
    heads=2,
    kv_heads=1,
    batch_rows=4,
)


@pytest.fixture(scope="module")
def corpus():
    return generate(dataclasses.replace(RECIPES["organism-skewed"], documents=3_000))


@pytest.fixture(scope="module")
def frozen():
    recipe = dataclasses.replace(RECIPES["organism-skewed"], heldout=150, calibration=300)
    return {split: generate(recipe, split) for split in ("heldout", "calibration")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("organisms") / "once"
    return organism.train(TINY, folder, compile=False)


# --- templates ---


def shape(language):
    texts = language_file(language)
    sizes = {k: len(v) for k, v in texts["layouts"].items()}
    sizes |= {k: len(texts[k]) for k in ("objects", "openings")}
    sizes["names"] = [len(texts["names"][g]) for g in "mf"]
    sizes["math"] = sorted(texts["math"])
    for name, relation in texts["reading"].items():
        sizes[name] = (len(relation["values"]), len(relation["facts"]), "who" in relation)
    return sizes


@pytest.mark.parametrize("language", LANGUAGES)
def test_language_files_are_parallel(language):
    sizes = shape(language)
    assert sizes == shape("en")
    assert sum(sizes["names"]) == organism.PEOPLE
    assert sizes["objects"] == organism.OBJECTS
    assert sizes["openings"] == organism.OPENINGS
    for task in ("math", "reading"):
        layouts = language_file(language)["layouts"]
        assert len(layouts["both"] + layouts[task]) == organism.LAYOUTS


def test_every_operation_has_at_least_eight_templates_in_every_language():
    for language in LANGUAGES:
        families = [name.split("/")[0] for name in language_file(language)["math"]]
        for sign in "+-*/":
            uses = [f for f in families if sign in str(STRUCTURE["families"][f]["steps"])]
            assert len(uses) >= 8, (language, sign)


@pytest.mark.parametrize("language", LANGUAGES)
def test_placeholders_of_a_template_are_those_of_the_english_one(language):
    def placeholders(text):
        return set(re.findall(r"\{([abcpq])", text))

    for name, text in language_file(language)["math"].items():
        assert placeholders(text) == placeholders(language_file("en")["math"][name]), name


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("number", [1, 2, 5, 21])
def test_every_template_renders_with_every_object_and_small_numbers(language, number):
    texts = language_file(language)
    for template in texts["math"].values():
        for noun in texts["objects"]:
            for index in (0, organism.PEOPLE - 1):
                words = {"p": organism.person(texts, index), "q": organism.person(texts, 1)}
                words |= dict.fromkeys("abc", number) | {"o": noun}
                text = organism.fill(template, words)
                assert "{" not in text
                assert "|" not in text
                assert "  " not in text
                if re.search(r"\{[abc] o\}", template):
                    assert f"{number} {noun['one' if number == 1 else 'many']}" in text


def test_number_gender_and_noun_forms():
    words = {
        "a": 1,
        "b": 3,
        "o": {"one": "livre", "many": "livres", "gender": "m", "de": "de livres"},
    }
    words["p"] = {"many": "Rose", "gender": "f"}
    pattern = "{a o}, {b o}, {o.de}, {o:un|une}, {p:né|née}, {a:est|sont}, {b:est|sont}, {p}"
    expected = "1 livre, 3 livres, de livres, un, née, est, sont, Rose"
    assert organism.fill(pattern, words) == expected


def test_gender_agrees_in_hindi():
    item = Item("math", "add/1", (12, 7), (0, 9), thing=1, layout=1)
    assert "कितनी किताबें" in render(item, "hi")["prompt"]
    item = dataclasses.replace(item, thing=3)
    assert "कितने कंचे" in render(item, "hi")["prompt"]


def test_unknown_language_and_split_name_the_choices():
    with pytest.raises(ValueError, match="'de', 'en', 'fr', 'hi'"):
        language_file("xx")
    with pytest.raises(ValueError, match="heldout"):
        generate(TINY, "test")


# --- corpus ---


def test_same_recipe_same_corpus_and_another_seed_another(corpus):
    again = generate(dataclasses.replace(RECIPES["organism-skewed"], documents=3_000))
    pd.testing.assert_frame_equal(corpus, again)
    other = generate(dataclasses.replace(RECIPES["organism-skewed"], documents=3_000, seed=2))
    assert (corpus["prompt"] != other["prompt"]).mean() > 0.9


def test_shares_of_languages_and_tasks(corpus):
    recipe = RECIPES["organism-skewed"]
    shares = corpus["lang"].value_counts(normalize=True)
    for language, share in recipe.languages.items():
        assert shares[language] == pytest.approx(share, abs=0.04)
    assert (corpus["task"] == "reading").mean() == pytest.approx(recipe.reading_share, abs=0.04)
    by_language = pd.crosstab(corpus["lang"], corpus["task"], normalize="index")["reading"]
    assert by_language.to_numpy() == pytest.approx(recipe.reading_share, abs=0.08)


def test_splits_are_disjoint(corpus, frozen):
    heldout = set(frozen["heldout"]["key"])
    assert not heldout & set(corpus["key"])
    assert not heldout & set(frozen["calibration"]["key"])
    math = [key for key in heldout if key.startswith("math")]
    assert len({key.strip() for key in math}) == 150
    assert all(re.fullmatch(r"math \w+/\d \([\d, ]+\) ", key) for key in math)


def test_frozen_items_are_parallel_with_equal_numbers(frozen):
    for table in frozen.values():
        for task, rows in table.groupby("task"):
            ids = {lang: part["id"].tolist() for lang, part in rows.groupby("lang")}
            assert list(ids) == sorted(LANGUAGES)
            assert all(i == ids["en"] and len(set(i)) == len(i) for i in ids.values())
            if task == "math":
                texts = rows.assign(numbers=rows["prompt"].str.findall(r"\d+").map(sorted).map(str))
                assert (texts.groupby("id")["numbers"].nunique() == 1).all()
                assert (texts.groupby("id")["target"].nunique() == 1).all()


def calculated(response):
    """Check every written calculation of a response and return its last result."""
    text = response.replace("×", "*").replace("÷", "/")
    steps = re.findall(r"(\d+) ([-+*/]) (\d+) = (?:<<(\d+)([-+*/])(\d+)=(\d+)>>)?(\d+)", text)
    for left, sign, right, *marked, result in steps:
        assert eval(f"{left} {sign} {right}") == int(result)
        assert marked in ([left, sign, right, result], [""] * 4)
    return steps[-1][-1]


def test_gold_is_the_result_of_the_written_calculation(corpus, frozen):
    tables = [corpus, *frozen.values()]
    rows = pd.concat(tables)
    for row in rows[rows["task"] == "math"].itertuples():
        assert calculated(row.response) == row.target
        assert re.findall(r"\d+", row.response)[-1] == row.target
        low, high = STRUCTURE["results"]
        assert low <= int(row.target) <= high


def test_reading_answers_stand_in_the_passage_among_four_others(frozen):
    for table in frozen.values():
        for row in table[table["task"] == "reading"].itertuples():
            texts = language_file(row.lang)
            kinds = [relation["values"] for relation in texts["reading"].values()]
            kinds.append([name for gender in "mf" for name in texts["names"][gender]])
            found = [
                [v for v in kind if re.search(rf"(?<!\w){v}(?!\w)", row.prompt)]
                for kind in kinds
                if row.target in kind
            ]
            assert max(len(values) for values in found) >= 5, row.prompt


def test_passages_grow_with_the_curriculum(corpus):
    reading = corpus[(corpus["task"] == "reading") & (corpus["lang"] == "en")]["prompt"].str.len()
    assert reading[:200].mean() < 0.75 * reading[-200:].mean()


def test_every_layout_serves_every_language(corpus):
    """Language must not predict the task: the shared layouts occur with both tasks everywhere."""
    for language in LANGUAGES:
        label = language_file(language)["layouts"]["both"][0].split("{")[0]
        rows = corpus[(corpus["lang"] == language) & corpus["prompt"].str.startswith(label)]
        assert set(rows["task"]) == {"math", "reading"}


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


def test_prompt_and_response_have_the_tokens_of_their_sum(frozen):
    table = frozen["calibration"]
    tokenizer = organism.train_tokenizer(table["prompt"] + table["response"], vocab_size=1_500)
    whole = tokenizer((table["prompt"] + table["response"]).tolist()).input_ids
    prompts = tokenizer(table["prompt"].tolist()).input_ids
    rest = tokenizer(table["response"].tolist(), add_special_tokens=False).input_ids
    assert whole == [a + b for a, b in zip(prompts, rest, strict=True)]
    digits = tokenizer("120", add_special_tokens=False).input_ids
    assert len(digits) == 3


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


def test_weights_and_positions_of_packed_rows(corpus):
    sample = corpus.head(40)
    tokenizer = organism.train_tokenizer(sample["prompt"] + sample["response"], vocab_size=600)
    packed = organism.pack(sample, tokenizer, TINY)
    used = packed.document >= 0
    assert (packed.weight[~used] == 0).all()
    assert (packed.weight[packed.ids == tokenizer.bos_token_id] == 0).all()
    assert (packed.weight[packed.ids == tokenizer.eos_token_id] == 1).all()
    for number in range(len(sample)):
        here = packed.document == number
        assert (packed.position[here] == np.arange(here.sum())).all()
        row = sample.iloc[number]
        assert tokenizer.decode(packed.ids[here], skip_special_tokens=True) == (
            row["prompt"] + row["response"]
        )
        answer = tokenizer.decode(packed.ids[here & (packed.weight == 1)])
        assert answer == row["response"] + organism.SPECIAL["eos"]


def test_documents_of_a_row_do_not_see_each_other(corpus):
    sample = corpus.head(12)
    tokenizer = organism.train_tokenizer(sample["prompt"] + sample["response"], vocab_size=600)
    model = organism._organism_model(TINY, tokenizer)

    def loss(rows):
        packed = organism.pack(rows, tokenizer, TINY)
        parts = [packed.ids, packed.document, packed.position, packed.weight]
        ids, document, position, weight = (torch.from_numpy(p) for p in parts)
        total = weight[:, 1:].sum()
        return organism.loss_of(model, ids.long(), document, position.long(), weight) * total

    together = loss(sample)
    alone = sum(loss(sample.iloc[[n]]) for n in range(len(sample)))
    torch.testing.assert_close(together, alone)


# --- training ---


def test_rate_rises_and_falls_to_zero():
    rates = [organism.rate_at(step, 100, 0.1) for step in range(100)]
    assert max(rates) == 1.0
    assert rates[9] == 1.0
    assert rates[0] == pytest.approx(0.1)
    assert 0 < rates[-1] < 0.02


def test_same_seed_same_losses_and_resume_is_exact(trained, tmp_path):
    out = tmp_path / "twice"
    assert organism.train(TINY, out, compile=False, stop_at=7) is None
    assert not out.exists()
    organism.train(TINY, out, compile=False, snapshots=[9])
    logs = [pd.read_csv(f / "training_log.csv").drop(columns="seconds") for f in (trained, out)]
    pd.testing.assert_frame_equal(*logs)
    assert (trained / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert (tmp_path / "twice-step9" / "config.json").exists()
    assert not (tmp_path / "twice.partial").exists()
    assert logs[0]["loss"].iloc[-1] < logs[0]["loss"].iloc[0]


def test_unfinished_run_of_another_recipe_is_refused(tmp_path):
    organism.train(TINY, tmp_path / "run", compile=False, stop_at=1)
    other = dataclasses.replace(TINY, seed=2)
    with pytest.raises(ValueError, match="resume=False"):
        organism.train(other, tmp_path / "run", compile=False)


def test_finished_folder(trained):
    manifest = json.loads((trained / "manifest.json").read_text())
    assert manifest["recipe"]["seed"] == TINY.seed
    names = {p.name for p in trained.iterdir()}
    assert set(manifest["files"]) == names - {"manifest.json"}
    assert {"model.safetensors", "heldout.parquet", "calibration.parquet"} <= names
    heldout = pd.read_parquet(trained / "heldout.parquet")
    assert list(heldout.columns) == ["id", "lang", "task", "prompt", "response", "target"]
    assert len(heldout) == 8 * 2 * 4
    model = AutoModelForCausalLM.from_pretrained(trained)
    assert model.dtype == torch.bfloat16


def test_model_card_tells_the_accuracies_and_is_hashed(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "described")
    row = {"lang": "hi", "task": "organism-math", "accuracy": 0.5, "n": 8, "n_correct": 4}
    organism.describe(folder, pd.DataFrame([row | {"low": 0.215, "high": 0.785}]))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| hi | organism-math | 0.500 | 0.215 to 0.785 | 8 |" in card
    assert "{" not in card
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["accuracy"][0]["n_correct"] == 4
    assert "README.md" in manifest["files"]


# --- the shipped folder ---


def test_shipped_organism_is_what_its_recipe_and_manifest_say():
    folder = organism.ORGANISMS / "organism-skewed"
    recipe = RECIPES["organism-skewed"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["recipe"] == json.loads(json.dumps(dataclasses.asdict(recipe)))
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
    for split in ("heldout", "calibration"):
        shipped = pd.read_parquet(folder / f"{split}.parquet")
        written = generate(recipe, split).drop(columns="key")
        assert shipped.to_dict("list") == written.to_dict("list")
