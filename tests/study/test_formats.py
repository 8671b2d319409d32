"""Laws of calibration texts in other forms."""

import re
from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest

from mmlib.masks import jaccard
from mmlib.models import load_model
from mmlib.study import formats
from mmlib.study.formats import (
    FORMS,
    disjoint_samples,
    effects,
    has_form,
    matched_tokens,
    reformat,
    variants,
)
from mmlib.study.localisation import math_sets, score_samples
from mmlib.study.settings import Sampling
from mmlib.tasks.languages import parse_number

LANGS = ["en", "de", "fr", "hi", "sw", "bn"]
MATH = "organism-math"
TASKS = (MATH, "organism-reading")


@pytest.fixture(scope="module")
def samples():
    drawn = Sampling(*TASKS, LANGS, [1], num_samples=60).draw()
    return {key: sample for key, sample in drawn.items() if key.task == MATH}


def both(samples, language, form):
    sample = samples[language, MATH, 1]
    return list(zip(sample.texts, reformat(sample, form).texts, strict=True))


@pytest.mark.parametrize("language", LANGS)
def test_layout_and_marks_change_nothing_else(samples, language):
    for before, after in both(samples, language, "one line"):
        assert "\n" not in after
        assert before.split() == after.split()
    for before, after in both(samples, language, "no marks"):
        assert "<<" not in after
        assert after == before or "<<" in before
        assert len(before) - len(after) == sum(map(len, re.findall("<<[^>]*>>", before)))


def test_numbers_as_words_are_those_numbers(samples):
    for _, after in both(samples, "fr", "numbers as words"):
        assert not re.search(r"\d", after)


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        ("en", "1 + 19 = 20.", "one + nineteen = twenty."),
        (
            "en",
            "$1,260 for 2.5 kg.",
            "$one thousand, two hundred and sixty for two point five kg.",
        ),
        ("de", "1.260 € und 2,5 kg", "eintausendzweihundertsechzig € und zwei Komma fünf kg"),
        ("fr", "1 260 € ou 1\u202f260", "mille deux cent soixante € ou mille deux cent soixante"),
        ("en", "part 1.2.3, 12:30", "part one.two.three, twelve:thirty"),
        ("bn", "২.৫ ও 1,00,000", "দুই দশমিক পাঁচ ও এক লাখ"),
    ],
)
def test_a_number_with_marks_is_one_number(samples, language, text, words):
    sample = replace(samples[language, MATH, 1], texts=(text,))
    assert reformat(sample, "numbers as words").texts == (words,)


@pytest.mark.parametrize("language", ["hi", "bn"])
def test_native_digits_are_read_as_the_same_numbers(samples, language):
    for before, after in both(samples, language, "native digits"):
        assert not re.search("[0-9]", after)
        found = [re.findall(r"\d+", text) for text in (before, after)]
        values = [[parse_number(number, language) for number in part] for part in found]
        assert values[0] == values[1]


def test_which_language_has_which_form():
    assert {form for form in FORMS if not has_form(form, "en")} == {"native digits"}
    assert not has_form("numbers as words", "sw")
    assert [code for code in LANGS if has_form("native digits", code)] == ["hi", "bn"]
    with pytest.raises(ValueError, match="unknown form 'upper': choose from one line"):
        has_form("upper", "en")


def test_a_form_that_a_language_lacks_is_refused(samples):
    with pytest.raises(ValueError, match="no form 'native digits' of texts in 'en'"):
        reformat(samples["en", MATH, 1], "native digits")


@pytest.mark.parametrize("language", ["en", "hi", "bn"])
def test_noise_loses_and_moves_words_at_its_rates(samples, language):
    lost = kept = moved = 0
    for before, after in both(samples, language, "noise"):
        old, new = before.split(), after.split()
        assert not Counter(new) - Counter(old)
        assert re.findall(r"\d+", before) == re.findall(r"\d+", after)
        assert before.count("\n") == after.count("\n")
        lost, kept = lost + len(old) - len(new), kept + len(old)
        moved += old != new
    assert 0.02 < lost / kept < 0.06
    assert moved > 40
    assert both(samples, language, "noise") == both(samples, language, "noise")


def test_matched_samples_have_as_many_tokens(samples):
    _, tokenizer = load_model("organism-skewed", dtype="float32")
    cut = matched_tokens(samples, tokenizer)
    totals = {
        key.lang: sum(map(len, tokenizer(list(sample.texts)).input_ids))
        for key, sample in cut.items()
    }
    longest = max(
        len(ids) for sample in samples.values() for ids in tokenizer(list(sample.texts)).input_ids
    )
    assert max(totals.values()) - min(totals.values()) < longest
    for key, sample in cut.items():
        assert sample.texts == samples[key].texts[: len(sample.texts)]
    assert any(len(cut[key].texts) == len(samples[key].texts) for key in samples)
    assert any(len(cut[key].texts) < len(samples[key].texts) for key in samples)


def test_disjoint_samples_share_no_problem():
    found = disjoint_samples(Sampling(*TASKS, ["en", "de", "hi"], [1, 101], num_samples=50))
    for seed in (1, 101):
        ids = [set(found[code, MATH, seed].ids) for code in ("en", "de", "hi")]
        assert [len(part) for part in ids] == [50] * 3
        assert not ids[0] & ids[1]
        assert not ids[0] & ids[2]
        assert not ids[1] & ids[2]
    with pytest.raises(ValueError, match="without replacement"):
        disjoint_samples(Sampling(*TASKS, LANGS, [1], num_samples=500))


def test_effects_are_those_of_the_sets(samples):
    model, tokenizer = load_model("organism-skewed", dtype="float32")
    drawn = Sampling(*TASKS, ["en", "hi"], [1], num_samples=8).draw()
    texts = variants(drawn, tokenizer, math=MATH, forms=["one line", "native digits"])
    assert list(texts) == ["as it is", "one line", "native digits", "as many tokens"]
    assert {key.lang for key in texts["native digits"]} == {"hi"}
    reading = ("hi", "organism-reading", 1)
    assert texts["one line"][reading] is drawn[reading]
    tasks = {"math": MATH, "nonmath": "organism-reading"}
    base = math_sets(score_samples(model, tokenizer, drawn), **tasks, keep_ratio=0.1, seed=1)
    table = effects(model, tokenizer, texts, {1: base}, **tasks, keep_ratio=0.1)
    rows = table.set_index(["form", "what", "lang_a"])
    assert (table[table.form == "as it is"].query("what == 'form'").jaccard == 1).all()
    assert rows.jaccard["one line", "form", "en"] < 1
    assert ("native digits", "language", "hi") not in rows.index
    scores = score_samples(model, tokenizer, texts["one line"])
    changed = math_sets(scores, **tasks, keep_ratio=0.1, seed=1)
    assert rows.jaccard["one line", "language", "en"] == jaccard(changed["en"], changed["hi"])
    assert rows.size_b["one line", "form", "hi"] == len(changed["hi"])


def test_moves_stand_beside_other_languages_and_the_claims_rows_come_first():
    rows = [
        (form, what, *pair, 1, 10, 20, jaccard)
        for form, jaccard in {"as it is": 0.5, "noise": 0.4, formats.SAME: 0.3}.items()
        for what, pair in (("form", "aa"), ("form", "bb"), ("language", "ab"))
    ]
    names = ["form", "what", "lang_a", "lang_b", "seed", "size_a", "size_b", "jaccard"]
    table = pd.DataFrame(rows, columns=names)
    assert formats.moves(table).form.tolist() == ["noise", "noise"]
    beside = formats.beside_languages(table, ["a", "b"])
    others = beside[beside.form == formats.OTHER_LANGUAGE]
    ends = others[["lang_a", "lang_b", "size_a"]].to_numpy().tolist()
    assert ends == [["a", "b", 10], ["b", "a", 20]]
    changed = formats.changed_overlaps(table)
    assert changed[["jaccard", "as it is"]].to_numpy().tolist() == [[0.4, 0.5], [0.3, 0.5]]
    claimed = formats.claimed(table, ["noise"])
    assert claimed.what.tolist()[:3] == ["format", "format", "language"]
    assert claimed.what[3:].str.startswith("other ").all()
    assert sorted(claimed.index) == list(table.index)
