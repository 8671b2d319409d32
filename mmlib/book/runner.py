"""Run chapters: execute them out of sight, and move in what is complete.

A run that fails or is killed changes nothing in `book/`. A run that ends well records in the
notebook (`metadata.mmlib`) everything its results depend on, see `mmlib.book.chapters`.
"""

import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from filelock import FileLock, Timeout
from tqdm import tqdm

from mmlib.book import preflight
from mmlib.book.chapters import (
    Chapter,
    ChapterError,
    Project,
    file_hash,
    hashes,
    resolve,
    run_record,
    stale_reasons,
)
from mmlib.book.syntax import digest
from mmlib.files import replace, replacing
from mmlib.study.tables import RunInfo


class ChapterFailedError(RuntimeError):
    """A cell failed; the message says which one and where the unfinished notebook lies."""


class Status(NamedTuple):
    """A chapter of the published edition: why it is stale, how long it last took, and when."""

    chapter: Chapter
    reasons: list[str]
    seconds: float | None
    date: str


def status(project: Project) -> list[Status]:
    """Look at every chapter of the published edition, in running order."""
    rows = []
    for name, chapter in project.chapters.items():
        recorded = run_record(project.executed(name))
        try:
            reasons = Task.of(project, name, {}).reasons()
        except ChapterError as error:
            reasons = [str(error)]
        rows.append(Status(chapter, reasons, recorded.get("seconds"), recorded.get("date", "")))
    return rows


@dataclass(frozen=True)
class Task:
    """One chapter with one set of parameters, and the places of what it writes."""

    project: Project
    name: str
    values: dict[str, Any]
    changed: dict[str, Any]
    """The values that differ from the defaults."""
    hashes: dict[str, Any]

    @classmethod
    def of(cls, project: Project, name: str, given: Mapping[str, Any]) -> "Task":
        """The task of a chapter; a wrong parameter is refused (ChapterError)."""
        name = project.chapter(name).name
        values, changed = resolve(project, name, given)
        return cls(project, name, values, changed, hashes(project, name, values))

    @property
    def id(self) -> str:
        """The chapter; with other parameters also a hash of what was asked for."""
        asked = [self.hashes[key] for key in ("cells", "parameters", "code")]
        return f"{self.name}-{digest(asked)[:10]}" if self.changed else self.name

    @property
    def executed(self) -> Path:
        """The executed notebook."""
        folder = self.project.runs / self.id
        return folder / f"{self.name}.ipynb" if self.changed else self.project.executed(self.name)

    @property
    def tables(self) -> Path:
        """Folder of its tables."""
        return self.executed.parent if self.changed else self.project.places["results"]

    @property
    def kept(self) -> Path:
        """Folder of tables that take long, which outlive a run that fails: `page.keep`."""
        made_by = {key: value for key, value in self.hashes.items() if key != "source"}
        return self.project.runs / ".kept" / self.id / digest(made_by)

    def reasons(self, filled: Collection[str] = ()) -> list[str]:
        """Why it would be executed; what it helps to fill (`filled`) does not make it stale."""
        return stale_reasons(run_record(self.executed), self.hashes, self.tables, filled)

    def short(self, path: Path) -> str:
        """A path as the reader of a message knows it: relative to the checkout."""
        inside = path.is_relative_to(self.project.root)
        return str(path.relative_to(self.project.root) if inside else path)


def run(
    project: Project,
    name: str,
    given: Mapping[str, Any] | None = None,
    *,
    force: bool = False,
    wait: bool = False,
    label: str = "",
) -> Path:
    """Execute a chapter, unless its results are up to date; if only text differs, renew the text.

    Args:
        project: the checkout.
        name: the chapter.
        given: parameters that differ from the defaults, as values or as YAML text.
        force: execute it even if nothing it depends on has changed.
        wait: if another process runs it, wait for what that makes.
        label: put before each line of progress, such as `[2/6] `.

    Returns:
        The executed notebook: `book/chapters/NAME.ipynb`, or `runs/NAME-HASH/NAME.ipynb` with
        its tables beside it if any parameter differs from its default.

    Raises:
        ChapterError: a wrong parameter, a missing table, or (without `wait`) another process
            running it.
        ChapterFailedError: a cell raised an exception or the kernel died.
    """
    task = Task.of(project, name, given or {})
    place, reasons = task.short(task.executed), task.reasons()
    if not force and not reasons:
        print(f"{label}{task.id}: up to date ({place}); --force runs it again", flush=True)
        return task.executed
    if not force and not task.changed and reasons == ["text changed"]:
        with _only_writer(task):
            _renew_text(task)
        print(f"{label}{task.id}: text renewed, nothing executed ({place})", flush=True)
        return task.executed
    if absent := [table for table, found in task.hashes["evidence"].items() if found == "missing"]:
        raise ChapterError(
            f"{task.name} reads {', '.join(absent)}, which is not there: first run the chapter "
            "that writes it, or correct `reads` in notebooks/chapters.yml"
        )
    for line in preflight.check(task.values):
        print(f"{label}{line}", flush=True)
    budget = project.chapters[task.name].budget_s
    # Other parameters, another time: it is known only from a run with them.
    expected = run_record(task.executed).get("seconds") or (0 if task.changed else budget)
    with _only_writer(task, wait=wait) as waited, _unfinished(task) as partial:
        if waited and not (force or Task.of(project, name, given or {}).reasons()):
            print(f"{label}{task.id}: another process has made it ({place})", flush=True)
            return task.executed
        start = time.monotonic()
        with Progress(f"{label}{task.id}", expected) as progress:
            _execute(task, partial, progress)
        seconds = round(time.monotonic() - start, 1)
        _finish(task, partial, seconds)
        _move_in(task, partial)
        shutil.rmtree(task.kept.parent, ignore_errors=True)
    over = f", over its budget of {budget:g} s" if seconds > budget and not task.changed else ""
    print(f"{label}{task.id}: done in {seconds:g} s{over} ({place})", flush=True)
    return task.executed


# --- execution ----------------------------------------------------------------------------------


class Progress(tqdm):
    """One line: which cell runs and for how long, and how long the whole took last time.

    It is told again while a cell runs: each second on a terminal, elsewhere every ten seconds.
    """

    def __init__(self, label: str, expected: float) -> None:
        """`expected`: seconds; 0 where nobody knows."""
        self.label, self.stopped = label, threading.Event()
        about = f" of about {expected:.0f} s" if expected else ""
        line = f"{{desc}}: {{elapsed}}{about}, cell {{n_fmt}}/{{total_fmt}}{{postfix}}"
        how = {"leave": False, "disable": False, "file": sys.stdout, "ncols": 110}
        super().__init__(desc=label, total=0, bar_format=line, **how)
        threading.Thread(target=self._beat, daemon=True).start()

    def cell(self, *, cell: nbformat.NotebookNode, cell_index: int) -> None:
        """Called before a code cell is executed; cells are counted from 1, text included."""
        self.n = cell_index + 1
        self.set_postfix_str(cell.source.partition("\n")[0], refresh=sys.stdout.isatty())

    def _beat(self) -> None:
        while not self.stopped.wait(1 if sys.stdout.isatty() else 10):
            self.refresh()

    def close(self) -> None:
        """Take the line away."""
        self.stopped.set()
        super().close()


@contextmanager
def _only_writer(task: Task, *, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of a task; the system releases it even if this process is killed.

    Yields:
        Whether another process had it first.
    """
    path = task.project.runs / ".locks" / task.id
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, waited = FileLock(path), False
    try:
        lock.acquire(timeout=0)
    except Timeout:
        told = f"{task.id} is already being run by process {path.read_text()}"
        if not wait:
            raise ChapterError(f"{told}; wait for it (--wait) or end it") from None
        print(f"{told}: waiting for it", flush=True)
        lock.acquire()
        waited = True
    with lock:
        path.write_text(str(os.getpid()))
        yield waited


@contextmanager
def _unfinished(task: Task) -> Iterator[Path]:
    """A folder for what is not complete; what a killed run of this task left there goes first."""
    folder = task.project.runs / ".partial" / task.id
    shutil.rmtree(folder, ignore_errors=True)
    # Named by process: the dying kernel of a killed run must not write into the next one.
    partial = folder / str(os.getpid())
    partial.mkdir(parents=True)
    try:
        yield partial
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _environment(task: Task, partial: Path) -> Iterator[str]:
    """Set what the kernel inherits; yields a folder for its sockets."""
    before = dict(os.environ)
    # A socket's whole path may have 103 characters.
    place = "/tmp" if len(tempfile.gettempdir()) > 80 else None
    with tempfile.TemporaryDirectory(prefix="mm-", dir=place) as sockets:
        os.environ |= {
            "MMLIB_OUTPUT_DIR": str(partial),
            "MMLIB_KEPT": str(task.kept),
            "MMLIB_CHAPTER": task.name,
            "MMLIB_CACHE": before.get("MMLIB_CACHE") or str(task.project.root / ".cache"),
            "JUPYTER_RUNTIME_DIR": sockets,
            "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel of this environment, not the account's
            # Progress bars and advice about tools that are not used would become output.
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            "TQDM_DISABLE": "1",
            "PYTHONWARNINGS": "ignore:IProgress not found,ignore:`is_gradient_checkpointing`",
        }
        try:
            yield sockets
        finally:
            os.environ.clear()
            os.environ.update(before)


def _execute(task: Task, partial: Path, progress: Progress) -> None:
    from papermill import PapermillExecutionError, execute_notebook  # slow, and seldom needed
    from traitlets.config import Config

    notebook = partial / f"{task.name}.ipynb"
    try:
        with _environment(task, partial) as sockets:
            # A socket path of its own: by default two kernels started at once share one.
            kernel = {"transport": "ipc", "ip": f"{sockets}/kernel"}
            execute_notebook(
                task.project.source(task.name),
                notebook,
                # None with the defaults: the reader of the book sees one parameters cell.
                parameters=task.changed or None,
                kernel_name="python3",
                progress_bar=False,
                cwd=task.project.root,
                config=Config(KernelManager=kernel),
                on_notebook_start=lambda notebook: progress.reset(len(notebook.cells)),
                on_cell_execute=progress.cell,
            )
    except (PapermillExecutionError, RuntimeError) as error:  # a cell, or the kernel itself
        _rewrite(task, notebook, {"failed": progress.n})
        kept = task.project.runs / "failed" / task.id
        replace(partial, kept)
        raise ChapterFailedError(_explain(error, progress, kept / notebook.name)) from None


def _explain(error: Exception, progress: Progress, notebook: Path) -> str:
    lines = [f"{progress.label} failed in cell {progress.n}: {progress.postfix or ''}"]
    trace = "\n".join(getattr(error, "traceback", [])) or f"{error} (out of memory?)"
    lines += [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in trace.splitlines()[-15:]]
    return "\n".join([*lines, f"The notebook up to that cell: {notebook}"])


# --- what is kept -------------------------------------------------------------------------------


def _finish(task: Task, partial: Path, seconds: float) -> None:
    """Write into the executed notebook what the run was."""
    notebook = partial / f"{task.name}.ipynb"
    written = sorted(p for p in partial.rglob("*") if p.is_file() and p != notebook)
    information = asdict(RunInfo.collect(task.values.get("model", ""), parameters=task.values))
    record = {
        "chapter": task.name,
        "seconds": seconds,
        "hashes": task.hashes,
        "tables": {p.relative_to(partial).as_posix(): file_hash(p) for p in written},
        **{key: value for key, value in information.items() if value},
    }
    _rewrite(task, notebook, record)


def _rewrite(task: Task, path: Path, record: Mapping[str, Any]) -> None:
    """Put our record in place of papermill's metadata, and remove paths of this machine."""
    notebook = nbformat.read(path, as_version=4)
    kernel = notebook.metadata.get("kernelspec", {})
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "mmlib": dict(record)})
    substitutions = _substitutions(task, path.parent)
    for cell in notebook.cells:
        # papermill adds an empty list of tags; both kinds of metadata hold the time of day.
        kept = {k: v for k, v in cell.metadata.items() if v and k not in ("papermill", "execution")}
        cell.metadata = nbformat.from_dict(kept)
        if "injected-parameters" in kept.get("tags", ()):
            cell.id = "injected-parameters"  # papermill draws one
        if cell.cell_type == "code":
            cell.outputs = nbformat.from_dict(_substitute(cell.outputs, substitutions))
    nbformat.write(notebook, path)


def _substitutions(task: Task, partial: Path) -> list[tuple[re.Pattern, str]]:
    """Patterns of paths that mean something on this machine only, and what to write instead."""
    known = {
        partial: task.short(task.tables) if task.changed else "book/results",
        task.project.root: ".",
        Path(sys.prefix): "env",
        Path.home(): "~",
    }
    paths = {re.escape(str(p)): new for path, new in known.items() for p in (path, path.resolve())}
    paths = {old: new for old, new in paths.items() if len(old) > 1} | {
        r"/\S*/ipykernel_\d+": "kernel"
    }
    return [(re.compile(rf"(?<![\w.+-]){old}(?![\w.-])"), new) for old, new in paths.items()]


def _substitute(value: Any, substitutions: Iterable[tuple[re.Pattern, str]]) -> Any:
    if isinstance(value, dict):
        return {key: _substitute(item, substitutions) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, substitutions) for item in value]
    if isinstance(value, str):
        for pattern, new in substitutions:
            value = pattern.sub(new, value)
    return value


def _renew_text(task: Task) -> None:
    """Put the outputs of the published copy into the source as it is now."""
    old = nbformat.read(task.executed, as_version=4)
    new = nbformat.read(task.project.source(task.name), as_version=4)
    before, now = ([c for c in notebook.cells if c.cell_type == "code"] for notebook in (old, new))
    for cell, executed in zip(now, before, strict=True):
        cell.outputs, cell.execution_count = executed.outputs, executed.execution_count
    new.metadata = old.metadata
    new.metadata.mmlib.hashes = nbformat.from_dict(task.hashes)
    with replacing(task.executed) as file:
        nbformat.write(new, file)


def _move_in(task: Task, partial: Path) -> None:
    """Put a complete run in its place.

    Tables go first: a move that is cut off leaves tables that differ from the hashes in the old
    notebook, so the chapter is stale. Tables that are no longer written are removed.
    """
    if task.changed:
        return replace(partial, task.executed.parent)
    old = {task.tables / name for name in run_record(task.executed).get("tables", ())}
    notebook = partial / task.executed.name
    tables = [p for p in partial.rglob("*") if p.is_file() and p != notebook]
    targets = {p: task.tables / p.relative_to(partial) for p in tables}
    for path, target in [*targets.items(), (notebook, task.executed)]:
        with replacing(target) as file:  # `runs/` may be on another disk
            shutil.copyfile(path, file)
    for path in old - set(targets.values()):
        path.unlink(missing_ok=True)
    return None
