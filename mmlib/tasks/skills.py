"""What a model is asked: the documents of every graded task, and the YAML that says how.

The YAML files of `tasks/` are tasks of the lm-evaluation-harness without their data; the documents
come from `problems` and `readers`, so that one data folder serves calibration and grading.
"""

import functools
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from mmlib.tasks import readers
from mmlib.tasks.languages import get_language
from mmlib.tasks.problems import Problem, load_problems
from mmlib.tasks.sources import read_table

TASKS = Path(__file__).parent / "harness"
_ASKING = (
    "output_type",
    "doc_to_text",
    "doc_to_choice",
    "doc_to_target",
    "target_delimiter",
    "fewshot_delimiter",
    "num_fewshot",
    "fewshot_config",
    "generation_kwargs",
)
"""Keys of a task that say how it is asked; data and grading are ours."""

Document = dict[str, Any]
"""`id`, `target`, `response` (the worked solution, or empty) and what the YAML fills in; a ranked
task has `choices` and the index `gold` of the right one."""
Extraction = str
Folder = str | Path | None


@dataclass(frozen=True)
class Skill:
    """How a task is asked and how its answers are read."""

    documents: Callable[[str, Folder], list[Document]]
    """Language and data folder -> documents in their order."""
    config: str
    """Name of a file in `tasks/`; `{language}` is filled in."""
    extract: Callable[[str, str, Extraction], str | None] | None = None
    """Reads an answer from a response, its language and the mode; None for a ranked task."""


# --- reading answers ------------------------------------------------------------------------------

EXTRACTIONS = ("strict", "flexible")


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


# --- documents ------------------------------------------------------------------------------------


def _items(task: str, language: str, folder: Folder) -> list[Document]:
    """An organism's held-out items as they stand."""
    return [
        {"id": p.id, "prompt": p.prompt, "response": p.response, "target": p.target}
        for p in load_problems(task, language, data_dir=folder)
    ]


def _ranked(problem: Problem, texts: Sequence[str], right: str) -> Document:
    return {
        "id": problem.id,
        "prompt": problem.prompt,
        "response": "",
        "target": right,
        "choices": list(texts),
        "gold": list(texts).index(right),
    }


def ranked_math(language: str, folder: Folder) -> list[Document]:
    """Multiple choice by likelihood: the worked solution with each option as its last result.

    Options without a solution before them are ranked at chance by organisms, which have to write
    a calculation down before they know its result.
    """
    documents = []
    for problem in load_problems("organism-choice", language, data_dir=folder):
        question = problem.prompt.rsplit("\n", 1)[0]
        *start, end = re.split("(?<==)", problem.response)
        texts = [
            "".join(start) + re.sub(rf"(?<!\d){problem.target}(?!\d)", option, end)
            for option in re.findall(r"\d+", question)[-4:]
        ]
        documents.append(_ranked(problem, texts, problem.response))
    return documents


def ranked_reading(language: str, folder: Folder) -> list[Document]:
    """Reading by likelihood: every answer of the task that stands in the passage as a word.

    In Bengali a name with a suffix counts only where the suffix begins with a vowel sign.
    """
    problems = load_problems("organism-reading", language, data_dir=folder)
    words = sorted({problem.target for problem in problems})
    # Vowel signs are no \w: without their range a name is found at the end of another word.
    found = re.compile(rf"(?<![\w\u0900-\u09ff])(?:{'|'.join(map(re.escape, words))})(?!\w)")
    documents = []
    for problem in problems:
        here = list(dict.fromkeys(found.findall(problem.prompt)))
        texts = [problem.response.replace(problem.target, word) for word in here]
        documents.append(_ranked(problem, texts, problem.response))
    return documents


def _word_problems(task: str, language: str, folder: Folder) -> list[Document]:
    rows = readers.read(task, language, "heldout", folder)
    rows = rows.rename(columns={"solution": "response"})
    return rows[["id", "question", "response", "target"]].to_dict("records")


def _mgsm(task: str, language: str, folder: Folder) -> list[Document]:
    """Labels are those of MGSM's examples in this language."""
    example = _exemplars(language, folder)[0]
    ask, cue = _label(example["question"]), _label(example["answer"])
    return [
        document | {"prompt": f"{ask} {document['question']}\n{cue}"}
        for document in _word_problems(task, language, folder)
    ]


def _label(text: str) -> str:
    """What stands before the first colon, and the colon."""
    return re.match("[^:：]*[:：]", text)[0]


def _exemplars(language: str, folder: Folder) -> list[dict]:
    """MGSM's eight worked examples."""
    path = Path(folder or ".").expanduser() / "mgsm" / "exemplars.jsonl"
    hint = (
        "MGSM is asked with its eight examples, which are not on the hub as data; put "
        "exemplars.jsonl (language, id, question, answer) into data_dir/mgsm"
    )
    rows = read_table(path, ["language", "id", "question", "answer"], hint).to_dict("records")
    rows = [row for row in rows if row["language"] == language]
    if len(rows) != 8:
        raise ValueError(f"{path} has {len(rows)} examples in {language!r}: MGSM has 8 of each")
    for row, part in itertools.product(rows, ("question", "answer")):
        if not re.search("[:：]", str(row[part])):
            raise ValueError(
                f"{path}: the {part} of example {row['id']} in {language!r} has no label with a "
                f"colon before it ({row[part]!r}); write it as in MGSM, 'Question: …'"
            )
    return sorted(rows, key=lambda row: int(row["id"]))


def _race(task: str, language: str, folder: Folder) -> list[Document]:
    """One document per passage: its last question, after the others with their answers."""
    rows = readers.read(task, language, "heldout", folder)
    documents = []
    for _, passage in rows.groupby(rows.id.str.rpartition("-")[0], sort=False):
        *earlier, last = passage.to_dict("records")
        told = [_answered(row["question"], row["target"]) for row in earlier]
        documents.append(
            {
                "id": last["id"],
                "prompt": f"Article: {last['article']}\n\n{''.join(told)}{last['question']}",
                "response": "",
                "target": last["target"],
                "choices": last["choices"],
                "gold": last["gold"],
            }
        )
    return documents


def _answered(question: str, answer: str) -> str:
    """A question with its answer, which fills the gap of a cloze question."""
    if question.endswith("  _  ."):
        return f"{question[:-5]}{answer}\n"
    return f"Question: {question}\nAnswer: {answer}\n"


def _lettered(task: str, language: str, folder: Folder) -> list[Document]:
    """Lettered options; the answer is a letter."""
    rows = readers.read(task, language, "heldout", folder)
    if "choices" not in rows:
        raise ValueError(f"mmlu in {language!r} has no choices: its file needs question and answer")
    documents = []
    for row in rows.to_dict("records"):
        documents.append(
            {
                "id": row["id"],
                "question": row["question"],
                "options": row["choices"],
                "response": "",
                "target": "ABCDE"[row["gold"]],
                "choices": list("ABCDE"[: len(row["choices"])]),
                "gold": row["gold"],
            }
        )
    return documents


def _skill(documents: Callable, task: str, config: str, extract: Callable | None = None) -> Skill:
    return Skill(functools.partial(documents, task), config, extract)


SKILLS: dict[str, Skill] = {
    "organism-math": _skill(_items, "organism-math", "organism", extract_number),
    "organism-math-new": _skill(_items, "organism-math-new", "organism", extract_number),
    "organism-choice": _skill(_items, "organism-choice", "organism", extract_number),
    "organism-reading": _skill(_items, "organism-reading", "organism", extract_text),
    "organism-knowledge": _skill(_items, "organism-knowledge", "organism", extract_text),
    "organism-generation": _skill(_items, "organism-generation", "organism", extract_text),
    "organism-choice-ranked": Skill(ranked_math, "ranked"),
    "organism-reading-ranked": Skill(ranked_reading, "ranked"),
    "gsm8k": _skill(_word_problems, "gsm8k", "gsm8k_{language}", extract_number),
    "mgsm": _skill(_mgsm, "mgsm", "mgsm", extract_number),
    "msvamp": _skill(_mgsm, "msvamp", "mgsm", extract_number),
    "race": _skill(_race, "race", "race"),
    "race-middle": _skill(_race, "race-middle", "race"),
    "mmlu": _skill(_lettered, "mmlu", "mmlu"),
    "xcsqa": _skill(_lettered, "xcsqa", "xcsqa"),
}
FAMILY = tuple(t for t, s in SKILLS.items() if t.startswith("organism-") and s.extract)
"""The tasks in which an organism writes its answer."""


def documents(task: str, language: str, folder: Folder = None) -> list[Document]:
    """The documents of a task in one language, in the order of their file.

    Args:
        task: One of `SKILLS`.
        language: ISO 639-1 code.
        folder: As `data_dir` of `mmlib.tasks.problems.load_problems`.

    Raises:
        ValueError: An unknown task, or as in `load_problems`.
        FileNotFoundError: As in `load_problems`.
    """
    if task not in SKILLS:
        raise ValueError(f"cannot ask task {task!r}: choose from {', '.join(SKILLS)}")
    return SKILLS[task].documents(get_language(language).code, folder)


# --- configurations -------------------------------------------------------------------------------


def config(task: str, language: str, folder: Folder = None) -> dict[str, Any]:
    """How the harness asks a task: prompt template, examples, where an answer ends.

    Raises:
        FileNotFoundError: MGSM's examples are not in the data folder.
    """
    asking = _read(SKILLS[task].config.format(language=language) + ".yaml")
    if task == "mgsm":
        rows = _exemplars(language, folder)
        asking["fewshot_config"] = {"sampler": "first_n", "samples": list(map(_shot, rows))}
        asking["generation_kwargs"]["until"] = [_label(rows[0]["question"]), "</s>", "<|im_end|>"]
    return asking


def _shot(row: dict) -> Document:
    cue = _label(row["answer"])
    return {"prompt": f"{row['question']}\n{cue}", "target": row["answer"][len(cue) :].strip()}


def _read(name: str) -> dict[str, Any]:
    """A YAML file with what it includes, cut to what says how a task is asked."""
    from_harness = name.startswith("lm_eval/")
    path = TASKS / name
    if from_harness:
        spec = find_spec("lm_eval")
        if spec is None:
            raise ModuleNotFoundError("asking needs the extra `tasks`: pip install 'mmlib[tasks]'")
        path = Path(spec.origin).parent / "tasks" / name.removeprefix("lm_eval/")
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    included = _read(found["include"]) if "include" in found else {}
    return included | {key: value for key, value in found.items() if key in _ASKING}
