"""Benchmark rows in every language: questions, golds, and ids that say what is parallel."""

import ast
import io
import re
import tokenize
from collections.abc import Callable
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path

import pandas as pd

from mmlib.tasks.languages import LANGUAGES, get_language, parse_number
from mmlib.tasks.numbers import write_number
from mmlib.tasks.sources import HUB, fetch

_MGSM = ("bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh")
_OCTOPUS = tuple(code for code in _MGSM if code != "te")
FLORES = {
    "en": "eng_Latn",
    "de": "deu_Latn",
    "fr": "fra_Latn",
    "hi": "hin_Deva",
    "es": "spa_Latn",
    "ru": "rus_Cyrl",
    "zh": "zho_Hans",
    "ja": "jpn_Jpan",
    "th": "tha_Thai",
    "sw": "swh_Latn",
    "bn": "ben_Beng",
    "te": "tel_Telu",
}
"""FLORES' own codes."""
AYA = {
    "en": "eng",
    "de": "deu",
    "fr": "fra",
    "hi": "hin",
    "es": "spa",
    "ru": "rus",
    "zh": "zho",
    "ja": "jpn",
    "th": "tha",
    "sw": "swh",
    "bn": "ben",
    "te": "tel",
}
"""Aya's own codes."""
CODES = {
    "gsm8k": ("en", "de", "fr", "hi"),
    "mgsm": _MGSM,
    "msvamp": _OCTOPUS,
    "mgsm8kinstruct": _OCTOPUS,
    "xcsqa": ("en", "de", "fr", "hi", "es", "ru", "zh", "ja", "sw"),
    "flores": tuple(FLORES),
    "orca-math": ("en",),
    "aya": tuple(AYA),
    "race": ("en", "de", "fr", "hi"),
    "race-middle": ("en", "de", "fr", "hi"),
    "mmlu": tuple(code for code in LANGUAGES if "-" not in code),
}
"""Languages of each task."""

SPLITS = {
    "gsm8k": {"heldout": "test", "calibration": "train", "test": "test", "train": "train"},
    "mgsm": {"heldout": "test", "test": "test"},
    "msvamp": {"heldout": "test", "test": "test"},
    "mgsm8kinstruct": {"calibration": "train", "train": "train"},
    "xcsqa": {"heldout": "dev", "calibration": "test", "dev": "dev", "test": "test"},
    "flores": {"calibration": "dev", "dev": "dev", "devtest": "devtest"},
    "orca-math": {"calibration": "train", "train": "train"},
    "aya": {"heldout": "test", "calibration": "train", "test": "test", "train": "train"},
    "race": {"heldout": "test", "calibration": "train"}
    | {split: split for split in ("test", "train", "validation")},
    "mmlu": {"heldout": "", "calibration": "", "validation": "validation", "test": "test"},
}
"""What the splits a task takes are called by its owners. A test set is no calibration
text, but for xCSQA, whose test questions have no published answers."""
SPLITS["race-middle"] = SPLITS["race"]

STEM = (
    "abstract_algebra",
    "astronomy",
    "college_chemistry",
    "college_computer_science",
    "college_mathematics",
    "college_physics",
    "conceptual_physics",
    "econometrics",
    "elementary_mathematics",
    "high_school_biology",
    "high_school_chemistry",
    "high_school_computer_science",
    "high_school_mathematics",
    "high_school_physics",
    "high_school_statistics",
    "professional_accounting",
)
"""The MMLU subjects that arXiv 2606.18453 leaves out of its non-math text."""


def read(task: str, language: str, split: str, data_dir: str | Path | None = None) -> pd.DataFrame:
    """Read the rows of one task in one language, in the order of their file.

    Args:
        task: One of `CODES`.
        language: ISO 639-1 code.
        split: "heldout", "calibration" or the owners' own name, see `SPLITS`. GSM8K is calibrated
            on its train split; on its test split only from a folder without `gsm8k/train.jsonl`.
            For MMLU both names mean the validation rows of a folder, and from the hub the test
            rows of Global-MMLU, the one split that it has in every language.
        data_dir: A folder with the files at the paths of `HUB`; without it, the hub.

    Returns:
        `id` (equal in all languages for translations of one item), `question` and `target` (a
        number in canonical form, or the text of the right choice); `solution` of a word problem
        (empty in test files that have none); `choices`, the index `gold` of the right one
        (translations may have two equal choices) and, in RACE, `article` of a question with
        choices (`choices` alone where answers are not published); `sentence` alone of FLORES;
        `instruction` and `response` alone of Aya, whose rows are not parallel. The
        published MMLU files are laid out already, as `prompt` and `response`.

    Raises:
        ValueError: A language or split that the task does not have, a file without a needed
            column or with a row that cannot be read, or translations that are not parallel.
        FileNotFoundError: The file is not there, or the hub cannot be reached.
    """
    if language not in CODES[task]:
        raise ValueError(f"{task} has no {language!r}: choose from {', '.join(CODES[task])}")
    if split not in SPLITS[task]:
        raise ValueError(f"{task} has no split {split!r}: choose from {', '.join(SPLITS[task])}")
    return _READERS[task](language, split, Path(data_dir).expanduser() if data_dir else None)


# --- golds and parallel rows ---


def _gold(text: object, where: str, row: int) -> str:
    """A gold in canonical form; benchmarks write them in English style, some with commas."""
    value = parse_number(str(text), "en")
    if value is None:
        raise ValueError(f"{where} row {row}: the gold {text!r} is not a number")
    return write_number(value)


def _golds(values: pd.Series, where: str) -> list[str]:
    return [_gold(value, where, row) for row, value in enumerate(values)]


def _same_rows(rows: pd.DataFrame, english: pd.DataFrame) -> None:
    """Refuse to align two files by row when they differ in length."""
    if len(rows) != len(english):
        raise ValueError(
            f"{rows.attrs['where']} has {len(rows)} rows, the English file {len(english)}: which "
            "rows are missing is not said, so ids and golds cannot be taken from the English rows"
        )


def _same_golds(golds: list[str], english: list[str], where: str) -> None:
    differing = [
        row for row, pair in enumerate(zip(golds, english, strict=True)) if len({*pair}) > 1
    ]
    if differing:
        row = differing[0]
        raise ValueError(
            f"{where} is not parallel to the English file: row {row} has the gold {golds[row]}, "
            f"the English row {english[row]} ({len(differing)} rows differ)"
        )


# --- word problems ---


def _gsm8k(language: str, split: str, folder: Path | None) -> pd.DataFrame:
    """Golds come from the English row: many translated ones are lost or garbled."""
    own = SPLITS["gsm8k"][split]
    untrained = folder and not (folder / HUB["gsm8k"].path.format(split="train")).is_file()
    if split == "calibration" and untrained:
        own = "test"
    english = fetch("gsm8k", folder, own)
    rows = (
        english if language == "en" else fetch("gsm8k-translated", folder, own, language=language)
    )
    if own == "train" and len(rows) != len(english):
        rows, english = _by_calculations(rows, english)
    _same_rows(rows, english)
    golds = english.answer.str.extract(r"####\s*(\S+)\s*$")[0]
    if golds.isna().any():
        where, row = english.attrs["where"], golds.isna().idxmax()
        raise ValueError(f"{where} row {row}: the answer does not end in '#### number'")
    prefix = "" if own == "test" else f"{own}-"
    return pd.DataFrame(
        {
            "id": [f"{prefix}{row}" for row in english.index],
            "question": rows.question.tolist(),
            "solution": [answer.split("####")[0].strip() for answer in rows.answer],
            "target": _golds(golds, english.attrs["where"]),
        }
    )


def _by_calculations(
    rows: pd.DataFrame, english: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pair translated solutions with English ones by their `<<calculations>>`, kept verbatim.

    Hindi train lacks two rows, so row numbers do not say what is parallel. Rows between two pairs
    are paired in their order where as many are left on both sides, and left out otherwise.

    Returns:
        The paired rows of both files; the English ones keep their row numbers. Both files as they
        are when less than 99 % of the rows can be paired.
    """
    theirs, ours = (
        [tuple(re.findall("<<(.*?)>>", answer)) for answer in table.answer]
        for table in (english, rows)
    )
    pairs = [
        pair
        for _, i, i_end, j, j_end in SequenceMatcher(
            None, theirs, ours, autojunk=False
        ).get_opcodes()
        if i_end - i == j_end - j
        for pair in zip(range(i, i_end), range(j, j_end), strict=True)
    ]
    if len(pairs) < 0.99 * min(len(rows), len(english)):
        return rows, english
    theirs, ours = zip(*pairs, strict=True)
    return rows.iloc[list(ours)], english.iloc[list(theirs)]


def _mgsm(language: str, split: str, folder: Path | None) -> pd.DataFrame:
    """The first 250 GSM8K test problems: ids are those of GSM8K's test rows."""
    return _parallel("mgsm", "question", "answer", language, folder)


def _msvamp(language: str, split: str, folder: Path | None) -> pd.DataFrame:
    return _parallel("msvamp", "m_query", "response", language, folder, prefix="msvamp-")


def _parallel(name, question, answer, language, folder, prefix="") -> pd.DataFrame:
    """A test set without solutions, which must be parallel to its English file by row."""
    rows = fetch(name, folder, "test", language=language)
    where = rows.attrs["where"]
    # MGSM's Parquet copies have the gold in a column of its own, and no text in `answer`.
    answer = "answer_number" if "answer_number" in rows else answer
    golds = _golds(rows[answer], where)
    if language != "en":
        english = fetch(name, folder, "test", language="en")
        _same_rows(rows, english)
        _same_golds(golds, _golds(english[answer], english.attrs["where"]), where)
    ids = [f"{prefix}{row}" for row in range(len(rows))]
    return pd.DataFrame({"id": ids, "question": rows[question], "solution": "", "target": golds})


def _mgsm8kinstruct(language: str, split: str, folder: Path | None) -> pd.DataFrame:
    """GSM8K train in ten languages, mixed in one file.

    The file has no ids. An English row opens a group and its translations follow it (as public
    code that reads the file assumes); a row is taken for a translation when it is the first of
    its language in the group and has the English gold, or none that can be read. Other rows get
    an id of their own; those of them without a gold are left out.
    """
    rows = fetch("mgsm8kinstruct", folder, "train")
    where = rows.attrs["where"]
    found, group, seen, english_gold = [], -1, set(), ""
    for row, (prompt, chosen) in enumerate(zip(rows.prompt, rows.chosen, strict=True)):
        code, question = _instruction(prompt, where, row)
        solution, gold = _instruct_gold(chosen, code)
        if code == "en":
            group, seen, english_gold = group + 1, set(), gold
        matched = group >= 0 and code not in seen and gold in (english_gold, None)
        seen.add(code)
        target = english_gold if matched else gold
        if code == language and target:
            name = f"instruct-{group}" if matched else f"instruct-{code}-row-{row}"
            found.append((name, question, solution, target, matched))
    table = pd.DataFrame(found, columns=["id", "question", "solution", "target", "matched"])
    if table.empty or table.pop("matched").mean() < 0.5:
        raise ValueError(
            f"{where}: fewer than half of the {len(found)} rows in {language!r} follow an English "
            "row with their gold: the file is not in its owners' order"
        )
    return table


def _orca_math(language: str, split: str, folder: Path | None) -> pd.DataFrame:
    """English word problems with free solutions: their last number is taken for the gold.

    Rows without a number are left out.
    """
    rows = fetch("orca-math", folder, SPLITS["orca-math"][split])
    golds = rows.answer.map(get_language("en").extract_last_number)
    kept = rows.assign(target=golds).dropna(subset="target")
    return pd.DataFrame(
        {
            "id": [f"orca-{row}" for row in kept.index],
            "question": kept.question.str.strip().tolist(),
            "solution": kept.answer.str.strip().tolist(),
            "target": kept.target.tolist(),
        }
    )


_SPOKEN = {language.name: code for code, language in LANGUAGES.items()}


def _instruction(prompt: str, where: str, row: int) -> tuple[str, str]:
    """Language and question of a prompt."""
    head, _, body = prompt.partition("### Instruction:")
    spoken = re.search(rf"\bin ({'|'.join(_SPOKEN)})\b", head)
    question = body.strip().split("\n\n")[0].strip()
    if not (spoken and question):
        raise ValueError(
            f"{where} row {row}: no language before '### Instruction:' or no question after it "
            f"({prompt[:60]!r})"
        )
    return _SPOKEN[spoken[1]], question


def _instruct_gold(chosen: str, code: str) -> tuple[str, str | None]:
    """Solution and gold of a response: what follows `####`, or else its last number."""
    solution, mark, gold = chosen.partition("####")
    return solution.strip(), get_language(code).extract_last_number(gold if mark else solution)


# --- multiple choice, and sentences ---


def _xcsqa(language: str, split: str, folder: Path | None) -> pd.DataFrame:
    """Five options, lettered; the hub has them as lists, the owners' files as records."""
    own = SPLITS["xcsqa"][split]
    own = "validation" if own == "dev" and folder is None else own
    code = "jap" if language == "ja" else language
    rows = fetch("xcsqa", folder, own, language=language, variant=code)
    stems = [question["stem"] for question in rows.question]
    options = [_texts(question["choices"]) for question in rows.question]
    if own == "test":
        return pd.DataFrame({"id": rows.id.tolist(), "question": stems, "choices": options})
    rows = rows.assign(question=stems, answer=rows.answerKey)
    return _with_choices(rows.id.tolist(), rows, options, rows.attrs["where"])


def _texts(choices: dict | list) -> list[str]:
    return list(choices["text"]) if isinstance(choices, dict) else [own["text"] for own in choices]


def _flores(language: str, split: str, folder: Path | None) -> pd.DataFrame:
    """Sentences that are parallel by row."""
    own = SPLITS["flores"][split]
    rows = fetch("flores", folder, own, variant=FLORES[language])
    if language != "en":
        _same_rows(rows, fetch("flores", folder, own, variant=FLORES["en"]))
    return pd.DataFrame({"id": [str(n) for n in range(len(rows))], "sentence": rows.sentence})


def _aya(language: str, split: str, folder: Path | None) -> pd.DataFrame:
    """Instructions that people wrote and answered in the language itself."""
    rows = fetch("aya", folder, SPLITS["aya"][split])
    where = rows.attrs["where"]
    rows = rows[rows.language_code == AYA[language]]
    if rows.empty:
        raise ValueError(f"{where} has no rows in {AYA[language]!r}")
    return pd.DataFrame(
        {
            "id": [f"aya-{row}" for row in rows.index],
            "instruction": rows.inputs.str.strip().tolist(),
            "response": rows.targets.str.strip().tolist(),
        }
    )


def _race(language: str, split: str, folder: Path | None, level: str = "high") -> pd.DataFrame:
    """Ids are the passage's and the question's number in it: translations may lack some."""
    if folder is None and language != "en":
        raise ValueError("race is on the hub in English only: give data_dir for translations")
    rows = fetch("race", folder, SPLITS["race"][split], language=language, variant=level)
    number = rows.groupby("example_id").cumcount()
    ids = [f"{passage}-{n}" for passage, n in zip(rows.example_id, number, strict=True)]
    where = rows.attrs["where"]
    options = [_listed(value, where, row) for row, value in enumerate(rows.options)]
    return _with_choices(ids, rows, options, where).assign(article=rows.article.tolist())


def _mmlu(language: str, split: str, folder: Path | None) -> pd.DataFrame:
    """MMLU without STEM: the paper's validation text, or Global-MMLU's test questions."""
    own = SPLITS["mmlu"][split] or ("validation" if folder else "test")
    if own == "test":
        return _global_mmlu(language, folder)
    if folder is None and language != "en":
        raise ValueError(
            "mmlu's validation questions are on the hub in English only: "
            "take split='test' (Global-MMLU), or give data_dir"
        )
    rows = fetch("mmlu", folder, own, language=language)
    where = rows.attrs["where"]
    if folder:
        parts = [_laid_out(text, where, row) for row, text in enumerate(rows.qa)]
        table = pd.DataFrame(parts, columns=["prompt", "response"])
        ids = [str(row) for row in range(len(rows))]
        if not {"question", "choices", "answer"} <= set(rows):  # enough for calibration
            return table.assign(id=ids)
        options = [_listed(value, where, row) for row, value in enumerate(rows.choices)]
        return _with_choices(ids, rows, options, where).join(table)
    rows = rows[~rows.subject.isin(STEM)]
    ids = [str(row) for row in range(len(rows))]
    return _with_choices(ids, rows, [list(choices) for choices in rows.choices], where)


def _global_mmlu(language: str, folder: Path | None) -> pd.DataFrame:
    if language == "th":
        raise ValueError("mmlu has no test questions in 'th': Global-MMLU lacks Thai")
    rows = fetch("global-mmlu", folder, "test", language=language)
    where = rows.attrs["where"]
    rows = rows[~rows.subject.isin(STEM)]
    options = rows[[f"option_{letter}" for letter in "abcd"]].astype(str).values.tolist()
    return _with_choices(rows.sample_id.tolist(), rows, options, where)


def _with_choices(
    ids: list[str], rows: pd.DataFrame, options: list[list[str]], where: str
) -> pd.DataFrame:
    pairs = enumerate(zip(options, rows.answer, strict=True))
    golds = [_right_option(*pair, where, row) for row, pair in pairs]
    return pd.DataFrame(
        {
            "id": ids,
            "question": rows.question.tolist(),
            "choices": options,
            "gold": golds,
            "target": [listed[gold] for listed, gold in zip(options, golds, strict=True)],
        }
    )


def _laid_out(text: str, where: str, row: int) -> tuple[str, str]:
    """Split the text of a published MMLU file before its answer."""
    found = re.fullmatch(r"(.+\n\n[^\n:]+:)(\s*\S.*)", text, flags=re.DOTALL)
    if not found:
        raise ValueError(f"{where} row {row}: not 'question, choices, answer' ({text[:40]!r})")
    return found.groups()


def _listed(value: object, where: str, row: int) -> list[str]:
    """Options as a list; CSV files have them as a Python list, some with quotes unescaped."""
    if not isinstance(value, str):
        return list(value)
    try:
        listed = list(ast.literal_eval(value))
        tokens = tokenize.generate_tokens(io.StringIO(value).readline)
        written = sum(token.type == tokenize.STRING for token in tokens)
    except (SyntaxError, ValueError):
        listed = value.strip().removeprefix("['").removesuffix("']").split("', '")
        written = len(listed)
    if len(listed) < max(2, written):  # texts without a comma between them would join
        raise ValueError(
            f"{where} row {row}: read {len(listed)} of {written} options in {value[:80]!r}; write "
            "them as a list with commas, ['one', 'two']"
        )
    return listed


def _right_option(options: list[str], answer: object, where: str, row: int) -> int:
    """The index of the right option, which is given as a letter or as an index from 0."""
    index = "ABCDE".find(str(answer)) if str(answer).isalpha() else int(answer)
    if not 0 <= index < len(options):
        raise ValueError(f"{where} row {row}: the answer {answer!r} is none of {options}")
    return index


_READERS: dict[str, Callable[[str, str, Path | None], pd.DataFrame]] = {
    "gsm8k": _gsm8k,
    "mgsm": _mgsm,
    "msvamp": _msvamp,
    "mgsm8kinstruct": _mgsm8kinstruct,
    "xcsqa": _xcsqa,
    "flores": _flores,
    "orca-math": _orca_math,
    "aya": _aya,
    "race": _race,
    "race-middle": partial(_race, level="middle"),
    "mmlu": _mmlu,
}
