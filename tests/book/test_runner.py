"""Throw-away chapters in a throw-away checkout: what the runner promises, one promise per test."""

import json
import sys
from pathlib import Path

import pytest
from checkouts import CELLS, edit, published, reasons
from hypothesis import given
from hypothesis import strategies as st

from mmlib.__main__ import main
from mmlib.book import runner
from mmlib.book.chapters import (
    ChapterError,
    convert,
    hashes,
    parameters,
    resolve,
    run_record,
)

# --- parameters


def test_parameters_have_name_type_default_and_help(executed):
    found = parameters(executed, "01_toy")
    assert list(found) == ["model", "seed", "keep_ratios", "languages", "include_head"]
    ratios = found["keep_ratios"]
    assert (ratios.type, ratios.default, ratios.help) == (
        "list[float]",
        [0.1, 0.2],
        "shares to keep",
    )


def test_a_real_checkpoint_brings_values_of_its_own_unless_others_are_given(fresh):
    (fresh.root / "mmlib/checkpoints.yaml").write_text("small-llm: {file: a.gguf}\n")
    (fresh.root / "notebooks/chapters.yml").write_text(
        "01_toy: {title: 'A question?', budget_s: 60, checkpoint: {seed: 7, keep_ratios: [.5]}}\n"
    )
    name = {"model": "small-llm"}
    assert resolve(fresh, "01_toy", name)[1] == {**name, "seed": 7, "keep_ratios": [0.5]}
    assert resolve(fresh, "01_toy", {**name, "seed": "1"})[1] == {**name, "keep_ratios": [0.5]}
    assert resolve(fresh, "01_toy", {"model": "other"})[1] == {"model": "other"}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("sede=2", ["'sede'", "did you mean 'seed'", "keep_ratios", "list 01_toy"]),
        ("seed=two", ["seed", "int", "'two'"]),
        ("seed=1.5", ["int", "'1.5'"]),
        ("seed=true", ["int", "'true'"]),
        ("seed=[1]", ["int", "['1']"]),
        ("keep_ratios=0.1", ["list[float]", "[a, b]", "'0.1'"]),
        ("keep_ratios=[0.1, a lot]", ["float", "'a lot'"]),
        ("keep_ratios=[0.1", ["keep_ratios"]),
        ("include_head=1", ["bool", "'1'"]),
        ("seed", ["-p name=value", "seed"]),
    ],
)
def test_bad_parameter_is_one_message_and_nothing_runs(project, capsys, text, parts):
    before = published(project)
    assert main(["--root", str(project.root), "run", "01_toy", "-p", text]) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert all(part in message for part in parts), message
    assert published(project) == before


def test_text_of_a_language_list_stays_text(executed):
    values, changed = resolve(executed, "01_toy", {"languages": "[en, no, 010]", "model": "no"})
    assert values["languages"] == ["en", "no", "010"]
    assert changed == {"languages": ["en", "no", "010"], "model": "no"}


@pytest.mark.parametrize("spelled", ["", "''", '""'])
def test_a_text_is_left_empty_however_that_is_spelled(executed, spelled):
    assert resolve(executed, "01_toy", {"model": spelled})[0]["model"] == ""


def test_integer_is_a_float_and_a_default_is_not_a_change(executed):
    assert resolve(executed, "01_toy", {"keep_ratios": [1]})[0]["keep_ratios"] == [1.0]
    assert resolve(executed, "01_toy", {"seed": "1", "keep_ratios": "[.1, 2e-1]"})[1] == {}


@given(st.lists(st.floats(allow_nan=False)), st.integers(), st.booleans())
def test_every_value_survives_its_spelling(floats, integer, boolean):
    assert convert([repr(value) for value in floats], "list[float]") == floats
    assert convert(str(integer), "int") == integer
    assert convert(str(boolean), "bool") is boolean


@pytest.mark.parametrize("kind", ["tuple", "dict[str, int]", "int | None"])
def test_undeclarable_types_are_refused(kind):
    with pytest.raises(ValueError, match="use str, int, float, bool"):
        convert("1", kind)


@pytest.mark.parametrize("line", ["x = 1", "x: int = 2 * 2", "x: int = 'a'"])
def test_a_parameters_cell_holds_typed_literals_only(fresh, line):
    edit(fresh.source("01_toy"), "seed: int = 1", line)
    with pytest.raises(ChapterError, match="name: type = literal"):
        parameters(fresh, "01_toy")


def test_unknown_chapter_is_suggested(executed):
    with pytest.raises(ChapterError, match="did you mean '01_toy'"):
        executed.chapter("01_toyy")
    assert executed.chapter("notebooks/chapters/01_toy.ipynb").name == "01_toy"


# --- what is written


def test_default_run_injects_no_cell_and_keeps_no_path(executed):
    text = executed.executed("01_toy").read_text()
    notebook = json.loads(text)
    assert len(notebook["cells"]) == len(CELLS)
    assert "papermill" not in text
    for path in (executed.root, Path.home(), sys.prefix, "/tmp/"):
        assert str(path) not in text
    printed = [o["text"] for c in notebook["cells"] for o in c.get("outputs", ()) if "text" in o]
    assert ["book/results . 01_toy\n"] in printed
    assert any(lines[0].endswith("UserWarning: look\n") for lines in printed)


def test_record_says_what_the_run_was(executed):
    record = run_record(executed.executed("01_toy"))
    assert record["parameters"]["seed"] == 1
    assert set(record["hashes"]["code"]) == {"toy", "deep"}
    assert set(record["hashes"]["evidence"]) == {"published/facts"}
    assert set(record["hashes"]["checkpoint"]) == {"organism-tiny"}
    assert set(record["tables"]) == {"toy.csv"}
    assert record["seconds"] > 0
    assert {"date", "hardware"} <= set(record)
    assert (executed.places["results"] / "toy.csv").read_text() == "value\n2\n"


def test_other_parameters_go_to_a_folder_of_their_own_and_are_found_again(project, capsys):
    before = published(project)
    notebook = runner.run(project, "01_toy", {"seed": "21"})
    assert published(project) == before
    assert notebook.parent.parent == project.runs
    assert (notebook.parent / "toy.csv").read_text() == "value\n42\n"
    assert sorted(p.name for p in notebook.parent.iterdir()) == ["01_toy.ipynb", "toy.csv"]
    tags = [c["metadata"].get("tags") for c in json.loads(notebook.read_text())["cells"]]
    assert tags.count(["injected-parameters"]) == 1
    assert runner.run(project, "01_toy", {"seed": 21}) == notebook
    assert "up to date" in capsys.readouterr().out


# --- staleness


def test_a_chapter_that_ran_is_fresh_and_one_that_did_not_is_stale(executed):
    first, second = runner.status(executed)
    assert first.reasons == []
    assert second.reasons == ["never run"]


def test_a_broken_copy_counts_as_none(project):
    project.executed("01_toy").write_text('{"cells": [')
    assert reasons(project) == ["never run"]


@pytest.mark.parametrize(
    ("path", "old", "new", "expected"),
    [
        ("notebooks/chapters/01_toy.ipynb", "A question", "My question", ["text changed"]),
        ("notebooks/chapters/01_toy.ipynb", "write_text", "write_text ", ["source changed"]),
        (
            "notebooks/chapters/01_toy.ipynb",
            "seed: int = 1",
            "seed: int = 2",
            ["source changed", "parameters changed"],
        ),
        ("mmlib/published/facts.csv", "1", "2", ["evidence changed: published/facts"]),
        (
            "mmlib/organisms/organism-tiny/model.safetensors",
            "weights",
            "heavier",
            ["checkpoint changed: organism-tiny"],
        ),
        ("mmlib/toy.py", "x * TWO", "TWO * x", ["code changed: toy"]),
        ("mmlib/deep.py", "2", "3", ["code changed: deep"]),
        ("book/results/toy.csv", "2", "3", ["tables missing or edited: toy.csv"]),
        ("mmlib/toy.py", "# so", "# or so", []),
        ("mmlib/toy.py", '"""Twice."""', '"""Two times."""', []),
        ("mmlib/toy.py", '"""Twice."""\n    ', "", []),
        ("mmlib/toy.py", "x * TWO", "(x  *  TWO)", []),
        ("mmlib/unused.py", "1", "2", []),
        ("notebooks/chapters/01_toy.ipynb", '"id": "a3"', '"id": "b3"', []),
        ("notebooks/chapters/01_toy.ipynb", '"execution_count": null', '"execution_count": 7', []),
    ],
)
def test_each_change_is_named(project, path, old, new, expected):
    edit(project.root / path, old, new)
    assert reasons(project) == expected


def test_a_missing_table_is_named_and_stops_the_run(project):
    (project.root / "mmlib/published/facts.csv").unlink()
    assert reasons(project) == ["evidence changed: published/facts"]
    with pytest.raises(ChapterError, match="published/facts, which is not there"):
        runner.run(project, "01_toy")


def test_a_mistyped_table_place_is_refused(fresh):
    edit(fresh.root / "notebooks/chapters.yml", "published/facts", "publised/facts")
    with pytest.raises(
        ChapterError, match="published/NAME or evidence/NAME or results/NAME or organisms/NAME"
    ):
        hashes(fresh, "01_toy", {})


@pytest.mark.parametrize(("name", "counts"), [("data_dir", True), ("runs_dir", False)])
def test_a_folder_counts_where_it_is_read_not_where_it_is_filled(fresh, name, counts):
    (fresh.root / "mine").mkdir()
    (fresh.root / "mine" / "weights").write_text("1")
    assert ("mine" in hashes(fresh, "01_toy", {name: "mine"})["checkpoint"]) is counts


def test_folders_of_one_name_count_each(fresh):
    models = [f"{place}/final" for place in ("one", "two")]
    for folder in models:
        (fresh.root / folder).mkdir(parents=True)
        (fresh.root / folder / "weights").write_text(folder)
    counted = hashes(fresh, "01_toy", dict(zip(("model", "data_dir"), models, strict=True)))
    assert set(models) <= set(counted["checkpoint"])


def test_sockets_have_room_where_the_folder_of_passing_files_is_deep(fresh, tmp_path, monkeypatch):
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    monkeypatch.setattr(runner.tempfile, "tempdir", str(deep))
    runner.run(fresh, "02_other")
    assert run_record(fresh.executed("02_other"))["chapter"] == "02_other"


def test_the_model_card_is_not_the_checkpoint(project):
    (project.root / "mmlib/organisms/organism-tiny/README.md").write_text("A card.")
    assert reasons(project) == []


def test_changed_text_is_renewed_without_execution(project, capsys):
    before = run_record(project.executed("01_toy"))
    edit(project.source("01_toy"), '"parameters"', '"parameters", "hide-input"')
    edit(project.source("01_toy"), "A question", "My question")
    assert reasons(project) == ["text changed"]
    (project.root / "fail").touch()
    runner.run(project, "01_toy")
    assert "nothing executed" in capsys.readouterr().out
    text = project.executed("01_toy").read_text()
    assert all(part in text for part in ("My question", "hide-input", "UserWarning: look"))
    after = run_record(project.executed("01_toy"))
    assert {k: v for k, v in after.items() if k != "hashes"} == {
        k: v for k, v in before.items() if k != "hashes"
    }
    assert reasons(project) == []
