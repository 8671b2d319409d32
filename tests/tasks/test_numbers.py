"""Numbers are read exactly, in the digits and marks of many languages."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmlib.tasks.numbers import find_numbers, normalised, plain_digits, read_number, write_number

GROUPING = {"en": ",", "de": ". ", "fr": " .", "ru": " ", "hi": ","}


def values(text, language="en"):
    return [write_number(value) for _, _, value in find_numbers(text, GROUPING[language])]


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        (r"$\frac34$", "en", "0.75"),
        ("1,234.5", "en", "1234.5"),
        ("1.234,5", "de", "1234.5"),
        ("1 234,5", "fr", "1234.5"),
        ("1\u202f234,5", "fr", "1234.5"),
        ("1\u00a0234\u00a0567", "en", "1234567"),
        ("1,23,456.5", "hi", "123456.5"),
        ("१,२३,४५६", "hi", "123456"),
        ("২,১২৫", "hi", "2125"),
        ("౨,౧౨౫", "hi", "2125"),
        ("๒,๑๒๕.๕", "en", "2125.5"),
        ("２，１２５", "en", "2125"),
        ("1.234,5", "en", "1234.5"),  # two marks settle each other in any language
        ("1,234.5", "de", "1234.5"),
        ("2.125", "de", "2125"),
        ("2,125", "de", "2125"),  # English commas in German text
        ("2.125", "en", "2.125"),
        ("2.125", "ru", "2.125"),
        ("2,125", "en", "2125"),
        ("0,125", "de", "0.125"),
        ("2,5", "en", "2.5"),
        ("2.5", "de", "2.5"),
        ("1234,567", "de", "1234.567"),
        ("114 200", "de", "114200"),
        ("114 200", "en", None),
        ("1,2,3", "en", None),
        ("1.2.3", "en", None),
        ("-5", "en", "-5"),
        ("−5", "en", "-5"),
        ("－５", "en", "-5"),
        ("-$5", "en", "-5"),
        ("$-5", "en", "-5"),
        ("US$ 1,000", "en", "1000"),
        ("18 €", "de", "18"),
        ("Rs. 50", "hi", "50"),
        ("25 %", "de", "25"),
        ("25％", "en", "25"),
        ("3/4", "en", "0.75"),
        ("-1/3", "en", "-1/3"),
        ("1 1/2", "en", "1.5"),
        ("2½", "en", "2.5"),
        ("¾", "en", "0.75"),
        ("3/0", "en", None),
        (".75", "en", "0.75"),
        ("007", "en", "7"),
        ("3.50", "en", "3.5"),
        ("3 / 4", "en", "0.75"),
        ("3⁄4", "en", "0.75"),
        ("3∕4", "en", "0.75"),
        ("$9{,}500$", "en", "9500"),
        (r"$\frac{3}{4}$", "en", "0.75"),
        (r"1\frac{1}{2}", "en", "1.5"),
        ("1e5", "en", "100000"),
        ("1.5 × 10^6", "en", "1500000"),
        (r"1.5 \times 10^{6}", "en", "1500000"),
        ("1,5·10⁻¹", "de", "0.15"),
        ("–5", "de", "-5"),
        ("–5", "fr", "-5"),
        ("1'234,50", "de", "1234.5"),
        ("₹.50", "hi", "0.5"),
        ("₹.50", "en", "0.5"),
        ("**.5**", "en", "0.5"),
        ("(.5)", "en", "0.5"),
        ("5k", "en", "5000"),
        ("1万", "en", "10000"),
        ("1万5千", "en", "15000"),
        ("1億2千万", "en", "120000000"),
        ("रु. 50", "hi", "50"),
        ("\u200b18", "en", "18"),
        ("\u200d\u202b1\u200e8", "en", "18"),
        ("seven", "en", None),
        ("3 and 4", "en", None),
        ("", "en", None),
    ],
)
def test_one_number(text, language, expected):
    value = read_number(text, GROUPING[language])
    assert (None if value is None else write_number(value)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20 - 12 = 8", ["20", "12", "8"]),
        ("20-12", ["20", "12"]),  # a minus between numbers is no sign
        ("答えは-5個。", ["-5"]),
        ("5 * $3 = $15.", ["5", "3", "15"]),
        ("Yes, 12, 13, and 14.", ["12", "13", "14"]),
        ("In 2020 500 were left.", ["2020", "500"]),
        ("12/3=4", ["4", "4"]),
        ("5，300", ["5", "300"]),  # a clause mark
        ("x² m³", []),
        ("25 m2", ["25"]),
        ("25 m^2 or 25 km^{2}", ["25", "25"]),
        ("2千円", ["2000"]),
        ("5千米 3千克", ["5", "3"]),
        ("18 kg of 5 Karat", ["18", "5"]),
        ("2020–2024", ["2020", "2024"]),
    ],
)
def test_numbers_of_a_text(text, expected):
    assert values(text) == expected


@given(st.fractions(max_denominator=1000))
def test_what_is_written_is_read_again(value):
    assert read_number(write_number(value), ",") == value


@given(st.integers(0, 10**9))
def test_every_script_and_style_of_one_integer(number):
    plain = f"{number:,}"
    for zero in "०০౦๐０":
        native = plain.translate({ord("0") + i: ord(zero) + i for i in range(10)})
        assert read_number(native, ",") == number
    for gap, grouping in ((".", ". "), (" ", " ."), ("\u202f", " "), ("\u2009", ",")):
        assert read_number(plain.replace(",", gap), grouping) == number


@given(st.text())
def test_any_text_keeps_its_length_and_gives_exact_spans(text):
    assert len(plain_digits(text)) == len(text)
    read = normalised(text)
    assert normalised(read) == read
    for start, end, value in find_numbers(text, ". "):
        assert 0 <= start < end <= len(read)
        assert isinstance(value, Fraction)


@pytest.mark.parametrize(
    "endless", ["9" * 5000, f"1/{'9' * 5000}", f"0.{'3' * 5000}", f"1{'億' * 5000}", "1,000" * 2000]
)
def test_a_number_without_end_is_none_and_the_next_one_is_read(endless):
    assert values(endless) == []
    assert read_number(endless, ",") is None
    assert values(f"{endless} = 12") == ["12"]


@given(st.text("0123456789.,/eE^-+×10亿万k½ "))
def test_what_looks_like_numbers_never_raises_and_can_be_written(text):
    assert all(isinstance(value, str) for value in values(text))
