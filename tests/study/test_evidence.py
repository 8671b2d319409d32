"""Tables shipped as evidence: their runs, packed answers, and audits of a part."""

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.contingency_tables import mcnemar

from mmlib.study import evidence, stats
from mmlib.study import tables as results
from mmlib.study.evidence import AuditError, audit_values, read_evidence
from mmlib.study.tables import (
    RunInfo,
    write_table,
)

RUN = RunInfo("toy", date="2026-11-20", parameters={"seeds": [1, 101], "device_map": ""})


def test_evidence_is_read_from_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "PACKAGE", tmp_path)
    write_table(pd.DataFrame({"a": [1]}), "long", RUN, folder=tmp_path / "evidence")
    table, manifest = read_evidence("long")
    assert table.a.tolist() == [1]
    assert manifest["run"]["model"] == "toy"


def test_evidence_is_the_rows_of_its_runs_and_names_them(tmp_path):
    tables = [pd.DataFrame({"seed": [1, 101], "value": [0.1, x]}) for x in (0.3, 0.7)]
    for number, table in enumerate(tables):
        run = results.RunInfo(model=f"model-{number}", date="2026-11-20")
        results.write_table(table, "found", run, folder=tmp_path / str(number))
    paths = [tmp_path / str(number) / "found.csv" for number in (0, 1)]
    evidence.keep_evidence("kept", paths, where="seed == 101", folder=tmp_path)
    table, manifest = results.load_table("kept", tmp_path)
    assert table.value.tolist() == [0.3, 0.7]
    assert [run["model"] for run in manifest["run"]["parameters"]["runs"]] == ["model-0", "model-1"]
    with pytest.raises(ValueError, match="where='foo == 1' is no query over seed, value"):
        evidence.keep_evidence("kept", paths, where="foo == 1", folder=tmp_path)
    with pytest.raises(ValueError, match="give CSV files"):
        evidence.keep_evidence("kept", [tmp_path / "found.json"], folder=tmp_path)
    with pytest.raises(ValueError, match="no row satisfies 'seed == 5'"):
        evidence.keep_evidence("kept", paths, where="seed == 5", folder=tmp_path)


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


def test_paired_changes_are_mcnemar_for_one_replicate_and_count_a_problem_once():
    plain = graded(1).query("lang == 'en'")[["problem_id", "correct"]]
    edits = [graded(seed).query("lang == 'en'").assign(edit="a", seed=seed) for seed in (2, 3, 4)]
    for wrong in (pd.concat([edits[0], edits[0]]), edits[0].assign(seed=range(200))):
        with pytest.raises(ValueError, match=r"twice|not the problems"):
            stats.paired_changes(wrong, plain, by=["edit"])
    one = stats.paired_changes(edits[0], plain, by=["edit"]).iloc[0]
    both = edits[0].merge(plain, on="problem_id", suffixes=("", "_plain"))
    counts = pd.crosstab(both.correct, both.correct_plain).to_numpy()
    assert one.p_value == pytest.approx(mcnemar(counts, exact=True).pvalue)
    assert (one.n, one.gained, one.lost) == (200, counts[1, 0], counts[0, 1])
    assert one.difference == pytest.approx((one.gained - one.lost) / 200)
    drawn = (both.correct.astype(float) - both.correct_plain).sample(
        200 * 2000, replace=True, random_state=0
    )
    ends = np.quantile(drawn.to_numpy().reshape(2000, 200).mean(axis=1), [0.025, 0.975])
    assert (one.low, one.high) == pytest.approx(tuple(ends), abs=0.011)

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
