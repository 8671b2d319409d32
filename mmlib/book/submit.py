"""Hand in a finished run as one evidence file: `python -m mmlib submit RUN`.

The file has the tables of the run and what made them. It is checked where it is written, and again
where it is read: `read_submission`.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mmlib.book.chapters import ChapterError, Project, file_hash, run_record
from mmlib.files import replacing
from mmlib.study.tables import RANDOM, load_table, parse_table

FORMAT = "mmlib evidence 1"
SECRET = re.compile(
    r"\bhf_\w{20,}|\bsk-[\w-]{20,}|\bgh[pousr]_\w{30,}|\bAKIA[0-9A-Z]{16}\b|PRIVATE KEY-----"
)
"""Tokens of the hub and of other services, and keys, as they are spelled."""
ABSOLUTE = re.compile(r"(?<![\w.:/<~])(?:/[A-Za-z][\w.+-]*(?:/[\w.+-]+)+|[A-Z]:\\\w)")
TOLD = ("model", "commit", "package_version", "versions", "hardware", "date", "checkpoint_hash")
"""What a run has to tell of itself."""


class Submission(NamedTuple):
    """A run that was handed in."""

    chapter: str
    run: dict[str, Any]
    """See `mmlib.study.tables.RunInfo`."""
    tables: dict[str, pd.DataFrame]


def submit(project: Project, name: str) -> Path:
    """Check a finished run, and write it as `runs/submissions/ID.json`.

    Args:
        project: The checkout.
        name: Folder of the run, its id below `runs/`, or a chapter of the published edition.

    Raises:
        ChapterError: There is no such run, or it is not finished.
        ValueError: A table is not the one that was written, or is empty; the run does not tell what
            made it; its weights are random; or it has a secret or a path of this machine in it.
    """
    notebook, folder = _find(project, name)
    record = run_record(notebook)
    if not {"hashes", "tables"} <= set(record):
        raise ChapterError(f"{notebook} is not the notebook of a finished run: run it to its end")
    tables = {}
    for file, content in record["tables"].items():
        if not (folder / file).resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{notebook} names {file!r}, which is outside of the run's folder")
        if file_hash(folder / file) != content:
            raise ValueError(f"{folder / file} is not the file that the run has written")
        if (folder / file).suffix != ".csv":
            continue
        _, manifest = load_table(Path(file).stem, folder)
        text = (folder / file).read_text(encoding="utf-8")
        tables[Path(file).stem] = {"manifest": manifest, "csv": text}
    evidence = {"format": FORMAT, "chapter": record["chapter"], "tables": tables}
    run = _checked(evidence, str(folder))[0]
    # JSON, as the notebook has it: a tuple is a list there.
    if json.loads(json.dumps(run["parameters"])) != record["parameters"]:
        raise ValueError(f"{folder}: tables and notebook have different parameters")
    path = project.runs / "submissions" / f"{folder.name if name != notebook.stem else name}.json"
    with replacing(path) as file:
        evidence |= {"sha256": _digest(evidence)}
        file.write_text(json.dumps(evidence, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def read_submission(path: Path) -> Submission:
    """The tables of a file that `submit` has written, by the names that the rules of claims need.

    Raises:
        ValueError: It is damaged or was changed, or `submit` would not have written it.
    """
    try:
        evidence = json.loads(path.read_text(encoding="utf-8"))
        if evidence.pop("sha256") != _digest(evidence) or evidence["format"] != FORMAT:
            raise ValueError("its checksum or format is not right")
        run, tables = _checked(evidence, str(path))
        return Submission(evidence["chapter"], run, tables)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no evidence of a run: {error}") from error


def _find(project: Project, name: str) -> tuple[Path, Path]:
    """The executed notebook of a run, and the folder of its tables."""
    for folder in (Path(name).resolve(), project.runs / name):  # "." has no name
        notebooks = sorted(folder.glob("*.ipynb")) if folder.is_dir() else []
        if len(notebooks) == 1:
            return notebooks[0], folder
    if name in project.chapters:
        return project.executed(name), project.places["results"]
    raise ChapterError(
        f"no run {name!r}: give its folder, its id below {project.runs}, or a chapter; "
        "`python -m mmlib sweep GRID --dry-run` prints the ids of a grid"
    )


def _checked(
    evidence: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """What made the tables, and the tables; a ValueError where something is not as it has to be."""
    tables, run, all_tables = {}, {}, evidence["tables"].values()
    for name, table in evidence["tables"].items():
        manifest = table["manifest"]
        tables[name] = parse_table(table["csv"].encode(), manifest, f"{where}: {name}")
        if not 0 < len(tables[name]) == manifest["rows"]:
            raise ValueError(f"{where}: {name} has {len(tables[name])} rows")
        if run and any(manifest["run"][key] != run[key] for key in (*TOLD, "parameters")):
            raise ValueError(f"{where}: {name} and another table were made by different runs")
        run = manifest["run"]
    if not run:
        raise ValueError(f"{where} has no table: run a chapter that writes some")
    if run.get("weights") == RANDOM or run["model"] == "random weights":
        raise ValueError(
            f"{where}: {run['model']} is a stand-in with random weights, which tests a run and is "
            "no evidence: run it on a trained model"
        )
    if missing := [key for key in TOLD if not run[key]]:
        raise ValueError(f"{where} does not tell its {', '.join(missing)}: run it in a checkout")
    if "+" in run["commit"]:
        raise ValueError(f"{where} was made by changed code ({run['commit']}): commit, and run it")
    told = [json.dumps(table["manifest"], ensure_ascii=False) for table in all_tables]
    text = "\n".join([*told, *(table["csv"] for table in all_tables)])
    for pattern, what in ((SECRET, "a secret"), (ABSOLUTE, "a path of a machine")):
        if match := pattern.search(text):
            raise ValueError(f"{where} has {what} in it, {match[0][:6]}…: remove it, and run again")
    return run, tables


def _digest(evidence: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(evidence, sort_keys=True).encode()).hexdigest()
