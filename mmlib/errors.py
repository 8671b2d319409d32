"""Say in which way an answer to a word problem is wrong, from its written calculation.

The rule, by which a person can label an answer too. The first that applies:

1. *language*: it is written in another language than the question: it has another language's
   closing phrase and not its own, or most of its letters are of another script.
2. *format*: the right result stands there, as the result of the last calculation or as the last
   number, but strict reading does not find it.
3. *incomplete*: there is no closing phrase, and fewer calculations than the solution has.
4. *slip*: the plan is right and the arithmetic is not: with every calculation worked out anew, and
   the new results carried on, the answer is right. Where the solution is known step by step (the
   organisms' problems), the operations and the quantities have to be those of the solution.
5. *plan*: everything else.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from mmlib.languages import LANGUAGES, get_language, parse_number
from mmlib.numerals import find_numbers, plain_digits

KINDS = ("slip", "plan", "format", "language", "incomplete")
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/"})
_NUMBER = r"[$€£]?\s?\d[\d.,]*"
_EQUATION = re.compile(rf"({_NUMBER}(?:\s*[-+*/x]\s*{_NUMBER})+)\s*=\s*({_NUMBER})")
_SCRIPTS = {"Deva": "ऀ-ॿ", "Beng": "ঀ-৿", "Cyrl": "Ѐ-ӿ", "Thai": "฀-๿", "Telu": "ఀ-౿"}


@dataclass(frozen=True)
class Step:
    """One written calculation, such as 12 + 5 = 17."""

    operations: tuple[str, ...]
    """`+`, `-`, `*` or `/` between the quantities."""
    quantities: tuple[Fraction, ...]
    stated: Fraction
    """The result as written."""

    def worked_out(self, values: Sequence[Fraction] = ()) -> Fraction | None:
        """The result of the calculation, with other values if given; None for a division by 0."""
        values = list(values or self.quantities)
        terms, signs = [values[0]], []
        for operation, value in zip(self.operations, values[1:], strict=True):
            if operation == "/" and value == 0:
                return None
            if operation in "*/":
                terms[-1] = terms[-1] * value if operation == "*" else terms[-1] / value
            else:
                signs.append(operation)
                terms.append(value)
        signed = zip(signs, terms[1:], strict=True)
        return terms[0] + sum(term if sign == "+" else -term for sign, term in signed)


def written_steps(text: str, language: str) -> list[Step]:
    """The calculations of a text in their order; one inside `<<…>>` marks counts once."""
    grouping = get_language(language).grouping
    text = re.sub(r"<<.*?>>", "", plain_digits(text).translate(_SIGNS))
    steps = []
    for match in _EQUATION.finditer(text):
        left, right = (
            [value for _, _, value in find_numbers(re.sub(r"[-+*/x]", " ; ", side), grouping)]
            for side in match.groups()
        )
        operations = tuple(re.findall(r"[-+*/x]", match[1].replace("x", "*")))
        if len(left) == len(operations) + 1 and len(right) == 1:
            steps.append(Step(operations, tuple(left), right[0]))
    return steps


def error_kind(
    response: str,
    target: str,
    language: str,
    *,
    prediction: str | None,
    solution: str = "",
    by_step: bool = False,
) -> str:
    """Say in which way a wrong answer is wrong.

    Args:
        response: What the model wrote.
        target: The gold, as in `Problem.target`.
        language: ISO 639-1 code of the question.
        prediction: What strict extraction read; None for nothing.
        solution: The worked solution, in any language.
        by_step: Whether `solution` is the only way to solve the problem, as in the organisms'
            corpus, so that a right plan has its operations and quantities.

    Returns:
        One of `KINDS`; "" for a right answer.
    """
    gold, record = Fraction(target), get_language(language)
    if prediction is not None and parse_number(prediction, "en") == gold:
        return ""
    if _other_language(response, language):
        return "language"
    steps, needed = written_steps(response, language), written_steps(solution, language)
    last = record.extract_last_number(response)
    if gold in (steps[-1].stated if steps else None, parse_number(last or "", "en")):
        return "format"
    closed = any(
        closing.partition("{answer}")[0].strip() in response for closing in record.closings
    )
    if not closed and len(steps) < max(1, len(needed)):
        return "incomplete"
    right = _same_plan(steps, needed) if by_step else _carried_on(steps) == gold
    return "slip" if right else "plan"


def _other_language(response: str, language: str) -> bool:
    """Whether a response is written in another language than its question."""
    record = get_language(language)
    heads = {
        code: [closing.partition("{answer}")[0].strip() for closing in other.closings]
        for code, other in LANGUAGES.items()
    }
    if any(head in response for head in heads.pop(record.code)):
        return False
    if any(head in response for others in heads.values() for head in others):
        return True
    letters = re.findall(r"[^\W\d_]", response)
    own = _SCRIPTS.get(record.script, "A-Za-zÀ-ɏ")
    known = "".join(_SCRIPTS.values()) + "A-Za-zÀ-ɏ"
    foreign = re.findall(f"(?=[{known}])[^{own}]", "".join(letters))
    return 2 * len(foreign) > len(letters)


def _carried_on(steps: Sequence[Step]) -> Fraction | None:
    """The last result when every calculation is worked out anew and carried on."""
    corrected: dict[Fraction, Fraction] = {}
    result = None
    for step in steps:
        result = step.worked_out([corrected.get(value, value) for value in step.quantities])
        if result is None:
            return None
        corrected[step.stated] = result
    return result


def _same_plan(steps: Sequence[Step], needed: Sequence[Step]) -> bool:
    """Whether the calculations are those of the solution, but for results that were carried on."""
    if len(steps) != len(needed):
        return False
    own: dict[Fraction, Fraction] = {}
    for step, model in zip(steps, needed, strict=True):
        # A number of the problem may equal an earlier result of the solution: both readings count.
        wanted = [{value, own.get(value, value)} for value in model.quantities]
        orders = [wanted, wanted[::-1]] if model.operations in (("+",), ("*",)) else [wanted]
        fits = [
            all(value in choices for value, choices in zip(step.quantities, order, strict=False))
            for order in orders
        ]
        if step.operations != model.operations or not any(fits):
            return False
        own[model.stated] = step.stated
    return True
