import re

import pytest

from mmlib.languages import LANGUAGES, get_language


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=list(LANGUAGES))
def test_each_record_reads_its_own_exemplar_and_nothing_else(language):
    assert language.extract_answer(language.exemplar) == language.exemplar_answer
    assert language.extract_answer("3 + 4 = 7") is None
    prompt, response = language.word_problem("How many?", "3 + 4 = 7.", "1234")
    assert language.extract_answer(prompt + response) == "1234"


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=list(LANGUAGES))
def test_the_last_closing_phrase_counts_and_signs_survive(language):
    text = " ".join(language.closing.format(answer=n) for n in ("5", "-12"))
    assert language.extract_answer(text + ".") == "-12"


def test_layout_is_that_of_the_published_files():
    prompt, response = get_language("en").word_problem("Q?", "1+1=2\n2*2=4", "4")
    assert prompt + response == (
        "Q: Q?\nA: Let's think step by step.\n1+1=2\n2*2=4\nThe answer is 4"
    )
    prompt, response = get_language("de").word_problem("Q?", "1+1=2\n2*2=4", "4")
    assert prompt + response == (
        "F: Q? A: Denken wir Schritt für Schritt. 1+1=2 2*2=4 Die Antwort ist 4"
    )


def test_unknown_language_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"'xx'.*de, en, fr, hi.*languages\.py"):
        get_language("xx")


def test_exemplars_are_one_problem():
    numbers = {tuple(re.findall(r"\d+", entry.exemplar)) for entry in LANGUAGES.values()}
    assert len(numbers) == 1
