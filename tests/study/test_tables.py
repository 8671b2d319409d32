"""Laws of tables and intervals: what is written comes back, and the numbers are the textbook's."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from mmlib.study import evidence, stats
from mmlib.study import tables as results
from mmlib.study.evidence import AuditError, audit_values, read_evidence
from mmlib.study.stats import compare, seed_interval, summarize
from mmlib.study.tables import (
    RunInfo,
    hardware,
    output_dir,
    published,
    read_manifest,
    read_table,
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
    write_table(pd.DataFrame({"lang": ["en"]}), "t", RUN)
    with pytest.raises(ValueError, match=r"'t' lacks the column\(s\) jaccard; it has lang"):
        read_table("t", columns=["lang", "jaccard"])


def test_own_tables_come_before_those_of_the_published_edition(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "_root", lambda: tmp_path / "checkout")
    edition = tmp_path / "checkout" / "book" / "results"
    write_table(pd.DataFrame({"a": [1]}), "t", RUN, folder=edition)
    assert read_table("t").a.tolist() == [1]
    write_table(pd.DataFrame({"a": [2]}), "t", RUN)
    assert read_table("t").a.tolist() == [2]
    monkeypatch.delenv("MMLIB_OUTPUT_DIR")
    assert output_dir() == tmp_path / "checkout" / "runs" / "interactive"


def test_evidence_is_read_from_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "PACKAGE", tmp_path)
    write_table(pd.DataFrame({"a": [1]}), "long", RUN, folder=tmp_path / "evidence")
    table, manifest = read_evidence("long")
    assert table.a.tolist() == [1]
    assert manifest["run"]["model"] == "toy"


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


def answers(flags, **columns):
    return pd.DataFrame({"id": range(len(flags)), "correct": flags, **columns})


def test_wilson_interval_of_a_textbook_case():
    row = summarize(answers([True] * 9 + [False], lang="en", task="math")).iloc[0]
    assert (row.accuracy, row.n, row.n_correct) == (0.9, 10, 9)
    assert (row.low, row.high) == (pytest.approx(0.5958, abs=1e-4), pytest.approx(0.9821, abs=1e-4))


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_wilson_holds_the_accuracy_and_mirrors(flags):
    table = answers(flags, lang="en", task="math")
    row = summarize(table).iloc[0]
    mirror = summarize(table.assign(correct=~table.correct)).iloc[0]
    assert 0 <= row.low <= row.accuracy + 1e-12
    assert row.accuracy - 1e-12 <= row.high <= 1
    assert mirror.low == pytest.approx(1 - row.high)


def test_groups_keep_their_order():
    table = answers([True, False, True], lang=["hi", "en", "hi"], task="math")
    assert summarize(table, ["lang"]).lang.tolist() == ["hi", "en"]


def test_compare_known_case_and_antisymmetry():
    a = answers([True] * 10 + [False] * 10)
    b = answers([True] * 4 + [False] * 16)
    one, other = compare(a, b), compare(b.sample(frac=1, random_state=0), a)
    assert (one["only_a"], one["only_b"], one["n"]) == (6, 0, 20)
    assert one["p_value"] == pytest.approx(2 * 0.5**6)  # exact sign test on 6 discordant pairs
    assert one["difference"] == pytest.approx(0.3)
    assert 0 < one["low"] < 0.3 < one["high"] < 0.6
    assert other["difference"] == pytest.approx(-one["difference"])
    assert other["p_value"] == one["p_value"]


def test_compare_with_itself_finds_nothing():
    a = answers([True, False, True])
    same = compare(a, a)
    assert (same["difference"], same["low"], same["high"], same["p_value"]) == (0, 0, 0, 1)


def test_compare_refuses_other_problems():
    a = answers([True, False])
    with pytest.raises(ValueError, match="2 problems are in one table only"):
        compare(a, a.assign(id=[1, 2]))
    with pytest.raises(ValueError, match="correct"):
        compare(a, a.drop(columns="correct"))
    with pytest.raises(pd.errors.MergeError):
        compare(a.assign(id=0), a)


def test_seed_interval_known_case():
    mean, low, high, n = seed_interval([1.0, 2.0, 3.0])
    assert (mean, n) == (2.0, 3)
    assert high - mean == mean - low == pytest.approx(4.302653 / 3**0.5, rel=1e-6)


def test_seed_interval_edges():
    assert seed_interval([0.3, 0.3])[:3] == (0.3, 0.3, 0.3)
    assert np.isnan(seed_interval([1.0])[1:3]).all()
    for bad in ([], [np.nan, 1.0]):
        with pytest.raises(ValueError, match="finite"):
            seed_interval(bad)


def test_results_and_claims_do_not_need_torch():
    code = "import sys, mmlib.study.tables, mmlib.claims.ledger; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_evidence_is_the_rows_of_its_runs_and_names_them(tmp_path):
    tables = [pd.DataFrame({"seed": [1, 101], "value": [0.1, x]}) for x in (0.3, 0.7)]
    for number, table in enumerate(tables):
        run = results.RunInfo(model=f"model-{number}", date="2026-11-20")
        results.write_table(table, "found", run, folder=tmp_path / str(number))
    paths = [tmp_path / str(number) / "found.csv" for number in (0, 1)]
    evidence.keep_evidence("kept", paths, where="seed == 101", folder=tmp_path)
    table, manifest = results._load("kept", tmp_path)
    assert table.value.tolist() == [0.3, 0.7]
    assert [run["model"] for run in manifest["run"]["parameters"]["runs"]] == ["model-0", "model-1"]
    with pytest.raises(ValueError, match="where='foo == 1' is no query over seed, value"):
        evidence.keep_evidence("kept", paths, where="foo == 1", folder=tmp_path)
    with pytest.raises(ValueError, match="give CSV files"):
        evidence.keep_evidence("kept", [tmp_path / "found.json"], folder=tmp_path)
    with pytest.raises(ValueError, match="no row satisfies 'seed == 5'"):
        evidence.keep_evidence("kept", paths, where="seed == 5", folder=tmp_path)


def test_a_folder_is_known_by_its_name_wherever_it_lies(tmp_path, monkeypatch):
    (tmp_path / "runs" / "my-model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in ("runs/my-model", str(tmp_path / "runs" / "my-model"), "../elsewhere/my-model"):
        known = results.RunInfo.collect(name, parameters={"model": name, "seed": 1})
        expected = "my-model" if "elsewhere" not in name else name
        assert (known.model, known.parameters) == (expected, {"model": expected, "seed": 1})
    assert results.RunInfo.collect("org/my-model").model == "org/my-model"


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


# --- answers shipped as evidence


def graded(seed, n=200, share=0.7):
    """Answers of one model in two languages, in no order."""
    rng = np.random.default_rng(seed)
    rows = [
        {"model": "m", "lang": lang, "problem_id": f"p-{k:03d}", "correct": rng.random() < share}
        for lang in ("en", "bn")
        for k in range(n)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=seed, ignore_index=True)


def test_packed_answers_come_back(tmp_path):
    answers = graded(1)
    packed = results.pack_answers(answers, by=["model", "lang"])
    assert packed.correct.str.len().tolist() == [200, 200]
    assert packed.set_index("lang").correct["bn"][7] == str(
        int(answers.set_index(["lang", "problem_id"]).correct["bn", "p-007"])
    )
    path = write_table(packed, "packed", RunInfo("m"), folder=tmp_path)
    back = results.unpack_answers(
        pd.read_csv(path, dtype=str), answers[["model", "problem_id"]].drop_duplicates()
    )
    order = ["lang", "problem_id"]
    pd.testing.assert_frame_equal(
        back[answers.columns].sort_values(order, ignore_index=True),
        answers.sort_values(order, ignore_index=True),
        check_dtype=False,
    )


def test_packed_answers_need_their_problems_and_one_answer_each():
    answers = graded(1)
    packed = results.pack_answers(answers, by=["model", "lang"])
    with pytest.raises(ValueError, match=r"200 answers .* other problems than the 3 given"):
        results.unpack_answers(packed, pd.DataFrame({"model": "m", "problem_id": list("abc")}))
    others = answers[["model", "problem_id"]].drop_duplicates().replace("p-007", "p-1007")
    with pytest.raises(ValueError, match="other problems than the 200 given"):
        results.unpack_answers(packed, others)
    with pytest.raises(ValueError, match="something else than grades"):
        results.unpack_answers(packed.assign(correct="1?"), others)
    with pytest.raises(ValueError, match=r"correct is (str|object)"):
        results.pack_answers(answers.astype({"correct": str}), by=["model", "lang"])
    with pytest.raises(ValueError, match="name the group"):
        results.unpack_answers(packed, answers[["problem_id"]])
    with pytest.raises(ValueError, match="occurs twice"):
        results.pack_answers(answers, by=["model"])


def test_audit_lets_single_answers_change_and_stops_at_more():
    kept = graded(1)
    again = kept.groupby("lang").head(100).copy()
    assert evidence.audit(kept, again, by=["lang"]).changed.eq(0).all()
    wrong = again.index[again.lang.eq("en") & again.correct]
    again.loc[wrong[:2], "correct"] = False
    table = evidence.audit(kept, again, by=["lang"]).set_index("lang")
    assert table.changed.to_dict() == {"en": 2, "bn": 0}
    assert table.accuracy_kept["en"] - table.accuracy_again["en"] == pytest.approx(0.02)
    again.loc[wrong[:9], "correct"] = False
    with pytest.raises(evidence.AuditError, match="not what was shipped"):
        evidence.audit(kept, again, by=["lang"])
    sums = evidence.audit(kept, kept.groupby("lang").head(100), by=["lang"])
    assert sums.p_value.eq(1).all()


def test_audit_stops_at_many_changes_that_cancel_each_other():
    kept = graded(1)
    again = kept.groupby("lang").head(100).copy()
    old = again.correct.copy()
    for correct in (True, False):
        some = again.index[again.lang.eq("bn") & old.eq(correct)][:9]
        again.loc[some, "correct"] = not correct
    with pytest.raises(evidence.AuditError, match=r"bn +100 +18"):
        evidence.audit(kept, again, by=["lang"])


def test_audit_does_not_lose_groups_without_a_name():
    kept = graded(1).assign(condition=None).astype({"condition": "str"})
    kept.loc[kept.lang.eq("en"), "condition"] = "pruned"
    by = ["lang", "condition"]
    assert evidence.audit(kept, kept, by=by).n.tolist() == [200, 200]
    packed = results.pack_answers(kept, by=["model", *by])
    assert packed.correct.str.len().tolist() == [200, 200]


def test_audit_of_unpacked_answers_lets_single_grades_change():
    """Also the kind of a wrong answer, and the digest of the set that was edited."""
    letters = graded(1).assign(mask="a", n_weights=7)
    letters["grade"] = letters.correct.map({True: "1", False: "s"})
    by = ["model", "lang", "mask", "n_weights"]
    problems = letters[["model", "problem_id"]].drop_duplicates()
    kept = results.unpack_answers(results.pack_answers(letters, by), problems)
    again = kept.assign(mask="b", n_weights=8)
    row = again.index[again.grade == "s"][0]
    again.loc[row, "grade"] = "p"
    assert evidence.audit(kept, again, by=["lang"]).changed.sum() == 0
    again.loc[row, ["grade", "correct"]] = ["1", True]
    assert evidence.audit(kept, again, by=["lang"]).changed.sum() == 1
    for wrong in ("ab", "", "A", "0"):
        with pytest.raises(ValueError, match="give 1 for correct"):
            results.pack_answers(letters.assign(grade=letters.grade.replace("1", wrong)), by)


def test_audit_of_nothing_is_none():
    kept = graded(1)
    with pytest.raises(evidence.AuditError, match="nothing was computed again"):
        evidence.audit(kept, kept.head(0), by=["lang"])
    with pytest.raises(ValueError, match="lacks the column"):
        evidence.audit(kept, kept, by=["langg"])
    one = kept.head(1)
    assert evidence.audit(kept, one.assign(correct=~one.correct), by=["lang"]).changed.item() == 1


def test_audit_stops_at_problems_that_were_not_shipped():
    kept = graded(1)
    again = kept.head(20).assign(problem_id="unknown")
    again["problem_id"] += again.index.astype(str)
    with pytest.raises(evidence.AuditError, match="20 of 20 problems are not among"):
        evidence.audit(kept, again, by=["lang"])


def test_paired_changes_are_mcnemar_for_one_replicate_and_count_a_problem_once():
    plain = graded(1).query("lang == 'en'")[["problem_id", "correct"]]
    edits = [graded(seed).query("lang == 'en'").assign(edit="a", seed=seed) for seed in (2, 3, 4)]
    for wrong in (pd.concat([edits[0], edits[0]]), edits[0].assign(seed=range(200))):
        with pytest.raises(ValueError, match=r"twice|not the problems"):
            stats.paired_changes(wrong, plain, by=["edit"])
    one = stats.paired_changes(edits[0], plain, by=["edit"]).iloc[0]
    same = stats.compare(edits[0], plain, on=["problem_id"])
    for name in ("n", "difference", "p_value"):
        assert one[name] == pytest.approx(same[name])
    assert (one.gained, one.lost) == (same["only_a"], same["only_b"])
    assert (one.low, one.high) == pytest.approx((same["low"], same["high"]), abs=0.011)

    three = stats.paired_changes(pd.concat(edits), plain, by=["edit"]).iloc[0]
    assert (three.n, three.replicates) == (200, 3)
    assert three.accuracy == pytest.approx(pd.concat(edits).correct.mean())
    tripled = pd.concat([edits[0].assign(seed=seed) for seed in (2, 3, 4)])
    again = stats.paired_changes(tripled, plain, by=["edit"]).iloc[0]
    assert again.p_value == pytest.approx(one.p_value)  # no new problems, no new evidence
    assert (again.low, again.high) == (one.low, one.high)

    both = pd.concat([edits[0], edits[1].assign(edit="b")])  # two edits, a seed each
    table = stats.paired_changes(both, plain, by=["edit"])
    worst = table.p_value.idxmin()
    assert table.p_holm[worst] == pytest.approx(min(1, 2 * table.p_value[worst]))
    with pytest.raises(ValueError, match="not the problems of the others"):
        stats.paired_changes(edits[0].replace("p-007", "p-x"), plain, by=["edit"])


def test_agreement_is_kappa_and_refuses_unknown_labels():
    rng = np.random.default_rng(0)
    first = pd.Series(rng.choice(["slip", "plan", "format"], 200))
    second = first.where(rng.random(200) < 0.8, "plan")
    labels = pd.DataFrame({"a": first, "b": second, "c": first})
    table = stats.agreement(labels, ["slip", "plan", "format", "language"])
    assert table[["rater_a", "rater_b"]].to_numpy().tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert table.kappa[0] == pytest.approx(cohen_kappa_score(first, second))
    assert table.same.tolist() == [(first == second).sum(), 200, (first == second).sum()]
    assert table.low[0] < table.kappa[0] < table.high[0] < 1
    assert table[["kappa", "low", "high"]].loc[1].tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="'typo': choose from slip, plan"):
        stats.agreement(labels.replace("format", "typo"), ["slip", "plan"])
    with pytest.raises(ValueError, match="give two or more"):
        stats.agreement(labels[["a"]], ["slip"])


def test_numbers_computed_again_stop_where_they_differ():
    kept = pd.DataFrame(
        {"lang": ["en", "de", "hi"], "size": [1000, 2000, 0], "j": [0.5, 0.4, np.nan]}
    )
    audited = {"on": ["lang"], "values": ["size", "j"]}
    again = kept.iloc[1:].assign(size=[2004, 0])
    table = audit_values(kept, again, **audited).set_index("value")
    assert table.largest["size"] == pytest.approx(4 / 2004)
    assert list(table.differing) == [1, 0]
    with pytest.raises(AuditError, match="size is 2100, but 2000 was shipped"):
        audit_values(kept, again.assign(size=[2100, 0]), **audited)
    with pytest.raises(AuditError, match=r"1 of 2 rows are not shipped, such as .*'bn'"):
        audit_values(kept, again.assign(lang=["de", "bn"]), **audited)
    with pytest.raises(AuditError, match="j is nan"):
        audit_values(kept, again.assign(j=[np.nan, np.nan]), **audited)
    with pytest.raises(AuditError, match="nothing was computed again"):
        audit_values(kept, kept.head(0), **audited)
