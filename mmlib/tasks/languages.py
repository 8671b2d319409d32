"""What a language needs to be prompted and graded in."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from mmlib.tasks.numbers import find_numbers, normalised, number_at, read_number, write_number

# What may stand between a closing phrase and its number: spaces, a colon, Markdown, a bracket.
_LEAD = r"[\s:：*_(\[\\]*"
_BOX = r"\\boxed\{"
_SENTENCE = re.compile(r"[.!?。।](?!\d)|\n")
# What opens another turn, where a model goes on after its answer.
_TURN = r"(?:Human|User|Assistant|Question|Problem)\s*[:：]|###|<\|"


@dataclass(frozen=True, kw_only=True)
class Language:
    """One language: its labels and phrases in the papers' prompts, and how its answers are read.

    The phrases of en, de and hi are those of the calibration files of arXiv 2606.18453 (Appendix A
    as far as its repository shows it); those of the languages of MGSM are the labels and closing
    phrases of its exemplars. `exemplars` are the record's own proof: reading each must give its
    gold, with the closing phrase and without.
    """

    code: str
    """ISO 639-1 code, or one with the script, as `hi-Latn`."""
    name: str
    script: str
    """ISO 15924 code of the script."""
    question_label: str
    answer_label: str
    step_phrase: str = ""
    """The chain-of-thought cue that opens the answer; empty where the label is one already."""
    closing: str
    """The closing phrase we write, with `{answer}` where the number stands."""
    other_closings: tuple[str, ...] = ()
    """Closing phrases that are read as well, in the order in which words are looked for."""
    full_stop: str = "."
    """What ends a sentence; empty where nothing does."""
    choice_labels: tuple[str, str, str]
    """Labels of the question, the choices and the answer of a multiple-choice question."""
    decimal: str = "."
    """The decimal mark."""
    grouping: str = ","
    """The marks between groups of digits. No-break and thin spaces group in every language."""
    digits: str = "0123456789"
    """The language's own ten digits."""
    single_line: bool = False
    """Whether the published calibration text has no line breaks (lost in machine translation)."""
    exemplars: tuple[tuple[str, str], ...]
    """Eight short solutions of our own, each with its gold: grouped, negative, decimal, ..."""

    def word_problem(self, question: str, solution: str, answer: str) -> tuple[str, str]:
        """Lay out a word problem as in the published calibration files.

        Args:
            question: The problem.
            solution: The worked solution; may be empty, as in MGSM's and MSVAMP's test files.
            answer: The gold.

        Returns:
            Prompt (question and chain-of-thought cue) and response (solution and closing phrase);
            their concatenation is the calibration text.
        """
        gap = " " if self.single_line else "\n"
        cue = f"{self.answer_label} {self.step_phrase}".strip()
        prompt = f"{_labelled(self.question_label, question)}{gap}{cue}"
        parts = [solution.strip(), self.closing.format(answer=answer)]
        response = "".join(gap + part for part in parts if part)
        return prompt, " ".join(response.split("\n")) if self.single_line else response

    def choice_problem(self, question: str, choices: Sequence[str], answer: str) -> tuple[str, str]:
        """Lay out a multiple-choice question as in the published MMLU calibration files.

        They quote the choices with apostrophes and escape none. Without choices there is no
        paragraph for them.

        Returns:
            Prompt (question, choices, answer label: three paragraphs) and response (the text of
            the right choice).
        """
        ask, choose, reply = self.choice_labels
        listed = ", ".join(f"'{choice}'" for choice in choices)
        offered = f"{choose}: [{listed}]\n\n" if choices else ""
        return f"{ask}: {question.strip()}\n\n{offered}{reply}:", f" {answer}"

    @property
    def closings(self) -> tuple[str, ...]:
        """Every closing phrase that is read, with `{answer}` where the answer stands."""
        return (*self.other_closings, self.closing)

    @cached_property
    def _opening(self) -> re.Pattern:
        """What stands before the number of a closing phrase."""
        heads = {normalised(closing.partition("{answer}")[0]).strip() for closing in self.closings}
        either = "|".join(re.escape(head) for head in sorted(heads, key=len, reverse=True))
        return re.compile(f"(?:{either}|{_BOX}){_LEAD}", re.IGNORECASE)

    @cached_property
    def _turn(self) -> re.Pattern:
        return re.compile(f"{_TURN}|{re.escape(normalised(self.question_label))}")

    def _closes(self, text: str) -> list[tuple[str, int, Fraction]]:
        """The closing phrases of a normalised text: words, end and value of the number.

        Another turn after the first one ends the answer.
        """
        closes = []
        for match in self._opening.finditer(text):
            start, sign = match.end(), 1
            if closes and self._turn.search(text, closes[0][1], match.start()):
                break
            if not re.search("[:：\n]", match[0]) and re.match(r"[-–−] (?=\S)", text[start:]):
                start, sign = start + 2, -1
            if number := number_at(text, start, self.grouping):
                closes.append((match[0], number[0], sign * number[1]))
        return closes

    def extract_answer(self, text: str) -> str | None:
        r"""Return the number of the last closing phrase in `text`, or None (strict extraction).

        It is written as by `mmlib.tasks.numbers.write_number`: "2125" for "२,१२५". A closing
        phrase may stand within a sentence, and `\boxed{}` is one in every language. What follows
        in another turn ("Human: ...") does not count.
        """
        closes = self._closes(normalised(text))
        return write_number(closes[-1][2]) if closes else None

    def has_turn(self, text: str) -> bool:
        """Whether something in `text` opens another turn."""
        return bool(self._turn.search(normalised(text)))

    def ended(self, text: str) -> bool:
        """Whether another turn follows the answer that `text` gives, after which nothing counts."""
        text = normalised(text)
        closes = self._closes(text)
        return bool(closes and self._turn.search(text, closes[0][1]))

    def extract_last_number(self, text: str) -> str | None:
        """Return the last number of `text`, or None (flexible extraction).

        What follows the sentence of the last closing phrase does not count.
        """
        text = normalised(text)
        # A label of the answer ("उत्तर:") opens a solution and closes none.
        ends = [
            (end, value)
            for words, end, value in self._closes(text)
            if not (re.search("[:：]", words) and words.strip(" *_([\\") in self.answer_label)
        ]
        if ends:
            after = text[ends[-1][0] :]
            stops = [m.start() for p in (_SENTENCE, self._turn) if (m := p.search(after))]
            later = find_numbers(after[: min(stops, default=None)], self.grouping)
            return write_number([ends[-1][1], *(value for _, _, value in later)][-1])
        values = [value for _, _, value in find_numbers(text, self.grouping)]
        return write_number(values[-1]) if values else None

    def numbers(self, text: str) -> Counter[Fraction]:
        """The numbers of a text, as often as each stands there and without their signs."""
        return Counter(abs(value) for _, _, value in find_numbers(text, self.grouping))

    def extract_words(self, text: str) -> str | None:
        """Return what stands in the closing phrase of `text`, or None.

        The phrase must be complete: with its full stop, or with the words after the answer.
        """
        for closing in self.closings:
            head, _, tail = closing.partition("{answer}")
            end = re.escape(tail or self.full_stop) or r"(?:\n|$)"
            if found := re.search(f"{re.escape(head)}(.+?){end}", text, re.IGNORECASE):
                return found[1].strip() or None
        return None


def _labelled(label: str, text: str) -> str:
    """Put a label before a text; a full-width colon brings its own space."""
    return f"{label}{'' if label.endswith('：') else ' '}{text.strip()}"


def language_of(code: str, fields: dict[str, Any]) -> Language:
    """Make a language from the fields of its record."""
    try:
        return Language(code=code, **{name: _frozen(value) for name, value in fields.items()})
    except TypeError as error:  # a field that is missing or unknown
        raise ValueError(f"{RECORDS}, record {code!r}: {error}") from None


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


RECORDS = Path(__file__).with_suffix(".yaml")
LANGUAGES = {
    code: language_of(code, fields)
    for code, fields in yaml.safe_load(RECORDS.read_text(encoding="utf-8")).items()
}


def get_language(code: str) -> Language:
    """Look a language up by its code.

    Raises:
        ValueError: No record for `code`; the message lists the codes there are.
    """
    if code not in LANGUAGES:
        raise ValueError(
            f"unknown language {code!r}: choose from {', '.join(sorted(LANGUAGES))}, "
            "or add a record to mmlib/tasks/languages.yaml"
        )
    return LANGUAGES[code]


def parse_number(text: str, language: str) -> Fraction | None:
    """Read a text that is one number, maybe with a currency or a percent sign.

    What a mark between digits means is told in `mmlib.tasks.numbers.find_numbers`.

    Args:
        text: For example "2.125", "2,125" or "২,১২৫".
        language: ISO 639-1 code.

    Returns:
        The exact value; None if the text is not one number.
    """
    return read_number(text, get_language(language).grouping)
