"""Run a chapter many times with different parameters, resumably, and keep what becomes evidence.

A grid is a YAML file, those of the book in `notebooks/grids/`:

    chapter: 06_what_breaks
    parameters: {dtype: float32}       # the same in every run
    vary:                              # every combination of these
      languages: [[en], [de]]
      seed: [1, 101, 201]
    models:                            # folders of models to be there first, if any
      runs/small: {recipe: organism-even, items: 50, snapshots: [0, 60], seeds: [1, 2],
                   parameters: {layers: 4}}
      runs/random: {architecture: llama}     # random weights, the tokenizer from data_dir
    after: [small]                     # other grids that go first
    fills:                             # evidence tables, each from a table of these runs
      interventions: {table: edits, where: "seed > 0", grids: [another], runs: 1}

With `seeds`, a folder is trained once per seed and named by it. Under `fills`, all but `table` is
optional: rows to keep, other grids that fill the same table together with this one, and how many of
the runs count, from the first on. Each run is a process of its own, so one that dies takes nothing
with it; what is up to date is not run again. An evidence table is replaced only when every run that
fills it is there.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mmlib.book import pool, preflight, runner
from mmlib.book.chapters import ChapterError, Project, resolve
from mmlib.book.pool import Job

FOLDER = "notebooks/grids"


class _Loader(yaml.SafeLoader):
    """Keeps scalars as text ([de, no] are two languages, no False), but knows merge keys."""

    yaml_implicit_resolvers = {"<": yaml.SafeLoader.yaml_implicit_resolvers["<"]}  # noqa: RUF012


class Fill(NamedTuple):
    """Where the rows of an evidence table come from."""

    table: str
    """A table of every run."""
    where: str = ""
    """A pandas query; only these rows are kept."""
    grids: Sequence[str] = ()
    """Other grids that fill it, after this one."""
    runs: str = ""
    """How many runs count, from the first on; empty: all."""


class Run(NamedTuple):
    """One run of a grid."""

    chapter: str
    given: Mapping[str, Any]
    id: str
    """The chapter and a hash of what is asked for."""
    tables: Path
    """Folder of its tables."""
    reasons: list[str]
    """Why it would be executed; empty when it is up to date."""

    def command(self, *, force: bool = False) -> list[str]:
        """The words after `python -m mmlib` that run it alone.

        It waits where another process runs it, such as one that a killed sweep has left behind.
        """
        words = ["run", self.chapter, *_options(self.given), "--wait"]
        return [*words, "--force"] if force else words


@dataclass(frozen=True)
class Grid:
    """A grid as it is written: scalars are text."""

    path: Path
    chapter: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    vary: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    after: Sequence[str] = ()
    fills: Mapping[str, Fill] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its file without folder and suffix."""
        return self.path.stem

    @property
    def combinations(self) -> Iterator[dict[str, Any]]:
        """The parameters of each run."""
        for values in product(*self.vary.values()) if self.chapter else ():
            yield {**self.parameters, **dict(zip(self.vary, values, strict=True))}

    @property
    def trainings(self) -> Iterator[Job]:
        """The commands that make its models; the id is the folder."""
        for folder, about in self.models.items():
            if "architecture" in about:
                where = ["--data-dir", self.parameters.get("data_dir", ".")]
                words = ["random-model", folder, "--architecture", about["architecture"], *where]
                yield Job(folder, words)
                continue
            for seed in about.get("seeds") or [""]:
                seeds = {"seed": seed, "mix.seed": seed} if seed else {}
                out = f"{folder}-{seed}" if seed else folder
                words = ["train", about["recipe"], "--out", out]
                words += _options({**about.get("parameters", {}), **seeds})
                words += ["--items", about["items"]] if "items" in about else []
                words += ["--snapshots", *about["snapshots"]] if "snapshots" in about else []
                yield Job(out, words)


def _options(given: Mapping[str, Any]) -> list[str]:
    pairs = [
        f"{key}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for key, value in given.items()
    ]
    return [part for pair in pairs for part in ("-p", pair)]


def read(path: Path) -> Grid:
    """Read one grid.

    Raises:
        ChapterError: The file is no grid; the message says why.
    """
    try:
        return _grid(path, _text(path.read_text(encoding="utf-8")))
    except (TypeError, AttributeError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ChapterError(f"{path} is no grid: {error}") from error


@cache
def _text(text: str) -> Any:
    return yaml.load(text, _Loader)


def _grid(path: Path, text: Any) -> Grid:
    known = set(Grid.__dataclass_fields__) - {"path"}
    if (
        not isinstance(text, dict)
        or set(text) - known
        or not {"chapter", "models"} & set(text)
        or not isinstance(text.get("chapter", ""), str)
    ):
        raise TypeError(
            f"it has to have the key chapter or models, and may have {', '.join(sorted(known))}"
        )
    text = {key: value for key, value in text.items() if value}  # a copy: what is read is shared
    for key in {"parameters", "vary", "models", "fills"} & set(text):
        if not isinstance(text[key], dict):
            raise TypeError(f"{key} has to be a mapping of names to values")
    vary = text.get("vary", {})
    if wrong := [key for key, values in vary.items() if not isinstance(values, list) or not values]:
        raise TypeError(f"vary.{wrong[0]} has to be a list of values")
    if twice := sorted(set(text.get("parameters", {})) & set(vary)):
        raise TypeError(f"{twice[0]} is given in parameters and in vary")
    for folder, about in text.get("models", {}).items():
        if not isinstance(about, dict) or not {"recipe", "architecture"} & set(about):
            raise TypeError(f"models.{folder} has to have the key recipe or architecture")
    fills = {name: Fill(**about) for name, about in text.pop("fills", {}).items()}
    return Grid(path, **text, fills=fills)


def find(project: Project, name: str) -> Grid:
    """The grid of a name in `notebooks/grids`, or of a path to a file.

    Raises:
        ChapterError: There is none.
    """
    path = Path(name)
    if path.suffix not in (".yml", ".yaml"):
        path = project.root / FOLDER / f"{name}.yml"
    if not path.is_file():
        known = ", ".join(names(project)) or "none"
        raise ChapterError(f"no grid {name!r} ({path}); {FOLDER} has {known}")
    return read(path)


def names(project: Project) -> list[str]:
    """Every grid of the checkout."""
    return sorted(path.stem for path in (project.root / FOLDER).glob("*.yml"))


def order(project: Project, wanted: Iterable[str]) -> list[Grid]:
    """Grids, each after those that it names under `after` or that fill a table with it."""
    grids: dict[Path, Grid] = {}
    waiting: list[Path] = []

    def add(grid: Grid) -> None:
        if grid.path in waiting:
            raise ChapterError(f"{grid.path} comes after itself: mend `after` or `fills`")
        if grid.path not in grids:
            waiting.append(grid.path)
            for other in (*grid.after, *(g for fill in grid.fills.values() for g in fill.grids)):
                add(_beside(project, grid, other))
            grids[waiting.pop()] = grid

    for name in wanted:
        add(find(project, name))
    return list(grids.values())


def _beside(project: Project, grid: Grid, name: str) -> Grid:
    path = grid.path.with_name(f"{name}.yml")
    return find(project, str(path) if path.is_file() else name)


def given(grids: Sequence[Grid], values: Mapping[str, str]) -> list[Grid]:
    """The grids with other values of parameters that they fix.

    Raises:
        ChapterError: None of them fixes such a parameter.
    """
    fixed = {name for grid in grids for name in grid.parameters}
    if unknown := sorted(set(values) - fixed):
        raise ChapterError(f"no grid fixes {unknown[0]!r}: they fix {', '.join(sorted(fixed))}")
    return [
        replace(g, parameters={k: values.get(k, v) for k, v in g.parameters.items()}) for g in grids
    ]


def runs(project: Project, grid: Grid) -> list[Run]:
    """Expand a grid; every parameter is checked before anything runs.

    A table that the grid itself fills cannot make its runs stale.

    Raises:
        ChapterError: A run has a wrong parameter, or defaults only.
    """
    if not grid.chapter:
        return []
    try:
        name = project.chapter(grid.chapter).name
    except ChapterError as error:
        raise ChapterError(f"{grid.path}: {error}") from error
    filled = [f"evidence/{table}" for table in _filled(project, grid)]
    planned = []
    for texts in grid.combinations:
        try:
            values, _ = resolve(project, name, texts)
        except ChapterError as error:
            raise ChapterError(f"{grid.path}: {error}") from error
        chosen = {key: values[key] for key in texts}
        task = runner.Task.of(project, name, chosen)
        run = Run(name, chosen, task.id, task.tables, task.reasons(filled))
        if run.id == name:
            raise ChapterError(
                f"{grid.path} has a run with all defaults, which would replace the published "
                f"edition: give one parameter another value, or run the chapter itself ({name})"
            )
        planned.append(run)
    if len({run.id for run in planned}) < len(planned):
        raise ChapterError(f"{grid.path} has two runs with the same parameters")
    return planned


def check(project: Project, grids: Iterable[Grid]) -> None:
    """Say what the models of all runs need, each once, before the first hour of any.

    Raises:
        ChapterError: Wrong parameters, or models that are refused: see `preflight.check`.
    """
    waiting = [run for grid in grids for run in runs(project, grid) if run.reasons]
    asked = [resolve(project, run.chapter, run.given)[0] for run in waiting]
    models = {tuple(map(values.get, preflight.LOADED)): values for values in asked}
    refused = []
    for values in models.values():
        try:
            for line in preflight.check(values):
                print(line, flush=True)
        except ChapterError as error:
            refused.append(str(error))
    if refused:
        raise ChapterError("\n".join(refused))


def _filled(project: Project, grid: Grid) -> set[str]:
    """Evidence tables that a grid fills, alone or with others, or that one after it fills."""
    others = [find(project, name) for name in names(project)]
    return set(grid.fills) | {
        name
        for other in others
        for name, fill in other.fills.items()
        if grid.name in (*fill.grids, *other.after)
    }


def explain(project: Project, grid: Grid, *, force: bool = False) -> tuple[list[Job], list[Run]]:
    """Say why each model and run of a grid will be made, or that it is up to date.

    Returns:
        The models and the runs that will be made.
    """
    trainings = [job for job in grid.trainings if not _there(project, job)]
    for job in trainings:
        print(f"{job.id}: not there", flush=True)
    planned = runs(project, grid)
    for run in planned:
        state = "; ".join(run.reasons) or ("forced" if force else "up to date")
        print(f"{run.id}: {state}", flush=True)
    return trainings, [run for run in planned if force or run.reasons]


def execute(project: Project, grid: Grid, *, workers: int = 1, force: bool = False) -> None:
    """Make the models and runs of a grid that are not up to date; a failure stops no other run.

    Raises:
        ChapterError: Some failed; the message names them.
    """
    trainings, waiting = explain(project, grid, force=force)
    named = [Job(job.id.replace("/", "-"), job.command) for job in trainings]
    failed = pool.run(project.root, named, workers=workers)
    if not failed:
        if trainings:  # what a run depends on is there only now
            waiting = [run for run in runs(project, grid) if force or run.reasons]
        again = [Job(run.id, run.command(force=force)) for run in waiting]
        failed = pool.run(project.root, again, workers=workers)
    if failed:
        raise ChapterError(
            f"{grid.name}: {', '.join(failed)} failed, so that nothing of it is kept; read "
            f"runs/logs/{failed[0]}.log, mend it and run the sweep again"
        )


def jobs(project: Project, grids: Sequence[Grid], *, every: bool = False) -> list[Job]:
    """What is left to do, or `every` job, one by one: another engine may start each (`Snakefile`).

    Models that are not there, runs that are not up to date, and each grid by its name: that job
    keeps its tables. `after` says which jobs go first.
    """
    found: dict[str, Job] = {}
    for grid in grids:
        first = [other.name for other in grids if other.name in grid.after]
        models = [job for job in grid.trainings if every or not _there(project, job)]
        made = [Job(job.id.replace("/", "-"), job.command, first) for job in models]
        then = [*first, *(job.id for job in made)]
        wanted = [run for run in runs(project, grid) if every or run.reasons]
        made += [Job(run.id, run.command(), then) for run in wanted]
        beside = {name for fill in grid.fills.values() for name in fill.grids} & set(found)
        before = [*first, *sorted(beside), *(job.id for job in made)]
        made.append(Job(grid.name, [], list(dict.fromkeys(before))))
        found |= {job.id: job for job in made if job.id not in found}
    return list(found.values())


def _there(project: Project, training: Job) -> bool:
    return (project.root / training.id / "config.json").is_file()


def tables(planned: Sequence[Run], name: str) -> list[Path]:
    """Paths of one table of every run.

    Raises:
        ChapterError: A run has not been made or is stale, or does not write that table.
    """
    paths = [run.tables / f"{name}.csv" for run in planned]
    for run, path in zip(planned, paths, strict=True):
        if run.reasons or not path.is_file():
            why = "; ".join(run.reasons) or f"it writes no table {name!r}"
            raise ChapterError(f"{run.id} has no table to give ({why}): run the sweep first")
    return paths


def filling(project: Project, grid: Grid, grids: Sequence[Grid]) -> dict[str, list[Path]]:
    """The tables that fill each evidence table of a grid, those of other grids after its own.

    Args:
        project: The checkout.
        grid: A grid with `fills`.
        grids: It and those that it names, with the parameters that they ran with.

    Raises:
        ChapterError: One of the runs is not there, or stale.
    """
    planned: dict[str, list[Run]] = {}
    paths = {}
    for name, fill in grid.fills.items():
        paths[name] = []
        for part in (grid.name, *fill.grids):
            if part not in planned:
                planned[part] = runs(project, next(g for g in grids if g.name == part))
            count = int(fill.runs) if fill.runs else None
            paths[name] += tables(planned[part][:count], fill.table)
    return paths
