"""The corpus is parallel and right in every language, and held-out items stay held out."""

import dataclasses
import random
import re

import numpy as np
import pandas as pd
import pytest

from mmlib.organism import corpus
from mmlib.organism.corpus import LANGUAGES, Item, Mix, draw, language_file, render
from mmlib.tasks.languages import get_language

STRUCTURE = language_file("structure")
SIZES = {
    "heldout": {"math-1": 60, "math-2": 60, "math-3": 60, "math-new": 60, "choice": 60}
    | {"reading-same": 60, "reading-mixed": 60, "knowledge": 300, "generation": 60},
    "calibration": {"math": 150, "reading": 100, "generation": 100, "choice": 50},
}


@pytest.fixture(scope="module")
def training():
    rows = pd.DataFrame(corpus.training_rows(Mix(documents=4_000)))
    first = pd.DataFrame(rows["turns"].str[0].tolist(), columns=["prompt", "response"])
    return rows.join(first)


@pytest.fixture(scope="module")
def frozen():
    return {split: corpus.frozen(split, sizes) for split, sizes in SIZES.items()}


def test_romanised_hindi_is_hindi_in_latin_letters(frozen):
    hindi, latin = (frozen["heldout"].query(f"lang == '{code}'") for code in ("hi", "hi-Latn"))
    assert not len(latin), "the frozen files of the family have its six languages only"
    sizes = {"math-1": 20, "reading-mixed": 20, "generation": 20}
    made = corpus.frozen("heldout", sizes, languages=["hi", "hi-Latn"]).set_index(["lang", "id"])
    hindi, latin = made.loc["hi"], made.loc["hi-Latn"]
    assert list(hindi.index) == list(latin.index)
    assert not latin.prompt.str.contains(r"[\u0900-\u0963\u0966-\u097f]").any()
    numbers = [made.loc[code].prompt.str.findall(r"\d+").to_list() for code in ("hi", "hi-Latn")]
    assert numbers[0] == numbers[1]
    math = latin.task == "math"
    record = get_language("hi-Latn")
    read = [record.extract_answer(text) for text in latin[math].response]
    assert read == latin[math].target.to_list() == hindi[math].target.to_list()
    # By hand, from the table of ISO 15919.
    assert language_file("hi-Latn")["closing"] == "uttara {x} hai।"
    assert language_file("hi-Latn")["names"]["m"][:3] == ["rāma", "mōhana", "ravi"]


def test_same_mix_same_corpus_and_another_seed_another(training):
    again = pd.DataFrame(corpus.training_rows(Mix(documents=4_000)))
    pd.testing.assert_frame_equal(training[again.columns], again)
    other = pd.DataFrame(corpus.training_rows(Mix(documents=4_000, seed=2)))
    assert (training["turns"] != other["turns"]).mean() > 0.9


def test_shares_of_languages_and_tasks(training):
    for column, shares in (("lang", Mix().languages), ("task", Mix().tasks)):
        found = training[column].value_counts(normalize=True)
        for name, share in shares.items():
            assert found[name] == pytest.approx(share / sum(shares.values()), abs=0.03)
    by_language = pd.crosstab(training["lang"], training["task"], normalize="index")["math"]
    assert by_language.to_numpy() == pytest.approx(Mix().tasks["math"], abs=0.08)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_share_of_foreign_math(share):
    rows = pd.DataFrame(corpus.training_rows(Mix(documents=3_000, foreign_math=share)))
    foreign = rows["lang"] != "en"
    math = rows["task"].isin(["math", "choice"])
    assert foreign[math].mean() == pytest.approx(share, abs=0.04)
    assert foreign[~math].mean() == pytest.approx(5 / 6, abs=0.04)
    if share:
        assert set(rows["lang"][math & foreign]) == set(LANGUAGES[1:])


def test_held_out_items_share_nothing_with_training(training, frozen):
    heldout = frozen["heldout"]
    memory = heldout["task"] == "knowledge"
    keys = set(heldout["key"][~memory])
    assert not keys & set(training["key"])
    assert not keys & set(frozen["calibration"]["key"])
    asked = set(heldout["prompt"][memory])
    assert not asked & set(training["prompt"])
    new = set(heldout["template"][heldout["task"] == "math-new"])
    assert new <= {f"{family}/{n}" for family in STRUCTURE["families"] for n in (11, 12)}
    assert len(new) > 15
    everywhere = pd.concat(
        [training, frozen["calibration"], heldout[heldout["task"] != "math-new"]]
    )
    assert not new & set(everywhere["template"])


def test_a_choice_counts_as_its_problem():
    """An item seen as multiple choice must not be held out as an open question, or the reverse."""
    item = draw(random.Random(1), "choice", heldout=True)
    assert corpus.is_heldout(dataclasses.replace(item, task="math", wording=()))


def test_frozen_items_are_parallel_with_equal_numbers(frozen):
    for table in frozen.values():
        for task, rows in table.groupby("task"):
            ids = {lang: part["id"].tolist() for lang, part in rows.groupby("lang")}
            assert set(ids) == set(LANGUAGES)
            assert all(i == ids["en"] and len(set(i)) == len(i) for i in ids.values())
            if task in ("math", "math-new", "choice"):
                numbers = rows["prompt"].str.findall(r"\d+").map(sorted).map(str)
                assert (rows.assign(numbers=numbers).groupby("id")["numbers"].nunique() == 1).all()
                assert (rows.groupby("id")["target"].nunique() == 1).all()


def test_parts_take_turns(frozen):
    math = frozen["heldout"].query("task == 'math' and lang == 'en'")
    assert math["part"].head(30).value_counts().to_dict() == dict.fromkeys(
        ["math-1", "math-2", "math-3"], 10
    )


def calculated(response):
    """Check every written calculation of a response and return its last result."""
    text = response.replace("×", "*").replace("÷", "/")
    steps = re.findall(r"(\d+) ([-+*/]) (\d+) = (?:<<(\d+)([-+*/])(\d+)=(\d+)>>)?(\d+)", text)
    for left, sign, right, *marked, result in steps:
        assert eval(f"{left} {sign} {right}") == int(result)
        assert marked in ([left, sign, right, result], [""] * 4)
    return len(steps), steps[-1][-1]


def test_gold_is_the_result_of_the_written_calculation(training, frozen):
    rows = pd.concat([training, *frozen.values()])
    for row in rows[rows["task"].isin(["math", "math-new"])].itertuples():
        steps, result = calculated(row.response)
        assert result == row.target == re.findall(r"\d+", row.response)[-1]
        assert steps == corpus.tier(row.template)
        low, high = STRUCTURE["results"][steps]
        assert low <= int(result) <= high


def test_the_right_choice_is_the_result_and_stands_anywhere_among_four(training):
    places = []
    for row in training[training["task"] == "choice"].itertuples():
        options = re.search(r"((?:\d+, ){3}\d+)[.।]\n", row.prompt)[1].split(", ")
        assert len(set(options)) == 4
        assert row.target == calculated(row.response)[1]
        places.append(options.index(row.target))
    assert np.bincount(places) / len(places) == pytest.approx([0.25] * 4, abs=0.1)


def words_of(language):
    """Every word that answers a reading question, by its kind."""
    texts = language_file(language)
    kinds = {name: relation["values"] for name, relation in texts["reading"].items()}
    return kinds | {"person": [corpus.person(texts, index)["many"] for index in range(32)]}


@pytest.mark.parametrize("language", LANGUAGES)
def test_reading_answers_stand_in_the_passage_among_four_others(frozen, language):
    kinds = words_of(language)
    for table in frozen.values():
        rows = table[(table["task"] == "reading") & (table["lang"] == language)]
        for row in rows.itertuples():
            found = {
                kind: {v for v in values if re.search(rf"(?<!\w){v}(?!\w)", row.prompt)}
                for kind, values in kinds.items()
            }
            own = [kind for kind, words in found.items() if row.target in words]
            values = set().union(*(words for kind, words in found.items() if kind != "person"))
            people = [corpus.person(language_file(language), index) for index in range(32)]
            present = [
                p for p in people if any(v in row.prompt for k, v in p.items() if k != "gender")
            ]
            assert len(present if "person" in own else values) >= 5, row.prompt
            if row.template == "same":
                assert max(len(found[kind]) for kind in own) >= 5, row.prompt


def test_further_questions_are_answered_by_their_passage(training):
    rows = training[(training["task"] == "reading") & (training["lang"] == "en")]
    answers, people = 0, words_of("en")["person"]
    for row in rows.itertuples():
        assert len(row.turns) == STRUCTURE["questions"]
        facts = re.split(r"(?<=[.]) ", row.turns[0][0])
        for question, response in row.turns[1:]:
            answer = re.fullmatch(r" The answer is (.+)\.", response)[1]
            people = [
                p for p in language_file("en")["names"]["m"] + language_file("en")["names"]["f"]
            ]
            known = [w for w in people if re.search(rf"\b{w}\b", question)] or [answer]
            matching = [
                f for f in facts if re.search(rf"\b{known[0]}\b", f) and not f.endswith("?")
            ]
            assert any(re.search(rf"\b{answer}\b", fact) for fact in matching), row.turns
            answers += 1
    assert answers > 300


def test_passages_grow_with_the_curriculum(training):
    prompts = training.loc[training["task"] == "reading", "prompt"]
    facts = prompts.str.count("[.।]") - 1
    assert facts[:80].between(2, 3).all()
    assert facts[-200:].between(5, 6).all()


def test_a_fact_is_the_same_in_every_language_and_in_every_task():
    for language in LANGUAGES:
        texts = language_file(language)
        place = 7
        told = render(draw_town("telling", "tell", place), language)["response"]
        for relation in texts["knowledge"]:
            item = Item("knowledge", relation, (), (), (place,), 1, (0,))
            answer = render(item, language)["target"]
            value = corpus.town_fact(place, relation)
            assert answer == texts["reading"][relation]["values"][value]
            assert answer in told


def draw_town(task, template, place):
    return Item(task, template, (), (), (place,), 0, (3, 1, 0, 2, 4, 0, 1, 0, 1, 0))


def test_copies_and_translations_are_what_they_say(training):
    rows = training[training["task"] == "generation"]
    copies = rows[~rows["template"].str.isdigit()]
    assert all(row.target in row.prompt for row in copies.itertuples())
    assert len(copies) == pytest.approx(len(rows) / 2, rel=0.2)
    translated = rows[rows["template"].str.isdigit()]
    stories = {corpus.question(item, "en").rstrip(".") for item in story_items(translated)}
    assert len(stories) > 20
    assert set(translated["lang"]) == set(LANGUAGES)


def story_items(rows):
    rng = random.Random(0)
    for template in set(rows["template"]):
        yield Item("generation", template, (7,), (0, 17), (rng.randrange(16),), 0, (1,))


def test_layouts_are_shared_by_all_tasks_in_every_language(training):
    """Neither the language nor the layout tells the task."""
    for language in LANGUAGES:
        ends = [layout[-8:] for layout in language_file(language)["layouts"]]
        rows = training[training["lang"] == language]
        for task in Mix().tasks:
            prompts = rows["prompt"][rows["task"] == task].str[-8:]
            assert set(prompts) >= {end for end in ends if "}" not in end}


def test_translations_pair_training_sentences_with_english(frozen):
    pairs = corpus.translations(40)
    assert set(pairs["lang"]) == set(LANGUAGES[1:])
    assert pairs.groupby(["lang", "kind"]).size().eq(40).all()
    assert (pairs.groupby("id")["english"].nunique() == 1).all()
    numbers = pairs["text"].str.findall(r"\d+").map(sorted)
    assert (numbers == pairs["english"].str.findall(r"\d+").map(sorted)).all()
    heldout = frozen["heldout"]
    held = " ".join(heldout["prompt"][heldout["lang"] == "en"])
    assert not [text for text in pairs["english"][pairs["kind"] == "math"] if text in held]
