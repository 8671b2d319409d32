"""Data files as people and tools write them: read as they are spelled, or refused with a place."""

import json

import pandas as pd
import pytest

from mmlib.models import resolve
from mmlib.tasks import skills
from mmlib.tasks.problems import load_problems, read
from mmlib.tasks.sources import read_table


@pytest.fixture
def write(tmp_path):
    def write_file(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return tmp_path

    return write_file


def test_numbers_keep_their_spelling(write):
    golds = ["0.7", "7", "1e2", "2.50", '"1,260"', "8.0"]
    lines = [f'{{"m_query": "How much?", "response": {gold}}}' for gold in golds]
    folder = write("msvamp/test_English.json", "\n".join(lines))
    read_golds = [problem.target for problem in load_problems("msvamp", "en", data_dir=folder)]
    assert read_golds == ["0.7", "7", "100", "2.5", "1260", "8"]


def test_a_file_that_is_one_list_is_read_as_lines_are(write):
    rows = ['{"m_query": "A?", "response": 0.70}', '{"m_query": "B?", "response": "8.0"}']
    lines = read("msvamp", "en", "test", write("msvamp/test_English.json", "\n".join(rows)))
    folder = write("msvamp/test_English.json", "[\n" + ",\n".join(rows) + "\n]\n")
    pd.testing.assert_frame_equal(read("msvamp", "en", "test", folder), lines)
    cut, other = f"[{rows[0]}", f"[{rows[0]}, 1]"
    refused = {cut: "cannot be read", other: "cannot be read: item 2 lacks", "[]": "has no rows"}
    for text, message in refused.items():
        with pytest.raises(ValueError, match=rf"test_English.json {message}"):
            read("msvamp", "en", "test", write("msvamp/test_English.json", text))


def test_a_line_with_another_number_of_columns_is_named(write):
    folder = write("mgsm/mgsm_en.tsv", "How many?\t7\nHow many apples?\t7\t12\n")
    with pytest.raises(ValueError, match=r"mgsm_en.tsv .*line 2 has 3 columns instead of 2"):
        read("mgsm", "en", "test", folder)
    folder = write("mgsm/mgsm_en.tsv", 'He said "7" \u2028 twice?\t7\n\n"How many?\t12\n')
    assert read("mgsm", "en", "test", folder).target.tolist() == ["7", "12"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("How many?,7 apples,7", "line 3 has 3 columns instead of 2"),
        ("How many?", "line 3 has 1 columns instead of 2"),
        ('"How many?,7', "line 3: unexpected end of data"),
        ('"How "many" apples?",7', "line 3: "),
    ],
)
def test_a_row_of_commas_is_read_as_it_is_quoted_or_named(write, row, message):
    good = 'question,answer\n"How many, in\nall?","7 apples\n#### 7"\n\n'
    folder = write("race/race_en_high_test.csv", good)
    table = read_table(folder / "race" / "race_en_high_test.csv", ["question"])
    assert table.values.tolist() == [["How many, in\nall?", "7 apples\n#### 7"]]
    write("race/race_en_high_test.csv", f"question,answer\nA?,1\n{row}\n")
    with pytest.raises(ValueError, match=rf"race_en_high_test.csv cannot be read: {message}"):
        read_table(folder / "race" / "race_en_high_test.csv", ["question"])


@pytest.mark.parametrize(
    ("options", "listed"),
    [
        ("['red' 'green' 'blue' 'white']", None),
        ("""['red' "green's" 'blue' 'white']""", None),
        ("['it's' 'green']", None),
        ("red", None),
        ("array(['red', 'green'], dtype=object)", None),
        ("['red', 'green', 'blue', 'white']", ["red", "green", "blue", "white"]),
        ("['red', 'it's', 'blue', 'white']", ["red", "it's", "blue", "white"]),
        ("""['red', "it's", 'blue', 'white']""", ["red", "it's", "blue", "white"]),
    ],
)
def test_options_are_read_apart_or_refused(write, options, listed):
    row = {"example_id": "1", "article": "A.", "question": "Q?", "options": options, "answer": "A"}
    folder = write("race/race_en_high_test.csv", pd.DataFrame([row]).to_csv(index=False))
    if listed is None:
        refused = r"race_en_high_test.csv row 0: (read 1 of .* options|.*is no list of options)"
        with pytest.raises(ValueError, match=refused):
            read("race", "en", "test", folder)
    else:
        assert read("race", "en", "test", folder).choices.tolist() == [listed]


def example(number, **changes):
    row = {"language": "en", "id": str(number), "question": "Question: Q?", "answer": "Answer: 7."}
    return json.dumps(row | changes, ensure_ascii=False)


def test_examples_are_read_whatever_marks_and_blank_lines_they_hold(write):
    rows = [example(n) for n in range(1, 8)]
    rows += ["", example(8, question="Question: One\u2028two\u0085three?")]
    folder = write("mgsm/exemplars.jsonl", "\ufeff" + "\n".join(rows) + "\n\n")
    samples = skills.config("mgsm", "en", folder)["fewshot_config"]["samples"]
    assert len(samples) == 8
    assert samples[-1]["prompt"] == "Question: One\u2028two\u0085three?\nAnswer:"


@pytest.mark.parametrize("task", skills.SKILLS)
def test_all_examples_are_given(write, task):
    """Without them the harness takes the first items asked, with their golds."""
    folder = write("mgsm/exemplars.jsonl", "\n".join(example(n) for n in range(1, 9)))
    asking = skills.config(task, "en", folder)
    samples = asking.get("fewshot_config", {}).get("samples", [])
    assert len(samples) == asking.get("num_fewshot", 0)
    if task == "msvamp":
        assert asking == skills.config("mgsm", "en", folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"language": "en", "id": 8, "question": "Q: a?"}', r"line 2 lacks .* \['answer'\]"),
        ("[1, 2]", "line 2 lacks the columns .'language', 'id', 'question'"),
        ('{"language": "en",', "line 2 is not JSON: .* one object a line"),
    ],
)
def test_a_line_of_examples_that_cannot_be_read_is_named(write, line, message):
    folder = write("mgsm/exemplars.jsonl", f"{example(1)}\n{line}\n")
    with pytest.raises(ValueError, match=rf"exemplars.jsonl cannot be read: {message}"):
        skills.config("mgsm", "en", folder)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, r"row 7 has no value in one of"),
        *((a, ": the answer of example 8 in 'en'") for a in (7, "seven")),
    ],
)
def test_an_example_without_its_label_is_named(write, answer, message):
    rows = [example(n) for n in range(1, 8)] + [example(8, answer=answer)]
    folder = write("mgsm/exemplars.jsonl", "\n".join(rows))
    with pytest.raises(ValueError, match=rf"exemplars.jsonl ?{message}"):
        skills.config("mgsm", "en", folder)


def test_a_file_that_is_cut_off_is_named(tmp_path):
    path = tmp_path / "heldout.jsonl.gz"
    pd.DataFrame({"id": ["1"] * 99}).to_json(path, orient="records", lines=True)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(ValueError, match=r"heldout.jsonl.gz cannot be read"):
        read_table(path, ["id"])


def test_a_folder_below_home_is_found(write, monkeypatch):
    folder = write("mgsm/mgsm_en.tsv", "How many?\t7\n")
    monkeypatch.setenv("HOME", str(folder.parent))
    short = f"~/{folder.name}"
    assert [p.target for p in load_problems("mgsm", "en", data_dir=short)] == ["7"]
    with pytest.raises(FileNotFoundError, match=str(folder)):
        skills.config("mgsm", "en", short)
    assert resolve(f"{short}/model") == str(folder / "model")


@pytest.mark.parametrize(
    ("question", "answer", "message"),
    [
        ("null", '"2 #### 2"', "row 0 has no value in one of .*'question', 'answer'"),
        ("NaN", '"2 #### 2"', "row 0 has no value"),
        ('"2?"', "null", "row 0 has no value"),
        ('["2?"]', '"2 #### 2"', "a value is no text"),
        ('"2?"', "2", "a value is no text"),
        ('"2?"', '"#### Infinity"', "row 0: the gold 'Infinity' is not a number"),
    ],
)
def test_a_value_that_is_missing_or_no_text_is_refused(write, question, answer, message):
    row = f'{{"question": {question}, "answer": {answer}}}\n'
    folder = write("gsm8k/test.jsonl", 2 * row)
    with pytest.raises(ValueError, match=message) as error:
        load_problems("gsm8k", "en", split="test", data_dir=folder)
    assert "test.jsonl" in str(error.value) or "gsm8k in en" in str(error.value)
