"""A finished run becomes one file of evidence, or is refused with what is wrong."""

import json
import shutil

import nbformat
import pandas as pd
import pytest
from checkouts import make_checkout
from conftest import build

from mmlib.__main__ import main
from mmlib.book import submit as submitting
from mmlib.book.chapters import ChapterError, file_hash
from mmlib.book.submit import read_submission, submit
from mmlib.models import is_trained, load_model
from mmlib.study.tables import RANDOM, RunInfo, write_table

RUN = {
    "model": "meta-llama/Llama-3.2-1B-Instruct",
    "checkpoint_hash": "c0ffee",
    "commit": "0123456789abcdef",
    "package_version": "0.1.0",
    "versions": {"python": "3.11.9", "torch": "2.13.0"},
    "hardware": "1 x GPU",
    "date": "2026-11-20",
    "parameters": {"seeds": [1, 2], "data_dir": "data", "token": ""},
}
TABLE = pd.DataFrame({"lang": ["en", "de"], "n": [250, 250], "response": ["and/or 1/2", "</b/c>"]})


@pytest.fixture
def finished(tmp_path):
    """A function that writes a run with such a table and such provenance, and returns both."""
    project = make_checkout(tmp_path / "checkout")

    def write(table=TABLE, **changes):
        folder = project.runs / "01_toy-abc"
        shutil.rmtree(folder, ignore_errors=True)
        path = write_table(table, "accuracy", RunInfo(**(RUN | changes)), folder=folder)
        record = {"chapter": "01_toy", "hashes": {}, "parameters": RUN["parameters"]}
        record["tables"] = {path.name: file_hash(path)}
        record["tables"]["accuracy.json"] = file_hash(path.with_suffix(".json"))
        notebook = nbformat.v4.new_notebook(metadata={"mmlib": record})
        nbformat.write(notebook, folder / "01_toy.ipynb")
        return project, folder

    return write


@pytest.mark.parametrize("by", ["id", "folder", "the folder that one is in"])
def test_a_finished_run_is_one_file_that_gives_its_tables_back(finished, capsys, monkeypatch, by):
    project, folder = finished()
    name = {"id": folder.name, "folder": str(folder)}.get(by, ".")
    if name == ".":
        monkeypatch.chdir(folder)
    assert main(["--root", str(project.root), "submit", name]) == 0
    path = project.runs / "submissions" / "01_toy-abc.json"
    assert capsys.readouterr().out == f"{path}\n"
    chapter, run, tables = read_submission(path)
    assert (chapter, run["model"]) == ("01_toy", RUN["model"])
    pd.testing.assert_frame_equal(tables["accuracy"], TABLE)


WRONG = {
    "stand-in with random weights": {"weights": RANDOM},
    "does not tell its checkpoint_hash": {"checkpoint_hash": ""},
    "does not tell its versions": {"versions": {}},
    r"made by changed code .*\+changes": {"commit": "0123+changes"},
    "has a secret in it, hf_abc…": {"hardware": f"hf_{'abc' * 10}"},
    "has a path of a machine in it, /home/…": {"revision": "see /home/me/model"},
    "different parameters": {"parameters": {"seeds": [1]}},
    "accuracy has 0 rows": {"table": TABLE.head(0)},
    "has a secret": {"table": TABLE.assign(response=f"sk-{'a1' * 20}")},
    "a path of a machine": {"table": TABLE.assign(response="/mnt/data/x.json")},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_no_evidence_is_refused(finished, message):
    project, folder = finished(**WRONG[message])
    with pytest.raises(ValueError, match=message):
        submit(project, folder.name)
    assert not (project.runs / "submissions").exists()


def test_a_changed_table_a_run_that_failed_and_one_that_is_not_there_are_refused(finished):
    project, folder = finished()
    table = folder / "accuracy.csv"
    table.write_text(table.read_text().replace("250", "251"))
    with pytest.raises(ValueError, match=r"accuracy\.csv is not the file that the run has written"):
        submit(project, folder.name)
    table.write_text(table.read_text().replace("251", "250"))
    manifest = folder / "accuracy.json"
    manifest.write_text(manifest.read_text().replace('"model"', '"model" '))
    with pytest.raises(ValueError, match=r"accuracy\.json is not the file"):
        submit(project, folder.name)
    notebook = nbformat.read(folder / "01_toy.ipynb", as_version=4)
    notebook.metadata.mmlib.tables = {"../up.csv": "missing"}
    nbformat.write(notebook, folder / "01_toy.ipynb")
    with pytest.raises(ValueError, match="outside of the run's folder"):
        submit(project, folder.name)
    notebook.metadata.mmlib = {"failed": 7}
    nbformat.write(notebook, folder / "01_toy.ipynb")
    refused = {folder.name: "not the notebook of a finished run", "x": "no run 'x'"}
    for name, message in refused.items():
        with pytest.raises(ChapterError, match=message):
            submit(project, name)


def test_a_file_that_was_changed_on_its_way_is_refused(finished):
    project, folder = finished()
    path = submit(project, folder.name)
    whole = path.read_text()
    told = json.loads(whole)
    told["tables"]["accuracy"]["csv"] = told["tables"]["accuracy"]["csv"].replace("250", "251")
    forged = {key: value for key, value in told.items() if key != "sha256"}
    forged["sha256"] = submitting._digest(forged)  # with a checksum of its own
    for text in (whole.replace("250", "251"), whole[:-9], "[]", "{}", json.dumps(forged)):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"01_toy-abc\.json is no evidence of a run"):
            read_submission(path)


def test_random_weights_are_told_from_trained_ones():
    assert not any(is_trained(build(name)) for name in ("llama", "qwen3", "gpt_neox"))
    assert is_trained(load_model("organism-even")[0])
