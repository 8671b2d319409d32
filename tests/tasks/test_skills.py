"""Prompts are those of the papers and of the harness; ranked choices hold one right text."""

import json
import re
import unicodedata

import pytest
import torch

from mmlib.organism import corpus
from mmlib.tasks import answers, skills
from mmlib.tasks.evaluation import evaluate
from mmlib.tasks.problems import load_problems

CODES = list(corpus.LANGUAGES)


@pytest.mark.parametrize("language", ["en", "de", "fr", "hi"])
def test_the_eight_examples_are_the_harness_own_and_our_translations(language):
    shots = skills.config("gsm8k", language)["fewshot_config"]["samples"]
    golds = ["6", "5", "39", "8", "9", "29", "33", "8"]
    for mode in answers.EXTRACTIONS:
        assert [answers.extract_number(s["target"], language, mode) for s in shots] == golds


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("The answer is: 18", 18),
        ("so 1,234 apples", 1234),
        ("1,234,567.5", 1234567.5),
        ("-5", 5),  # the sign is lost
        ("2,5", 25),  # a decimal comma
        ("70.000", 70),  # dots between thousands
        ("3/4", 4),
        ("18 (in 2 days)", 2),  # what comes last wins
        ("", 0),
        ("none", 0),
        ("उत्तर २,१२५ है", 2125),
        ("উত্তর ১৮", 18),
    ],
)
def test_the_published_extractor_with_its_faults(text, read):
    assert answers.legacy_number(text) == read


def test_translations_of_the_examples_keep_their_numbers():
    english = skills.config("gsm8k", "en")["fewshot_config"]["samples"]
    words = {"five": "5", "two": "2", "nine": "9"}
    for language in ("de", "fr", "hi"):
        for shot, other in zip(
            english, skills.config("gsm8k", language)["fewshot_config"]["samples"], strict=True
        ):
            for word, digit in words.items():
                shot = {k: re.sub(rf"\b{word}\b", digit, v) for k, v in shot.items()}
            ours = set(re.findall(r"\d+", other["question"]))
            theirs = set(re.findall(r"\d+", shot["question"]))
            spelled = {"8": set("5"), "9": set("25"), "29": set("95")}  # numbers as words
            gold = answers.extract_number(shot["target"], "en")
            assert ours <= theirs
            assert theirs - ours <= spelled.get(gold, set())


def prompts(model, tokenizer, task, language, data_dir, monkeypatch, limit=2):
    """What the harness sends to the model, and the settings of its generation."""
    seen = []

    def generate_until(self, requests, disable_tqdm=False):
        seen.extend(request.args for request in requests)
        return ["" for _ in requests]

    # What is sent is looked at here, whether or not the small model's context has room for it.
    monkeypatch.setattr("mmlib.tasks.asking._Harness.generate_until", generate_until)
    evaluate(model, tokenizer, task, languages=[language], limit=limit, data_dir=data_dir)
    return seen


@pytest.mark.parametrize(("language", "gap", "between"), [("en", "\n", "\n\n"), ("hi", "\n\n", 3)])
def test_gsm8k_is_asked_as_published(
    language,
    gap,
    between,
    checkpoint,
    real_data,
    monkeypatch,
):
    between = between if isinstance(between, str) else "\n" * between
    sent = prompts(*checkpoint, "gsm8k", language, real_data, monkeypatch)
    shots = skills.config("gsm8k", language)["fewshot_config"]["samples"]
    question = load_problems("gsm8k", language, data_dir=real_data)[1]
    told = "".join(f"Q: {s['question']}{gap}A: {s['target']}{between}" for s in shots)
    text, settings = sent[1]
    assert text.startswith(f"{told}Q: ")
    asked = text.removeprefix(f"{told}Q: ").removesuffix(f"{gap}A:")
    assert asked in question.prompt
    assert settings["until"] == ["Q:", "</s>", "<|im_end|>"]
    assert not settings["do_sample"]


@pytest.mark.parametrize("task", ["mgsm", "msvamp"])
def test_mgsm_and_msvamp_are_asked_in_the_language_of_the_question(
    task,
    checkpoint,
    real_data,
    monkeypatch,
):
    sent = prompts(*checkpoint, task, "bn", real_data, monkeypatch)
    lines = (real_data / "mgsm" / "exemplars.jsonl").read_text(encoding="utf-8").splitlines()
    own = [row for row in map(json.loads, lines) if row["language"] == "bn"]
    text, settings = sent[0]
    for row in own:
        cue, _, solution = row["answer"].partition(":")
        assert f"{row['question']}\n{cue}: {solution.strip()}\n\n" in text
    assert text.endswith(f"\n{cue}:")
    assert settings["until"][0] == own[0]["question"].partition(":")[0] + ":"
    assert settings["max_gen_toks"] == 300
    with pytest.raises(FileNotFoundError, match="eight examples"):
        skills.config(task, "bn")


@pytest.mark.parametrize("language", CODES)
def test_ranked_math_offers_the_options_of_the_question(language, heldout):
    problems = {p.id: p for p in load_problems("organism-choice", language, data_dir=heldout)}
    for document in skills.documents("organism-choice-ranked", language, heldout):
        problem = problems[document["id"]]
        results = [answers.extract_number(text, language) for text in document["choices"]]
        assert results[document["gold"]] == problem.target
        assert len(set(results)) == 4
        assert all(result in problem.prompt for result in results)
        for text, result in zip(document["choices"], results, strict=True):
            steps = text.split("=")
            assert steps[:-1] == problem.response.split("=")[:-1]
            assert set(re.findall(r"\d+", steps[-1])) == {result}


@pytest.mark.parametrize("language", CODES)
def test_ranked_reading_offers_what_stands_in_the_passage(language, heldout):
    for document in skills.documents("organism-reading-ranked", language, heldout):
        words = [answers.extract_text(text, language) for text in document["choices"]]
        for word in words:  # not the end of another word; vowel signs are marks (M)
            starts = [m.start() for m in re.finditer(re.escape(word), document["prompt"])]
            kinds = [unicodedata.category(document["prompt"][start - 1])[0] for start in starts]
            assert set(kinds) - set("LM")
        assert len(set(words)) == len(words)


def test_ranking_takes_the_text_with_the_largest_log_likelihood(checkpoint, heldout):
    model, tokenizer = checkpoint
    task, options = "organism-choice-ranked", {"limit": 4, "data_dir": heldout}
    table = evaluate(model, tokenizer, task, languages=["en", "bn"], **options)
    assert set(table.extraction) == {"likelihood"}
    for row in table.itertuples():
        document = next(
            d for d in skills.documents(task, row.lang, heldout) if d["id"] == row.problem_id
        )
        start = tokenizer(document["prompt"]).input_ids
        sums = []
        for text in document["choices"]:
            end = tokenizer(text, add_special_tokens=False).input_ids
            with torch.no_grad():
                logits = model(torch.tensor([start + end])).logits[0].float().log_softmax(-1)
            rows = range(len(start) - 1, len(start) + len(end) - 1)
            sums.append(float(logits[list(rows), end].sum()))
        best = max(range(len(sums)), key=sums.__getitem__)
        assert row.prediction == document["choices"][best]
        assert row.correct == (best == document["gold"])


def test_race_asks_the_last_question_of_a_passage(tmp_path):
    (tmp_path / "race").mkdir()
    rows = "example_id,article,question,options,answer\n"
    rows += "high1,Text.,First?,\"['a', 'b', 'c', 'd']\",B\n"
    rows += "high1,Text.,The boy is  _  .,\"['w', 'x', 'y', 'z']\",C\n"
    rows += "high1,Text.,Last?,\"['e', 'f', 'g', 'h']\",A\n"
    rows += "high2,Other.,Only?,\"['i', 'j', 'k', 'l']\",D\n"
    (tmp_path / "race" / "race_en_high_test.csv").write_text(rows)
    first, second = skills.documents("race", "en", tmp_path)
    assert first["prompt"] == "Article: Text.\n\nQuestion: First?\nAnswer: b\nThe boy is y\nLast?"
    assert (first["choices"][first["gold"]], second["choices"][second["gold"]]) == ("e", "l")


@pytest.mark.parametrize("language", ["en", "de", "hi"])
def test_mmlu_is_asked_with_letters(language, real_data):
    documents = skills.documents("mmlu", language, real_data)
    assert len(documents) == 245  # every fifth, the others are calibration text
    for document in documents:
        assert (
            document["options"][document["gold"]]
            == document["options"]["ABCD".index(document["target"])]
        )
        assert len(document["options"]) == 4
    assert [d["gold"] for d in documents] == [
        d["gold"] for d in skills.documents("mmlu", "en", real_data)
    ]
