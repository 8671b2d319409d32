"""Rows of the hub, in its own columns, at a pinned revision."""

import dataclasses
import re

import datasets
import pytest
from task_rows import OPTIONS, ROWS

from mmlib.tasks.benchmarks import mgsm, xcsqa
from mmlib.tasks.problems import BENCHMARKS, TASKS, load_problems

HUB = {source.id: source for benchmark in BENCHMARKS.values() for source in benchmark.sources}
"""Where benchmarks lie."""


@pytest.fixture
def hub(monkeypatch):
    """Answer `load_dataset` from small tables; returns what was asked for."""
    asked = []

    def load_dataset(path, name=None, **options):
        asked.append((path, name, options))
        key = options.get("data_files", path)
        return datasets.Dataset.from_list(ROWS[key, name, options["split"]])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


@pytest.mark.parametrize(
    ("task", "code", "split", "ids", "golds"),
    [
        ("gsm8k", "hi", "calibration", ["train-0"], ["1002"]),
        ("gsm8k", "en", "heldout", ["0"], ["3"]),
        ("mgsm", "te", "heldout", ["0"], ["2125"]),
        ("msvamp", "zh", "heldout", ["msvamp-0"], ["8"]),
        ("mgsm8kinstruct", "de", "train", ["instruct-0", "instruct-1"], ["4", "1125"]),
        ("orca-math", "en", "train", ["orca-0", "orca-2"], ["4", "1125"]),
        ("aya", "sw", "train", ["aya-0", "aya-2"], ["Nzuri.", "Ndiyo."]),
        ("race-middle", "en", "validation", ["high1.txt-0", "high1.txt-1"], ["a dog", "ran"]),
        ("mmlu", "en", "validation", ["0", "1"], ["d", "d"]),
        ("mmlu", "sw", "test", ["anatomy/test/0"], ["b"]),
        ("mmlu", "sw", "heldout", ["anatomy/test/0"], ["b"]),
        ("global-mmlu-lite", "sw", "test", ["anatomy/test/0"], ["b"]),
        ("ntrex", "sw", "test", ["ntrex-0", "ntrex-1"], ["", ""]),
        ("xquad", "de", "validation", ["q0", "q1"], ["Ann", "Apfel"]),
        ("gsm8k-questions", "de", "train", ["instruct-0", "instruct-1"], ["4", "1125"]),
    ],
)
def test_rows_of_the_hub_at_their_revision(hub, task, code, split, ids, golds):
    problems = load_problems(task, code, split=split)
    assert [p.id for p in problems] == ids
    assert [p.target for p in problems] == golds
    for path, _, options in hub:
        assert "@" in options.get("data_files", "") or options["revision"] == HUB[path].revision


def test_what_the_hub_does_not_have_is_refused(hub):
    with pytest.raises(ValueError, match="English only: give data_dir"):
        load_problems("race", "fr")
    with pytest.raises(ValueError, match="English only: take split='test'"):
        load_problems("mmlu", "hi", split="validation")
    with pytest.raises(ValueError, match="mmlu has no test questions in 'th'"):
        load_problems("mmlu", "th")


def test_mgsm_from_a_parquet_copy(hub, monkeypatch):
    """Another copy is a change of one record."""
    copy = {"id": "jbross-ibm-research/mgsm", "file": None, "config": "{language}"}
    monkeypatch.setattr(mgsm, "SOURCE", dataclasses.replace(mgsm.SOURCE, revision="main", **copy))
    for code in ("en", "de"):
        row = {"question": code, "answer": None, "answer_number": 2125, "equation_solution": None}
        monkeypatch.setitem(ROWS, (copy["id"], code, "test"), [row])
    assert [p.target for p in load_problems("mgsm", "de")] == ["2125"]


def test_other_columns_of_the_hub_are_named(hub, monkeypatch):
    key = ("openai/gsm8k", "main", "test")
    monkeypatch.setitem(ROWS, key, [{"query": "Q", "answer": "4"}])
    with pytest.raises(ValueError, match=r"openai/gsm8k \(main, test\) lacks .*\['question'\]"):
        load_problems("gsm8k", "en")


def test_revisions_are_commits_or_say_that_none_is_known():
    known = {name for name, source in HUB.items() if re.fullmatch("[0-9a-f]{40}", source.revision)}
    assert known == {
        *("openai/gsm8k", "juletxara/mgsm", "ehovy/race", "cais/mmlu", "CohereLabs/Global-MMLU"),
        *("davidstap/NTREX", "google/xquad"),
    }
    assert {source.revision for name, source in HUB.items() if name not in known} <= {
        "main",
        "refs/convert/parquet",
    }
    assert all(source.licence for source in HUB.values())
    benchmarks = {task for task in TASKS if not task.startswith("organism")}
    with_codes = {name for name, benchmark in BENCHMARKS.items() if benchmark.languages}
    assert with_codes == benchmarks | {"flores"}  # sentences, no problems


def test_choices_of_the_hub_are_lists():
    rows = [{"stem": "x?", "choices": {"label": list("ABCDE"), "text": list("vwxyz")}}]
    assert xcsqa._texts(rows[0]["choices"]) == list("vwxyz")


def test_a_question_is_in_the_same_part_of_both_sets(hub, monkeypatch):
    """Else a calibration text of the larger set would be asked from the smaller one."""

    def rows(*numbers):
        row = {"subject": "law", "question": "Q", "answer": "B"} | OPTIONS
        return [row | {"sample_id": f"law/test/{number}"} for number in numbers]

    monkeypatch.setitem(ROWS, ("CohereLabs/Global-MMLU", "en", "test"), rows(*range(20)))
    monkeypatch.setitem(ROWS, ("CohereLabs/Global-MMLU-Lite", "en", "test"), rows(3, 5, 7, 10))
    for part, few in {"heldout": [5, 10], "calibration": [3, 7]}.items():
        large, small = (load_problems(t, "en", split=part) for t in ("mmlu", "global-mmlu-lite"))
        assert [problem.id for problem in small] == [f"law/test/{number}" for number in few]
        assert {problem.id for problem in small} < {problem.id for problem in large}
