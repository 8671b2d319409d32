"""The kind of an error is that of the corruption that made it."""

import random
import re

import pytest

from mmlib import corpus
from mmlib.errors import KINDS, error_kind, written_steps
from mmlib.evaluation import extract_number
from mmlib.languages import LANGUAGES

CODES = corpus.LANGUAGES


def items(count=30, seed=1):
    rng = random.Random(seed)
    return [corpus.draw(rng, "math", heldout=True) for _ in range(count)]


def kind(response, row, *, by_step=True):
    prediction = extract_number(response, row["lang"])
    options = {"prediction": prediction, "solution": row["response"], "by_step": by_step}
    return error_kind(response, row["target"], row["lang"], **options)


def rewritten(item, language, results=None, signs=None):
    """The solution with some results replaced (and carried on) or with another operation."""
    texts, marked = corpus.language_file(language), item.layout in (2,)
    steps = corpus.language_file("structure")["families"][item.template.split("/")[0]]["steps"]
    values, response = dict(zip("abcd", item.numbers, strict=False)), ""
    for number, step in enumerate(steps):
        left, sign, right = step.split()
        sign = (signs or {}).get(number, sign)
        result = corpus.OPERATIONS[sign](values[left], values[right])
        result += (results or {}).get(number, 0)
        calculation = (
            f"{values[left]} {sign if marked else corpus.PRINTED[sign]} {values[right]} = {result}"
        )
        response += " " + texts["marked_step" if marked else "step"].format(
            operation=texts["operations"][sign], calculation=calculation
        )
        values["x"] = result
    return f"{response} {texts['closing'].format(x=values['x'])}", values["x"]


@pytest.mark.parametrize("language", CODES)
def test_steps_of_a_solution_are_read_and_true(language):
    for item in items():
        row = corpus.render(item, language)
        read = written_steps(row["response"], language)
        solved = corpus.solve(item.template.split("/")[0], item.numbers)
        assert [(*s.quantities, s.stated) for s in read] == [(a, b, r) for a, _, b, r in solved]
        assert all(step.worked_out() == step.stated for step in read)
        assert kind(row["response"], row) == ""


@pytest.mark.parametrize("language", CODES)
@pytest.mark.parametrize("by_step", [True, False])
def test_a_wrong_sum_that_is_carried_on_is_a_slip(language, by_step):
    found = []
    for item in items():
        row, last = corpus.render(item, language), corpus.tier(item.template) - 1
        for number in range(last + 1):
            response, result = rewritten(item, language, results={number: 7})
            if "-1" not in response and str(result) != row["target"]:  # a division without rest
                found.append(kind(response, row, by_step=by_step))
    assert set(found) == {"slip"}
    assert len(found) > 45


@pytest.mark.parametrize("language", CODES)
def test_another_operation_is_another_plan(language):
    other = {"+": "-", "-": "+", "*": "+", "/": "-"}
    for item in items():
        row = corpus.render(item, language)
        sign = corpus.solve(item.template.split("/")[0], item.numbers)[0][1]
        response, result = rewritten(item, language, signs={0: other[sign]})
        if result > 0 and str(result) != row["target"]:
            assert kind(response, row) == "plan"


@pytest.mark.parametrize("language", CODES)
def test_other_quantities_are_another_plan(language):
    for item in items():
        row = corpus.render(item, language)
        first = item.numbers[0]
        response = re.sub(rf"\b{first} ", f"{first + 1} ", row["response"], count=1)
        response = response.replace(row["target"], str(int(row["target"]) + 1))
        if kind(response, row) != "":
            assert kind(response, row) == "plan"


@pytest.mark.parametrize("language", CODES)
def test_a_right_result_without_its_closing_phrase_is_a_matter_of_format(language):
    for item in items():
        row = corpus.render(item, language)
        closing = corpus.language_file(language)["closing"].format(x=row["target"])
        assert kind(row["response"].replace(closing, ""), row) == "format"


@pytest.mark.parametrize("language", CODES)
def test_what_breaks_off_is_incomplete(language):
    for item in items():
        row = corpus.render(item, language)
        assert kind("", row) == "incomplete"
        assert kind(row["response"].split("=")[0], row) == "incomplete"


@pytest.mark.parametrize("language", CODES)
def test_an_answer_in_another_language_is_named_so(language):
    for item, other in zip(items(), CODES * 5, strict=True):
        row = corpus.render(item, language)
        if other != language:
            response, _ = rewritten(item, other, results={0: 7})
            assert kind(response, row) == "language"
            right = corpus.render(item, other)["response"]
            assert kind(right, row) in ("", "language")


SOLUTION = (
    "She eats 3 + 4 = <<3+4=7>>7 eggs. 16 - 7 = <<16-7=9>>9 are left. 9 * $2 = $<<9*2=18>>18."
)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (f"{SOLUTION} The answer is 18.", ""),
        ("3 + 4 = 8. 16 - 8 = 8. 8 * $2 = $16. The answer is 16.", "slip"),
        ("16 - 3 - 4 = 8. 8 x 2 = 16. The answer is 16.", "slip"),
        ("16 - 3 = 13. 13 * 2 = 26. The answer is 26.", "plan"),
        ("16 - 3 - 4 = 9. 9 * 2 = 18. So $18.", "format"),
        ("16 - 3 - 4 = 9. 9 * 2 = 18. The answer is 9.", "format"),
        ("She starts with 16", "incomplete"),
        ("The answer is 5.", "plan"),
        ("16 - 3 - 4 = 9. 9 * 2 = 19. Die Antwort ist 19.", "language"),
        ("उसके पास अंडे बचे हैं", "language"),
        ("10 / 0 = 3. The answer is 3.", "plan"),
    ],
)
def test_free_text(response, expected):
    prediction = extract_number(response, "en")
    found = error_kind(response, "18", "en", prediction=prediction, solution=SOLUTION)
    assert found == expected
    assert found in (*KINDS, "")


def test_every_closing_phrase_has_words_before_the_answer():
    for record in LANGUAGES.values():
        assert all(closing.partition("{answer}")[0].strip() for closing in record.closings)
