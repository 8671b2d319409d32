"""Read numbers as people and models write them in many languages.

Values are exact (`fractions.Fraction`), so that 0.1 and 1/3 compare without rounding.
"""

import math
import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction

_SIGNS = "$€£¥₹৳฿₽￥"
CURRENCY = rf"(?:(?:US)?\$|Rs\.?|रु\.?|[{_SIGNS}])"
# The groups of a long number may stand apart by these in any language, by a plain space in some.
_THIN = "\u00a0\u2009\u202f"
_APOSTROPHES = "'’"
_VULGAR = "¼½¾⅐-⅞"
_SAME = str.maketrans("−－＋．％／＄⁄∕", "--+.%/$//")
# Chinese and Japanese count on in words; 千米 and 千克 are kilometre and kilogram.
_SMALL = {"百": 100, "千": 1000}
_LARGE = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
# Only where a number must stand: elsewhere 12 / 3 is a calculation.
_ANSWER_STROKE = r"(?:/|\s/\s(?=\d+(?!\d|\s*[-+*/×÷=])))"
_COUNT = r"(?:百(?!分)|千(?![米克瓦卡])|[万萬亿億])"
_FRACTION = r"(\d?)\\[dt]?frac\s*(\{[^{}]+\}|\d)\s*(\{[^{}]+\}|\d(?!\d))"


def normalised(text: str) -> str:
    r"""Write a text as it is read: composed letters, no invisible marks, LaTeX as plain signs.

    `\frac{3}{4}` becomes 3/4, `9{,}500` 9,500, `m^2` m²; what `\boxed{}` holds stays in it.
    """
    before = None
    while text != before:  # what is taken out of braces may hold more
        before = text
        text = "".join(mark for mark in text if unicodedata.category(mark) != "Cf")
        text = unicodedata.normalize("NFC", text)
        if "\\" in text or "{" in text:
            text = re.sub(r"\\(?:text|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", text)
            text = re.sub(_FRACTION, _stroke, text)
            text = re.sub(r"\\([$%])", r"\1", text.replace("{,}", ",").replace(r"\,", "\u2009"))
        text = re.sub(r"(?<![^\W\d_])((?:[kdcmµ]?m|ft|in|yd|mi)\^?\{?[23]\}?)(?!\w)", _raised, text)
        text = re.sub(
            "(?<=10)[⁻⁰¹²³⁴-⁹]+", lambda power: f"^{unicodedata.normalize('NFKC', power[0])}", text
        )
    return text


def _stroke(fraction: re.Match) -> str:
    before = f"{fraction[1]} " if fraction[1] else ""
    above, below = (part.strip("{} ") for part in fraction.groups()[1:])
    return f"{before}{above}/{below}"


def _raised(unit: re.Match) -> str:
    return re.sub(r"[\^{}]", "", unit[1]).translate(str.maketrans("23", "²³"))


def plain_digits(text: str) -> str:
    """Write every decimal digit of Unicode as 0–9, and full-width signs as ASCII ones.

    Devanagari, Bengali, Telugu, Thai, full-width and all others. The length stays the same. A
    full-width comma is a clause mark of Chinese and Japanese, so it becomes a comma only between
    full-width digits.
    """
    text = re.sub("(?<=[０-９])，(?=[０-９]{3})", ",", text).translate(_SAME)
    return re.sub(r"[^\D0-9]", lambda digit: str(unicodedata.decimal(digit[0])), text)


def _pattern(grouping: str, stroke: str = "/") -> str:
    """A number in plain digits; what is no number after all, `_value` refuses."""
    gap = f"[{_THIN} ]" if " " in grouping else f"[{_THIN}]"
    gap = f"(?:{gap}|[{_APOSTROPHES}])"
    body = (
        rf"\d{{1,3}}(?:{gap}\d{{3}})+(?![\d])(?:[.,]\d+)?|\d+(?:[.,]\d+)*|"
        rf"(?<![^\s{_SIGNS}+\-–*_(\[])[.,]\d+"
    )
    counted = rf"\d+(?:[.,]\d+)*\s?{_COUNT}+(?:\d+(?:[.,]\d+)*{_COUNT}*)*"
    ten = r"10\^\{?(?P<%s>-?\d{1,2})\}?(?!\d)"
    return (
        r"(?P<sign>(?<![\dA-Za-z)\]%])[+\-–])?"
        rf"(?:{CURRENCY}\s?(?P<sign_inside>[-–])?)?(?<![\d/])(?:"
        rf"(?:(?P<whole>\d+)[ \u00a0])?(?P<above>\d+){stroke}"
        r"(?P<below>0*[1-9]\d*)(?![\d/.,]\d)(?!/)|"
        rf"(?P<counted>{counted})|{ten % 'lone'}|"
        rf"(?P<body>{body})(?:(?P<part>\s?[{_VULGAR}])|"
        rf"[eE](?P<exponent>[+-]?\d{{1,2}})(?!\w)|(?P<thousand>[kK])(?!\w)|"
        rf"\s?(?:[×x*·]|\\times|\\cdot)\s?{ten % 'power'})?|(?P<alone>[{_VULGAR}]))"
    )


LONGEST = 100
"""Characters of a number. Models that repeat themselves write thousands of digits, of which Python
makes no integer."""


def _value(match: re.Match, grouping: str) -> Fraction | None:
    """What a match of `_pattern` is worth; None where its marks make no sense ("1.2.3")."""
    if match.end() - match.start() > LONGEST:
        return None
    if match["below"]:
        value = Fraction(int(match["above"]), int(match["below"])) + int(match["whole"] or 0)
    elif match["alone"]:
        value = _vulgar(match["alone"])
    elif match["lone"]:
        value = Fraction(10) ** int(match["lone"])
    elif match["counted"]:
        value = _counted(match["counted"], grouping)
    else:
        value = _decimal(re.sub(rf"[\s{_APOSTROPHES}]", "", match["body"]), grouping)
        power = 3 if match["thousand"] else int(match["exponent"] or match["power"] or 0)
        if value is not None:
            value *= Fraction(10) ** power
            value += _vulgar(match["part"].strip()) if match["part"] else 0
    minus = {"-", "–"} & {match["sign"], match["sign_inside"]}
    return -value if minus and value is not None else value


def _counted(text: str, grouping: str) -> Fraction | None:
    """A number with Chinese or Japanese multipliers: 1万5千 is 15,000."""
    total, section = Fraction(0), Fraction(0)
    for body, words in re.findall(rf"(\d+(?:[.,]\d+)*)\s?({_COUNT}*)", text):
        value = _decimal(body, grouping)
        if value is None:
            return None
        section += value * math.prod(_SMALL.get(word, 1) for word in words)
        if large := math.prod(_LARGE.get(word, 1) for word in words) - 1:
            total, section = total + section * (large + 1), Fraction(0)
    return total + section


def _vulgar(sign: str) -> Fraction:
    return Fraction(unicodedata.normalize("NFKC", sign).replace("\u2044", "/"))


def _decimal(body: str, grouping: str) -> Fraction | None:
    marks = [character for character in body if character in ".,"]
    if not marks:
        return Fraction(body)
    whole, last, tail = body.rpartition(marks[-1])
    if len(set(marks)) == 2:  # the last kind is the decimal mark, in whatever style
        return Fraction(f"{_grouped(whole)}.{tail}") if _grouped(whole) else None
    if len(marks) > 1:
        return Fraction(_grouped(body)) if _grouped(body) else None
    if len(tail) == 3 and re.fullmatch(r"[1-9]\d{0,2}", whole) and last in "," + grouping:
        return Fraction(whole + tail)
    return Fraction(f"{whole or 0}.{tail}")


def _grouped(body: str) -> str | None:
    """The digits of a number in groups of three, or of two before the last (Indian style)."""
    if re.fullmatch(r"\d{1,3}(?:([.,])\d{3}(?:\1\d{3})*|([.,])(?:\d{2}\2)*\d{3})", body):
        return re.sub("[.,]", "", body)
    return None


def find_numbers(text: str, grouping: str) -> Iterator[tuple[int, int, Fraction]]:
    """Find every number in a text, from left to right.

    Digits of all scripts; a minus sign (ASCII, U+2212 or a dash) unless it stands between two
    numbers; currency signs; simple fractions ("3/4", "1 1/2", "½"); powers of ten ("1e5", "5k",
    "1.5 × 10^6", "1万"). Percent signs and currencies are left out of the value: "25 %" is 25,
    since the benchmarks' golds are written so. Number words and "2 million" are not read.

    Two marks of a number ("1.234,5", "1,23,456.5") settle each other: the last kind is the
    decimal mark, and a mark that repeats groups. One mark alone is read as follows:

    - Not before exactly three digits, or after a leading zero, or after more than three: decimal
      mark, in any language ("2.5" and "2,5", "0,125", "1234,567").
    - A comma before exactly three digits groups, also where the comma is the decimal mark:
      "2,125" is 2125 in German too. Models keep English commas in German text, and so does
      machine translation (each of the 13 such numbers in the German GSM8K solutions of
      arXiv 2606.18453 is a thousand), while answers with three decimals hardly occur.
    - A point before exactly three digits groups where the language groups by points: "2.125" is
      2125 in German, and 2.125 in English, Russian, or Hindi.

    Args:
        text: Any text.
        grouping: What groups digits in the language: any of ",", "." and a plain space. No-break
            and thin spaces group everywhere.

    Yields:
        Start and end in the `normalised` text, and the value.
    """
    for match in re.finditer(_pattern(grouping), plain_digits(normalised(text))):
        value = _value(match, grouping)
        if value is not None:
            yield match.start(), match.end(), value


def number_at(text: str, position: int, grouping: str) -> tuple[int, Fraction] | None:
    """Read the number that begins at a position of a `normalised` text: its end and its value."""
    match = re.compile(_pattern(grouping, _ANSWER_STROKE)).match(plain_digits(text), position)
    value = _value(match, grouping) if match else None
    return None if value is None else (match.end(), value)


def read_number(text: str, grouping: str) -> Fraction | None:
    """Read a text that is one number, maybe with a currency or a percent sign; None otherwise."""
    frame = rf"[\s*_(]*{_pattern(grouping, _ANSWER_STROKE)}\s*(?:%|{CURRENCY})?[\s*_)]*"
    match = re.fullmatch(frame, plain_digits(normalised(text)))
    return _value(match, grouping) if match else None


def write_number(value: Fraction) -> str:
    """Write a value canonically: ASCII digits, no grouping; p/q where no decimal is exact."""
    places, rest = 0, value.denominator
    for prime in (2, 5):
        power = 0
        while rest % prime == 0:
            rest, power = rest // prime, power + 1
        places = max(places, power)
    if rest > 1 or places == 0:
        return str(value)
    digits = str(abs(value) * 10**places).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
