"""Texts with their English translations: where they come from, and which of them to trust."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mmlib.tasks.benchmarks.organism import FAMILY, organism_folder
from mmlib.tasks.languages import get_language
from mmlib.tasks.problems import BENCHMARKS, load_problems, read
from mmlib.tasks.sources import read_table

_TRANSLATE = "Translate this from [{source}] to [{target}]:\n[{source}]: {text}\n[{target}]: "
PROMPTS = {
    "published": _TRANSLATE,
    "no brackets": _TRANSLATE.replace("[", "").replace("]", ""),
    "dialogue": f"Human: {_TRANSLATE}\nAssistant: ",
}
"""The training prompt of SLAM (its Table 7); without the brackets that are printed there, as in the
work it comes from; and in the wrapper that its training script adds."""


def translation_prompt(
    text: str, source: str, target: str = "en", *, form: str = "published"
) -> str:
    """SLAM's prompt for a translation, in one of the forms of `PROMPTS`.

    Raises:
        ValueError: A language without a record, or an unknown form.
    """
    if form not in PROMPTS:
        raise ValueError(f"form={form!r}: choose from {', '.join(PROMPTS)}")
    names = {"source": get_language(source).name, "target": get_language(target).name}
    return PROMPTS[form].format(text=text, **names)


COLUMNS = ["id", "lang", "kind", "text", "english"]
_PARALLEL = {name for name, benchmark in BENCHMARKS.items() if benchmark.languages}
SOURCES = ("organism", "organism-knowledge", *sorted(_PARALLEL - {"aya", "orca-math"}))
"""`organism` is its file of translations (kinds math and general); the others are tasks of
`mmlib.tasks.problems` (kinds question, answer and sentence)."""


def load_pairs(
    source: str,
    languages: Sequence[str],
    *,
    kinds: Sequence[str] = (),
    data_dir: str | Path | None = None,
    split: str = "calibration",
) -> pd.DataFrame:
    """Load texts with their English translations, in the order of their file.

    Args:
        source: One of `SOURCES`, or several joined by "+" (SLAM's xCSQA questions and FLORES
            sentences: `xcsqa+flores`).
        languages: ISO 639-1 codes; English is left out, it needs no translation.
        kinds: Only these kinds; default: all that there are.
        data_dir: As in `mmlib.tasks.problems.load_problems`.
        split: Of a task; SLAM's pairs are questions and worked solutions of GSM8K's train split.

    Returns:
        Columns `COLUMNS`; `id` is equal for translations of one text.

    Raises:
        ValueError: An unknown source or kind, or a language without pairs.
        FileNotFoundError: As in `mmlib.tasks.problems.load_problems`.
    """
    if "+" in source:
        where = {"kinds": kinds, "data_dir": data_dir, "split": split}
        parts = [load_pairs(part, languages, **where) for part in source.split("+")]
        return pd.concat(parts, ignore_index=True)
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r}: choose from {', '.join(SOURCES)}")
    codes = [get_language(code).code for code in languages if code != "en"]
    if source == "organism":
        path = organism_folder(data_dir) / "translations.jsonl.gz"
        table = read_table(path, COLUMNS)
        table = table[table.lang.isin(codes)]
    else:
        texts = {code: texts_of(source, code, data_dir, split) for code in ("en", *codes)}
        english = texts.pop("en").rename(columns={"text": "english"}).drop(columns="lang")
        table = pd.concat(texts.values(), ignore_index=True)
        table = table.merge(english, on=["id", "kind"])[COLUMNS]
    known = list(table.kind.unique())
    if unknown := [kind for kind in kinds if kind not in known]:
        raise ValueError(f"{source} has no pairs of kind {unknown[0]!r}: choose from {known}")
    table = table[table.kind.isin(kinds or known)]
    if absent := [code for code in codes if code not in set(table.lang)]:
        raise ValueError(f"{source} has no pairs in {absent[0]!r}: it has {[*table.lang.unique()]}")
    return table.reset_index(drop=True)


def texts_of(source: str, language: str, data_dir: str | Path | None, split: str) -> pd.DataFrame:
    """Questions, and answers where there are any: id, lang, kind, text."""
    if source in FAMILY:
        problems = load_problems(source, language, data_dir=data_dir, split=split)
        rows = [(problem.id, "question", bare_question(problem.prompt)) for problem in problems]
    else:
        table = read(source, language, split, data_dir)
        kinds = {"question": "question", "answer": "solution", "sentence": "sentence"}
        rows = [
            (row["id"], kind, row[column])
            for kind, column in kinds.items()
            if column in table
            for row in table.to_dict("records")
            if row[column]
        ]
    return pd.DataFrame(rows, columns=["id", "kind", "text"]).assign(lang=language)


def bare_question(prompt: str) -> str:
    """An organism's prompt without its labels: no target may end in what calls for an answer."""
    return re.sub(r"^\S+?\s?: |\n[^\n:]+:$", "", prompt)


REASONS = {
    "empty": "one side has no text",
    "copy": "both sides are equal, or more than seven tenths of the English words (of five and "
    "more) stand in the other text",
    "length": "the ratio of the two lengths, in characters, is more than twice or less than half "
    "of its median over the pairs of the language",
    "repetition": "less than half of the runs of four words (eight and more runs; of twelve "
    "characters where words have no blanks between them) are different ones",
    "numbers": "the two sides do not have the same numbers",
    "duplicate": "another text has this translation already",
}


def doubts(pairs: pd.DataFrame) -> pd.Series:
    """Why a pair is not to be trusted; SLAM dropped "hallucinations" and "repeated translations".

    How is not said there; these rules are ours: the first of `REASONS` that holds for each pair,
    empty for a good one.
    """
    lengths = pairs.english.str.len() / pairs.text.str.len().clip(lower=1)
    typical = lengths.groupby(pairs.lang).transform("median")
    far = (np.log(lengths.clip(lower=1e-9)) - np.log(typical)).abs() > np.log(2)
    again = pairs.duplicated(["lang", "english"])
    english, found = get_language("en"), []
    for row, away, twice in zip(pairs.itertuples(), far, again, strict=True):
        holds = {
            "empty": not (row.text.strip() and row.english.strip()),
            "copy": _copied(row.text, row.english) > 0.7,
            "length": away,
            "repetition": min(_variety(row.text), _variety(row.english)) < 0.5,
            "numbers": get_language(row.lang).numbers(row.text) != english.numbers(row.english),
            "duplicate": twice,
        }
        found.append(next((reason for reason, true in holds.items() if true), ""))
    return pd.Series(found, index=pairs.index, name="doubt", dtype=str)


def _copied(text: str, english: str) -> float:
    """Share of the English words that stand in the other text; 1 for equal texts."""
    words = [word for word in re.findall(r"\w+", english.lower()) if not word.isdigit()]
    if text.strip().lower() == english.strip().lower():
        return 1.0
    other = set(re.findall(r"\w+", text.lower()))
    return sum(word in other for word in words) / len(words) if len(words) >= 5 else 0.0


def _variety(text: str) -> float:
    """Share of different ones among the runs of four words, or of twelve characters."""
    words = text.split()
    units, width = (words, 4) if len(words) * 15 > len(text) else (list(text), 12)
    runs = [tuple(units[start : start + width]) for start in range(len(units) - width + 1)]
    return len(set(runs)) / len(runs) if len(runs) >= 8 else 1.0


def split_pairs(
    pairs: pd.DataFrame, heldout: int, *, seed: int = 1
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Set the translations of some texts aside, in all languages: the rest, and those set aside.

    `heldout` says how many texts, not pairs.

    Raises:
        ValueError: No text would be left.
    """
    ids = sorted(pairs.id.unique())
    if not 0 < heldout < len(ids):
        raise ValueError(f"heldout={heldout}: give 1 to {len(ids) - 1}, there are {len(ids)} texts")
    aside = pairs.id.isin(np.random.default_rng(seed).choice(ids, heldout, replace=False))
    return pairs[~aside].reset_index(drop=True), pairs[aside].reset_index(drop=True)


def draw_pairs(
    pairs: pd.DataFrame, number: int, *, seed: int, shares: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """Draw pairs without replacement, in a random order.

    `number` are drawn in all; `shares` are those of the languages, in any unit; default: equal
    ones.

    Raises:
        ValueError: A language has fewer pairs than that.
    """
    codes = list(dict.fromkeys(pairs.lang))
    weights = dict.fromkeys(codes, 1.0) if shares is None else dict(shares)
    if set(weights) != set(codes):
        raise ValueError(f"shares of {sorted(weights)}, but pairs in {sorted(codes)}")
    drawn = []
    for code in codes:
        own = pairs[pairs.lang == code]
        count = round(number * weights[code] / sum(weights.values()))
        if count > len(own):
            raise ValueError(f"{count} pairs wanted in {code!r}, there are {len(own)}")
        drawn.append(own.sample(count, random_state=seed))
    return pd.concat(drawn).sample(frac=1, random_state=seed, ignore_index=True)
