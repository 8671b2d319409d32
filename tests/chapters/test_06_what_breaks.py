"""Chapter 06 in miniature, beside calculations that do not use the package."""

import pandas as pd
import pytest
from common import counted_answers, matrices, random_folder

from mmlib.book import runner


@pytest.mark.notebook
def test_06_in_miniature(miniature):
    """Changes of math, counted in the characters of the answers."""
    tables, given = miniature("06_what_breaks")
    answers, cell = counted_answers(tables["edits"], given)
    math_answers = answers[answers.part.str.startswith("math-")]
    sums = math_answers.groupby(cell)[["right", "n"]].sum()
    changes = tables["changes"].query("skill == 'math' and keep_ratio == .1 and factor == 0")
    assert len(changes) >= 2
    for row in changes.itertuples():
        edited = sums.query(
            "dtype == @row.dtype and condition == @row.condition and factor == 0"
            " and keep_ratio == .1"
        )
        plain = sums.query("dtype == @row.dtype and condition == 'none'")
        difference = edited.right.sum() / edited.n.sum() - plain.right.sum() / plain.n.sum()
        assert row.difference == pytest.approx(difference)
    assert set(tables["edits"].condition) == {"none", *given["conditions"]}


@pytest.mark.notebook
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_chapter_06_runs_on_other_models_and_real_text(
    kind, borrowed, real_data, tmp_path, monkeypatch
):
    """By parameters alone: calibrate on GSM8K, edit, ask GSM8K with eight worked examples."""
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "cache"))
    folder = random_folder(tmp_path, kind, real_data, layers=2)
    conditions = ["math-specific", "random", "top-K math"]
    given = {
        "model": str(folder),
        "data_dir": str(real_data),
        "math": "gsm8k",
        "nonmath": "mmlu",
        "languages": ["de"],
        "seeds": [1],
        "num_samples": 8,
        "keep_ratios": [0.1],
        "conditions": conditions,
        "factors": [1.01],
        "edit_dtypes": ["bfloat16"],
        "tasks": ["gsm8k", "mmlu"],
        "parts": ["gsm8k", "mmlu"],
        "scale_parts": ["gsm8k"],
        "items": 2,
        "sweep": True,
    }
    notebook = runner.run(borrowed, "06_what_breaks", given)
    edits = pd.read_csv(notebook.parent / "edits.csv", dtype={"correct": str})
    assert (edits.correct.str.len() == 2).all()
    assert edits.value_counts(["part", "factor"]).to_dict() == {
        ("gsm8k", 0): 3,
        ("mmlu", 0): 3,
        ("gsm8k", 1): 1,
        ("mmlu", 1): 1,
        ("gsm8k", 1.01): 2,
    }
    sizes = edits[edits.factor == 0].groupby("condition").n_weights.first()
    assert sizes["top-K math"] == sum(int(n * 0.1) for n in matrices(folder))
    assert sizes["math-specific"] == sizes["random"] < sizes["top-K math"]
