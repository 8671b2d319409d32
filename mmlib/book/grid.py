"""Run a chapter many times with different parameters: side by side, resumably, whatever fails.

A grid is a YAML file:

    chapter: 06_what_breaks
    parameters: {dtype: float32}       # the same in every run
    vary:                              # every combination of these
      languages: [[en], [de]]
      seed: [1, 101, 201]

Each run is a process of `python -m mmlib run`, so one that dies takes nothing with it, and what is
up to date is not run again.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mmlib.book import pool, runner
from mmlib.book.chapters import ChapterError, Project, resolve
from mmlib.book.pool import Job

KEYS = {"chapter", "parameters", "vary"}


class Run(NamedTuple):
    """One run of a grid."""

    chapter: str
    given: Mapping[str, Any]
    plan: runner.Plan

    def command(self, *, force: bool = False) -> list[str]:
        """The words after `python -m mmlib` that run it alone."""
        pairs = [
            f"{key}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
            for key, value in self.given.items()
        ]
        options = [part for pair in pairs for part in ("-p", pair)]
        return ["run", self.chapter, *options, *(["--force"] if force else [])]


def read(project: Project, path: str | Path) -> list[Run]:
    """Expand a grid; every parameter is checked before anything runs.

    Raises:
        ChapterError: The file is no grid, or a run has a wrong parameter, or defaults only.
    """
    try:
        # The base loader keeps scalars as text: [de, no] are two languages, no False.
        grid = yaml.load(Path(path).read_text(encoding="utf-8"), yaml.BaseLoader)
        if (
            not isinstance(grid, dict)
            or set(grid) - KEYS
            or not isinstance(grid.get("chapter"), str)
        ):
            raise TypeError(
                f"it has to have the key chapter, and may have {', '.join(sorted(KEYS))}"
            )
        combinations = list(_combinations(grid))
    except (TypeError, AttributeError, yaml.YAMLError) as error:
        raise ChapterError(f"{path} is no grid: {error}") from error
    name = project.chapter(grid["chapter"]).name
    runs = []
    for texts in combinations:
        values, _ = resolve(project, name, texts)
        given = {key: values[key] for key in texts}
        run = Run(name, given, runner.plan(project, name, given))
        if run.plan.id == name:
            raise ChapterError(
                f"{path} has a run with all defaults, which would replace the published edition: "
                f"give one parameter another value, or run the chapter itself ({name})"
            )
        runs.append(run)
    if len({run.plan.id for run in runs}) < len(runs):
        raise ChapterError(f"{path} has two runs with the same parameters")
    return runs


def _combinations(grid: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    fixed, vary = (grid.get(key) or {} for key in ("parameters", "vary"))
    if wrong := [
        key for key in ("parameters", "vary") if not isinstance(grid.get(key) or {}, dict)
    ]:
        raise TypeError(f"{wrong[0]} has to be a mapping of names to values")
    if wrong := [key for key, values in vary.items() if not isinstance(values, list) or not values]:
        raise TypeError(f"vary.{wrong[0]} has to be a list of values")
    if twice := sorted(set(fixed) & set(vary)):
        raise TypeError(f"{twice[0]} is given in parameters and in vary")
    for values in product(*vary.values()):
        yield {**fixed, **dict(zip(vary, values, strict=True))}


def explain(runs: Sequence[Run], *, force: bool = False) -> list[Run]:
    """Say of every run why it will be executed, or that it is up to date; returns the former."""
    for run in runs:
        state = "; ".join(run.plan.reasons) or ("forced" if force else "up to date")
        print(f"{run.plan.id}: {state}", flush=True)
    return [run for run in runs if force or run.plan.reasons]


def execute(
    project: Project, runs: Sequence[Run], *, workers: int = 1, force: bool = False
) -> list[Run]:
    """Run what is not up to date, `workers` at a time; a failure does not stop the others.

    Args:
        project: The checkout.
        runs: The runs of a grid.
        workers: Processes at a time; they share the cores between them.
        force: Run again what is up to date.

    Returns:
        The runs that failed; the output of each run is in `runs/logs/ID.log`.
    """
    waiting = explain(runs, force=force)
    jobs = [Job(run.plan.id, run.command(force=force)) for run in waiting]
    failed = pool.run(project.root, jobs, workers=workers)
    return [run for run in waiting if run.plan.id in failed]


def tables(runs: Sequence[Run], name: str) -> list[Path]:
    """Paths of one table of every run.

    Raises:
        ChapterError: A run has not been made or is stale, or does not write that table.
    """
    paths = [run.plan.tables / f"{name}.csv" for run in runs]
    for run, path in zip(runs, paths, strict=True):
        if run.plan.reasons or not path.is_file():
            why = "; ".join(run.plan.reasons) or f"it writes no table {name!r}"
            raise ChapterError(f"{run.plan.id} has no table to give ({why}): run the grid first")
    return paths
