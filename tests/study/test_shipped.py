"""Shipped tables against a slice that is computed again."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from scipy.stats import spearmanr
from transformers import AutoModelForCausalLM, AutoTokenizer

from mmlib.__main__ import main
from mmlib.models import ORGANISMS, load_model, model_hash
from mmlib.study import breaks, portions, sets, synthesis, travel
from mmlib.study.evidence import read_evidence
from mmlib.study.localisation import Sample, score_samples, set_tables
from mmlib.study.tables import PACKAGE
from mmlib.tasks.problems import calibration

CHAPTERS = yaml.safe_load((PACKAGE.parent / "notebooks" / "chapters.yml").read_text())
READ = {entry for chapter in CHAPTERS.values() for entry in chapter.get("reads", ())}
NAMES = sorted(entry.split("/")[1] for entry in READ if entry.startswith("evidence/"))


def test_no_table_is_shipped_that_no_chapter_reads():
    assert sorted(path.stem for path in (PACKAGE / "evidence").glob("*.csv")) == NAMES != []


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_table_says_which_runs_made_it(name):
    table, manifest = read_evidence(name)
    assert len(table) == manifest["rows"] > 0
    runs = manifest["run"]["parameters"]["runs"]
    assert all(run["hardware"] and run["date"] and run["parameters"] for run in runs)
    assert "/" not in json.dumps([run["model"] for run in runs])


def test_answers_are_those_of_the_shipped_weights_to_every_item():
    table, manifest = read_evidence("family_answers")
    (run,) = manifest["run"]["parameters"]["runs"]
    shipped = {path.parent.name for path in ORGANISMS.glob("organism-*/heldout.jsonl.gz")}
    assert set(table.model) == shipped
    for name in shipped:
        digest = run["parameters"]["hashes"][name]
        assert model_hash(load_model(name, dtype=run["dtype"])[0]) == digest
        items = pd.read_json(ORGANISMS / name / "heldout.jsonl.gz", lines=True)
        cells = table[table.model == name].set_index(["part", "lang"]).correct
        assert cells.str.len().to_dict() == items.groupby(["part", "lang"]).size().to_dict()
        card = json.loads((ORGANISMS / name / "manifest.json").read_text())["accuracy"]
        told = {(row["part"], row["lang"]): row["n_correct"] for row in card}
        assert told == cells.str.count("1").to_dict()


@pytest.mark.parametrize("role", ["math", "sw"])
def test_shipped_experts_are_those_whose_updates_are_told(role):
    """Mean absolute changes of their tensors, from the files themselves."""
    folder = ORGANISMS / f"organism-base-{role}"
    recipe = json.loads((folder / "manifest.json").read_text())
    assert recipe["base_hash"] == model_hash(load_model("organism-base", dtype="float32")[0])
    base, _ = load_model("organism-base", dtype="float32")
    after = dict(load_model(folder.name)[0].named_parameters())
    table = read_evidence("expert_updates")[0]
    keys = ["role", "seed", "steps", "learning_rate", "embeddings"]
    for key in keys:
        table = table[table[key] == recipe[key]]
    told = table.drop_duplicates("tensor").set_index("tensor").absolute
    own = dict(base.named_parameters())
    assert set(told.index) == set(own)
    for name, parameter in own.items():
        moved = (after[name] - parameter).abs().mean().item()
        # The changes are shipped in bfloat16: each within 2^-9, their mean much closer.
        assert told[name] == pytest.approx(moved, rel=1e-3)
        assert bool(moved) == (".layers." in name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_untrained_control_on_real_text_can_be_recomputed(kind, real_data, tmp_path):
    """The first layer, from the seed of its weights: its norms need no further layer."""
    folder = tmp_path / f"random-{kind}"
    options = ["--data-dir", str(real_data), "--architecture", kind]
    assert main(["random-model", str(folder), *options]) == 0
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    del model.model.layers[1:]
    model.config.num_hidden_layers = 1
    shipped, manifest = read_evidence("untrained_overlap")
    (run,) = (r for r in manifest["run"]["parameters"]["runs"] if r["model"] == folder.name)
    assert run["parameters"]["replacement"]  # what `drawing` was called
    count = run["parameters"]["num_samples"]
    options = {"samples": count, "seed": 101, "data_dir": real_data}
    samples = {  # of whole files: this model was asked nothing
        Sample(code, task, 101): calibration(task, code, split=split, **options)
        for task, split in (("gsm8k", "test"), ("mmlu", "validation"))
        for code in ("en", "de")
    }
    scores = score_samples(model, tokenizer, samples, batch_size=run["parameters"]["batch_size"])
    ours = set_tables(scores, "gsm8k", "mmlu", run["parameters"]["keep_ratios"]).overlap
    keys = ["lang_a", "lang_b", "keep_ratio", "seed", "layer"]
    ours = ours.query("group == 'layer'").set_index(keys)
    theirs = shipped.query("model == @folder.name and group == 'layer'").set_index(keys)
    pair = pd.concat([ours, theirs], axis=1, keys=["ours", "theirs"], join="inner")
    assert len(pair) == len(ours) == len(run["parameters"]["keep_ratios"])
    assert (pair["ours"].n_scored == pair["theirs"].n_scored).all()
    assert (pair["ours"].jaccard - pair["theirs"].jaccard).abs().max() < 2e-3
    assert (pair["ours"].size_a / pair["theirs"].size_a - 1).abs().max() < 0.01


def test_layers_of_the_real_llm_add_up_to_its_sets():
    sizes = sets.desk_sizes()
    named = ["model", "lang", "seed", "keep_ratio"]
    assert not sizes.duplicated([*named, "group", "layer"]).any()
    whole, layers = (
        sizes[sizes.group == group].groupby(named)[["n_math_specific", "n_scored"]].sum()
        for group in ("global", "layer")
    )
    pd.testing.assert_frame_equal(whole, layers)


def nats(name, **cell):
    """Losses per problem of the one row of a shipped table that has these values."""
    table, _ = read_evidence(name)
    for column, value in cell.items():
        table = table[table[column] == value]
    (text,) = table.nats.unique()
    return np.array(text.split(), float)


def test_what_a_real_llm_loses_in_other_languages_is_a_difference_by_hand():
    table = travel.desk().set_index(["edited", "lang", "seed"])
    assert len(table) == 4 * 4 * 3
    for edited, lang in (("en", "de"), ("hi", "fr"), ("de", "de")):
        cell = {"edited": edited, "lang": lang, "seed": 2}
        of_set, random = (
            nats("desk_travel", condition=condition, **cell)
            for condition in ("math-specific", "random")
        )
        assert table.difference[edited, lang, 2] == pytest.approx((of_set - random).mean())
    overlap, _ = read_evidence("desk_overlap")
    pair = overlap.query("group == 'global' and keep_ratio == .01 and seed == 2")
    pair = pair[(pair.lang_a == "en") & (pair.lang_b == "de")].jaccard.item()
    assert table.jaccard["en", "de", 2] == table.jaccard["de", "en", 2] == pair


def test_parts_of_a_set_cost_what_their_losses_say():
    table = portions.desk().set_index(["condition", "fraction", "seed"]).cost
    plain = nats("desk_fractions", condition="none")
    few = nats("desk_fractions", condition="highest first", fraction=0.05, seed=1)
    part = nats("desk_fractions", condition="math-specific", fraction=0.4, seed=3)
    assert table["highest first", 0.05, 1] == pytest.approx((few - plain).mean())
    assert table["random part", 0.4, 3] == pytest.approx((part - plain).mean())
    assert table["random part", 1.0, 2] == table["highest first", 1.0, 2]


def test_enlarged_sets_are_compared_with_the_mean_of_random_ones():
    table = breaks.desk_scaling()
    rows, _ = read_evidence("desk_scaling")
    rows = rows[(rows.task == "gsm8k") & (rows.factor == 1.1)]
    means = rows.assign(nats=rows.nats.map(lambda text: np.mean([*map(float, text.split())])))
    by_seed = means.groupby(["seed", "condition"]).nats.mean().unstack()
    assert (means.condition == "random").sum() == 9
    difference = (by_seed["math-specific"] - by_seed["random"]).mean()
    assert table.loc[("gsm8k", 1.1), "mean"] == pytest.approx(difference)


def test_what_a_real_llm_solves_is_counted():
    table = sets.desk_accuracy().set_index(["model", "lang"])
    rows, _ = read_evidence("desk_answers")
    strict = rows[rows.extraction == "strict"].set_index(["model", "lang"]).correct
    assert table.n.tolist() == [250] * 8
    assert table.n_correct.to_dict() == strict.str.count("1").to_dict()


def test_layers_of_a_real_llm_are_ranked_as_in_the_tables_they_come_from():
    """One correlation of views and one with the yardstick, by scipy from the shipped files."""
    views, changes = synthesis.desk(0.1)
    among, against = synthesis.compared(views, changes)
    overlap, moves, edits = (
        read_evidence(f"desk_{name}")[0] for name in ("overlap", "swapped_moves", "layers")
    )
    overlap = overlap[(overlap.group == "layer") & (overlap.keep_ratio == 0.1)]
    shared = overlap.groupby(["seed", "layer"]).jaccard.mean().unstack("seed")
    moved = moves[moves.role == "sw"].pivot(index="layer", columns="seed", values="share")
    edits = edits.assign(nats=edits.nats.map(lambda text: np.mean([*map(float, text.split())])))
    cost = edits.pivot_table("nats", ["layer", "seed"], "condition")
    cost = (cost["math-specific"] - cost["random"]).unstack("seed")
    pairs = {
        ("language update", "math-set overlap"): moved,
        ("math-set overlap", "beyond random"): cost,
    }
    found = pd.concat([among, against]).set_index(["left", "right"]).rho
    for pair, other in pairs.items():
        rhos = [spearmanr(shared[seed], other[seed]).statistic for seed in (1, 2, 3)]
        assert found[pair] == pytest.approx(np.mean(rhos))
