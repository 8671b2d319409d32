"""What a chapter is: its source, its parameters, and what its results depend on.

A chapter is `notebooks/chapters/NAME.ipynb` with one cell tagged `parameters`. With its default
parameters it becomes `book/chapters/NAME.ipynb` and tables in `book/results/`; with others it
becomes the folder `runs/NAME-HASH/`. `notebooks/chapters.yml` lists the chapters in running order.
"""

import ast
import difflib
import json
import re
import reprlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import yaml

from mmlib.book.syntax import code_hashes, digest
from mmlib.files import sha256

SCALARS = {"str": (str,), "int": (int, str), "float": (int, float, str), "bool": (bool, str)}
"""Types of parameters (and of list items) -> what may be given for them."""


class ChapterError(ValueError):
    """A request that cannot be carried out; the message names the value and the choices."""


@dataclass(frozen=True)
class Chapter:
    """An entry of `notebooks/chapters.yml`."""

    name: str
    title: str
    budget_s: float
    """Its share of the fifteen minutes that all chapters may take on two cores."""
    reads: tuple[str, ...] = ()
    """Tables it depends on, `published/NAME`, `evidence/NAME` or `results/NAME`, and checkpoints
    that no parameter names, `organisms/NAME`."""
    miniature: Mapping[str, Any] = field(default_factory=dict)
    """Parameters with which the tests execute it in seconds."""
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    """Parameters for a `model` that is a checkpoint of `mmlib/checkpoints.yaml`, unless others are
    given: so few prompts that two cores take minutes."""


@dataclass(frozen=True)
class Project:
    """Where the sources, the published copies and the runs of a checkout lie."""

    root: Path

    @property
    def runs(self) -> Path:
        """Folder of unfinished runs and of runs with other parameters."""
        return self.root / "runs"

    @property
    def places(self) -> dict[str, Path]:
        """Folders of what a chapter may name under `reads`."""
        package = self.root / "mmlib"
        return {
            "published": package / "published",
            "evidence": package / "evidence",
            "results": self.root / "book" / "results",
            "organisms": package / "organisms",
        }

    def source(self, name: str) -> Path:
        """The notebook that an author writes."""
        return self.root / "notebooks" / "chapters" / f"{name}.ipynb"

    def executed(self, name: str) -> Path:
        """Its executed copy, which the book publishes."""
        return self.root / "book" / "chapters" / f"{name}.ipynb"

    @cached_property
    def chapters(self) -> dict[str, Chapter]:
        """Every chapter by name, in the order in which they run."""
        path = self.root / "notebooks" / "chapters.yml"
        try:
            entries = yaml.safe_load(path.read_text(encoding="utf-8"))
            return {name: Chapter(name, **entry) for name, entry in entries.items()}
        except FileNotFoundError:
            raise ChapterError(f"{path} is missing: call this in the root of a checkout") from None
        except (TypeError, ValueError, AttributeError, RecursionError, yaml.YAMLError) as error:
            raise ChapterError(f"{path} is not a list of chapters: {error}") from error

    @cached_property
    def checkpoints(self) -> Collection[str]:
        """Names of the real checkpoints; read here, since `mmlib.models` brings torch."""
        path = self.root / "mmlib" / "checkpoints.yaml"
        return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else ()

    def chapter(self, name: str) -> Chapter:
        """Find a chapter by its name or by the path of its notebook."""
        name = Path(name).name.removesuffix(".ipynb")
        if name not in self.chapters:
            raise ChapterError(
                f"no chapter {name!r}{_suggest(name, self.chapters)} Chapters are "
                f"{', '.join(self.chapters)} (notebooks/chapters.yml)"
            )
        if not self.source(name).exists():
            raise ChapterError(f"{self.source(name)} is missing, but chapters.yml names it")
        return self.chapters[name]


def _suggest(word: str, choices: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f"; did you mean {close[0]!r}?" if close else "."


def read_notebook(path: Path) -> dict[str, Any]:
    """Read a notebook as plain JSON; raise a ChapterError where it is none."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            _ = cell["metadata"].get("tags"), cell["cell_type"] + _text(cell)
        return {"metadata": {}, **notebook}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ChapterError(f"{path} is not a notebook: {error!r}") from error


def _text(cell: Mapping[str, Any]) -> str:
    return "".join(cell["source"])


# --- parameters ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: `name: type = default  # help`."""

    name: str
    type: str
    default: Any
    help: str


def parameters(project: Project, name: str) -> dict[str, Parameter]:
    """Read every parameter of a chapter without running it; lines that give none are left out.

    Raises:
        ChapterError: a default is no literal of the type that is declared.
    """
    path = project.source(name)
    return dict(_parameters(path, path.stat().st_mtime_ns if path.is_file() else 0))


@lru_cache(maxsize=64)  # a run of a grid asks for every chapter twice
def _parameters(path: Path, changed: int) -> dict[str, Parameter]:
    """As above; `changed`, the file's time, tells a notebook that was edited."""
    from papermill import inspect_notebook  # brings much that a list of chapters does not need

    read_notebook(path)
    try:
        lines = inspect_notebook(path)
    except Exception as error:  # of many kinds
        raise ChapterError(f"{path} is not a notebook: {error}") from error
    read = {}
    for key, line in lines.items():
        kind = line["inferred_type_name"]
        try:
            default = ast.literal_eval(line["default"])
            convert(default, kind)
        except (ValueError, SyntaxError) as error:
            raise ChapterError(
                f"{path}: the parameter {key} = {line['default']} {error}; write `name: type = "
                "literal  # help` and derive other values in a later cell"
            ) from error
        read[key] = Parameter(key, kind, default, line["help"])
    return read


def convert(value: Any, kind: str) -> Any:
    """Give `value` a declared type: one of `SCALARS`, or `list[...]` of one.

    Text is accepted where it spells such a value; nothing is rounded, cut or guessed. A message
    shows the beginning of a value: aliases in YAML can make a short one endless.

    Raises:
        ValueError: it is something else; the message says what is expected.
    """
    if kind.startswith("list["):
        if not isinstance(value, list):
            raise ValueError(f"expects {kind}, such as '[a, b]', not {reprlib.repr(value)}")
        return [convert(item, kind[5:-1]) for item in value]
    if kind not in SCALARS:
        raise ValueError(f"has the type {kind}; use {', '.join(SCALARS)} or list[...] of one")
    if kind == "bool" and isinstance(value, str):
        value = {"true": True, "false": False}.get(value.lower(), value)
    try:
        if isinstance(value, bool) != (kind == "bool") or not isinstance(value, SCALARS[kind]):
            raise ValueError
        return {"str": str, "int": int, "float": float, "bool": bool}[kind](value)
    except ValueError:
        raise ValueError(f"expects {kind}, not {reprlib.repr(value)}") from None


def resolve(
    project: Project, name: str, given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check `given`, values or their YAML spelling, against the parameters of a chapter.

    Where a real checkpoint is given as `model`, what the chapter has for it (`Chapter.checkpoint`)
    takes the place of the defaults.

    Returns:
        All values, and those that differ from the defaults: only these are injected.

    Raises:
        ChapterError: an unknown name, or a value of another type.
    """
    known = parameters(project, name)
    values = {key: parameter.default for key, parameter in known.items()}
    real = given.get("model") in project.checkpoints
    for key, value in {**(project.chapter(name).checkpoint if real else {}), **given}.items():
        if key not in known:
            raise ChapterError(
                f"{name} has no parameter {key!r}{_suggest(key, known)} It has "
                f"{', '.join(known) or 'none'}; `python -m mmlib list {name}` explains them"
            )
        try:
            if isinstance(value, str) and known[key].type != "str":
                # The base loader keeps scalars as text: [de, no] are two languages, no False.
                value = yaml.load(value, yaml.BaseLoader)
            elif value in ("''", '""'):  # the empty text, as YAML spells it
                value = ""
            values[key] = convert(value, known[key].type)
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            raise ChapterError(
                f"parameter {key} of {name} {error}. `python -m mmlib list {name}` explains it"
            ) from error
    return values, {key: v for key, v in values.items() if v != known[key].default}


# --- what a result depends on -------------------------------------------------------------------


def file_hash(path: str | Path) -> str:
    """Hash a file; a file that is not there hashes to `"missing"`."""
    path = Path(path)
    return sha256(path)[:16] if path.is_file() else "missing"


def _source_hash(notebook: Mapping[str, Any]) -> str:
    """Hash what an author writes: kind, text, tags and figure descriptions of every cell."""

    def shown(cell: Mapping[str, Any]) -> list[Any]:
        return [cell["metadata"].get(key) or None for key in ("tags", "mystnb")]

    return digest([[c["cell_type"], _text(c), *shown(c)] for c in notebook["cells"]])


def _code_tree(path: Path, notebook: Mapping[str, Any]) -> ast.Module:
    """The code of a notebook, which lies at `path`, without lines for IPython."""
    code = [_text(cell) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    try:
        return ast.parse(re.sub(r"^\s*[%!].*$", "", "\n".join(code), flags=re.MULTILINE))
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ChapterError(f"{path} has code that is not Python: {error}") from error


def _folder_hash(folder: Path) -> str:
    """Hash the files of a folder, without pages for people; `"missing"` where there is none."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".md")
    contents = [[p.relative_to(folder).as_posix(), file_hash(p)] for p in files]
    return digest(contents) if contents else "missing"


def _evidence_hashes(project: Project, chapter: Chapter) -> dict[str, str]:
    found = {}
    for entry in chapter.reads:
        place, _, name = entry.partition("/")
        if place not in project.places or not name:
            raise ChapterError(
                f"{chapter.name} reads {entry!r} in notebooks/chapters.yml; write "
                f"{' or '.join(f'{known}/NAME' for known in project.places)}"
            )
        path = project.places[place] / name
        found[entry] = _folder_hash(path) if place == "organisms" else file_hash(f"{path}.csv")
    return found


FILLED = ("experts_dir", "runs_dir")
"""Parameters that name a folder in which a sweep keeps what it trains."""


def _checkpoint_hashes(project: Project, values: Mapping[str, Any]) -> dict[str, str]:
    """Hash every organism and every other folder that a parameter names.

    A folder of a user's can be large: it counts by the names, sizes and times of its files. What a
    run itself fills does not count.
    """
    read = [v for name, v in values.items() if name not in FILLED]
    words = [w for v in read for w in (v if isinstance(v, list) else [v])]
    names = sorted({w for w in words if isinstance(w, str) and w})
    organisms = {
        n: _folder_hash(project.places["organisms"] / n) for n in names if "organism-" in n
    }
    found = {name: value for name, value in organisms.items() if value != "missing"}
    for name in names:
        folder = project.root / Path(name).expanduser()
        if name not in found and folder.is_dir():
            files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
            states = [[p.relative_to(folder).as_posix(), p.stat()] for p in files]
            found[name] = digest([[n, s.st_size, s.st_mtime_ns] for n, s in states])
    return found


def hashes(project: Project, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Hash everything that decides what a run of a chapter with these values writes."""
    path = project.source(name)
    notebook = read_notebook(path)
    return {
        "source": _source_hash(notebook),
        "cells": digest([_text(c) for c in notebook["cells"] if c["cell_type"] == "code"]),
        "parameters": digest(values),
        "evidence": _evidence_hashes(project, project.chapter(name)),
        "checkpoint": _checkpoint_hashes(project, values),
        "code": code_hashes(project.root, _code_tree(path, notebook)),
    }


def run_record(path: Path) -> dict[str, Any]:
    """What an executed notebook says about its own run; empty where it says nothing readable."""
    try:
        return read_notebook(path)["metadata"].get("mmlib", {})
    except (FileNotFoundError, ChapterError):
        return {}


def sources(project: Project, name: str) -> list[str]:
    """Earlier chapters that write a `results/` table which a chapter reads, as they recorded.

    One that was never executed may write any of them.
    """
    reads = (entry.partition("/") for entry in project.chapters[name].reads)
    wanted = {f"{table}.csv" for place, _, table in reads if place == "results"}
    names = list(project.chapters)
    earlier = names[: names.index(name)] if wanted else ()
    written = {other: run_record(project.executed(other)).get("tables") for other in earlier}
    return [other for other, has in written.items() if has is None or wanted & set(has)]


def stale_reasons(
    recorded: Mapping[str, Any],
    current: Mapping[str, Any],
    results: Path,
    ignored: Collection[str] = (),
) -> list[str]:
    """Say why an executed copy is not what a run would make now.

    Args:
        recorded: `run_record` of the copy.
        current: `hashes` of now.
        results: folder of its tables.
        ignored: what does not count among evidence, checkpoints and modules.

    Returns:
        One phrase per reason; empty if the copy is up to date.
    """
    if not {"hashes", "tables"} <= set(recorded):
        return ["never run"]
    old = recorded["hashes"]
    reasons = []
    if old["source"] != current["source"]:
        reasons.append("text changed" if old["cells"] == current["cells"] else "source changed")
    if old["parameters"] != current["parameters"]:
        reasons.append("parameters changed")
    for kind in ("evidence", "checkpoint", "code"):
        before, now = old[kind], current[kind]
        differ = {name for name in {*before, *now} if before.get(name) != now.get(name)}
        if names := sorted(differ - set(ignored)):
            reasons.append(f"{kind} changed: {', '.join(names)}")
    tables = recorded["tables"].items()
    if names := [name for name, value in tables if file_hash(results / name) != value]:
        reasons.append(f"tables missing or edited: {', '.join(names)}")
    return reasons
