"""Chapter 15 in miniature, beside calculations that do not use the package."""

import numpy as np
import pandas as pd
import pytest
import torch
from common import ROOT, TEXT, asking_mgsm, frozen, random_folder
from transformers import AutoModelForCausalLM, AutoTokenizer

from mmlib.book import runner


@pytest.mark.notebook
def test_15_in_miniature(miniature):
    """Positive gates counted question by question, without padding, for one draw and language."""
    tables, given = miniature("15_neurons")
    table = frozen(ROOT / "mmlib/organisms/organism-base", "calibration")
    math = table[table.task == "math"]
    shared = sorted(set.intersection(*(set(own.id) for _, own in math.groupby("lang"))))
    chosen = np.random.default_rng(101).choice(shared, given["num_questions"], replace=False)
    prompts = math[math.lang == "hi"].set_index("id").prompt.loc[chosen]
    model = AutoModelForCausalLM.from_pretrained(
        ROOT / "mmlib/organisms/organism-base", dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "mmlib/organisms/organism-base")
    fires, tokens, outs = 0, 0, []
    gate = model.model.layers[5].mlp.gate_proj
    gate.register_forward_hook(lambda module, given, out: outs.append(out))
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            model(ids)
        real = outs.pop()[0][ids[0] != tokenizer.bos_token_id]
        fires, tokens = fires + int((real > 0).sum()), tokens + len(real)
    rate = tables["firing"].query("seed == 101 and layer == 5 and lang == 'hi'").rate.item()
    assert rate == pytest.approx(fires / tokens / 512, rel=1e-3)


@pytest.mark.notebook
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_chapter_15_runs_on_other_models_and_real_text(
    kind, borrowed, real_data, tmp_path, monkeypatch
):
    """By parameters alone: firing on MGSM, and what each reading of the rule selects."""
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "cache"))
    folder = random_folder(tmp_path, kind, real_data, layers=4)
    given = asking_mgsm(folder, real_data) | {"control_task": "", "other_task": ""}
    given |= {"seeds": [1, 2], "num_questions": 12, "fewer": 6, "draws": 3}
    notebook = runner.run(borrowed, "15_neurons", given)
    firing = pd.read_csv(notebook.parent / "firing.csv")
    assert len(firing) == 2 * 4 * 3
    assert firing.rate.between(0.3, 0.7).all()  # random gates are open half of the time
    readings = pd.read_csv(notebook.parent / "firing_selection.csv", dtype=TEXT)
    assert set(readings.text) == {"math", "fewer questions", "wrapped"}
