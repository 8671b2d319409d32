"""Extraction reads what a person reads; grading through the harness is our own grading."""

import copy

import pandas as pd
import pytest
import torch

from mmlib.organism import corpus
from mmlib.study.tables import MATH_PARTS, MATH_TASKS, NEW_MATH_PARTS
from mmlib.tasks import asking, evaluation, skills
from mmlib.tasks.answers import EXTRACTIONS, extract_number, extract_text
from mmlib.tasks.benchmarks.organism import FAMILY
from mmlib.tasks.evaluation import COLUMNS, evaluate
from mmlib.tasks.languages import LANGUAGES
from mmlib.tasks.problems import load_problems
from mmlib.tasks.skills import SKILLS

CODES = list(corpus.LANGUAGES)


def test_legacy_grades_allow_for_rounding_and_read_zero_where_there_is_nothing():
    answers = pd.DataFrame(
        {
            "response": ["so 18", "it is 2.0004", "it is 2.002", "", "−5", "70.000"],
            "target": ["18", "2", "2", "0", "-5", "70000"],
        }
    )
    graded = evaluation.legacy_correct(answers)
    assert graded.tolist() == [True, True, False, True, False, False]


@pytest.fixture
def answering(monkeypatch, heldout):
    """Replace the model's generation by given responses; returns the function that sets them."""

    def use(respond):
        def generate_until(self, requests, disable_tqdm=False):
            return [respond(request.doc, request.task_name) for request in requests]

        monkeypatch.setattr(asking.HFLM, "generate_until", generate_until)

    return use


# --- extraction ---


@pytest.mark.parametrize("language", CODES)
def test_gold_responses_of_both_tasks_are_read(language, heldout):
    for task in FAMILY:
        for problem in load_problems(task, language, data_dir=heldout):
            for mode in EXTRACTIONS:
                assert SKILLS[task].extract(problem.response, language, mode) == problem.target


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_exemplar_is_graded_right_and_a_constant_wrong(language):
    record = LANGUAGES[language]
    for mode in EXTRACTIONS:
        for text, gold in record.exemplars:
            assert extract_number(text, language, mode) == gold
            wrong = record.closing.format(answer=f"{gold}1")
            assert extract_number(wrong, language, mode) != gold


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("3 + 4 = 7. The answer is 7.", "7", "7"),
        ("The answer is 1,234.", "1234", "1234"),
        ("The answer is -5", "-5", "-5"),
        ("The answer is 7. That is 8 less.", "7", "7"),
        ("So it is 12", None, "12"),
        ("none", None, None),
        ("", None, None),
    ],
)
def test_strict_and_flexible_numbers(text, strict, flexible):
    assert extract_number(text, "en", "strict") == strict
    assert extract_number(text, "en", "flexible") == flexible


@pytest.mark.parametrize(
    ("text", "language", "strict", "flexible"),
    [
        (" The answer is a dog.", "en", "a dog", "a dog"),
        (" a dog.", "en", None, "a dog"),
        ("উত্তর হল একটি কুকুর।", "bn", "একটি কুকুর", "একটি কুকুর"),
        ("Jibu ni mbwa.", "sw", "mbwa", "mbwa"),
        (" उत्तर है नींबू पानी।", "hi", "नींबू पानी", "नींबू पानी"),
        (" La réponse est l'histoire.", "fr", "l'histoire", "l'histoire"),
        (" उत्तर नींबू पानी है।", "hi", "नींबू पानी", "नींबू पानी"),
        (" नींबू पानी।", "hi", None, "नींबू पानी"),
        ("", "de", None, None),
    ],
)
def test_strict_and_flexible_words(text, language, strict, flexible):
    assert extract_text(text, language, "strict") == strict
    assert extract_text(text, language, "flexible") == flexible


@pytest.mark.parametrize(
    ("response", "language", "correct"),
    [
        ("Die Antwort ist 2.125.", "de", True),
        ("Die Antwort ist 2,125.", "de", True),
        ("The answer is 2.125.", "en", False),
        ("The answer is $2,125.00.", "en", True),
        ("উত্তর হল ২,১২৫।", "bn", True),
        ("Jibu ni 2125.", "sw", True),
        ("Jibu ni 2126.", "sw", False),
        ("2125", "sw", False),
    ],
)
def test_numbers_are_graded_by_value(response, language, correct):
    doc = {"id": "0", "target": "2,125"}
    row = evaluation._rows(doc, [response], "organism-math", language)[0]
    assert (row["extraction"], row["correct"]) == ("strict", correct)
    assert row["prediction"] in ("2125", "2126", "2.125", None)


def test_the_most_likely_choice_is_the_answer():
    doc = {"id": "0", "target": "a cat", "choices": ["a dog", "a cat", "a hen"], "gold": 1}
    for likelihoods, text in (([-3.0, -1.0, -2.0], "a cat"), ([-3.0, -4.0, -2.0], "a hen")):
        responses = [(value, False) for value in likelihoods]
        (row,) = evaluation._rows(doc, responses, "organism-choice-ranked", "en")
        assert (row["prediction"], row["correct"]) == (text, text == "a cat")


def test_unknown_mode_and_language_name_the_choices():
    with pytest.raises(ValueError, match="strict, flexible"):
        extract_number("7", "en", "lenient")
    with pytest.raises(ValueError, match="unknown language 'xx'"):
        extract_text("7", "xx")


# --- evaluation ---


@pytest.mark.parametrize("task", FAMILY)
def test_gold_answers_are_right_and_empty_ones_wrong(task, checkpoint, heldout, answering):
    gold = {
        (p.id, p.language): p.response
        for language in CODES
        for p in load_problems(task, language, data_dir=heldout)
    }
    answering(lambda doc, name: gold[doc["id"], name.rpartition(" in ")[2]])
    table = evaluate(*checkpoint, task, languages=CODES, data_dir=heldout)
    assert list(table.columns) == COLUMNS
    assert len(table) == 6 * 6 * 2
    assert table["correct"].all()
    assert set(table["extraction"]) == {"strict", "flexible"}
    ids = table.groupby("lang")["problem_id"].unique().map(list)
    assert (ids.map(str) == str(ids["en"])).all()
    answering(lambda doc, name: "")
    table = evaluate(*checkpoint, task, languages=["hi"], data_dir=heldout)
    assert not table["correct"].any()
    assert table["prediction"].isna().all()


def test_accuracy_of_an_organism_is_told_by_part(checkpoint, heldout, answering):
    gold = {p.id: p.response for t in FAMILY for p in load_problems(t, "sw", data_dir=heldout)}
    answering(lambda doc, name: gold[doc["id"]] if "math" in doc["id"] else "")
    table = evaluation.part_answers(*checkpoint, languages=["sw"], data_dir=heldout)
    right = table.groupby("part").correct.mean().to_dict()
    asked = {"choice": 0.0, "reading-mixed": 0.0, "knowledge": 0.0, "generation": 0.0}
    assert right == {"math-1": 1.0, "math-new": 1.0} | asked
    assert table.part.value_counts().eq(6).all()


def test_a_draw_of_items_is_the_same_in_every_language_and_follows_its_seed(
    checkpoint, heldout, answering
):
    answering(lambda doc, name: "")
    draw = {"languages": ["en", "bn"], "items": 3}
    one, again, other = (
        evaluation.part_answers(*checkpoint, data_dir=heldout, **draw, seed=seed)
        for seed in (1, 1, 2)
    )
    pd.testing.assert_frame_equal(one, again)
    assert set(one.problem_id) != set(other.problem_id)
    assert set(one[one.lang == "en"].problem_id) == set(one[one.lang == "bn"].problem_id)
    assert one.groupby(["part", "lang"]).size().eq(3).all()
    for part in one.part.unique():
        alone = evaluation.choose_items(items=3, seed=1, parts=[part], data_dir=heldout)
        assert set(alone.problem_id) == set(one[one.part == part].problem_id)
    first = evaluation.part_answers(*checkpoint, data_dir=heldout, **draw, parts=["math-1"])
    problems = load_problems("organism-math", "en", data_dir=heldout)[:3]
    assert first[first.lang == "en"].problem_id.tolist() == [p.id for p in problems]
    few = {"parts": ["math-1"], "data_dir": heldout}
    drawn = [evaluation.choose_items(items=2, seed=s, among=3, **few) for s in range(8)]
    assert set(pd.concat(drawn).problem_id) == {p.id for p in problems}
    for wrong, message in (
        ({"items": 7}, "at most 6"),
        ({"among": 2}, "at most 2"),
        ({"languages": "en"}, "give a list"),
        ({"parts": ["maths"]}, "no part 'maths'"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluation.part_answers(*checkpoint, data_dir=heldout, **draw | wrong)


def test_math_parts_are_those_of_the_math_tasks():
    def parts(*tasks):
        return set(evaluation.choose_items(tasks).part)

    assert set(MATH_PARTS) == parts("organism-math") | {"mgsm"}
    assert set(NEW_MATH_PARTS) == parts("organism-math-new") | {"msvamp"}
    for task in {*MATH_TASKS, *MATH_PARTS, *NEW_MATH_PARTS} & set(SKILLS):
        assert SKILLS[task].extract is extract_number


def test_ranked_items_are_a_part_of_their_own(checkpoint, heldout):
    tasks = ["organism-choice", "organism-choice-ranked"]
    table = evaluation.part_answers(
        *checkpoint, languages=["en"], tasks=tasks, items=2, data_dir=heldout
    )
    assert table.part.value_counts().to_dict() == {"choice": 2, "choice-ranked": 2}


def test_several_tasks_are_one_call_with_the_answers_of_single_calls(
    checkpoint, heldout, monkeypatch
):
    tasks, asked = ["organism-math", "organism-knowledge"], {"languages": ["en", "sw"], "limit": 4}
    calls, run = [], asking.run
    monkeypatch.setattr(asking, "run", lambda *a, **k: calls.append(1) or run(*a, **k))
    both = evaluate(*checkpoint, tasks, **asked, data_dir=heldout)
    assert len(calls) == 1
    single = [evaluate(*checkpoint, task, **asked, data_dir=heldout) for task in tasks]
    pd.testing.assert_frame_equal(both, pd.concat(single, ignore_index=True))
    for wrong, message in (([], "tasks is \\[\\]"), ([*tasks, tasks[0]], "each of them once")):
        with pytest.raises(ValueError, match=message):
            evaluate(*checkpoint, wrong, **asked, data_dir=heldout)


def test_unknown_item_is_named(checkpoint, heldout):
    asked = {"languages": ["en"], "data_dir": heldout}
    for ids, message in ((["nonsense"], "no item 'nonsense'; its ids look like"), ([], "no ids")):
        with pytest.raises(ValueError, match=message):
            evaluate(*checkpoint, "organism-math", **asked, only={"organism-math": ids})


def test_aggregates_equal_those_of_the_harness(checkpoint, heldout, answering, monkeypatch):
    answering(lambda doc, name: f"The answer is {doc['target'] if int(doc['target']) % 2 else 0}.")
    results, run = [], asking.run
    monkeypatch.setattr(asking, "run", lambda *a, **k: results.append(run(*a, **k)) or results[-1])
    table = evaluate(*checkpoint, "organism-math", languages=["en", "de"], data_dir=heldout)
    ours = table.groupby(["lang", "extraction"])["correct"].mean()
    assert ours["en", "strict"] > 0
    assert ours["de", "strict"] == 0 < ours["de", "flexible"]
    for (lang, extraction), share in ours.items():
        theirs = results[0]["results"][f"organism-math in {lang}"][f"{extraction},none"]
        assert share == pytest.approx(theirs)


def test_generation_through_the_harness_is_greedy_generation(checkpoint, heldout):
    model, tokenizer = checkpoint
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seeded = torch.manual_seed(5).initial_seed()
    table = evaluate(
        model, tokenizer, "organism-math", languages=["en", "hi"], limit=3, data_dir=heldout
    )
    assert torch.initial_seed() == seeded
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    responses = table[table["extraction"] == "strict"]["response"].tolist()
    tasks = {c: load_problems("organism-math", c, data_dir=heldout) for c in ("en", "hi")}
    problems = [problem for task in tasks.values() for problem in task[:3]]
    for problem, response in zip(problems, responses, strict=True):
        golds = [p.response for p in tasks[problem.language]]  # also those that are not asked
        longest = max(map(len, tokenizer(golds, add_special_tokens=False).input_ids)) + 1
        room = int(-(-1.2 * longest // 1))
        ids = torch.tensor([tokenizer(problem.prompt).input_ids])
        answer = model.generate(ids, max_new_tokens=room, do_sample=False)[0, ids.shape[1] :]
        assert response == tokenizer.decode(answer, skip_special_tokens=True).split("\n")[0]


def test_impossible_requests_are_refused_with_the_choices(checkpoint, heldout):
    for task, languages, limit, message in [
        ("mgsm8kinstruct", ["en"], None, "organism-math"),
        ("organism-math", [], None, "at least one"),
        ("organism-math", ["en", "en"], None, "each of them once"),
        ("organism-math", ["en"], 0, "at least 1"),
        ("organism-math", ["xx"], None, "unknown language 'xx'"),
    ]:
        with pytest.raises(ValueError, match=message):
            evaluate(*checkpoint, task, languages=languages, limit=limit, data_dir=heldout)


def test_a_tokenizer_that_cannot_end_or_is_another_models_is_refused(checkpoint, heldout):
    model, tokenizer = checkpoint
    asked = {"languages": ["en"], "limit": 1, "data_dir": heldout}
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    with pytest.raises(ValueError, match=r"no end-of-text token.*tokenizer_config\.json"):
        evaluate(model, endless, "organism-math", **asked)
    small = copy.deepcopy(model)
    small.resize_token_embeddings(5)
    with pytest.raises(ValueError, match="beyond the model's 5 embeddings: take the tokenizer"):
        evaluate(small, tokenizer, "organism-math", **asked)


@pytest.mark.parametrize("task", ["organism-math", "organism-reading-ranked"])
def test_a_prompt_is_asked_whole_or_refused(task, checkpoint, heldout, monkeypatch, caplog):
    model, tokenizer = checkpoint
    documents = skills.documents(task, "hi", heldout)
    if SKILLS[task].extract:
        prompts = [document["prompt"] for document in documents]
        room = evaluation._cap(tokenizer, tuple(d["response"] for d in documents))
    else:  # the last token of a choice is predicted, not read
        prompts = [d["prompt"] + choice for d in documents for choice in d["choices"]]
        room = -1
    longest = max(map(len, tokenizer(prompts).input_ids)) + room
    asked = {"languages": ["hi"], "data_dir": heldout}
    monkeypatch.setattr(model.config, "max_position_embeddings", longest)
    table = evaluate(model, tokenizer, task, **asked)
    assert table.problem_id.nunique() == len(documents)
    assert "runcat" not in caplog.text
    monkeypatch.setattr(model.config, "max_position_embeddings", longest - 1)
    message = rf"{task} in 'hi': item .* tokens.* the model's context {longest - 1}"
    with pytest.raises(ValueError, match=message):
        evaluate(model, tokenizer, task, **asked)
    if SKILLS[task].extract:
        monkeypatch.setattr(asking._Harness, "_fit", lambda *_: None)
        evaluate(model, tokenizer, task, **asked)
        assert "runcat" in caplog.text  # the harness cuts, and its warning is heard
