"""Run chapters: execute them out of sight, and move in what is complete.

A run that fails or is killed changes nothing in `book/`. A run that ends well records in the
notebook (`metadata.mmlib`) everything its results depend on, see `mmlib.chapters`.
"""

import errno
import fcntl
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

from mmlib.chapters import (
    Chapter,
    ChapterError,
    Project,
    digest,
    file_hash,
    hashes,
    resolve,
    run_record,
    stale_reasons,
)
from mmlib.results import RunInfo


class ChapterFailedError(RuntimeError):
    """A cell failed; the message says which one and where the unfinished notebook lies."""


class Status(NamedTuple):
    """One chapter of the published edition: why it is stale, and how long it last took."""

    chapter: Chapter
    reasons: list[str]
    seconds: float | None
    date: str


def status(project: Project) -> list[Status]:
    """Look at every chapter of the published edition, in running order."""
    rows = []
    for name, chapter in project.chapters.items():
        recorded = run_record(project.executed(name))
        current = hashes(project, name, resolve(project, name, {})[0])
        reasons = stale_reasons(recorded, current, project.places["results"])
        rows.append(Status(chapter, reasons, recorded.get("seconds"), recorded.get("date", "")))
    return rows


def run(
    project: Project,
    name: str,
    given: Mapping[str, Any] | None = None,
    *,
    force: bool = False,
    label: str = "",
) -> Path:
    """Execute a chapter, unless its results are up to date.

    Args:
        project: the checkout.
        name: the chapter.
        given: parameters that differ from the defaults, as values or as YAML text.
        force: execute it even if nothing it depends on has changed.
        label: put before each line of progress, such as `[2/6] `.

    Returns:
        The executed notebook: `book/chapters/NAME.ipynb`, or `runs/NAME-HASH/NAME.ipynb` with
        its tables beside it if any parameter differs from its default.

    Raises:
        ChapterError: a wrong parameter, a missing table, or another process running it.
        ChapterFailedError: a cell raised an exception or the kernel died.
    """
    name = project.chapter(name).name
    values, changed = resolve(project, name, given or {})
    current = hashes(project, name, values)
    # The folder of a run is named by what it was asked to do, so that a rerun finds it again.
    asked = digest([current["source"], current["parameters"], current["code"]])
    folder = project.runs / f"{name}-{asked[:10]}" if changed else None
    executed = folder / f"{name}.ipynb" if folder else project.executed(name)
    tables = folder or project.places["results"]
    recorded = run_record(executed)
    if not force and not stale_reasons(recorded, current, tables):
        print(f"{label}{name}: up to date ({_short(project, executed)}), --force runs it again")
        return executed
    if absent := [entry for entry, value in current["evidence"].items() if value == "missing"]:
        raise ChapterError(
            f"{name} reads {', '.join(absent)}, which is not there: first run the chapter that "
            "writes it, or correct `reads` in notebooks/chapters.yml"
        )
    task = folder.name if folder else name
    expected = recorded.get("seconds") or run_record(project.executed(name)).get("seconds")
    with _only_writer(project, task), _unfinished(project, task) as partial:
        with Progress(f"{label}{task}", expected) as progress:
            _execute(project, name, changed, partial, tables, progress)
        seconds = round(progress.elapsed, 1)
        _finish(project, name, partial, tables, {"hashes": current, "seconds": seconds}, values)
        if folder:
            _move_folder(partial, folder)
        else:
            _move_files(partial, executed, tables, recorded.get("tables", {}))
    over = project.chapters[name].budget_s < seconds and not folder
    note = f", over its budget of {project.chapters[name].budget_s:g} s" if over else ""
    print(f"{label}{task}: done in {seconds:g} s{note} ({_short(project, executed)})", flush=True)
    return executed


def _short(project: Project, path: Path) -> str:
    return str(path.relative_to(project.root) if path.is_relative_to(project.root) else path)


# --- execution ----------------------------------------------------------------------------------


@contextmanager
def _only_writer(project: Project, task: str) -> Iterator[None]:
    """Hold the lock of a task; the system releases it even if this process is killed."""
    path = project.runs / ".locks" / task
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ChapterError(
                f"{task} is already being run by process {lock.read().strip()}; wait for it or "
                "end it"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextmanager
def _unfinished(project: Project, task: str) -> Iterator[Path]:
    """A folder for what is not complete; what a killed run of this task left there goes first."""
    folder = project.runs / ".partial" / task
    shutil.rmtree(folder, ignore_errors=True)
    # Named by process: the dying kernel of a killed run must not write into the next one.
    partial = folder / str(os.getpid())
    partial.mkdir(parents=True)
    try:
        yield partial
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


def _execute(
    project: Project,
    name: str,
    changed: Mapping[str, Any],
    partial: Path,
    tables: Path,
    progress: "Progress",
) -> None:
    from nbclient.exceptions import DeadKernelError
    from papermill import PapermillExecutionError, execute_notebook
    from traitlets.config import Config

    notebook = partial / f"{name}.ipynb"
    with (
        tempfile.TemporaryDirectory(prefix="mm-") as sockets,  # a short path, as sockets need
        _environment(
            MMLIB_OUTPUT_DIR=str(partial),
            MMLIB_CHAPTER=name,
            MMLIB_CACHE=os.environ.get("MMLIB_CACHE") or str(project.root / ".cache"),
            JUPYTER_RUNTIME_DIR=sockets,
            JUPYTER_PREFER_ENV_PATH="1",  # the kernel of this environment, not of the account
            PYDEVD_DISABLE_FILE_VALIDATION="1",  # else a debugger warning becomes output
        ),
    ):
        try:
            execute_notebook(
                project.source(name),
                notebook,
                # None, not {}: with the defaults the reader sees one parameters cell.
                parameters=dict(changed) or None,
                kernel_name="python3",
                progress_bar=False,
                cwd=project.root,
                config=Config(KernelManager={"transport": "ipc"}),
                on_cell_execute=progress.cell,
            )
        except (PapermillExecutionError, DeadKernelError) as error:
            _rewrite(notebook, _substitutions(project, partial, tables), {"failed": True})
            kept = project.runs / "failed" / partial.parent.name
            _move_folder(partial, kept)
            raise ChapterFailedError(_explain(error, progress, kept / notebook.name)) from None


def _explain(error: Exception, progress: "Progress", notebook: Path) -> str:
    lines = [f"{progress.label} failed in code cell {progress.number}: {progress.code}"]
    trace = "\n".join(getattr(error, "traceback", [])).splitlines()
    lines += [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in trace[-15:]]
    if not trace:
        lines.append(f"{type(error).__name__}: {error} (out of memory?)")
    return "\n".join([*lines, f"The notebook up to that cell: {notebook}"])


# --- what is kept -------------------------------------------------------------------------------


def _finish(
    project: Project,
    name: str,
    partial: Path,
    tables: Path,
    measured: Mapping[str, Any],
    values: Mapping[str, Any],
) -> None:
    """Write into the executed notebook what the run was, and take out where it was."""
    notebook = partial / f"{name}.ipynb"
    written = sorted(p for p in partial.rglob("*") if p.is_file() and p != notebook)
    information = RunInfo.collect(values.get("model", ""), parameters=values)
    record = {
        "chapter": name,
        **measured,
        "tables": {p.relative_to(partial).as_posix(): file_hash(p) for p in written},
        **{key: value for key, value in asdict(information).items() if value},
    }
    _rewrite(notebook, _substitutions(project, partial, tables), record)


def _substitutions(project: Project, partial: Path, tables: Path) -> list[tuple[re.Pattern, str]]:
    """Patterns of paths that mean something on this machine only, and what to write instead."""
    home = Path.home()
    known = [
        (partial, _short(project, tables)),
        (project.root, "."),
        (Path(sys.prefix), "env"),
        (home, "~"),
    ]
    texts = {
        re.escape(str(p)): new
        for path, new in known
        if len(path.parts) > 1
        for p in (path, path.resolve())
    }
    texts[r"/\S*/ipykernel_\d+"] = "kernel"
    return [(re.compile(rf"(?<![\w.+-]){old}(?![\w.-])"), new) for old, new in texts.items()]


def _substitute(value: Any, substitutions: Iterable[tuple[re.Pattern, str]]) -> Any:
    if isinstance(value, dict):
        return {key: _substitute(item, substitutions) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, substitutions) for item in value]
    if isinstance(value, str):
        for pattern, new in substitutions:
            value = pattern.sub(new, value)
    return value


def _rewrite(
    path: Path, substitutions: list[tuple[re.Pattern, str]], record: Mapping[str, Any]
) -> None:
    """Replace papermill's metadata, which changes at every run, by our record."""
    notebook = nbformat.read(path, as_version=4)
    kept = {key: notebook.metadata[key] for key in ("kernelspec",) if key in notebook.metadata}
    notebook.metadata = nbformat.from_dict({**kept, "mmlib": dict(record)})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict(
            {k: v for k, v in cell.metadata.items() if k not in ("papermill", "execution") and v}
        )
        if cell.cell_type == "code":
            cell.outputs = nbformat.from_dict(_substitute(cell.outputs, substitutions))
    nbformat.write(notebook, path)


def _move_folder(source: Path, target: Path) -> None:
    """Put a complete folder in the place of another."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.rename(source.parent / "replaced")  # removed with the rest of the unfinished
    source.rename(target)


def _move_files(source: Path, executed: Path, tables: Path, before: Iterable[str]) -> None:
    """Move tables in, then the notebook: its record tells a cut-off move from a complete one."""
    paths = sorted(p for p in source.rglob("*") if p.is_file())
    targets = {p: tables / p.relative_to(source) for p in paths if p.name != executed.name}
    for path, target in [*targets.items(), (source / executed.name, executed)]:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.replace(path, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # `runs/` lies on another disk: copy first, so that the last step is still a move.
            os.replace(shutil.copyfile(path, target.with_name(f".{target.name}")), target)
    for name in before:
        if tables / name not in targets.values():
            (tables / name).unlink(missing_ok=True)


# --- progress -----------------------------------------------------------------------------------


class Progress:
    """Say which cell runs, for how long, and how long the whole took last time."""

    def __init__(self, label: str, expected: float | None) -> None:
        self.label, self.expected = label, expected
        self.number, self.code = 0, "starting the kernel"
        self.start = time.monotonic()
        self.terminal = sys.stdout.isatty()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.start

    def __enter__(self) -> "Progress":
        self._show()
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stopped.set()
        self.thread.join()
        if self.terminal:
            print("\r\x1b[K", end="", flush=True)

    def cell(self, *, cell: Mapping[str, Any], cell_index: int) -> None:
        """Called before each code cell is executed."""
        self.number = cell_index
        self.code = next(iter(cell["source"].splitlines()), "")[:60]

    def _beat(self) -> None:
        while not self.stopped.wait(1 if self.terminal else 10):
            self._show()

    def _show(self) -> None:
        expected = f" of about {self.expected:.0f}" if self.expected else ""
        line = f"{self.label}: {self.elapsed:.0f}{expected} s, cell {self.number}: {self.code}"
        print(
            f"\r\x1b[K{line[:110]}" if self.terminal else line,
            end="" if self.terminal else "\n",
            flush=True,
        )
