"""What a model is asked: the documents of every graded task, and the YAML that says how.

The YAML files of `tasks/harness/` are tasks of the lm-evaluation-harness without their data; the
documents come from the benchmarks' rows, so that one data folder serves calibration and grading.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from mmlib.tasks.languages import get_language
from mmlib.tasks.problems import BENCHMARKS
from mmlib.tasks.records import Document, Folder

_HARNESS = Path(__file__).parent / "harness"
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
SKILLS = {name: benchmark for name, benchmark in BENCHMARKS.items() if benchmark.documents}
"""The tasks that are graded."""


def documents(task: str, language: str, folder: Folder = None) -> list[Document]:
    """The documents of a task in one language, in the order of their file.

    Raises:
        ValueError: An unknown task, or as in `load_problems`.
        FileNotFoundError: As in `load_problems`.
    """
    if task not in SKILLS:
        raise ValueError(f"cannot ask task {task!r}: choose from {', '.join(SKILLS)}")
    return SKILLS[task].documents(SKILLS[task], get_language(language).code, folder)


def config(task: str, language: str, folder: Folder = None) -> dict[str, Any]:
    """How the harness asks a task: prompt template, examples, where an answer ends.

    Raises:
        FileNotFoundError: MGSM's examples, which MSVAMP has too, are not in the data folder.
    """
    asking = _read(SKILLS[task].config.format(language=language) + ".yaml")
    if given := SKILLS[task].examples:
        samples, until = given(language, folder)
        asking["fewshot_config"] = {"sampler": "first_n", "samples": samples}
        asking["generation_kwargs"]["until"] = until
    return asking


def _read(name: str) -> dict[str, Any]:
    """A YAML file with what it includes, cut to what says how a task is asked."""
    from_harness = name.startswith("lm_eval/")
    path = _HARNESS / name
    if from_harness:
        spec = find_spec("lm_eval")
        if spec is None:
            raise ModuleNotFoundError("asking needs the extra `tasks`: pip install 'mmlib[tasks]'")
        path = Path(spec.origin).parent / "tasks" / name.removeprefix("lm_eval/")
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    included = _read(found["include"]) if "include" in found else {}
    return included | {key: value for key, value in found.items() if key in _ASKING}
