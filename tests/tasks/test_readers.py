"""Every loader on the real files, and on small ones in the layouts of folder and hub."""

import json
import re

import pandas as pd
import pytest
from task_rows import AYA_HUB, INSTRUCT, RACE, ROWS

from mmlib.study.pairs import load_pairs
from mmlib.tasks import skills
from mmlib.tasks.benchmarks.mmlu import STEM
from mmlib.tasks.languages import LANGUAGES, get_language
from mmlib.tasks.problems import BENCHMARKS, calibration, load_problems, read
from mmlib.tasks.records import listed, right_option


def targets(task, code, folder, **options):
    return [problem.target for problem in load_problems(task, code, data_dir=folder, **options)]


# --- the real files ---


@pytest.mark.parametrize("code", ["en", "de", "fr", "hi"])
def test_real_gsm8k_and_mmlu(real_data, code):
    problems = load_problems("gsm8k", code, data_dir=real_data, split="test")
    assert len(problems) == 1319
    golds = [problem.target for problem in problems]
    assert golds == targets("gsm8k", "en", real_data, split="test")
    assert [row for row, gold in enumerate(golds) if gold.startswith("-")] == [489, 1113]
    language = get_language(code)
    assert [language.extract_answer(problem.text) for problem in problems] == golds
    mmlu = load_problems("mmlu", code, data_dir=real_data, split="validation")
    assert len(mmlu) == 1221
    raw = pd.read_csv(real_data / "mmlu" / f"mmlu_val_{code}.csv")
    assert [problem.text for problem in mmlu] == raw.qa.tolist()
    labels = {"en": "Answer:", "de": "Antwort:", "fr": "Réponse:", "hi": "उत्तर:"}
    assert all(p.prompt.endswith(f"\n\n{labels[code]}") and p.target for p in mmlu)
    assert not set(raw.subject) & set(STEM)
    assert raw.subject.nunique() == 57 - len(STEM)


@pytest.mark.parametrize("code", BENCHMARKS["mgsm"].languages)
def test_real_mgsm_is_the_first_250_problems_of_gsm8k(real_data, code):
    problems = load_problems("mgsm", code, data_dir=real_data)
    assert len(problems) == 250
    gsm8k = load_problems("gsm8k", "en", data_dir=real_data)
    assert [(p.id, p.target) for p in problems] == [(p.id, p.target) for p in gsm8k]
    assert {"2125", "114200", "276000", "5600"} <= {p.target for p in problems}
    if code == "en":
        assert [p.prompt for p in problems] == [p.prompt for p in gsm8k]
    language = get_language(code)
    assert [language.extract_answer(p.response) for p in problems] == [p.target for p in gsm8k]


@pytest.mark.parametrize("code", BENCHMARKS["msvamp"].languages)
def test_real_msvamp_has_one_gold_in_all_languages(real_data, code):
    golds = targets("msvamp", code, real_data)
    assert len(golds) == 1000
    assert golds == targets("msvamp", "en", real_data)


def test_real_translations_are_parallel_to_mgsm(real_data):
    """The numbers of a question survive both translations; golds alone would not show a shift."""
    ours = load_problems("gsm8k", "de", data_dir=real_data)
    human = load_problems("mgsm", "de", data_dir=real_data)

    def numbers(problem):
        return set(re.findall(r"\d+", problem.prompt))

    def shared(pairs):
        return sum(len(numbers(a) & numbers(b)) / max(1, len(numbers(b))) for a, b in pairs) / 249

    assert shared(zip(ours, human, strict=True)) > 0.8  # some write 3, some drei
    assert shared(zip(ours, human[1:], strict=False)) < 0.4


@pytest.mark.parametrize("code", ["en", "de", "hi"])
def test_the_layout_of_the_hub_is_that_of_the_published_files(real_data, code):
    table = pd.read_csv(real_data / "mmlu" / f"mmlu_val_{code}.csv", dtype=str)
    same = 0
    for row in table.itertuples():
        choices = listed(row.choices, "file", row.Index)
        answer = choices[right_option(choices, row.answer, "file", row.Index)]
        same += "".join(LANGUAGES[code].choice_problem(row.question, choices, answer)) == row.qa
    assert same > (0.98 if code == "en" else 0.9) * len(table)  # texts were corrected by hand


@pytest.mark.parametrize("code", ["de", "hi"])
def test_rows_are_paired_by_their_calculations_where_some_are_missing(real_data, code, tmp_path):
    """The real test files, as a train split that lacks two translated rows."""
    english = (real_data / "gsm8k" / "test.jsonl").read_text(encoding="utf-8")
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "train.jsonl").write_text(english, encoding="utf-8")
    file = f"gsm8k-translated/gsm8k_{code}_test.csv"
    whole = pd.read_csv(real_data / file, dtype=str, keep_default_na=False)
    path = tmp_path / file.replace("test", "train")
    path.parent.mkdir()
    whole.drop([400, 1000]).to_csv(path, index=False)
    problems = load_problems("gsm8k", code, data_dir=tmp_path, split="train")
    rows = [int(problem.id.removeprefix("train-")) for problem in problems]
    assert len(rows) >= 1310
    assert not {400, 1000} & set(rows)
    cue = LANGUAGES[code].word_problem("", "", "")[0].split()[-1]
    for row, problem in zip(rows, problems, strict=True):
        assert whole.question[row].strip() in problem.prompt
        assert cue in problem.prompt
    golds = targets("gsm8k", "en", real_data, split="test")
    assert [problem.target for problem in problems] == [golds[row] for row in rows]


# --- small files in the layout of a folder ---


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")


MSVAMP = {
    "English": [("Two and six?", "8.0"), ("Half of one?", "0.5")],
    "Swahili": [("Mbili na sita?", "8.0"), ("Nusu ya moja?", "0.5")],
    "Bengali": [("দুই আর ছয়?", "8.0"), ("এক?", "1.0")],
    "Thai": [("สอง?", "8.0")],
}


@pytest.fixture
def folder(tmp_path):
    for name, rows in MSVAMP.items():
        lines = [{"m_query": question, "response": gold} for question, gold in rows]
        write_lines(tmp_path / "msvamp" / f"test_{name}.json", lines)
    write_lines(tmp_path / "mgsm8kinstruct" / "MGSM8KInstruct_Parallel.json", INSTRUCT)
    (tmp_path / "race").mkdir()
    table = pd.DataFrame(RACE, columns=["example_id", "article", "question", "options", "answer"])
    table.to_csv(tmp_path / "race" / "race_fr_high_test.csv", index=False)
    (tmp_path / "mgsm").mkdir()
    for code, rows in {"en": 'A "b\t2,125\nC\t5\n', "de": "A\t2,125\nC\t6\n"}.items():
        (tmp_path / "mgsm" / f"mgsm_{code}.tsv").write_text(rows, "utf-8")
    return tmp_path


def test_msvamp(folder):
    first, second = load_problems("msvamp", "sw", data_dir=folder)
    assert (first.prompt, first.response) == (
        "Swali: Mbili na sita?\nJibu la Hatua kwa Hatua:",
        "\nJibu ni 8",
    )
    assert (second.id, second.target) == ("msvamp-1", "0.5")
    with pytest.raises(
        ValueError, match=r"test_Bengali.*row 1 has the gold 1, the English row 0\.5"
    ):
        load_problems("msvamp", "bn", data_dir=folder)
    with pytest.raises(ValueError, match=r"test_Thai.* has 1 rows, the English file 2"):
        load_problems("msvamp", "th", data_dir=folder)
    with pytest.raises(ValueError, match="msvamp has no 'hi': choose from bn, de, en"):
        load_problems("msvamp", "hi", data_dir=folder)
    with pytest.raises(FileNotFoundError, match=r"test_German\.json is not there: put the file of"):
        load_problems("msvamp", "de", data_dir=folder)


def test_mgsm_golds_and_stray_quotes(folder):
    problems = load_problems("mgsm", "en", data_dir=folder)
    assert [p.target for p in problems] == ["2125", "5"]
    assert problems[0].prompt.startswith('Q: A "b\n')
    with pytest.raises(ValueError, match=r"mgsm_de\.tsv is not parallel .*row 1 has the gold 6"):
        load_problems("mgsm", "de", data_dir=folder)
    (folder / "mgsm" / "mgsm_en.tsv").write_text("A\tmany\n")
    with pytest.raises(ValueError, match=r"mgsm_en\.tsv row 0: the gold 'many' is not a number"):
        load_problems("mgsm", "en", data_dir=folder)


def test_mgsm8kinstruct_rows_are_parallel_where_their_gold_is_the_english_one(folder):
    def ids(code):
        rows = load_problems("mgsm8kinstruct", code, data_dir=folder, split="train")
        return [(p.id, p.target) for p in rows]

    assert ids("en") == ids("de") == [("instruct-0", "4"), ("instruct-1", "1125")]
    assert ids("bn") == [("instruct-0", "4"), ("instruct-bn-row-5", "1")]
    first = load_problems("mgsm8kinstruct", "de", data_dir=folder, split="train")[0]
    assert first.text == (
        "F: Zwei und zwei? A: Denken wir Schritt für Schritt. 2+2=4 Die Antwort ist 4"
    )
    assert calibration("mgsm8kinstruct", "de", samples=2, data_dir=folder).texts


def test_mgsm8kinstruct_in_another_order_or_form_is_refused(folder):
    path = folder / "mgsm8kinstruct" / "MGSM8KInstruct_Parallel.json"
    write_lines(path, INSTRUCT[1:3] + INSTRUCT[4:] + INSTRUCT[:1])
    with pytest.raises(ValueError, match="fewer than half of the 2 rows in 'de'"):
        read("mgsm8kinstruct", "de", "train", folder)
    write_lines(path, [*INSTRUCT, {"prompt": "Hello", "chosen": "4"}])
    with pytest.raises(ValueError, match="row 6: no language before"):
        read("mgsm8kinstruct", "en", "train", folder)
    write_lines(path, [{"prompt": "Hello"}])
    with pytest.raises(ValueError, match=r"lacks the columns \['chosen'\]"):
        read("mgsm8kinstruct", "en", "train", folder)


def test_race_from_a_folder(folder):
    first, second = load_problems("race", "fr", data_dir=folder)
    assert first.text == (
        "A dog ran.\n\nQuestion: Who ran?\n\nChoix: ['a cat', 'a dog', 'I', 'you']\n\n"
        "Réponse: a dog"
    )
    assert (first.id, second.id, second.target) == ("high1.txt-0", "high1.txt-1", "ran")
    with pytest.raises(FileNotFoundError, match="race_fr_high_train"):
        calibration("race", "fr", samples=1, seed=1, data_dir=folder)
    with pytest.raises(FileNotFoundError, match="race_de_middle_validation"):
        load_problems("race-middle", "de", data_dir=folder, split="validation")
    path = folder / "race" / "race_fr_high_test.csv"
    path.write_text(path.read_text().replace(",B", ",E"))
    with pytest.raises(ValueError, match="row 0: the answer 'E' is none of"):
        load_problems("race", "fr", data_dir=folder)


def test_global_mmlu_from_a_folder(folder):
    rows = pd.DataFrame(ROWS["CohereLabs/Global-MMLU", "sw", "test"])
    path = folder / "global-mmlu" / "sw" / "test-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    rows.to_parquet(path)
    (problem,) = load_problems("mmlu", "sw", data_dir=folder, split="test")
    assert problem.text == "Swali: Q\n\nChaguo: ['a', 'b', 'c', 'd']\n\nJibu: b"
    with pytest.raises(FileNotFoundError, match="mmlu_val_sw"):
        load_problems("mmlu", "sw", data_dir=folder)


def test_gsm8k_is_calibrated_on_train_where_the_folder_has_it(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        rows = [{"question": f"{split} {n}?", "answer": f"x\n#### {n}"} for n in range(count)]
        write_lines(tmp_path / "gsm8k" / f"{split}.jsonl", rows)
    options = {"samples": 2, "seed": 1, "data_dir": tmp_path, "drawing": "once"}
    drawn = calibration("gsm8k", "en", **options)
    assert all(name.startswith("train-") for name in drawn.ids)
    assert drawn.num_available == 3
    assert {p.id for p in load_problems("gsm8k", "en", data_dir=tmp_path)} == {"0", "1"}
    assert calibration("gsm8k", "en", **options, split="test").num_available == 2
    (tmp_path / "gsm8k" / "train.jsonl").unlink()
    with pytest.raises(ValueError, match=r"test\.jsonl has 2 rows, too few .* 'calibration'"):
        calibration("gsm8k", "en", **options)


def test_orca_math_and_aya_from_a_folder(tmp_path):
    for task, name in (("orca-math", "microsoft/orca-math-word-problems-200k"), ("aya", AYA_HUB)):
        path = tmp_path / task / "train-00000-of-00001.parquet"
        path.parent.mkdir()
        pd.DataFrame(ROWS[name, None, "train"]).to_parquet(path)
    first, second = load_problems("orca-math", "en", data_dir=tmp_path, split="train")
    assert first.prompt.startswith("Q: Two and two?\n")
    assert first.response == "\nIt is easy. 2 + 2 = 4 dogs.\nThe answer is 4"
    assert second.target == "1125"
    texts = [p.text for p in load_problems("aya", "sw", data_dir=tmp_path, split="train")]
    assert texts == ["Habari?\n\nNzuri.", "Sema.\n\nNdiyo."]
    with pytest.raises(ValueError, match=r"train-00000-of-00001\.parquet has no rows in 'ben'"):
        load_problems("aya", "bn", data_dir=tmp_path, split="train")
    with pytest.raises(ValueError, match="orca-math has no 'sw'"):
        load_problems("orca-math", "sw", data_dir=tmp_path, split="train")


def test_train_rows_that_cannot_be_paired_are_refused(tmp_path):
    rows = [{"question": f"{n}?", "answer": f"<<{n}+1={n + 1}>>\n#### {n + 1}"} for n in range(9)]
    write_lines(tmp_path / "gsm8k" / "train.jsonl", rows)
    path = tmp_path / "gsm8k-translated" / "gsm8k_hi_train.csv"
    path.parent.mkdir()
    translated = pd.DataFrame(rows).iloc[[0, 1, 3, 4, 5, 6, 8]]
    translated.to_csv(path, index=False)
    problems = load_problems("gsm8k", "hi", data_dir=tmp_path, split="train")
    assert [p.id for p in problems] == [f"train-{n}" for n in (0, 1, 3, 4, 5, 6, 8)]
    translated.assign(answer="?").to_csv(path, index=False)
    with pytest.raises(ValueError, match="has 7 rows, the English file 9: which rows are missing"):
        load_problems("gsm8k", "hi", data_dir=tmp_path, split="train")


def common_sense(stem, answer, code="de"):
    """A row as the owners' files have it; those of the test split have no answer."""
    options = [{"label": letter, "text": f"{code} {letter}"} for letter in "ABCDE"]
    row = {"id": f"id-{stem}", "lang": code, "question": {"stem": stem, "choices": options}}
    return row | {"answerKey": answer}


def test_common_sense_questions_and_sentences(tmp_path):
    for code in ("en", "de"):
        rows = [common_sense("x?", "E", code), common_sense("y?", "B", code)]
        write_lines(tmp_path / "xcsqa" / code / "dev.jsonl", rows)
        write_lines(tmp_path / "xcsqa" / code / "test.jsonl", [common_sense("z?", "", code)])
    first, second = read("xcsqa", "de", "heldout", tmp_path).itertuples()
    assert (first.id, first.gold, first.target, second.gold) == ("id-x?", 4, "de E", 1)
    asked = read("xcsqa", "de", "calibration", tmp_path)
    assert list(asked.columns) == ["id", "question", "choices"]
    (problem,) = load_problems("xcsqa", "de", data_dir=tmp_path, split="calibration")
    assert "z?" in problem.prompt
    assert problem.target == ""
    document = skills.documents("xcsqa", "de", tmp_path)[0]
    assert (document["target"], document["choices"]) == ("E", list("ABCDE"))
    (pair,) = load_pairs("xcsqa", ["de"], data_dir=tmp_path).itertuples()
    assert (pair.kind, pair.text, pair.english) == ("question", "z?", "z?")

    (tmp_path / "flores" / "dev").mkdir(parents=True)
    for code, text in {"eng_Latn": "One.\nTwo.", "swh_Latn": "Moja.\nMbili."}.items():
        (tmp_path / "flores" / "dev" / f"{code}.dev").write_text(text + "\n", "utf-8")
    pairs = load_pairs("flores", ["sw"], data_dir=tmp_path)
    assert pairs[["kind", "text", "english"]].values.tolist() == [
        ["sentence", "Moja.", "One."],
        ["sentence", "Mbili.", "Two."],
    ]
