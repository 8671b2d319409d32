"""One seed and version give the same sets, tables and notebooks, whoever runs them and when."""

import json
import os
import re
import subprocess
import sys

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from mmlib.book import runner
from mmlib.book.chapters import run_record
from mmlib.importance import ActivationNorms
from mmlib.masks import ParameterMask, jaccard

ROUNDING = 1e-5
"""Largest difference of norms, as a share: threads add in another order."""
LOCALISE = """
import sys
from pathlib import Path
import torch
from mmlib import batches, calibration, collect_norms, load_model
from mmlib.study.localisation import Sample, set_tables

folder, tasks = Path(sys.argv[1]), ("organism-math", "organism-reading")
model, tokenizer = load_model("organism-even", dtype="float32")
norms = {
    Sample(language, task, 1): collect_norms(
        model, batches(tokenizer, calibration(task, language, samples=6, seed=1))
    )
    for language in ("en", "hi")
    for task in tasks
}
for (language, task, _), found in norms.items():
    found.save(folder / f"{language}-{task}.safetensors")
for language in ("en", "hi"):
    math, other = (norms[language, task, 1] for task in tasks)
    math.math_specific(other, model, keep_ratio=0.1).save(folder / f"{language}.safetensors")
scores = {sample: found.scores(model) for sample, found in norms.items()}
tables = set_tables(scores, *tasks, [0.01, 0.1])
tables.sizes.to_csv(folder / "sizes.csv", index=False)
tables.overlap.to_csv(folder / "overlap.csv", index=False)
(folder / "threads").write_text(str(torch.get_num_threads()))
"""


@pytest.fixture(scope="module")
def localised(tmp_path_factory):
    """Folders of three processes that know nothing of each other: one, again, and two threads."""
    folders = {}
    for seed, (name, threads) in enumerate({"one": "1", "again": "1", "two": "2"}.items()):
        folders[name] = tmp_path_factory.mktemp(name)
        # Another seed of hashes: an order that comes from a set of names would not be the same.
        env = os.environ | {"OMP_NUM_THREADS": threads, "PYTHONHASHSEED": str(seed)}
        subprocess.run([sys.executable, "-c", LOCALISE, folders[name]], check=True, env=env)
        assert (folders[name] / "threads").read_text() == threads
    return folders


def test_another_process_makes_the_same_norms_sets_and_tables(localised):
    one, again = localised["one"], localised["again"]
    names = sorted(path.name for path in one.iterdir())
    assert len(names) == 4 + 2 + 2 + 1  # norms, sets, tables, threads
    assert names == sorted(path.name for path in again.iterdir())
    for name in names:
        if name.endswith(".csv"):
            assert (one / name).read_bytes() == (again / name).read_bytes()
        elif name.endswith(".safetensors"):  # which has its metadata in any order
            tensors = [load_file(folder / name) for folder in (one, again)]
            assert tensors[0].keys() == tensors[1].keys()
            assert all(torch.equal(tensors[1][key], value) for key, value in tensors[0].items())


def test_two_threads_make_the_same_sets_and_tables_up_to_rounding(localised):
    one, two = localised["one"], localised["two"]
    for path in one.glob("??-*.safetensors"):
        first, second = (ActivationNorms.load(p).vectors for p in (path, two / path.name))
        for name, vector in first.items():
            torch.testing.assert_close(second[name], vector, rtol=ROUNDING, atol=0)
    for path in one.glob("??.safetensors"):
        assert jaccard(*(ParameterMask.load(p) for p in (path, two / path.name))) > 0.999
    for name in ("sizes", "overlap"):
        tables = [pd.read_csv(folder / f"{name}.csv") for folder in (one, two)]
        counts = [column for column in tables[0].select_dtypes("number") if column != "layer"]
        kept = [table.query("group == 'global'")[counts] for table in tables]
        pd.testing.assert_frame_equal(*kept, rtol=1e-3)


def without_times(path):
    """An executed notebook and the record of its run, without dates and how long things took."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    record = {k: v for k, v in run_record(path).items() if k not in ("date", "seconds")}
    # A manifest has the date.
    record["tables"] = {name: h for name, h in record["tables"].items() if ".json" not in name}
    cells = notebook["cells"]
    for cell in cells:
        glued = (o.get("metadata", {}).get("scrapbook", {}) for o in cell.get("outputs", ()))
        kept = [of.get("name") != "run_seconds" for of in glued]
        if "outputs" in cell:
            cell["outputs"] = [o for o, keep in zip(cell["outputs"], kept, strict=True) if keep]
    text = json.dumps(cells)
    return re.sub(r"<dt>(date|duration)</dt><dd>[^<]*</dd>", "", text), record


@pytest.mark.slow
@pytest.mark.notebook
@pytest.mark.parametrize("name", ["01_problems", "04_overlap", "12_data", "15_neurons", "17_moves"])
def test_a_chapter_is_the_same_when_it_is_run_again(borrowed, tmp_path, monkeypatch, name):
    """Two kernels of their own, with other seeds of hashes and nothing in the cache."""
    made = []
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / seed))
        notebook = runner.run(borrowed, name, borrowed.chapters[name].miniature, force=True)
        made.append(without_times(notebook))
    (cells, record), (cells_again, record_again) = made
    assert record["tables"]
    assert record == record_again
    for cell, again in zip(json.loads(cells), json.loads(cells_again), strict=True):
        assert cell == again
