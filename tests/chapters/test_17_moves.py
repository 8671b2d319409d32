"""Chapter 17 in miniature, beside calculations that do not use the package."""

import re

import pandas as pd
import pytest
import torch
from common import random_folder, write_hub_files

from mmlib.book import runner
from mmlib.models import load_model


@pytest.mark.notebook
def test_17_in_miniature(miniature):
    """Share of the first and last layer, and of their neighbours by half, from the tensors."""
    tables, given = miniature("17_moves")
    updates = tables["expert_updates"]
    outer = tables["expert_outer"].set_index(["role", "seed"]).share
    assert set(updates.steps) == {given["steps"]}
    for role, seed in outer.index:
        of_layer = dict.fromkeys(range(8), 0.0)
        own = updates[(updates.role == role) & (updates.seed == seed)]
        assert own[own.tensor.str.contains("embed")].absolute.tolist() == [0.0]
        for row in own.itertuples():
            if found := re.search(r"layers\.(\d+)\.", row.tensor):
                of_layer[int(found[1])] += row.n * row.absolute
        ends = of_layer[0] + of_layer[7] + (of_layer[1] + of_layer[6]) / 2
        assert outer[role, seed] == pytest.approx(ends / sum(of_layer.values()))
    assert len(outer) == 4
    log = tables["expert_log"].query("role == 'sw' and step == 5")
    assert (log.heldout_loss < 2).all()


@pytest.mark.notebook
@pytest.mark.slow
def test_chapter_17_compares_any_checkpoints_with_their_base(borrowed, tmp_path, monkeypatch):
    """By parameters alone: a local folder with another last layer, beside a shipped expert."""
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "cache"))
    model, tokenizer = load_model("organism-base", dtype="float32")
    with torch.no_grad():
        model.model.layers[7].mlp.down_proj.weight += 0.25
    model.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    given = {"experts": [str(tmp_path / "other"), "organism-base-sw"], "roles": []}
    notebook = runner.run(borrowed, "17_moves", given)
    outer = pd.read_csv(notebook.parent / "expert_outer.csv").set_index("role").share
    assert outer["other"] == pytest.approx(1.0)  # all of it in the last layer
    profile = pd.read_csv(notebook.parent / "expert_profile.csv").set_index(["role", "layer"]).times
    assert profile["other", 7] == pytest.approx(8.0)


@pytest.mark.notebook
@pytest.mark.slow
def test_chapter_17_trains_on_published_data_sets(borrowed, real_data, tmp_path, monkeypatch):
    """Orca-Math and Aya in the layout of the hub's files, a base of random weights."""
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "cache"))
    write_hub_files(tmp_path)
    given = {"model": str(random_folder(tmp_path, "qwen3", real_data, layers=4))}
    given |= {"sweep": True, "data_dir": str(tmp_path), "experts": [], "roles": ["math", "sw"]}
    given |= {"math_tasks": ["orca-math"], "language_tasks": ["aya"], "seeds": [1, 2], "steps": 5}
    given |= {"train_batch": 2, "heldout": 2, "learning_rate": 0.001, "embeddings": True}
    given |= {"experts_dir": str(tmp_path / "experts")}
    notebook = runner.run(borrowed, "17_moves", given)
    log = pd.read_csv(notebook.parent / "expert_log.csv").dropna(subset="heldout_loss")
    ends = log.pivot(index=["role", "seed"], columns="step", values="heldout_loss")
    assert (ends[5] < ends[0]).all()
    updates = pd.read_csv(notebook.parent / "expert_updates.csv")
    assert (updates[updates.tensor.str.contains("embed")].absolute > 0).all()
