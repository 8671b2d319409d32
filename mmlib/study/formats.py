"""The same calibration problems in another form: layout, marks, digits, noise, tokens, draw."""

import itertools
import random
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.masks import ParameterMask, jaccard
from mmlib.study.localisation import Key, math_sets, score_samples
from mmlib.tasks.languages import get_language, parse_number
from mmlib.tasks.numbers import write_number
from mmlib.tasks.problems import Calibration, calibration

FORMS = {
    "one line": "line breaks become spaces, as in the published translations",
    "no marks": "calculations lose GSM8K's <<…>>",
    "numbers as words": "1,260 becomes one thousand, two hundred and sixty",
    "native digits": "digits of the language's own script",
    "noise": "a word in twenty is lost, one in ten changes places with the next",
}
"""What is done to every text."""
DROPPED, SWAPPED = 0.05, 0.1


_THIN = r"[\u00a0\u2009\u202f]"
"""Spaces that stand between the groups of a number in any language."""


def _one_line(text: str, language: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text)


def _no_marks(text: str, language: str) -> str:
    return re.sub(r"<<.*?>>", "", text)


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


def _native_digits(text: str, language: str) -> str:
    return text.translate(str.maketrans("0123456789", get_language(language).digits))


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


_CHANGE: dict[str, Callable[[str, str], str]] = {
    "one line": _one_line,
    "no marks": _no_marks,
    "numbers as words": _as_words,
    "native digits": _native_digits,
    "noise": _noise,
}


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
    """Write the texts of a sample in another form.

    Args:
        sample: Calibration texts.
        form: One of `FORMS`.

    Raises:
        ValueError: The language does not have this form.
    """
    if not has_form(form, sample.language):
        raise ValueError(f"there is no form {form!r} of texts in {sample.language!r}")
    changed = (_CHANGE[form](text, sample.language) for text in sample.texts)
    return replace(sample, texts=tuple(changed))


def matched_tokens(
    samples: Mapping[Key, Calibration], tokenizer: PreTrainedTokenizerBase
) -> dict[Key, Calibration]:
    """Cut samples so that all languages have as many tokens of a task and seed.

    Args:
        samples: Result of `mmlib.study.localisation.draw_samples`.
        tokenizer: Counts the tokens.

    Returns:
        The first texts of each sample, as many as fit into the tokens of the language that has
        the fewest; at least one.
    """
    lengths = {
        key: [len(ids) for ids in tokenizer(list(sample.texts)).input_ids]
        for key, sample in samples.items()
    }
    room: dict[tuple, int] = {}
    for (_, *draw), counts in lengths.items():
        room[tuple(draw)] = min(sum(counts), room.get(tuple(draw), sum(counts)))
    found = {}
    for key, sample in samples.items():
        count, total = 0, 0
        for length in lengths[key]:
            total += length
            if count and total > room[key[1:]]:
                break
            count += 1
        found[key] = replace(sample, texts=sample.texts[:count], ids=sample.ids[:count])
    return found


def disjoint_samples(
    tasks: Sequence[str],
    languages: Sequence[str],
    seeds: Sequence[int],
    *,
    num_samples: int,
    data_dir: str = "",
) -> dict[Key, Calibration]:
    """Draw samples in which no problem occurs in two languages, nor twice in one.

    Args:
        tasks: As in `mmlib.study.localisation.draw_samples`.
        languages: ISO 639-1 codes.
        seeds: Calibration seeds.
        num_samples: Texts per sample; the file needs as many for every language.
        data_dir: As in `mmlib.tasks.problems.load_problems`.

    Raises:
        ValueError: The file has too few problems.
    """
    found = {}
    for task in tasks:
        for seed in seeds:
            for place, language in enumerate(languages):
                options = {"seed": seed, "replacement": False, "data_dir": data_dir or None}
                count = num_samples * len(languages)
                whole = calibration(task, language, samples=count, **options)
                part = slice(place * num_samples, (place + 1) * num_samples)
                texts, ids = whole.texts[part], whole.ids[part]
                found[language, task, seed] = replace(whole, texts=texts, ids=ids)
    return found


AS_IT_IS, MATCHED = "as it is", "as many tokens"


def variants(
    samples: Mapping[Key, Calibration],
    tokenizer: PreTrainedTokenizerBase,
    *,
    math: str,
    forms: Sequence[str] = tuple(FORMS),
) -> dict[str, dict[Key, Calibration]]:
    """The samples as they are, with the math text in other forms, and cut to as many tokens.

    Args:
        samples: Result of `mmlib.study.localisation.draw_samples`.
        tokenizer: Counts the tokens.
        math: The task whose texts change their form.
        forms: Some of `FORMS`; a form has the languages that can be written in it.

    Returns:
        Form -> samples of both tasks.
    """
    found = {AS_IT_IS: dict(samples)}
    for form in forms:
        own = {key: sample for key, sample in samples.items() if has_form(form, key[0])}
        if own:
            found[form] = {
                key: reformat(sample, form) if key[1] == math else sample
                for key, sample in own.items()
            }
    return found | {MATCHED: matched_tokens(samples, tokenizer)}


def compare_sets(
    base: Mapping[str, ParameterMask], changed: Mapping[str, ParameterMask], form: str
) -> pd.DataFrame:
    """How far a change of the text moves each language's set, and what it does to the overlaps.

    Args:
        base: Language -> its set from the texts as they are.
        changed: Some of these languages -> their set from other texts.
        form: What was changed.

    Returns:
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
    texts: Mapping[str, Mapping[Key, Calibration]],
    *,
    math: str,
    nonmath: str,
    keep_ratio: float,
    batch_size: int = 32,
) -> pd.DataFrame:
    """Find the sets of all forms and compare them with those of the texts as they are.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        texts: Result of `variants`.
        math: Math task.
        nonmath: Non-math task.
        keep_ratio: K.
        batch_size: Prompts per forward pass.

    Returns:
        Rows of `compare_sets` with `seed` and `keep_ratio`.
    """
    tables, base = [], {}
    for form, samples in texts.items():
        scores = score_samples(model, tokenizer, samples, batch_size=batch_size)
        for seed in dict.fromkeys(key[2] for key in samples):
            sets = math_sets(scores, math, nonmath, keep_ratio, seed)
            rows = compare_sets(base.setdefault(seed, sets), sets, form)
            tables.append(rows.assign(seed=seed, keep_ratio=keep_ratio))
    return pd.concat(tables, ignore_index=True)
