import json
import unicodedata

import pytest

from mmlib.tasks.languages import LANGUAGES, get_language, language_of, parse_number
from mmlib.tasks.numbers import plain_digits, write_number

RECORDS = pytest.mark.parametrize("language", LANGUAGES.values(), ids=list(LANGUAGES))
MGSM = ["bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh"]


@RECORDS
def test_each_record_reads_its_own_exemplars_and_nothing_else(language):
    texts, golds = zip(*language.exemplars, strict=True)
    assert len(texts) == 8
    assert [language.extract_answer(text) for text in texts] == list(golds)
    assert [language.extract_last_number(text) for text in texts] == list(golds)
    constant = language.closing.format(answer="424242")
    assert language.extract_answer(constant) == "424242"
    assert "424242" not in golds
    assert language.extract_answer("3 + 4 = 7") is None


@RECORDS
def test_the_exemplars_show_how_the_language_writes_numbers(language):
    golds = [gold for _, gold in language.exemplars]
    assert golds == ["7", "2125", "1260000", "-12", "2.5", "18", "25", "0.75"]
    texts = dict((gold, plain_digits(text)) for text, gold in language.exemplars)
    assert f"2{language.decimal}5" in texts["2.5"]
    assert any(f"2{mark}125" in texts["2125"] for mark in language.grouping)
    written = "".join(text for text, _ in language.exemplars)
    assert set(language.digits) & set(written)
    assert plain_digits(language.digits) == "0123456789"


@RECORDS
def test_the_closing_phrase_is_read_in_every_form(language):
    prompt, response = language.word_problem("How many?", "3 + 4 = 7.", "1234")
    assert language.extract_answer(prompt + response) == "1234"
    for closing in language.closings:
        stop = language.full_stop
        assert language.extract_answer(closing.format(answer="-12") + stop) == "-12"
        assert language.extract_answer(closing.format(answer=" **$1,000**") + stop) == "1000"
        assert language.extract_words(f"x {closing.format(answer='a b')}{stop}") == "a b"
    assert language.extract_words("a b") is None


@RECORDS
def test_the_last_closing_phrase_counts_and_signs_survive(language):
    text = " ".join(language.closing.format(answer=n) for n in ("5", "-12"))
    assert language.extract_answer(text + ".") == "-12"


@RECORDS
def test_native_digits_and_ascii_digits_are_one_number(language):
    native = "2125".translate(str.maketrans("0123456789", language.digits))
    assert parse_number(native, language.code) == parse_number("2125", language.code) == 2125


@pytest.mark.parametrize("code", MGSM)
def test_official_exemplars_are_read(code, real_data):
    lines = (real_data / "mgsm" / "exemplars.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["language"] == code]
    answers = [row["answer"] for row in sorted(rows, key=lambda row: row["id"])]
    language = get_language(code)
    golds = ["11", "29", "39", "9", "33", "8", "8", "5"]
    assert [language.extract_answer(answer) for answer in answers] == golds
    assert [language.extract_last_number(answer) for answer in answers] == golds
    constant = [language.extract_answer(language.closing.format(answer=424242))] * 8
    assert not any(wrong == gold for wrong, gold in zip(constant, golds, strict=True))
    if code not in ("de", "en", "fr"):  # their labels are those of the calibration files
        assert all(row["question"].startswith(language.question_label) for row in rows)
        assert all(row["answer"].startswith(language.answer_label) for row in rows)


def test_layout_is_that_of_the_published_files():
    prompt, response = get_language("en").word_problem("Q?", "1+1=2\n2*2=4", "4")
    assert prompt + response == (
        "Q: Q?\nA: Let's think step by step.\n1+1=2\n2*2=4\nThe answer is 4"
    )
    prompt, response = get_language("de").word_problem("Q?", "1+1=2\n2*2=4", "4")
    assert prompt + response == (
        "F: Q? A: Denken wir Schritt für Schritt. 1+1=2 2*2=4 Die Antwort ist 4"
    )


def test_layout_without_a_solution_and_with_full_width_labels():
    prompt, response = get_language("zh").word_problem("几个？", "", "4")
    assert prompt + response == "问题：几个？\n逐步解答：\n答案是 4"
    prompt, response = get_language("fr").choice_problem("Quoi ?", ["un", "deux"], "deux")
    assert prompt + response == "Question: Quoi ?\n\nChoix: ['un', 'deux']\n\nRéponse: deux"


@pytest.mark.parametrize(
    ("text", "code", "expected"),
    [
        ("2.125", "de", "2125"),
        ("2,125", "de", "2125"),
        ("2.125", "en", "2.125"),
        ("2,125", "en", "2125"),
        ("২,১২৫", "bn", "2125"),
        ("2125", "te", "2125"),
        ("1,14,200", "hi", "114200"),
        ("114 200", "fr", "114200"),
        ("many", "en", None),
    ],
)
def test_numbers_of_a_language(text, code, expected):
    value = parse_number(text, code)
    assert (None if value is None else write_number(value)) == expected


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        ("en", "Then the answer is 18 pens.", "18"),
        ("de", "Also ist klar, die Antwort ist 18.", "18"),
        ("fr", unicodedata.normalize("NFD", "La réponse est 18"), "18"),
        ("bn", "উত্তর হ\u09b2\u09c7\u09be 18।", "18"),
        ("hi", "उत्तर रु. 50 है", "50"),
        ("sw", r"Kwa hiyo \boxed{18}", "18"),
        ("en", r"The answer is $\boxed{\frac{3}{4}}$.", "0.75"),
        ("en", "The answer is 3 / 4.", "0.75"),
        ("de", "Die Antwort ist - 5.", "-5"),
        ("fr", "La réponse est –5", "-5"),
        ("fr", "La réponse est - 5", "-5"),
        ("en", "The answer is:\n- 5", None),
        ("ru", "Ответ –5", "5"),
        ("en", "The answer is \u200b18", "18"),
        ("en", "The answer is 18.Human: A man has 1500 dollars. He buys 7", "18"),
        ("en", "The answer is 18.\nQ: Two? The answer is 2.", "18"),
        ("de", "Die Antwort ist 18.\nUser: 1500? Die Antwort ist 3.", "18"),
    ],
)
def test_what_people_and_models_write(code, text, expected):
    language = get_language(code)
    assert language.extract_answer(text) == expected
    assert language.extract_last_number(text) == (expected or "5")


def test_a_label_of_the_answer_closes_nothing():
    text = "సమాధానం: 3 కలాలు ఉన్నాయి. 3 + 4 = 7."
    assert get_language("te").extract_last_number(text) == "7"


def test_unknown_language_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"'xx'.*bn, de, en, es, fr, hi.*tasks/languages\.yaml"):
        get_language("xx")


def test_a_record_without_a_field_is_named_with_its_file():
    with pytest.raises(ValueError, match=r"languages.yaml, record 'xx': .*'closing'"):
        language_of("xx", {"name": "X", "question_label": "Q:"})


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("3 + 4 = 7. The answer is 7. Human: It", True),
        ("The answer is 7\n\nQuestion: Luke has 3", True),
        ("The answer is 7. Then 3 more.", False),
        ("Question: 3", False),
        ("", False),
    ],
)
def test_another_turn_ends_an_answer_and_nothing_after_it_counts(text, ended):
    record = LANGUAGES["en"]
    assert record.ended(text) == ended
    if ended:
        longer = f"{text} 12 pears. The answer is 99."
        assert record.extract_answer(longer) == record.extract_answer(text) == "7"
        assert record.extract_last_number(longer) == record.extract_last_number(text) == "7"


def test_a_turn_ends_the_sentence_of_the_close():
    assert LANGUAGES["en"].extract_last_number("The answer is 18 Human: 5 apples") == "18"
