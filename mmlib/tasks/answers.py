"""Reading the answer that a response gives."""

import re

from mmlib.tasks.languages import get_language

EXTRACTIONS = ("strict", "flexible")
Extraction = str
"""One of `EXTRACTIONS`."""


def _checked(mode: Extraction) -> None:
    if mode not in EXTRACTIONS:
        raise ValueError(f"unknown extraction {mode!r}: choose from {', '.join(EXTRACTIONS)}")


def extract_number(text: str, language: str, mode: Extraction = "strict") -> str | None:
    """Read the number a response gives as its answer.

    Args:
        text: A model's response.
        language: ISO 639-1 code, which says how an answer is closed.
        mode: `strict` takes the number of the last closing phrase (the harness' GSM8K filter of
            this name takes the first), `flexible` the last number anywhere.

    Returns:
        The value in ASCII digits without grouping ("2125" for "२,१२५" or the German "2.125"), or
        None when there is no such number. How marks are read is told in
        `mmlib.tasks.numbers.find_numbers`.
    """
    _checked(mode)
    record = get_language(language)
    return record.extract_answer(text) if mode == "strict" else record.extract_last_number(text)


def legacy_number(text: str) -> float:
    """Read a number as the scripts behind *SLAM* did, with their faults; 0.0 if there is none.

    The last digits, with what follows a point, after commas between digits are dropped: a sign is
    lost, the German "2,5" is 25 and "70.000" is 70.
    """
    found = re.findall(r"\d+(?:\.\d+)?", re.sub(r"(?<=\d),(?=\d)", "", text))
    return float(found[-1]) if found else 0.0


def extract_text(text: str, language: str, mode: Extraction = "strict") -> str | None:
    """Read the words a response gives as its answer.

    `strict` takes what stands in the closing phrase; `flexible` takes the whole response, without
    its final mark, when there is no closing phrase.
    """
    _checked(mode)
    closed = get_language(language).extract_words(text)
    if closed is not None:
        return closed
    return text.strip().rstrip(".।").strip() or None if mode == "flexible" else None
