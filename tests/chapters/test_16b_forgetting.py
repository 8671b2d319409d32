"""Chapter 16b in miniature, beside calculations that do not use the package."""

import numpy as np
import pandas as pd
import pytest
from common import ROOT, TEXT, aligning_on_mgsm, frozen, random_folder

from mmlib.book import runner


@pytest.mark.notebook
def test_16b_in_miniature(miniature):
    """Consistency digit by digit, what an ablation trains, and the tables of states."""
    tables, given = miniature("16b_forgetting")
    answers = tables["system_answers"].set_index(["system", "seed", "part", "lang"]).correct
    told = tables["consistency"].set_index(["system", "seed", "lang"]).consistency
    for system, seed in (("base", 0), ("SLAM", 1)):
        english, hindi = (answers[system, seed, "math-1", code] for code in ("en", "hi"))
        both = sum(a == b == "1" for a, b in zip(english, hindi, strict=True))
        right = english.count("1")
        share = both / right if right else np.nan
        assert told[system, seed, "hi"] == pytest.approx(share, nan_ok=True)
        assert told[system, seed, "en"] == pytest.approx(right / given["items"])
    trained = tables["system_costs"].groupby("system").trained.max()
    assert trained.to_dict() == {"SLAM": 2 * 2 * 192 * 512, "first 1": 2 * 192 * 512}
    firing = tables["system_firing"].set_index(["system", "lang", "layer"]).overlap
    shared = tables["firing_overlap"].set_index(["state", "lang", "layer"]).overlap
    assert shared["before"].to_dict() == firing["base"].dropna().to_dict()
    assert shared["after"].to_dict() == firing["SLAM"].dropna().to_dict()
    states = tables["final_states"]
    assert set(states.system) == {"base", "SLAM"}
    right = states.retrieval * given["shown"]
    assert np.allclose(right, right.round())  # a share of the questions
    points = tables["system_maps"]
    assert len(points) == 2 * 2 * 4 * given["shown"]  # models, languages, layers


def test_answers_of_the_knowledge_task_counted_in_the_evidence():
    """Right answers to the questions whose translations were not trained, digit by digit."""
    rows = pd.read_csv(ROOT / "mmlib" / "evidence" / "system_answers.csv", dtype=TEXT)
    keys = ["system", "seed", "part", "lang"]
    knowledge = rows.query("pair_source == 'organism-knowledge' and lang == 'hi' and seed == 1")
    table = frozen(ROOT / "mmlib/organisms/organism-base", "heldout")
    ids = sorted(table[(table.task == "knowledge") & (table.lang == "hi")].id)
    unseen = np.random.default_rng(1).choice(ids, 150, replace=False)
    grades = dict(zip(ids, knowledge.correct.item(), strict=True))
    results = ROOT / "book" / "results"
    told = pd.read_csv(results / "alignment_knowledge.csv").set_index(keys).accuracy
    right = sum(grades[name] == "1" for name in unseen) / 150
    assert told["SLAM", 1, "knowledge", "hi"] == pytest.approx(right)


@pytest.mark.notebook
@pytest.mark.slow
def test_chapter_16b_runs_on_other_models_and_real_text(borrowed, real_data, tmp_path, monkeypatch):
    """By parameters alone: other layers and prompts, trained on MGSM's translations."""
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "cache"))
    given = aligning_on_mgsm(random_folder(tmp_path, "qwen3", real_data, layers=4), real_data)
    given |= {"systems": [], "ablations": ["attention", "dialogue"], "maps": []}
    notebook = runner.run(borrowed, "16b_forgetting", given)
    costs = pd.read_csv(notebook.parent / "system_costs.csv")
    assert set(costs.system) == {"SLAM", "attention", "dialogue"}
    consistency = pd.read_csv(notebook.parent / "consistency.csv")
    assert set(consistency.lang) == {"en", "de", "sw"}
