"""The same calibration problems in another form: layout, marks, digits, noise, tokens, draw."""

import itertools
import random
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.masks import ParameterMask, jaccard
from mmlib.study.evidence import Numbers
from mmlib.study.localisation import Sample, math_sets, score_samples
from mmlib.study.settings import Loading, Sampling
from mmlib.study.tables import RunInfo, published
from mmlib.tasks.languages import get_language, parse_number
from mmlib.tasks.numbers import write_number
from mmlib.tasks.problems import Calibration

DROPPED, SWAPPED = 0.05, 0.1
_THIN = r"[\u00a0\u2009\u202f]"
"""Spaces that stand between the groups of a number in any language."""


def _as_words(text: str, language: str) -> str:
    from num2words import num2words  # slow to import

    def spell(found: re.Match) -> str:
        value = parse_number(found[0], language)
        if value is None:  # several numbers, as in 1.2.3
            return re.sub(r"\d+", spell, found[0])
        exact = value.denominator == 1
        return num2words(int(value) if exact else Decimal(write_number(value)), lang=language)

    gap = r"[\u00a0\u2009\u202f ]" if " " in get_language(language).grouping else _THIN
    return re.sub(rf"\d{{1,3}}(?:{gap}\d{{3}})+(?!\d)|\d+(?:[.,]\d+)*", spell, text)


def _noise(text: str, language: str) -> str:
    """Losses and swaps drawn from the text itself, equal in every run; numbers and lines stay."""
    rng = random.Random(zlib.crc32(text.encode()))
    words = re.split(r"(\s+)", text)
    order, position = [], 0
    while position < len(words):
        word = words[position]
        movable = position + 2 < len(words) and not re.search(r"\d", word + words[position + 2])
        inside = word and words[position + 1 : position + 2] == [" "]
        if inside and not re.search(r"\d", word) and rng.random() < DROPPED:
            position += 2
        elif word.strip() and movable and rng.random() < SWAPPED:
            order += [words[position + 2], words[position + 1], word]
            position += 3
        else:
            order.append(word)
            position += 1
    return "".join(order)


FORMS: dict[str, Callable[[str, str], str]] = {
    # Line breaks become spaces, as in the published translations.
    "one line": lambda text, _: re.sub(r"\s*\n\s*", " ", text),
    # Calculations lose GSM8K's <<…>>.
    "no marks": lambda text, _: re.sub(r"<<.*?>>", "", text),
    # 1,260 becomes one thousand, two hundred and sixty.
    "numbers as words": _as_words,
    # Digits of the language's own script.
    "native digits": lambda text, code: text.translate(
        str.maketrans("0123456789", get_language(code).digits)
    ),
    # A word in twenty is lost, one in ten changes places with the next.
    "noise": _noise,
}
"""What is done to every text, by its language."""


def has_form(form: str, language: str) -> bool:
    """Whether texts of a language can be written in a form and then differ from what they were.

    Raises:
        ValueError: An unknown form or language.
    """
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r}: choose from {', '.join(FORMS)}")
    if form == "native digits":
        return get_language(language).digits != "0123456789"
    if form == "numbers as words":
        from num2words import CONVERTER_CLASSES

        return get_language(language).code in CONVERTER_CLASSES
    return True


def reformat(sample: Calibration, form: str) -> Calibration:
    """Write the texts of a sample in one of `FORMS`.

    Raises:
        ValueError: The language does not have this form.
    """
    if not has_form(form, sample.language):
        raise ValueError(f"there is no form {form!r} of texts in {sample.language!r}")
    changed = (FORMS[form](text, sample.language) for text in sample.texts)
    return replace(sample, texts=tuple(changed))


def matched_tokens(
    samples: Mapping[Sample, Calibration], tokenizer: PreTrainedTokenizerBase
) -> dict[Sample, Calibration]:
    """Cut samples so that all languages have as many tokens of a task and seed.

    The first texts of each sample stay, as many as fit into the tokens of the language that has the
    fewest; at least one.
    """
    lengths = {
        key: [len(ids) for ids in tokenizer(list(sample.texts)).input_ids]
        for key, sample in samples.items()
    }
    room: dict[tuple[str, int], int] = {}
    for key, counts in lengths.items():
        drawn = key.task, key.seed
        room[drawn] = min(sum(counts), room.get(drawn, sum(counts)))
    cut = {}
    for key, sample in samples.items():
        fitting = np.cumsum(lengths[key]) <= room[key.task, key.seed]
        count = max(1, int(fitting.sum()))
        cut[key] = replace(sample, texts=sample.texts[:count], ids=sample.ids[:count])
    return cut


def disjoint_samples(sampling: Sampling) -> dict[Sample, Calibration]:
    """Draw samples in which no problem occurs in two languages, nor twice in one.

    The file needs `num_samples` problems for every language.

    Raises:
        ValueError: The file has too few problems.
    """
    drawn, number = {}, sampling.num_samples
    every = number * len(sampling.languages)
    whole = replace(sampling, num_samples=every, drawing="once").draw()
    for place, code in enumerate(sampling.languages):
        part = slice(place * number, (place + 1) * number)
        for key, sample in whole.items():
            if key.lang == code:
                drawn[key] = replace(sample, texts=sample.texts[part], ids=sample.ids[part])
    return drawn


AS_IT_IS, MATCHED = "as it is", "as many tokens"
GENERAL, OTHER_TASK = "general text as non-math", "another task"
OTHER_SAMPLE, OTHER_LANGUAGE = "another sample", "another language"
SAME, DISJOINT = "fewer, the same problems", "fewer, disjoint problems"


def variants(
    samples: Mapping[Sample, Calibration],
    tokenizer: PreTrainedTokenizerBase,
    *,
    math: str,
    forms: Sequence[str] = tuple(FORMS),
) -> dict[str, dict[Sample, Calibration]]:
    """The samples as they are, with the math text in other forms, and cut to as many tokens.

    Texts of the task `math` change; a form has the languages that can be written in it. By form.
    """
    texts = {
        form: {
            key: reformat(sample, form) if key.task == math else sample
            for key, sample in samples.items()
            if has_form(form, key.lang)
        }
        for form in forms
    }
    texts = {form: written for form, written in texts.items() if written}
    return {AS_IT_IS: dict(samples), **texts, MATCHED: matched_tokens(samples, tokenizer)}


def compare_sets(
    base: Mapping[str, ParameterMask], changed: Mapping[str, ParameterMask], form: str
) -> pd.DataFrame:
    """How far a change of the text moves each language's set, and what it does to the overlaps.

    Columns form, what, lang_a, lang_b, size_a, size_b, jaccard. `what` is "form": the set of a
    language against its changed set, or "language": two languages, both changed.
    """
    rows = [
        (form, "form", a, a, len(base[a]), len(mask), jaccard(base[a], mask))
        for a, mask in changed.items()
    ]
    for a, b in itertools.combinations(changed, 2):
        one, other = changed[a], changed[b]
        rows.append((form, "language", a, b, len(one), len(other), jaccard(one, other)))
    names = ["form", "what", "lang_a", "lang_b", "size_a", "size_b", "jaccard"]
    return pd.DataFrame(rows, columns=names)


def effects(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Mapping[str, Mapping[Sample, Calibration]],
    base: Mapping[int, Mapping[str, ParameterMask]],
    *,
    math: str,
    nonmath: str,
    keep_ratio: float,
    batch_size: int = 32,
) -> pd.DataFrame:
    """Find the sets of all forms and compare them with those of the texts as they are.

    `texts` are samples by form, see `variants`; `base` the sets of the texts as they are, by seed;
    `math` and `nonmath` the tasks of these texts.

    Returns:
        Rows of `compare_sets` with `seed` and `keep_ratio`.
    """
    tables = []
    for form, samples in texts.items():
        scores = score_samples(model, tokenizer, samples, batch_size=batch_size)
        for seed in dict.fromkeys(key.seed for key in samples):
            sets = math_sets(scores, math, nonmath, keep_ratio, seed)
            rows = compare_sets(base[seed], sets, form)
            tables.append(rows.assign(seed=seed, keep_ratio=keep_ratio))
    return pd.concat(tables, ignore_index=True)


NUMBERS = Numbers(
    "formats",
    ["model", "form", "what", "lang_a", "lang_b", "seed", "keep_ratio"],
    ["size_a", "size_b", "jaccard"],
)


class Formats(NamedTuple):
    """What `rows` gives."""

    examples: pd.DataFrame
    """A text of every form, of the first language that was scored: column text."""
    table: pd.DataFrame
    """Rows of `compare_sets` with model, seed, keep_ratio and nonmath."""
    made: pd.DataFrame
    """Those that this run computed."""
    audited: pd.DataFrame
    """See `mmlib.study.evidence.audit_values`."""
    run: RunInfo


def rows(given: Mapping[str, Any]) -> Formats:
    """Find the sets of all texts, or take what is shipped and find those of one language again."""
    loading = Loading.of(given)
    model, tokenizer = loading.load()
    run = loading.run(model, given)
    math, nonmath, keep_ratio = given["math"], given["nonmath"], given["keep_ratio"]
    languages, seeds = given["languages"], given["seeds"]
    if not given["sweep"]:
        languages, seeds = [languages[given["audit_seed"] % len(languages)]], seeds[:1]
    sampling = Sampling.of(given, languages=languages, seeds=seeds)
    samples = sampling.draw()
    texts = variants(samples, tokenizer, math=math, forms=given["forms"])
    batching = {"batch_size": given["batch_size"]}
    audit = {"audit_seed": given["audit_seed"]}
    scores = score_samples(model, tokenizer, samples, **batching, **audit)
    base = {seed: math_sets(scores, math, nonmath, keep_ratio, seed) for seed in seeds}

    def moved(texts: Mapping, math: str, nonmath: str) -> pd.DataFrame:
        options = {"math": math, "nonmath": nonmath, "keep_ratio": keep_ratio, **batching}
        return effects(model, tokenizer, texts, base, **options)

    if not given["sweep"]:
        del texts[MATCHED]  # as many tokens as which others?
    tables = [moved(texts, math, nonmath)]
    pairs = {GENERAL: (math, given["generic"]), OTHER_TASK: (given["other_task"], nonmath)}
    for form, pair in pairs.items():
        if all(pair):
            extra = replace(sampling, math=pair[0], nonmath=pair[1]).draw()
            tables.append(moved({form: extra}, *pair))
    for seed, other in itertools.pairwise(seeds):
        again = compare_sets(base[seed], base[other], OTHER_SAMPLE)
        tables.append(again.assign(seed=seed, keep_ratio=keep_ratio))
    if given["sweep"]:
        few = replace(sampling, num_samples=given["num_disjoint"], drawing="once")
        apart = {SAME: few.draw(), DISJOINT: disjoint_samples(few)}
        tables.append(moved(apart, math, nonmath))
    made = pd.concat(tables, ignore_index=True).assign(model=run.model, nonmath=nonmath)
    table, audited = NUMBERS.take(made, sweep=given["sweep"])
    first = {form: texts[form].get(Sample(languages[0], math, seeds[0])) for form in texts}
    examples = {form: sample.texts[0] for form, sample in first.items() if sample}
    return Formats(
        examples=pd.DataFrame({"text": examples}),
        table=table[table.model == run.model],
        made=made,
        audited=audited,
        run=run,
    )


def moves(table: pd.DataFrame) -> pd.DataFrame:
    """How a change moves each language's set, without the draws of fewer problems."""
    moved = (table.what == "form") & ~table.form.isin([AS_IT_IS, SAME, DISJOINT])
    return table[moved]


def pairs_as_they_are(table: pd.DataFrame) -> pd.DataFrame:
    """Overlaps of two languages' sets, of the texts as they are."""
    return table[(table.form == AS_IT_IS) & (table.what == "language")]


def beside_languages(table: pd.DataFrame, languages: Sequence[str]) -> pd.DataFrame:
    """`moves`, and as a form of its own every other language beside each of some `languages`."""
    whole = pairs_as_they_are(table)
    swapped = {"lang_a": "lang_b", "lang_b": "lang_a", "size_a": "size_b", "size_b": "size_a"}
    both = pd.concat([whole, whole.rename(columns=swapped)])
    both = both[both.lang_a.isin(languages)].assign(form=OTHER_LANGUAGE)
    return pd.concat([moves(table), both])


def changed_overlaps(table: pd.DataFrame) -> pd.DataFrame:
    """Overlaps of two languages that are both changed, beside those as they are.

    In the column "as it is" stands the Jaccard of the same pair and seed.
    """
    key = ["lang_a", "lang_b", "seed"]
    before = pairs_as_they_are(table).set_index(key).jaccard.rename(AS_IT_IS)
    return table[(table.what == "language") & (table.form != AS_IT_IS)].join(before, on=key)


def claimed(table: pd.DataFrame, forms: Sequence[str]) -> pd.DataFrame:
    """The rows that the claims read stand first: `what` is "format" or "language"."""
    moved = moves(table)
    first = pd.concat(
        [moved[moved.form.isin(forms)].assign(what="format"), pairs_as_they_are(table)]
    )
    others = table[~table.index.isin(first.index)]
    return pd.concat([first, others.assign(what="other " + others.what)])


def published_tasks() -> pd.Series:
    """Published Jaccards of English math with English code, and with German math of that seed."""
    table = published("mathlang_overlap_extra")
    table = table[(table.group == "global") & (table.seed == 42) & (table.keep_ratio == 0.1)]
    return table.set_index(["lang_a", "lang_b"]).jaccard
