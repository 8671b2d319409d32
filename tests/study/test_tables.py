"""Laws of tables: what is written comes back, and every table says how it was made."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmlib.study import tables as results
from mmlib.study.tables import (
    RunInfo,
    hardware,
    output_dir,
    published,
    read_manifest,
    read_table,
    require_columns,
    write_table,
)

RUN = RunInfo("toy", date="2026-11-20", parameters={"seeds": [1, 101], "device_map": ""})


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIB_OUTPUT_DIR", str(tmp_path))
    return tmp_path


def test_a_tidy_table_survives_exactly():
    table = pd.DataFrame(
        {
            "lang": ["en", "hi", "NA", "nan"],
            "module": ["a.b", None, None, "x,\n'\""],
            "answer": ["", "1\r\n2", "é हि", " "],
            "layer": pd.array([0, None, 2, None], dtype="Int64"),
            "size": [1, 2, 2**62, -5],
            "jaccard": [0.1, 1 / 3, np.nan, 1e-300],
            "norm": np.array([0.1, np.inf, np.nan, -0.0], dtype="float32"),
            "correct": [True, False, True, True],
        }
    )
    write_table(table, "t", RUN)
    pd.testing.assert_frame_equal(read_table("t"), table, check_exact=True)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)
@given(
    st.lists(
        st.tuples(
            st.floats(),
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
        )
    )
)
def test_any_floats_integers_and_text_survive(rows):
    x, layer, text = zip(*rows, strict=True) if rows else ((), (), ())
    table = pd.DataFrame({"x": np.array(x, dtype=float), "layer": pd.array(layer, dtype="Int64")})
    table["text"] = pd.Series(text, dtype="str")
    write_table(table, "t", RUN)
    back = read_table("t")
    pd.testing.assert_frame_equal(back, table, check_exact=True)
    assert (np.signbit(back.x) == np.signbit(table.x))[table.x.notna()].all()


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame({"a": ["", None]}),  # the two would read alike
        pd.DataFrame({"a": [[1, 2], [3]]}),
        pd.DataFrame({"a": [1]}, index=pd.Index(["x"], name="lang")),
    ],
)
def test_what_csv_cannot_hold_is_refused_and_nothing_written(table, folder):
    with pytest.raises(ValueError, match="table 't'"):
        write_table(table, "t", RUN)
    assert not list(folder.iterdir())


def test_names_are_plain():
    with pytest.raises(ValueError, match=r"'\.\./t'"):
        write_table(pd.DataFrame({"a": [1]}), "../t", RUN)


def test_manifest_tells_the_run(folder):
    table = pd.DataFrame({"a": [1, 2]})
    path = write_table(table, "t", RUN)
    manifest = read_manifest("t")
    assert manifest["rows"] == 2
    assert RunInfo(**manifest["run"]) == RUN
    assert sorted(p.name for p in folder.iterdir()) == ["t.csv", "t.json"]
    assert path.read_bytes() == b"a\n1\n2\n"


def test_a_changed_or_truncated_file_is_noticed():
    path = write_table(pd.DataFrame({"a": [1, 2]}), "t", RUN)
    path.write_text("a\n1\n")
    with pytest.raises(ValueError, match="not the file its manifest describes"):
        read_table("t")
    path.unlink()
    with pytest.raises(ValueError, match="not the file its manifest describes"):
        read_table("t")


def test_a_write_that_fails_leaves_the_old_table(folder, monkeypatch):
    write_table(pd.DataFrame({"a": [1]}), "t", RUN)
    monkeypatch.setattr(results.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_table(pd.DataFrame({"a": [2]}), "t", RUN)
    assert read_table("t").a.tolist() == [1]
    assert sorted(p.name for p in folder.iterdir()) == ["t.csv", "t.json"]


def test_missing_table_and_missing_column_are_named():
    with pytest.raises(FileNotFoundError, match="'nothing'"):
        read_table("nothing")
    table = pd.DataFrame({"lang": ["en"]})
    with pytest.raises(ValueError, match=r"table lacks the column\(s\) jaccard; it has lang"):
        require_columns(table, ["lang", "jaccard"], "table")


def test_own_tables_come_before_those_of_the_published_edition(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "_root", lambda: tmp_path / "checkout")
    edition = tmp_path / "checkout" / "book" / "results"
    write_table(pd.DataFrame({"a": [1]}), "t", RUN, folder=edition)
    assert read_table("t").a.tolist() == [1]
    write_table(pd.DataFrame({"a": [2]}), "t", RUN)
    assert read_table("t").a.tolist() == [2]
    monkeypatch.delenv("MMLIB_OUTPUT_DIR")
    assert output_dir() == tmp_path / "checkout" / "runs" / "interactive"


def test_run_info_is_complete_and_names_no_place_of_this_machine(tmp_path):
    run = RunInfo.collect(
        str(tmp_path / "folder"), dtype="float32", parameters={"data_dir": tmp_path / "data"}
    )
    assert (run.model, run.parameters) == ("folder", {"data_dir": "data"})
    assert all([run.package_version, run.hardware, run.date, run.versions["torch"]])
    assert "GiB" in hardware()
    text = json.dumps(run.__dict__)
    assert str(tmp_path) not in text
    assert results.platform.node() not in text


def test_published_tables_are_read_as_documented():
    overlap = published("mathlang_overlap")
    assert len(overlap) == 3696
    assert str(overlap.layer.dtype) == "Int64"
    assert (overlap.union == overlap.size_a + overlap.size_b - overlap.intersection).all()
    with pytest.raises(ValueError, match="mathlang_set_sizes"):
        published("mathlang_sizes")


def test_results_and_claims_do_not_need_torch():
    code = "import sys, mmlib.study.tables, mmlib.claims.ledger; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_folder_is_known_by_its_name_wherever_it_lies(tmp_path, monkeypatch):
    (tmp_path / "runs" / "my-model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in ("runs/my-model", str(tmp_path / "runs" / "my-model"), "../elsewhere/my-model"):
        known = results.RunInfo.collect(name, parameters={"model": name, "seed": 1})
        expected = "my-model" if "elsewhere" not in name else name
        assert (known.model, known.parameters) == (expected, {"model": expected, "seed": 1})
    assert results.RunInfo.collect("org/my-model").model == "org/my-model"


def test_a_folder_that_is_not_there_yet_has_the_same_name_in_a_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"experts_dir": "runs/experts", "task": "runs/experts", "data_dir": ""}
    before = RunInfo.collect("a/hub-id", parameters=given)
    (tmp_path / "runs" / "experts").mkdir(parents=True)
    after = RunInfo.collect("a/hub-id", parameters=given)
    assert before.model == after.model == "a/hub-id"
    wanted = {"experts_dir": "experts", "data_dir": ""}
    for run in (before, after):
        assert {name: run.parameters[name] for name in wanted} == wanted
    assert before.parameters["task"] == "runs/experts"  # no folder by its name


def test_a_commit_says_whether_the_package_is_what_it_names(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(results, "PACKAGE", tmp_path / "mmlib")
    asked = {"rev-parse": "abc", "status": ""}

    def answer(arguments, timeout, **_):
        told = asked[next(name for name in asked if name in arguments)]
        if told is None:
            raise subprocess.TimeoutExpired(arguments, timeout)
        return subprocess.CompletedProcess(arguments, int(told == "fails"), f"{told}\n", "")

    monkeypatch.setattr(results.subprocess, "run", answer)
    for status, mark in (("", ""), (" M x.py", "+changes"), (None, "+unknown")):
        asked["status"] = status
        assert results._commit() == f"abc{mark}"
    for commit in (None, "fails"):
        asked["rev-parse"] = commit
        assert results._commit() == ""
