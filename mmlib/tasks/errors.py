"""Say in which way an answer to a word problem is wrong, from its written calculations.

The rule, by which a person can label an answer too. The first that applies:

1. *language*: it is written in another language than the question: it closes with another
   language's phrase and not with its own, or most of its letters (of ten or more) are of another
   script.
2. *format*: the right result stands there, as the result of the last calculation or as the last
   number, but strict reading does not find it.
3. *incomplete*: it has no closing phrase with a number, and fewer calculations than the solution.
4. *slip*: the plan is right and the arithmetic is not: with every calculation worked out anew, and
   the new results carried on, the answer is right. Where the solution is known step by step (the
   organisms' problems), the operations and the quantities have to be those of the solution.
5. *plan*: everything else.
"""

import ast
import operator
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, product

import pandas as pd

from mmlib.tasks.languages import LANGUAGES, Language, get_language, parse_number
from mmlib.tasks.numbers import find_numbers, normalised, plain_digits

KINDS = ("slip", "plan", "format", "language", "incomplete")

_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_SIGNS = str.maketrans({"×": "*", "·": "*", "∙": "*", "⋅": "*", "÷": "/", "∕": "/", "–": "-"})
_LATEX = {r"\times": "*", r"\cdot": "*", r"\div": "/", "**": "", r"\(": "", r"\)": ""}
_TOKEN = re.compile(r"[-+*÷=()%]|[^\W\d_]+(?:['’-][^\W\d_]+)*['’]?|[^\s$€£¥₹৳]")
_UNIT_WORDS = 4
_READINGS = 256
_SCRIPTS = {
    "Deva": "ऀ-ॿ",
    "Beng": "ঀ-৿",
    "Cyrl": "Ѐ-ӿ",
    "Thai": "฀-๿",
    "Telu": "ఀ-౿",
    "Hans": "一-鿿",
    "Jpan": "一-鿿぀-ヿ",
}
_LATIN = "A-Za-zÀ-ɏ"


@dataclass(frozen=True)
class Step:
    """One written calculation, such as (12 + 5) × 2 = 34."""

    expression: str
    """The left side, with the positions of the quantities for the numbers: `( 0 + 1 ) * 2`."""
    quantities: tuple[Fraction, ...]
    stated: Fraction
    """The result as written."""

    @property
    def operations(self) -> tuple[str, ...]:
        """`+`, `-`, `*` or `/` in their order."""
        return tuple(re.findall(r"[-+*/]", self.expression))

    def worked_out(self, values: Sequence[Fraction] = ()) -> Fraction | None:
        """The result of the calculation, with other values if given; None for a division by 0."""
        try:
            return _evaluate(_tree(self.expression), values or self.quantities)
        except ZeroDivisionError:
            return None


def _tree(expression: str) -> ast.expr:
    return ast.parse(expression, mode="eval").body


def _evaluate(node: ast.expr, values: Sequence[Fraction]) -> Fraction:
    if isinstance(node, ast.BinOp):
        sides = (_evaluate(node.left, values), _evaluate(node.right, values))
        return _OPERATORS[type(node.op)](*sides)
    return values[node.value]


# --- reading calculations -------------------------------------------------------------------------

_Token = tuple[str, Fraction | None]
"""A sign, `word` or `|` (a break) with None; `number` or `percent` with its value."""


def written_steps(text: str, language: str) -> list[Step]:
    """The calculations of a text in their order.

    Quantities may have units, signs and brackets, and calculations may be chained. A calculation
    mark (`<<3+4=7>>`) and the calculation that it stands in count once.
    """
    grouping = get_language(language).grouping
    steps: list[Step] = []
    for line in text.splitlines():
        *marked, rest = re.split("(.*?)<<(.*?)>>", line)
        for before, mark in zip(marked[1::3], marked[2::3], strict=True):
            found = _read(f"{before} {mark.rpartition('=')[2]}", grouping)
            marks = _read(mark, grouping)
            same = found and marks and found[-1].stated == marks[-1].stated
            steps += (found[:-1] if same else found) + marks
        steps += _read(rest, grouping)
    return steps


def _read(line: str, grouping: str) -> list[Step]:
    return _steps(_without_units(list(_tokens(line, grouping))))


def _tokens(line: str, grouping: str) -> Iterator[_Token]:
    line = plain_digits(normalised(line)).translate(_SIGNS)
    for sign, plain in _LATEX.items():
        line = line.replace(sign, plain)
    line = re.sub(r"(?<=[\d\s])[xX](?=\s*[$€£.\d])", "*", line)
    line = re.sub(r"(?<=\d\s):(?=\s\d)", "/", line)
    line = line.replace("/", " ÷ ")  # a division, not a fraction
    end, operand = 0, False
    for start, stop, value in find_numbers(line, grouping):
        for sign in _TOKEN.findall(line[end:start]):
            operand = sign == ")" or (operand and _sign(sign) == "word")
            yield _sign(sign), None
        if operand and line[start] in "+-":  # 16 -3: a subtraction
            yield line[start], None
            value = abs(value)
        percent = line[stop:].lstrip().startswith("%")
        yield ("percent" if percent else "number"), value
        end, operand = stop, True
    for sign in _TOKEN.findall(line[end:]):
        yield _sign(sign), None


def _sign(text: str) -> str:
    if text[0].isalpha() or text == "%":
        return "word"
    text = text.replace("÷", "/")
    return text if text in "+-*/=()" else "|"


def _without_units(tokens: list[_Token]) -> list[_Token]:
    """Leave out the words between a quantity and the sign after it ("80 miles/hour * 2")."""
    kept: list[_Token] = []
    position = 0
    while position < len(tokens):
        end = _end_of_words(tokens, position)
        after_quantity = bool(kept) and kept[-1][0] in ("number", "percent", ")")
        before_sign = end == len(tokens) or tokens[end][0] in "+-*/=)|"
        if position < end <= position + _UNIT_WORDS and after_quantity and before_sign:
            position = end
        else:
            kept += tokens[position : end + 1]
            position = end + 1
    return kept


def _end_of_words(tokens: list[_Token], position: int) -> int:
    """Where a run of words ends; a stroke before a word is part of it."""
    kinds = [kind for kind, _ in tokens[position:]] + ["|", "|"]
    length = 0
    while kinds[length] == "word" or kinds[length : length + 2] == ["/", "word"]:
        length += 1
    return position + length


def _steps(tokens: list[_Token]) -> list[Step]:
    """The calculations between the equals signs of a line."""
    sides: list[list[_Token]] = [[]]
    for token in tokens:
        if token[0] == "=":
            sides.append([])
        else:
            sides[-1].append(token)
    steps = []
    for index in range(1, len(sides)):
        left, right = _ending(sides[index - 1]), _beginning(sides[index])
        if len(left) < 3 and len(right) > 2 and index == len(sides) - 1:  # 7 = 3 + 4
            left, right = right, left
        if len(left) > 2 and right:
            steps.append(_step(left, right))
    return steps


def _beginning(side: list[_Token]) -> list[_Token]:
    """The longest calculation at the start of one side of an equation."""
    lengths = range(len(side), 0, -1)
    return next((side[:n] for n in lengths if _is_calculation(_expression(side[:n]))), [])


def _ending(side: list[_Token]) -> list[_Token]:
    """The calculation at the end of one side of an equation, if it begins there or after words."""
    for start in range(len(side)):
        if _is_calculation(_expression(side[start:])):
            before = side[start - 1][0] if start else "|"
            bullet = before == "-" and start == 1
            return side[start:] if before in ("word", "|", "(") or bullet else []
    return []


def _expression(tokens: list[_Token]) -> str:
    """The tokens with the positions of the quantities for their values."""
    position, parts = 0, []
    for sign, value in tokens:
        parts.append(sign if value is None else str(position))
        position += value is not None
    return " ".join(parts)


def _is_calculation(expression: str) -> bool:
    if re.search(r"[^-+*/()\d ]|\d \(", expression):  # words, breaks, 2(3 + 4)
        return False
    try:
        nodes = ast.walk(_tree(expression))
    except (SyntaxError, RecursionError, MemoryError):
        return False
    return all(isinstance(n, (ast.BinOp, ast.Constant, *_OPERATORS)) for n in nodes)


def _step(left: list[_Token], right: list[_Token]) -> Step:
    values = [token for token in left if token[1] is not None]
    stated = _stated(left, right)
    if any(kind != "percent" for kind, _ in [*values, stated]):
        values, stated = [_share(token) for token in values], _share(stated)
    return Step(_expression(left), tuple(value for _, value in values), stated[1])


def _share(token: _Token) -> _Token:
    return ("number", token[1] / 100) if token[0] == "percent" else token


def _stated(left: list[_Token], right: list[_Token]) -> _Token:
    """The result of a calculation: what is written after its equals sign.

    In a chain that is its first number where it goes on from there (3 + 4 = 7 + 2 = 9), and the
    value of all of it where it simplifies (2 × (3 + 4) = 2 × 7 = 14).
    """
    first = next(token for token in right if token[1] is not None)
    if len(right) < 3:
        return first
    whole, value = _worked_out(right), _worked_out(left)
    simpler = len(right) < len(left) and first[1] != value
    return ("number", whole) if whole is not None and (whole == value or simpler) else first


def _worked_out(tokens: list[_Token]) -> Fraction | None:
    values = tuple(_share(token)[1] for token in tokens if token[1] is not None)
    return Step(_expression(tokens), values, Fraction(0)).worked_out()


# --- the rule -------------------------------------------------------------------------------------


def error_kind(
    response: str, target: str, language: str, *, solution: str = "", by_step: bool = False
) -> str:
    """Say in which way a wrong answer is wrong.

    Args:
        response: What the model wrote.
        target: The gold number, as in `Problem.target`.
        language: ISO 639-1 code of the question.
        solution: The worked solution, in any language.
        by_step: Whether `solution` is the only way to solve the problem, as in the organisms'
            corpus, so that a right plan has its operations and quantities.

    Returns:
        One of `KINDS`; "" for an answer that strict extraction finds right.
    """
    gold, record = Fraction(target), get_language(language)
    closed = record.extract_answer(response)
    if closed is not None and parse_number(closed, "en") == gold:
        return ""
    if _other_language(response, record):
        return "language"
    steps, needed = written_steps(response, language), written_steps(solution, language)
    last = record.extract_last_number(response)
    if gold in (steps[-1].stated if steps else None, parse_number(last or "", "en")):
        return "format"
    if closed is None and len(steps) < max(1, len(needed)):
        return "incomplete"
    right = _same_plan(steps, needed) if by_step else gold in _outcomes(steps)
    return "slip" if right else "plan"


def _other_language(response: str, record: Language) -> bool:
    """Whether a response is written in another language than its question."""
    if record.extract_answer(response) is not None:
        return False
    others = [other for other in LANGUAGES.values() if other is not record]
    if any(other.extract_answer(response) is not None for other in others):
        return True
    letters = re.sub(r"[\W\d_]", "", response)
    own = _SCRIPTS.get(record.script, _LATIN)
    known = "".join(_SCRIPTS.values()) + _LATIN
    foreign = re.findall(f"(?=[{known}])[^{own}]", letters)
    return len(letters) >= 10 and 2 * len(foreign) > len(letters)


def _outcomes(steps: Sequence[Step]) -> set[Fraction | None]:
    """What the last calculation can give when each is worked out anew and carried on.

    A number that equals an earlier result is that result, or a quantity of the problem.
    """
    anew: dict[Fraction, set[Fraction | None]] = {}
    results: set[Fraction | None] = set()
    for step in steps:
        choices = [[*(anew.get(value, set()) - {None}), value] for value in step.quantities]
        results = {step.worked_out(values) for values in islice(product(*choices), _READINGS)}
        anew.setdefault(step.stated, set()).update(results)
    return results


def _same_plan(steps: Sequence[Step], needed: Sequence[Step]) -> bool:
    """Whether the calculations are those of the solution, but for results that were carried on."""
    if len(steps) != len(needed):
        return False
    own: dict[Fraction, set[Fraction]] = {}
    for step, model in zip(steps, needed, strict=True):
        # A number of the problem may equal an earlier result of the solution: both readings count.
        wanted = [{value, *own.get(value, ())} for value in model.quantities]
        orders = [wanted, wanted[::-1]] if model.operations in (("+",), ("*",)) else [wanted]
        fits = [
            all(value in choices for value, choices in zip(step.quantities, order, strict=False))
            for order in orders
        ]
        if step.expression != model.expression or not any(fits):
            return False
        own.setdefault(model.stated, set()).add(step.stated)
    return True


def corrupted(solution: str, language: str, kind: str, *, other: str = "") -> str:
    """Spoil a worked solution in a known way, to see whether `error_kind` tells it.

    A slip changes the last result, a wrong plan adds a calculation; what is incomplete ends before
    the first number, a matter of format lacks the closing phrase, and another language closes.

    Args:
        solution: A right one that ends in its last calculation and a closing phrase.
        language: ISO 639-1 code of the solution.
        kind: One of `KINDS`.
        other: The language that closes, for the kind "language".

    Raises:
        ValueError: Unknown kind, or the last two numbers of the solution are not its result.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}: choose from {', '.join(KINDS)}")
    record = get_language(language)
    solution = normalised(solution)
    numbers = list(find_numbers(solution, record.grouping))
    if len(numbers) < 2 or numbers[-2][2] != numbers[-1][2]:
        raise ValueError(f"{solution!r} does not end in its result and a closing phrase with it")
    (_, stop, gold), (start, end, _) = numbers[-2:]
    head, closing, after = solution[:stop], solution[stop:start], solution[end:]
    before, _, result = head.rpartition("=")
    if kind == "incomplete":
        return solution[: numbers[0][0]]
    if kind == "format":
        return head
    if kind == "language":
        return f"{head}. {get_language(other).closing.format(answer=gold)}"
    wrong = f"{gold + 1}"
    if kind == "slip":
        result = re.sub(r"\d[\d.,]*\d|\d", wrong, result)
        return f"{before}={result}{closing}{wrong}{after}"
    return f"{head}. {gold} + 1 = {wrong}{closing}{wrong}{after}"


def recovered(solutions: pd.DataFrame, *, others: Sequence[str]) -> pd.DataFrame:
    """Spoil every solution in every way, and classify what comes out.

    Args:
        solutions: Columns lang, target, response (the worked solution).
        others: Languages, one of which closes a solution in another language.

    Returns:
        One row per solution and kind: lang, spoilt (how) and told (what `error_kind` says).
    """
    rows = []
    for lang, target, text in solutions[["lang", "target", "response"]].itertuples(index=False):
        other = next(code for code in others if code != lang)
        for kind in KINDS:
            spoilt = corrupted(text, lang, kind, other=other)
            told = error_kind(spoilt, target, lang, solution=text, by_step=True)
            rows.append((lang, kind, told))
    return pd.DataFrame(rows, columns=["lang", "spoilt", "told"])
