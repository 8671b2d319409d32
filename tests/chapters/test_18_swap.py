"""Chapter 18 in miniature, beside calculations that do not use the package."""

import pandas as pd
import pytest
from common import TEXT, noisy_experts, random_folder, write_hub_files

from mmlib.book import runner


@pytest.mark.notebook
def test_18_in_miniature(miniature):
    """Accuracies and the gain of the swap over the math expert, digit by digit."""
    tables, given = miniature("18_swap")
    answers = tables["swap_answers"]
    assert answers.correct.str.len().eq(given["items"]).all()
    right = {
        key: g.count("1") for key, g in answers.groupby(["system", "lang"]).correct.sum().items()
    }
    decided = tables["swap"][tables["swap"].lang == tables["swap"].target]
    for (system, lang), grades in decided.groupby(["system", "lang"]).correct.sum().items():
        assert grades.count("1") == right[system, lang]
    gain = tables["swap_gains"].set_index("target").difference["sw"]
    math = answers[answers.part.str.startswith("math") & (answers.lang == "sw")]
    sums = math.groupby("system").correct.sum().str.count("1")
    number = given["items"] * math.part.nunique()
    assert gain == pytest.approx((sums["swap"] - sums["math expert"]) / number)
    assert {"base", "joint", "TIES", "reversed"} < set(answers.system)
    assert set(answers.draw[answers.system == "random"]) == {1, 2}
    assert sums["base"] > 0


@pytest.mark.notebook
@pytest.mark.slow
def test_chapter_18_swaps_two_local_checkpoints(borrowed, real_data, tmp_path, monkeypatch):
    """By parameters alone: random weights in hub layout, asked MGSM with eight worked examples."""
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "cache"))
    base = random_folder(tmp_path, "llama", real_data, layers=4)
    given = {"model": str(base), "languages": [], "target": "sw", "tasks": ["mgsm"], "parts": []}
    given |= noisy_experts(base)
    given |= {"skill_tasks": [], "ask_dir": str(real_data), "audit_items": 1}
    given["audited"] = ["base", "math expert", "language expert", "swap", "revert", "TIES"]
    notebook = runner.run(borrowed, "18_swap", given)
    swap = pd.read_csv(notebook.parent / "swap.csv", dtype=TEXT)
    assert set(zip(swap.part, swap.lang, strict=True)) == {("mgsm", "sw"), ("mgsm", "en")}
    assert set(swap.system) == set(given["audited"])
    assert swap.correct.isin(["0", "1"]).all()


@pytest.mark.notebook
@pytest.mark.slow
def test_chapter_18_trains_on_published_data_sets(borrowed, real_data, tmp_path, monkeypatch):
    """Orca-Math and Aya from a folder, a base in hub layout, MGSM to be solved."""
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "cache"))
    write_hub_files(tmp_path)
    base = random_folder(tmp_path, "qwen3", real_data, layers=4)
    given = {"model": str(base), "sweep": True, "languages": ["sw"], "seeds": [1], "joint": False}
    given |= {"math_expert": str(base), "language_expert": str(base), "target": "sw"}
    given |= {"math_tasks": ["orca-math"], "language_tasks": ["aya"], "data_dir": str(tmp_path)}
    given |= {"steps": 5, "train_batch": 2, "heldout": 2, "learning_rate": 0.001}
    given |= {"experts_dir": str(tmp_path / "experts"), "embeddings": True, "items": 2}
    given |= {"tasks": ["mgsm"], "parts": [], "skill_tasks": [], "ask_dir": str(real_data)}
    given |= {"audit_items": 1, "merge": ["base", "math expert", "language expert", "swap"]}
    notebook = runner.run(borrowed, "18_swap", given)
    answers = pd.read_csv(notebook.parent / "swap_answers.csv", dtype=TEXT)
    assert set(answers.system) == {"base", "math expert", "language expert", "swap"}
    assert set(answers.lang) == {"en", "sw"}
    assert (answers.correct.str.len() == 2).all()
    assert len(list((tmp_path / "experts").glob("*/checkpoint/model.safetensors"))) == 2
