"""What is asked is no calibration text: parts of one file, and the benchmarks that have them."""

import json
from collections import Counter

import pandas as pd
import pytest
from test_readers import write_lines

from mmlib.study.pairs import load_pairs
from mmlib.tasks import skills
from mmlib.tasks.benchmarks import gsm8k, ntrex, xquad
from mmlib.tasks.benchmarks.mmlu import STEM
from mmlib.tasks.languages import get_language
from mmlib.tasks.problems import BENCHMARKS, TASKS, calibration, load_problems, read

PARTED = ("gsm8k", "mmlu", "global-mmlu-lite", "ntrex", "xquad")
"""Both parts from one file; RACE has files for both."""
REAL = {
    "gsm8k": (["en", "de", "fr", "hi"], "test", 1319),
    "mmlu": (["en", "de", "fr", "hi"], "validation", 1221),
    "global-mmlu-lite": (["en", "de", "fr", "sw", "bn", "ja", "zh"], "test", 400),
    "ntrex": (list(BENCHMARKS["ntrex"].languages), "test", 1997),
    "xquad": (list(BENCHMARKS["xquad"].languages), "validation", 1190),
}
"""Languages, the owners' split and the rows of its files."""


def parts(task, code, folder):
    """Ids of both parts and of all rows."""
    names = ("heldout", "calibration", REAL[task][1])
    return tuple(read(task, code, name, folder).id.tolist() for name in names)


# --- the real files ---


@pytest.mark.parametrize("task", PARTED)
def test_no_real_row_is_asked_and_calibrated_on_in_any_language(task, real_data):
    codes, _, rows = REAL[task]
    asked, calibrated, whole = parts(task, "en", real_data)
    assert sorted(asked + calibrated) == sorted(whole)
    assert not {*asked} & {*calibrated}
    assert len({*whole}) == len(whole)
    assert len(calibrated) >= 750 or task == "global-mmlu-lite"  # three blocks of 250
    for code in codes[1:]:
        assert parts(task, code, real_data) == (asked, calibrated, whole)
    if task == "global-mmlu-lite":
        path = real_data / task / "global_mmlu_lite_en.jsonl"
        subjects = [json.loads(line)["subject"] for line in path.read_text("utf-8").splitlines()]
        assert len(subjects) == rows
        rows -= sum(subject in STEM for subject in subjects)
    assert len(whole) == rows
    if TASKS[task].documents:
        assert [document["id"] for document in skills.documents(task, "de", real_data)] == asked


def test_real_gsm8k_is_parted_where_mgsm_ends(real_data):
    asked, calibrated, _ = parts("gsm8k", "fr", real_data)
    assert asked == read("mgsm", "fr", "test", real_data).id.tolist()
    assert calibrated == [str(row) for row in range(250, 1319)]


def test_real_documents_and_passages_are_whole(real_data):
    documents = (real_data / "ntrex" / "DOCUMENT_IDS.tsv").read_text().split()
    assert len(documents) == 1997
    assert not {*documents[: ntrex.ASKED]} & {*documents[ntrex.ASKED :]}
    passages = [read("xquad", "hi", part, real_data).article for part in ("heldout", "calibration")]
    assert [part.nunique() for part in passages] == [50, 190]
    assert not {*passages[0]} & {*passages[1]}
    articles = [
        {json.loads(line)["article"]: None for line in lines}
        for lines in _halves(real_data / "xquad" / "xquad_hi.jsonl", 50)
    ]
    assert not articles[0].keys() & articles[1].keys()


def _halves(path, number):
    lines = path.read_text("utf-8").splitlines()
    return lines[:number], lines[number:]


def test_real_sentences_are_parallel_text_and_pairs(real_data):
    drawn = [calibration("ntrex", code, samples=5, data_dir=real_data) for code in ("en", "te")]
    assert drawn[0].ids == drawn[1].ids
    lines = (real_data / "ntrex" / "te.txt").read_text("utf-8").splitlines()
    texts = [lines[int(name.removeprefix("ntrex-"))].strip() for name in drawn[1].ids]
    assert list(drawn[1].texts) == texts
    pairs = load_pairs("ntrex", ["sw", "te"], data_dir=real_data)
    assert pairs.value_counts(["lang", "kind"]).to_dict() == {
        ("sw", "sentence"): 1602,
        ("te", "sentence"): 1602,
    }


def test_real_questions_about_passages(real_data):
    for problem in load_problems("xquad", "es", data_dir=real_data)[:50]:
        assert problem.target in problem.prompt
        assert problem.prompt.endswith("\n\nRespuesta:")
        assert "\ufeff" not in problem.text
    targets = read("xquad", "en", "validation", real_data).target
    assert targets.iloc[0] == "308"


def test_real_common_questions_have_one_answer(real_data):
    golds = {code: read("global-mmlu-lite", code, "test", real_data).gold for code in ("en", "sw")}
    assert (golds["en"] == golds["sw"]).all()
    chinese = read("global-mmlu-lite", "zh", "test", real_data).gold
    assert 0 < (golds["en"] != chinese).sum() <= 7  # as its owners have them


def test_real_race_has_a_file_for_each_part(real_data):
    for task, rows in {"race": 3498, "race-middle": 1436}.items():
        asked, train = (read(task, "en", part, real_data) for part in ("test", "calibration"))
        assert len(asked) == rows
        assert train.article.nunique() == 300
        assert not {*asked.article} & {*train.article}


@pytest.mark.parametrize("code", ["en", "de", "ja"])
def test_real_train_questions_keep_the_numbers_of_the_english_ones(code, real_data):
    rows = read("gsm8k-questions", code, "train", real_data)
    assert len(rows) + rows.attrs["left_out"] == 1500
    assert rows.attrs["left_out"] == {"en": 0, "de": 88, "ja": 1015}[code]
    train = pd.read_json(real_data / "gsm8k" / "train_head2000.jsonl", lines=True)
    train = train.loc[rows.id.str.removeprefix("train-").astype(int)].reset_index()
    assert (rows.english == train.question.str.strip()).mean() > 0.99
    solved = train.answer.str.partition("####")[2].str.strip().str.replace(",", "")
    assert code != "en" or (rows.target != solved).sum() == 47  # the golds of MGSM8KInstruct
    last = rows.english_solution.map(get_language("en").extract_last_number)
    assert (rows.target == last).mean() > 0.9
    assert (rows.solution == ("" if code != "en" else rows.english_solution)).all()


# --- small files in the layout of a folder ---


@pytest.fixture
def folder(tmp_path):
    """Files with as many rows as the parts need, and two more."""
    for code in ("en", "sw"):
        (tmp_path / "ntrex").mkdir(exist_ok=True)
        lines = [f"{code} {row}." for row in range(ntrex.ASKED + 2)]
        (tmp_path / "ntrex" / f"{code}.txt").write_text("\n".join(lines) + "\n", "utf-8")
    questions = [{"id": f"q{n}", "q": f"{n}?", "a": str(n)} for n in range(xquad.ASKED + 2)]
    passages = [{"article": 0, "context": "\ufeff0 … 9", "qas": questions[:-2]}]
    passages += [{"article": 1, "context": "More.", "qas": questions[-2:]}]
    write_lines(tmp_path / "xquad" / "xquad_es.jsonl", passages)
    options = {f"option_{letter}": letter for letter in "abcd"}
    subjects = ["anatomy"] * 6 + ["astronomy"]
    rows = [
        {"sample_id": f"{subject}/{n}", "subject": subject, "question": f"{n}?", "answer": "B"}
        | options
        for n, subject in enumerate(subjects)
    ]
    write_lines(tmp_path / "global-mmlu-lite" / "global_mmlu_lite_sw.jsonl", rows)
    rows = [{"question": f"{n}?", "answer": f"x\n#### {n}"} for n in range(gsm8k.ASKED + 2)]
    write_lines(tmp_path / "gsm8k" / "test.jsonl", rows)
    (tmp_path / "gsm8k-translated").mkdir()
    for code in ("de", "fr", "hi"):
        path = tmp_path / "gsm8k-translated" / f"gsm8k_{code}_test.csv"
        pd.DataFrame(rows).to_csv(path, index=False)
    return tmp_path


@pytest.mark.parametrize(
    ("task", "codes", "last"),
    [
        ("gsm8k", ["en", "de", "fr", "hi"], ["250", "251"]),
        ("ntrex", ["en", "sw"], ["ntrex-395", "ntrex-396"]),
        ("xquad", ["es"], ["q274", "q275"]),
    ],
)
def test_what_stands_behind_the_asked_rows_is_calibration_text(task, codes, last, folder):
    for code in codes:
        asked, calibrated, whole = parts(task, code, folder)
        assert calibrated == last
        assert asked + calibrated == whole
        drawn = calibration(task, code, samples=9, drawing="replacement", data_dir=folder)
        assert {*drawn.ids} <= {*last}
        assert drawn.num_available == 2


def test_common_questions_are_asked_one_in_five(folder):
    asked, calibrated, whole = parts("global-mmlu-lite", "sw", folder)
    assert asked == ["anatomy/0", "anatomy/5"]
    assert calibrated == [f"anatomy/{n}" for n in range(1, 5)]
    assert Counter(whole) == Counter(asked + calibrated)
    (first, _) = skills.documents("global-mmlu-lite", "sw", folder)
    assert (first["target"], first["options"]) == ("B", list("abcd"))


def test_published_mmlu_files_without_choices_are_parted_too(tmp_path):
    (tmp_path / "mmlu").mkdir()
    texts = [f"Question: {n}?\n\nChoices: []\n\nAnswer: {n}" for n in range(6)]
    pd.DataFrame({"qa": texts}).to_csv(tmp_path / "mmlu" / "mmlu_val_en.csv", index=False)
    assert parts("mmlu", "en", tmp_path)[:2] == (["0", "5"], ["1", "2", "3", "4"])
    assert load_problems("mmlu", "en", data_dir=tmp_path)[1].text == texts[5]


def test_a_file_that_is_too_short_for_a_part_is_named(folder):
    for code in ("en", "sw"):
        (folder / "ntrex" / f"{code}.txt").write_text("One.\n", "utf-8")
    assert len(read("ntrex", "sw", "heldout", folder)) == 1
    with pytest.raises(ValueError, match=r"ntrex/sw\.txt has 1 rows, too few .* 'calibration'"):
        calibration("ntrex", "sw", samples=1, data_dir=folder)
    (folder / "ntrex" / "sw.txt").write_text("Moja.\nMbili.\n", "utf-8")
    with pytest.raises(ValueError, match=r"sw\.txt has 2 rows, the English file 1"):
        read("ntrex", "sw", "test", folder)


def test_missing_files_columns_and_languages_are_named(folder):
    with pytest.raises(FileNotFoundError, match=r"ntrex/hi\.txt is not there: put the file of dav"):
        read("ntrex", "hi", "test", folder)
    with pytest.raises(ValueError, match="xquad has no 'fr': choose from en, de, es, hi"):
        read("xquad", "fr", "validation", folder)
    with pytest.raises(ValueError, match="xquad has no split 'test': choose from heldout"):
        read("xquad", "es", "test", folder)
    path = folder / "xquad" / "xquad_es.jsonl"
    write_lines(path, [{"context": "A."}])
    with pytest.raises(ValueError, match=r"line 1 lacks the columns \['qas'\]"):
        read("xquad", "es", "validation", folder)
    write_lines(path, [{"context": "A.", "qas": [{"id": "1", "q": "?"}]}])
    with pytest.raises(ValueError, match=r"xquad_es\.jsonl: a question lacks 'a': it needs id, q"):
        read("xquad", "es", "validation", folder)
    write_lines(folder / "global-mmlu-lite" / "global_mmlu_lite_sw.jsonl", [{"subject": "law"}])
    with pytest.raises(ValueError, match=r"lacks the columns \['sample_id', 'question'"):
        read("global-mmlu-lite", "sw", "test", folder)


TRAIN = {"i": 7, "gold": "1,002", "answer_en": "<<1,000+2>>\n#### 1,002", "q_en": "1,000 and 2?"}


def test_train_questions_with_other_numbers_are_left_out_and_counted(folder):
    questions = ["1.000 und 2?", "1.000 und 3?", "Tausend und 2?"]
    path = folder / BENCHMARKS["gsm8k-questions"].sources[0].path
    write_lines(path, [TRAIN | {"i": 7 + n, "q_de": text} for n, text in enumerate(questions)])
    rows = read("gsm8k-questions", "de", "train", folder)
    assert rows.attrs["left_out"] == 2
    assert rows.drop(columns="id").values.tolist() == [
        ["1.000 und 2?", "1,000 and 2?", "<<1,000+2>>", "1002", ""]
    ]
    assert rows.id.tolist() == ["train-7"]
    (pair,) = load_pairs("gsm8k-questions", ["de"], data_dir=folder).itertuples()
    assert (pair.kind, pair.text, pair.english) == ("question", "1.000 und 2?", "1,000 and 2?")
    english = load_problems("gsm8k-questions", "en", data_dir=folder, split="train")
    assert [problem.id for problem in english] == ["train-7", "train-8", "train-9"]
    assert english[0].response == "\n<<1,000+2>>\nThe answer is 1002"
    with pytest.raises(ValueError, match=r"questions_1500\.jsonl .*lacks the columns \['q_fr'\]"):
        read("gsm8k-questions", "fr", "train", folder)
    with pytest.raises(ValueError, match="gsm8k-questions has no split 'test'"):
        read("gsm8k-questions", "de", "test", folder)
