"""Chapter 20 in miniature, beside calculations that do not use the package."""

import numpy as np
import pandas as pd
import pytest
from common import TEXT, noisy_experts, random_folder, write_hub_files

from mmlib.book import runner


@pytest.mark.notebook
def test_20_in_miniature(miniature):
    """Accuracies digit by digit, as many weights in every set, and the smaller gain of R3."""
    tables, given = miniature("20_advice")
    answers = tables["advice_answers"]
    right = answers.groupby(["study", "system", "lang"]).correct.sum().str.count("1")
    asked = answers.groupby(["study", "system", "lang"]).correct.sum().str.len()
    for study in ("layers", "weights"):
        told = tables[f"advice_{study}"].groupby(["system", "lang"]).correct.sum()
        for key, grades in told.items():
            assert (grades.count("1"), len(grades)) == (right[study, *key], asked[study, *key])
    log = tables["advice_log"]
    sizes = log[log.study == "weights"].groupby(["target", "seed"]).n_weights.nunique()
    assert (sizes == 1).all()
    trained = log[log.study == "layers"].system.unique()
    assert set(trained) == {"all", "middle", "outer", "random"}
    forms = tables["advice_forms"]
    assert (forms.n == given["form_items"]).all()
    assert len(forms) == len(given["seeds"]) * 3 * 3  # trainings, systems, forms
    assert forms.as_asked.between(0, 1).all()


@pytest.mark.notebook
@pytest.mark.slow
def test_chapters_19_and_20_on_local_checkpoints(borrowed, real_data, tmp_path, monkeypatch):
    """Sets from GSM8K and MMLU, experts of Orca-Math and Aya; the advice is asked MGSM."""
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "cache"))
    write_hub_files(tmp_path)
    base = random_folder(tmp_path, "qwen3", real_data, layers=4)
    given = {"model": str(base), "sweep": True, "languages": ["en", "de"], "targets": ["de"]}
    given |= {"math": "gsm8k", "nonmath": "mmlu", "data_dir": str(real_data), "num_samples": 4}
    given |= {"seeds": [1, 2], "samples": [1, 2], "steps": 5, "train_batch": 2, "heldout": 2}
    given["train_dir"] = str(tmp_path)
    layers = noisy_experts(base) | {"target": "de", "items": 2}
    layers |= {"math_tasks": ["orca-math"], "language_tasks": ["aya"]}
    layers |= {"split": "calibration", "num_questions": 4, "prune_ratio": 0.1, "keep_ratio": 0.3}
    layers["experts_dir"] = str(tmp_path / "experts")
    notebook = runner.run(borrowed, "19_layers", given | layers)
    measured = pd.read_csv(notebook.parent / "layer_yardsticks.csv")
    assert set(measured.layer) == {0, 1, 2, 3}
    assert set(measured.lang) == {"de"}
    assert np.isfinite(measured.loss).all()
    views = pd.read_csv(notebook.parent / "layer_views.csv")
    assert (views[views["view"].str.contains("update")].value > 0).all()
    advice = {"train_tasks": ["mgsm8kinstruct"]}
    advice |= {"tasks": ["mgsm"], "parts": [], "items": 1, "draws": 1, "layer_rates": [0.001]}
    advice |= {"weight_rates": [0.003], "form_steps": 5, "form_items": 2, "keep_ratios": [0.1]}
    advice |= {"keep_ratio": 0.3, "audit_items": 1, "seeds": [1], "samples": [1]}
    advice["runs_dir"] = str(tmp_path / "advice")
    notebook = runner.run(borrowed, "20_advice", given | advice)
    answers = pd.read_csv(notebook.parent / "advice_answers.csv", dtype=TEXT)
    assert set(answers.part) == {"mgsm"}
    assert set(answers[answers.study == "weights"].system) == {"own", "shared", "random"}
    forms = pd.read_csv(notebook.parent / "advice_forms.csv")
    assert (forms.n == 2).all()
