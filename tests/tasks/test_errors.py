"""The kind of an error is that of the corruption that made it."""

import random
import re
from fractions import Fraction

import pandas as pd
import pytest

from mmlib.organism import corpus
from mmlib.tasks import skills
from mmlib.tasks.errors import KINDS, corrupted, error_kind, recovered, written_steps
from mmlib.tasks.languages import LANGUAGES
from mmlib.tasks.problems import load_problems

CODES = corpus.LANGUAGES


def items(count=30, seed=1):
    rng = random.Random(seed)
    return [corpus.draw(rng, "math", heldout=True) for _ in range(count)]


def kind(response, row, *, by_step=True):
    options = {"solution": row["response"], "by_step": by_step}
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
    other, found = {"+": "-", "-": "+", "*": "+", "/": "-"}, []
    for item in items():
        row = corpus.render(item, language)
        sign = corpus.solve(item.template.split("/")[0], item.numbers)[0][1]
        response, result = rewritten(item, language, signs={0: other[sign]})
        if result > 0 and str(result) != row["target"]:
            found.append(kind(response, row))
    assert set(found) == {"plan"}
    assert len(found) >= 15


@pytest.mark.parametrize("language", CODES)
def test_other_quantities_are_another_plan(language):
    for item in items():
        row = corpus.render(item, language)
        first = item.numbers[0]
        response = re.sub(rf"\b{first}\b", str(first + 1), row["response"])
        response = re.sub(rf"\b{row['target']}\b", str(int(row["target"]) + 1), response)
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


@pytest.mark.parametrize("language", CODES)
@pytest.mark.parametrize("wanted", KINDS)
def test_a_corrupted_solution_has_the_kind_of_its_corruption(language, wanted):
    other = CODES[CODES.index(language) - 1]
    for item in items():
        row = corpus.render(item, language)
        spoilt = corrupted(row["response"], language, wanted, other=other)
        assert spoilt != row["response"]
        assert kind(spoilt, row) == wanted


def test_every_corruption_is_counted():
    table = pd.DataFrame([corpus.render(item, "de") for item in items(count=4)])
    found = recovered(table, others=["de", "en"])
    assert (found.spoilt == found.told).all()
    assert found.value_counts("spoilt").to_dict() == dict.fromkeys(KINDS, 4)
    table["response"] = table.response.str.replace("+", "-").str.replace("*", "+")
    assert not (recovered(table, others=["en"]).told == "").any()


def test_only_known_corruptions_of_worked_solutions_are_made():
    with pytest.raises(ValueError, match="unknown kind 'typo': choose from slip"):
        corrupted("1 + 1 = 2. The answer is 2.", "en", "typo")
    with pytest.raises(ValueError, match="does not end in its result"):
        corrupted("The answer is 2.", "en", "slip")


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
    found = error_kind(response, "18", "en", solution=SOLUTION)
    assert found == expected
    assert found in (*KINDS, "")


def test_every_closing_phrase_has_words_before_the_answer():
    for record in LANGUAGES.values():
        assert all(closing.partition("{answer}")[0].strip() for closing in record.closings)


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("3 apples + 4 apples = 7 apples", "en", [("+", "3 4", 7)]),
        ("5 Euro pro Tag × 3 Tage = 15 Euro", "de", [("*", "5 3", 15)]),
        (".5 * 8 = 4", "en", [("*", "1/2 8", 4)]),
        ("16 -3 = 13", "en", [("-", "16 3", 13)]),
        ("-3 + 5 = 2", "en", [("+", "-3 5", 2)]),
        ("- 3 + 5 = 8", "en", [("+", "3 5", 8)]),
        ("12 500 + 500 = 13 000", "fr", [("+", "12500 500", 13000)]),
        ("12.500 + 1,5 = 12.501,5", "de", [("+", "12500 3/2", "12501.5")]),
        ("3 + 4 = 7 + 2 = 9", "en", [("+", "3 4", 7), ("+", "7 2", 9)]),
        ("2 * (3 + 4) = 2 * 7 = 14", "en", [("*+", "2 3 4", 14), ("*", "2 7", 14)]),
        ("(3+4)*2 = 14", "en", [("+*", "3 4 2", 14)]),
        ("2(3 + 4) = 14", "en", []),
        ("12/4 = 3", "en", [("/", "12 4", 3)]),
        ("12 : 4 = 3", "de", [("/", "12 4", 3)]),
        ("Zusammen: 3 + 4 = 7", "de", [("+", "3 4", 7)]),
        ("20% * 50 = 10", "en", [("*", "1/5 50", 10)]),
        ("100% - 20% = 80%", "en", [("-", "100 20", 80)]),
        ("She has 3 x 4 = 12 and 5 X 2 = 10.", "en", [("*", "3 4", 12), ("*", "5 2", 10)]),
        ("**3 + 4 = 7**", "en", [("+", "3 4", 7)]),
        (r"\(3 \times 4 = 12\)", "en", [("*", "3 4", 12)]),
        (
            "3 + 4 = <<3+4=7>>7 eggs, 2 * 7 = <<2*7=14>>14",
            "en",
            [("+", "3 4", 7), ("*", "2 7", 14)],
        ),
        ("3 + 4 = 7 and 7 - 2 = <<7-2=5>>5", "en", [("+", "3 4", 7), ("-", "7 2", 5)]),
        ("<<3+4=7>>7 - 2 = 5", "en", [("+", "3 4", 7), ("-", "7 2", 5)]),
        ("3 + 4 <<3+4=7", "en", [("+", "3 4", 7)]),
        ("7 = 3 + 4", "en", [("+", "3 4", 7)]),
        ("x = 3 + 4 = 7", "en", [("+", "3 4", 7)]),
        ("3 + 4 = many", "en", []),
        ("३ + ४ = ७", "hi", [("+", "3 4", 7)]),
        ("$16 - $3 = $13", "en", [("-", "16 3", 13)]),
        ("3 + 4 = 7. 2 - 1 = 1", "en", [("+", "3 4", 7), ("-", "2 1", 1)]),
        ("80 miles/hour * 2 hours = 160 miles", "en", [("*", "80 2", 160)]),
        ("5/day * 3 = 15", "en", [("*", "5 3", 15)]),
        ("2 girls’ teams + 1 boys’ team = 3", "en", [("+", "2 1", 3)]),
        ("22 – 7 = 15", "en", [("-", "22 7", 15)]),
        ("10 years * 5% = 50%", "en", [("*", "10 1/20", "0.5")]),
    ],
)
def test_calculations_as_people_write_them(text, language, expected):
    found = [
        ("".join(s.operations), " ".join(map(str, s.quantities)), s.stated)
        for s in written_steps(text, language)
    ]
    assert found == [(ops, values, Fraction(str(stated))) for ops, values, stated in expected]


@pytest.mark.parametrize(
    ("response", "language", "expected"),
    [
        ("x", "hi", "incomplete"),
        ("उत्तर", "hi", "incomplete"),
        ("她有三个苹果，然后又买了四个苹果", "en", "language"),
        ("彼女はりんごを三つ持っています", "en", "language"),
        ("She has three apples and buys more", "ja", "language"),
    ],
)
def test_script_and_closing_phrase_decide_only_where_there_is_enough_of_them(
    response, language, expected
):
    assert error_kind(response, "7", language) == expected


def test_two_results_may_be_equal_in_the_solution_and_different_in_the_answer():
    solution = "2 + 3 = 5. 1 + 4 = 5. 5 * 2 = 10. 5 + 10 = 15. The answer is 15."
    response = "2 + 3 = 6. 1 + 4 = 5. 5 * 2 = 10. 6 + 10 = 16. The answer is 16."
    assert error_kind(response, "15", "en", solution=solution, by_step=True) == "slip"
    brackets = "(2 + 3) * 4 = 21. The answer is 21."
    plain = "2 + 3 * 4 = 14. The answer is 14."
    assert error_kind(brackets, "14", "en", solution=plain, by_step=True) == "plan"


def test_a_number_that_equals_an_earlier_result_has_two_readings():
    # 8 is a wrong result for 3 + 4 and, in the second calculation, a quantity of the problem.
    response = "3 + 4 = 8. 8 * 5 = 41. The answer is 41."
    assert error_kind(response, "40", "en") == error_kind(response, "35", "en") == "slip"
    assert error_kind(response, "36", "en") == "plan"


@pytest.mark.parametrize("language", ["en", "de", "hi"])
def test_calculations_of_real_solutions_are_true_and_end_in_the_answer(language, real_data):
    """GSM8K's own solutions, and their machine translations, are nearly all right."""
    problems = load_problems("gsm8k", language, data_dir=real_data, split="test")
    read = [written_steps(problem.response, language) for problem in problems]
    true = [all(step.worked_out() == step.stated for step in steps) for steps in read]
    ends = [
        bool(steps) and steps[-1].stated == Fraction(problem.target)
        for steps, problem in zip(read, problems, strict=True)
    ]
    assert sum(true) / len(true) > 0.94
    assert sum(ends) / len(ends) > 0.93


@pytest.mark.parametrize("language", ["en", "de", "hi"])
def test_spoilt_real_solutions_are_told(language, real_data):
    """GSM8K: other texts, the same rule without knowing the steps; how many, not that all."""
    told = {kind: [] for kind in KINDS}
    for document in skills.documents("gsm8k", language, real_data)[:200]:
        text, target = document["response"], document["target"]
        for kind, found in told.items():
            try:
                spoilt = corrupted(text, language, kind, other="fr")
            except ValueError:  # ends in no calculation
                continue
            found.append(error_kind(spoilt, target, language, solution=text))
    shares = {kind: found.count(kind) / len(found) for kind, found in told.items()}
    assert all(len(found) > 100 for found in told.values())
    assert min(shares.values()) > 0.85, shares
