"""Laws of a checkpoint's profile, against the functions that it puts together."""

import json
from pathlib import Path

import pandas as pd
import pytest

from mmlib.masks import jaccard
from mmlib.models import ORGANISMS, load_model
from mmlib.study.localisation import math_sets, score_samples, set_tables
from mmlib.study.profiles import (
    answer_losses,
    beyond_random,
    lineage,
    profile,
    profiles,
    snapshots,
    trainings,
)
from mmlib.study.settings import Asking, Sampling
from mmlib.tasks.evaluation import part_answers
from mmlib.tasks.problems import load_problems

TASKS = {"math": "organism-math", "nonmath": "organism-reading"}
LANGS = ["en", "hi"]


def settings(languages, seeds, num_samples, items):
    """What a profile's sets come from, and what is asked."""
    sampling = Sampling(*TASKS.values(), languages, seeds, num_samples)
    return sampling, Asking(list(TASKS.values()), languages, ["math-1", "reading-mixed"], items)


@pytest.fixture(scope="module")
def made():
    model, tokenizer = load_model("organism-skewed", dtype="float32")
    both = settings(LANGS, [1, 101], 6, 4)
    return model, tokenizer, profile(model, tokenizer, *both, keep_ratios=[0.1], edited=["hi"])


def test_a_profile_is_its_parts(made):
    model, tokenizer, tables = made
    samples = Sampling(*TASKS.values(), LANGS, [1, 101], num_samples=6).draw()
    scores = score_samples(model, tokenizer, samples)
    sizes, overlap, reverse = set_tables(scores, *TASKS.values(), [0.1], reverse=True)[:3]
    pd.testing.assert_frame_equal(tables["sizes"].drop(columns="text_tokens"), sizes)
    hindi = tokenizer(list(samples["hi", "organism-math", 1].texts)).input_ids
    lengths = tables["sizes"].groupby("lang").text_tokens.first()
    assert lengths["hi"] == pytest.approx(sum(map(len, hindi)) / 6)
    own = tables["overlap"].query("control == 'two languages'")
    assert own.jaccard.to_list() == overlap.jaccard.to_list()
    other = tables["overlap"].query("control == 'nonmath-specific'")
    assert other.jaccard.to_list() == reverse.jaccard.to_list()
    ceiling = tables["overlap"].query("control == 'same language' and group == 'global'")
    assert list(ceiling.lang_a) == list(ceiling.lang_b) == LANGS
    asked = part_answers(
        model,
        tokenizer,
        languages=LANGS,
        tasks=["organism-math"],
        parts=["math-1"],
        items=4,
    )
    found = tables["accuracy"].query("part == 'math-1'").set_index("lang").accuracy
    assert found.to_dict() == asked.groupby("lang").correct.mean().to_dict()


def test_edits_of_a_profile_travel_beside_random_ones(made):
    model, tokenizer, tables = made
    travel = tables["travel"].set_index(["drawn", "edited", "lang"])
    assert set(travel.index) == {
        (drawn, "hi", code) for drawn in ("", "matrices") for code in LANGS
    }
    samples = Sampling(*TASKS.values(), LANGS, [1], num_samples=6).draw()
    sets = math_sets(score_samples(model, tokenizer, samples), **TASKS, keep_ratio=0.01, seed=1)
    assert set(travel.n_weights) == {len(sets["hi"])}
    assert travel.jaccard["", "hi", "en"] == jaccard(sets["en"], sets["hi"])
    assert (travel.n == 4).all()


def test_losses_are_shares_of_what_random_weights_left():
    rows = [("", 30), ("matrices", 60), ("matrices", 100)]
    table = pd.DataFrame(rows, columns=["drawn", "n_correct"]).assign(
        weights="whole", edited="en", lang="hi", step=7, n=100, n_weights=5, jaccard=0.4
    )
    table["accuracy"] = table.n_correct / table.n
    row = beyond_random(table, ["step"]).iloc[0]
    assert row.loss == pytest.approx(1 - 30 / 80)
    assert (row.control, row.difference) == (0.8, pytest.approx(0.5))
    assert (row.step, row.jaccard) == (7, 0.4)
    nothing = beyond_random(table.assign(accuracy=0.0), ["step"])
    assert nothing.loss.isna().all()


def test_a_profile_without_edits_has_an_empty_table(made):
    model, tokenizer, _ = made
    tables = profile(model, tokenizer, *settings(LANGS, [1], 4, 2), keep_ratios=[0.1])
    assert tables["travel"].empty
    assert "accuracy" in tables["travel"]
    assert set(tables["overlap"].control) == {"two languages", "nonmath-specific"}


def test_lineage_of_a_shipped_organism():
    about = lineage("organism-skewed")
    assert about["mix"] == "skewed"
    assert about["languages"] == ["en", "de", "fr", "hi", "sw", "bn"]
    assert about["width"] == 192
    manifest = json.loads((ORGANISMS / "organism-skewed" / "manifest.json").read_text())
    assert (about["step"], about["tokens"]) == (manifest["steps"], manifest["tokens"])


def write(folder, recipe, *, vocab=4096, steps=20):
    mix = {"languages": recipe, "documents": 100}
    manifest = {
        "steps": steps,
        "tokens": 10 * steps,
        "recipe": {
            "name": "organism-even",
            "mix": mix,
            "seed": 3,
            "hidden_size": 32,
            "vocab_size": vocab,
        },
    }
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return manifest


def snap(folder, finished, manifest, steps):
    """A snapshot of a training, in a folder that no name tells."""
    told = {"recipe": manifest["recipe"], "training": finished, "steps": steps}
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(told | {"tokens": 10 * steps}))


def test_a_snapshot_has_the_lineage_of_its_run(tmp_path):
    folder = tmp_path / "run"
    manifest = write(folder, {"en": 1, "hi-Latn": 1})
    for step, tokens in {0: 0, 5: 50}.items():
        snapshot = tmp_path / f"run-{step}"
        snap(snapshot, "run", manifest, step)
        about = lineage(str(snapshot))
        assert (about["step"], about["tokens"]) == (step, tokens)
        assert (about["mix"], about["training_seed"]) == ("latin", 3)
        assert about["base"] == str(folder)
    assert lineage(str(folder))["step"] == 20
    write(folder, {"en": 1}, vocab=259)
    assert lineage(str(folder))["mix"] == "bytes"


def test_answer_losses_are_those_of_the_model_itself():
    table = answer_losses(["organism-skewed"], task="organism-math", number=3, languages=["hi"])
    model, tokenizer = load_model("organism-skewed", dtype="float32")
    losses = []
    for problem in load_problems("organism-math", "hi", data_dir="organism-skewed")[:3]:
        ids = tokenizer(problem.text, return_tensors="pt").input_ids
        labels = ids.clone()
        labels[:, : len(tokenizer(problem.prompt).input_ids)] = -100
        losses.append(model(ids, labels=labels).loss.item())
    assert table.loss.item() == pytest.approx(sum(losses) / 3, rel=1e-4)
    assert (table.lang.item(), table.mix.item(), table.width.item()) == ("hi", "skewed", 192)


def test_cost_of_trainings(tmp_path):
    for name, seconds, threads in (("one", 1800, 1), ("two", 600, 2)):
        write(tmp_path / name, {"en": 1, "hi-Latn": 1})
        path = tmp_path / name / "manifest.json"
        told = json.loads(path.read_text())
        snap(tmp_path / f"{name}-half", name, told, 10)
        hardware = f"x86_64 CPU, threads: {threads}"
        told |= {"tokens": 200, "seconds": seconds, "hardware": hardware}
        path.write_text(json.dumps(told))
    names = [str(tmp_path / name) for name in ("one", "one-half", "two")]
    table = trainings([*names, "meta-llama/Llama-3.2-1B-Instruct"]).set_index("training")
    assert table.cpu_hours.to_dict() == pytest.approx({"one": 0.5, "two": 1 / 3})
    assert set(table.mix) == {"latin"}
    assert table.documents["one"] == 100


def test_snapshots_come_in_the_order_of_their_steps(tmp_path):
    manifest = write(tmp_path / "run", {"en": 1})
    for name, finished, steps in (("run-b", "run", 60), ("run-a", "run", 900), ("run-2", "one", 5)):
        snap(tmp_path / name, finished, manifest, steps)
    (tmp_path / "run-b.partial").mkdir()
    found = [Path(name).name for name in snapshots(str(tmp_path / "run"))]
    assert found == ["run-b", "run-a"]
    assert snapshots("meta-llama/Llama-3.2-1B-Instruct") == []


def test_what_has_no_manifest_has_no_lineage(tmp_path):
    assert lineage("meta-llama/Llama-3.2-1B-Instruct") == {"base": "", "mix": ""}
    manifest = write(tmp_path / "run", {"en": 1})
    snap(tmp_path / "other", "unfinished", manifest, 5)
    with pytest.raises(ValueError, match="finish the training"):
        lineage(str(tmp_path / "other"))


def test_profiles_of_several_models_name_them():
    names = ["organism-skewed", "organism-even"]
    tables = profiles(names, *settings(LANGS, [1], 4, 2), keep_ratios=[0.1])
    sizes = tables["sizes"].query("group == 'global'").set_index(["model", "lang"])
    assert set(sizes.index) == {(name, code) for name in names for code in LANGS}
    assert sizes.share["organism-skewed", "en"] == pytest.approx(0.44)
    assert sizes.share["organism-even", "hi"] == pytest.approx(1 / 6)
    assert sizes.mix["organism-even", "en"] == "even"
    assert (sizes.parameters > 4e6).all()
    with pytest.raises(ValueError, match="give them"):
        profiles(["meta-llama/Llama-3.2-1B-Instruct"], *settings([], [1], 4, 2), keep_ratios=[0.1])
