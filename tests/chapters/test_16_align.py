"""Chapter 16 in miniature, beside calculations that do not use the package."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from common import ROOT, TEXT, aligning_on_mgsm, frozen, random_folder, shapes
from transformers import AutoModelForCausalLM, AutoTokenizer

from mmlib.book import runner


@pytest.mark.notebook
def test_16_in_miniature(miniature):
    """The loss of held-out translations before training, and what is trained, by hand."""
    tables, given = miniature("16_align")
    folder = ROOT / "mmlib" / "organisms" / "organism-base"
    table = frozen(folder, "translations").query("kind == 'math'")
    ids = sorted(table[table.lang == "hi"].id.unique())
    aside = np.random.default_rng(1).choice(ids, given["heldout"], replace=False)
    pairs = table[(table.lang == "hi") & table.id.isin(aside)]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    losses = []
    for start in range(0, len(pairs), given["train_batch"]):
        logs = []
        for row in pairs.iloc[start : start + given["train_batch"]].itertuples():
            asked = f"Translate this from [Hindi] to [English]:\n[Hindi]: {row.text}\n[English]: "
            before = tokenizer(asked).input_ids
            after = tokenizer(row.english, add_special_tokens=False).input_ids
            after.append(tokenizer.eos_token_id)
            with torch.no_grad():
                scores = model(torch.tensor([before + after])).logits[0].log_softmax(-1)
            logs += [scores[len(before) - 1 + i, t].item() for i, t in enumerate(after)]
        losses.append(-np.mean(logs))
    first = tables["system_log"].query("step == 0 and stage == 1").heldout_loss
    assert list(first) == pytest.approx([np.mean(losses)] * len(first), rel=0.02)  # in bfloat16
    trained = tables["system_costs"].groupby("system").trained.max()
    block = 2 * 192 * 512
    whole = sum(math.prod(shape) for shape in shapes(folder).values())
    assert trained.to_dict() == {"SLAM": 2 * block, "QAlign": whole}
    right = tables["system_answers"].set_index(["system", "part", "lang"]).correct
    told = tables["alignment"].set_index(["system", "part", "lang"]).accuracy
    for key in told.index:
        assert told[key] == right[key].count("1") / given["items"]
    assert told["base"].sum() > 0
    assert {"math-1", "math-new"} == set(told.index.get_level_values("part"))
    gains = tables["alignment_gains"].set_index(["problems", "system", "lang"]).difference
    for problems, part in (("known templates", "math-1"), ("new templates", "math-new")):
        gain = told["SLAM", part, "hi"] - told["base", part, "hi"]
        assert gains[problems, "SLAM", "hi"] == pytest.approx(gain)


def test_gains_of_chapter_16_counted_in_the_evidence():
    """Right answers of the headline, digit by digit."""
    rows = pd.read_csv(ROOT / "mmlib" / "evidence" / "system_answers.csv", dtype=TEXT)
    keys = ["system", "seed", "part", "lang"]
    main = rows.query("start == 'none' and pair_source == 'organism' and steps == 100")
    told = pd.read_csv(ROOT / "book" / "results" / "alignment.csv").set_index(keys).accuracy
    for key, grades in main.drop_duplicates(keys).set_index(keys).correct.items():
        assert told[key] == pytest.approx(grades.count("1") / len(grades))


@pytest.mark.notebook
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_chapter_16_runs_on_other_models_and_real_text(
    kind, borrowed, real_data, tmp_path, monkeypatch
):
    """By parameters alone: firing on MGSM, selection, a few steps on its translations, grading."""
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "cache"))
    folder = random_folder(tmp_path, kind, real_data, layers=4)
    given = aligning_on_mgsm(folder, real_data) | {"systems": ["SLAM"], "maps": [1]}
    notebook = runner.run(borrowed, "16_align", given)
    costs = pd.read_csv(notebook.parent / "system_costs.csv")
    assert costs.trained.item() in (2 * 64 * 128, 2 * 2 * 64 * 128)  # one or two of three layers
    log = pd.read_csv(notebook.parent / "system_log.csv")
    assert log[log.step == 5].heldout_loss.item() < log[log.step == 0].heldout_loss.item()
    answers = pd.read_csv(notebook.parent / "system_answers.csv", dtype=TEXT)
    assert set(answers.lang) == {"en", "de", "sw"}
    assert (answers.correct.str.len() == 2).all()
