"""Tidy tables, their provenance, intervals and tests, published numbers.

Every number of the book is a cell of a table written here: a CSV file and a JSON manifest that says
which run made it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import pandas as pd

from mmlib.files import replacing

PACKAGE = Path(__file__).resolve().parents[1]
MATH_TASKS = ("gsm8k", "organism-math", "math", "mgsm", "msvamp")
"""Tasks whose accuracy counts as that of math."""
MATH_PARTS = ("math-1", "math-2", "math-3", "mgsm")
"""Math that claims are decided on, see `mmlib.tasks.evaluation.choose_items`: of an organism, the
templates that its training has shown."""
NEW_MATH_PARTS = ("math-new", "msvamp")
"""Math in another form: of an organism, templates that its training never shows."""
_CSV = {"keep_default_na": False, "na_values": [""], "float_precision": "round_trip"}


def _root() -> Path:
    """The checkout, or the working folder where the package was installed without one."""
    return PACKAGE.parent if (PACKAGE.parent / "book").is_dir() else Path.cwd()


def output_dir() -> Path:
    """Folder that receives tables: `MMLIB_OUTPUT_DIR`, else `runs/interactive` of the checkout."""
    return Path(os.environ.get("MMLIB_OUTPUT_DIR") or _root() / "runs" / "interactive")


def published(name: str) -> pd.DataFrame:
    """One of the papers' own tables; `mmlib/published/README.md` explains its columns."""
    choices = sorted(path.stem for path in (PACKAGE / "published").glob("*.csv"))
    if name not in choices:
        raise ValueError(f"no published table {name!r}; choose one of {', '.join(choices)}")
    return pd.read_csv(PACKAGE / "published" / f"{name}.csv", dtype={"layer": "Int64"}, **_CSV)


def published_sizes() -> pd.DataFrame:
    """Sizes of the papers' sets, as they are stored beside the overlaps."""
    return published("mathlang_set_sizes").query("source == 'jaccard_file'")


def require_columns(table: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    """Raise a ValueError that names the columns `what` lacks and those it has."""
    if missing := [column for column in columns if column not in table]:
        raise ValueError(
            f"{what} lacks the column(s) {', '.join(missing)}; it has {', '.join(table.columns)}. "
            "Run the chapter that writes it again"
        )


# --- provenance ---------------------------------------------------------------------------------


def _command(*arguments: str) -> str | None:
    """Standard output of a program; None where it is missing, fails or does not end."""
    if not shutil.which(arguments[0]):
        return None
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _commit() -> str:
    """Commit of the checkout, marked where the package differs or may; empty without git."""
    # Only a repository of our own counts: an installed package may lie inside someone else's.
    if not (PACKAGE.parent / ".git").exists():
        return ""
    # Without the lock of the index: a status that is cut off would leave it, and block commits.
    git = ("git", "--no-optional-locks", "-C", str(PACKAGE.parent))
    commit = _command(*git, "rev-parse", "HEAD")
    if not commit:
        return ""
    # A program that gives no answer must neither end a finished run nor vouch for its code.
    changed = _command(*git, "status", "--porcelain", "--", "mmlib/*.py")
    return commit + {"": "", None: "+unknown"}.get(changed, "+changes")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def memory() -> float:
    """Memory of the machine in GiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def hardware() -> str:
    """The machine in words, without its name: `2 x Intel Xeon (AMX bf16), 24 GiB, no GPU`."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"model name\s*:\s*(.+)", info)
    name = found[1] if found else platform.processor()
    name = " ".join(re.sub(r"\((R|TM)\)|@.*|\b(CPU|Processor)\b", "", name).split())
    unit = " (AMX bf16)" if "amx_bf16" in info else ""
    available = getattr(os, "sched_getaffinity", None)
    cores = len(available(0)) if available else os.cpu_count()
    cards = _command("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or ""
    cards = cards.splitlines()
    gpus = ", ".join(f"{cards.count(card)} x {card}" for card in sorted(set(cards))) or "no GPU"
    return f"{cores} x {name or 'unknown CPU'}{unit}, {memory():.0f} GiB, {gpus}"


def _portable(value: Any, *, folder: bool = False) -> Any:
    """Keep the last part of a path: where a folder lies is nobody else's business.

    A relative one that is not there may be a hub id, if it is no `folder`.
    """
    if isinstance(value, list | tuple):
        return [_portable(part, folder=folder) for part in value]
    if not isinstance(value, str | Path) or not value:
        return value
    path = Path(value)
    return path.name if folder or path.is_absolute() or path.is_dir() else value


RANDOM = "random"


@dataclass(frozen=True)
class RunInfo:
    """What made a table: model, code, software, machine, date and parameters."""

    model: str
    revision: str = ""
    dtype: str = ""
    checkpoint_hash: str = ""
    weights: str = ""
    """`RANDOM` where no training has touched them."""
    commit: str = ""
    package_version: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    hardware: str = ""
    date: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def collect(
        cls, model: str, *, parameters: Mapping[str, Any] | None = None, **known: str
    ) -> Self:
        """Describe the present run; `known` are revision, dtype, checkpoint_hash and weights."""
        packages = {name: _version(name) for name in ("torch", "transformers")}
        return cls(
            model=_portable(model),
            commit=_commit(),
            package_version=_version("mmlib"),
            versions={"python": platform.python_version(), **packages},
            hardware=hardware(),
            date=datetime.now(UTC).date().isoformat(),
            parameters={
                key: _portable(value, folder=key.endswith("_dir"))
                for key, value in (parameters or {}).items()
            },
            **known,
        )


# --- tables on disk -----------------------------------------------------------------------------


def _parse(data: bytes, manifest: Mapping[str, Any]) -> pd.DataFrame:
    table = pd.read_csv(io.BytesIO(data), dtype=manifest["columns"], **_CSV)
    # An empty cell is a missing value, except in text columns that had none: there it is "".
    return table.fillna(dict.fromkeys(manifest["complete_text"], ""))


def check_name(name: str) -> None:
    """Raise a ValueError unless a file of this name lies in the folder of a run, whatever it is."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"table name {name!r}: use letters, digits, '_' and '-' only")


def write_table(
    table: pd.DataFrame, name: str, run: RunInfo, *, folder: Path | None = None
) -> Path:
    """Write `name.csv` and its manifest `name.json` into `folder` (default `output_dir()`).

    The bytes are read back and compared before they are moved into place, so a table that CSV
    cannot hold exactly is refused (ValueError), never changed. A plain index is dropped.
    """
    check_name(name)
    if table.index.names != [None]:
        raise ValueError(f"table {name!r} has the index {table.index.names}; reset_index() first")
    table = table.reset_index(drop=True)
    data = table.to_csv(index=False, lineterminator="\n")
    if "\r" in data:  # a bare one would be read as the end of a line
        data = table.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    data = data.encode()
    text = [c for c in table if pd.api.types.is_string_dtype(table[c]) and table[c].notna().all()]
    manifest = {
        "table": name,
        "rows": len(table),
        "sha256": hashlib.sha256(data).hexdigest(),
        "columns": {column: str(dtype) for column, dtype in table.dtypes.items()},
        "complete_text": text,
        "run": asdict(run),
    }
    try:
        pd.testing.assert_frame_equal(_parse(data, manifest), table, check_exact=True)
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"table {name!r} would not survive a CSV file: {error}") from error
    path = (folder or output_dir()) / f"{name}.csv"
    with replacing(path) as file:
        file.write_bytes(data)
    with replacing(path.with_suffix(".json")) as file:
        file.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return path


def load_table(name: str, *folders: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table `name` of the first folder that has it, checked against its manifest."""
    path = next((f / f"{name}.csv" for f in folders if (f / f"{name}.json").exists()), None)
    if path is None:
        places = " or ".join(map(str, folders))
        raise FileNotFoundError(f"no table {name!r} in {places}; run the chapter that writes it")
    try:
        manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.with_suffix('.json')} is no manifest: {error}") from error
    return parse_table(path.read_bytes() if path.exists() else b"", manifest, str(path)), manifest


def parse_table(data: bytes, manifest: Mapping[str, Any], where: str) -> pd.DataFrame:
    """A table from the bytes of its CSV file, checked against its manifest.

    Raises:
        ValueError: They do not belong together; the message begins with `where`.
    """
    try:
        differs = hashlib.sha256(data).hexdigest() != manifest["sha256"]
        table = pd.DataFrame() if differs else _parse(data, manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        name = Path(where).with_suffix(".json")
        raise ValueError(f"{name} is no manifest of a table ({error!r}): write it again") from error
    if differs:
        name = f"{Path(where).stem}.json"
        raise ValueError(f"{where} is not the file its manifest describes ({name}); write it again")
    return table


def read_table(name: str) -> pd.DataFrame:
    """Read a table of `output_dir()`, else of the published edition.

    A table that is shipped with the package has the name `evidence/NAME`.
    """
    return _found(name)[0]


def read_manifest(name: str) -> dict[str, Any]:
    """The manifest of the table that `read_table(name)` returns; `run` holds its `RunInfo`."""
    return _found(name)[1]


def _found(name: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    return load_table(name, output_dir(), _root() / "book" / "results", PACKAGE)


# --- answers shipped as evidence ------------------------------------------------------------------


def pack_answers(answers: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Shrink graded answers to one row per group, small enough to ship.

    Args:
        answers: One row per problem: `by`, problem_id, a boolean `correct` and perhaps `grade`, a
            character each: 1 for correct, else 0 or a letter that says more.
        by: Columns that define the groups; a group has a problem once.

    Returns:
        `by`, `problems` (a digest of the ids) and `correct`: the grades in the order of
        problem_id.

    Raises:
        ValueError: A column is missing, `correct` is not boolean, a problem occurs twice, or a
            grade is no single character or contradicts `correct`.
    """
    check_answers(answers, [*by, "problem_id"])
    if answers.duplicated([*by, "problem_id"]).any():
        raise ValueError(
            f"a problem occurs twice within {', '.join(by)}: add what tells them apart"
        )
    if "grade" not in answers:
        answers = answers.assign(grade=answers.correct.map({True: "1", False: "0"}))
    fits = answers.grade.str.fullmatch("[01a-z]") & ((answers.grade == "1") == answers.correct)
    if not fits.all():
        wrong = answers.grade[~fits].iloc[0]
        raise ValueError(f"grade {wrong!r}: give 1 for correct, else 0 or a small letter")
    groups = answers.sort_values("problem_id").groupby(list(by), sort=False, dropna=False)
    packed = groups.agg(problems=("problem_id", _digest), correct=("grade", "".join))
    return packed.reset_index().sort_values(list(by), ignore_index=True)


def check_answers(answers: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise a ValueError unless answers have `columns` and a boolean `correct` in every row."""
    require_columns(answers, [*columns, "correct"], "the table of answers")
    if not pd.api.types.is_bool_dtype(answers.correct) or answers.correct.isna().any():
        raise ValueError(f"correct is {answers.correct.dtype}: give booleans, none missing")


def _digest(ids: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(ids).encode()).hexdigest()[:12]


def unpack_answers(packed: pd.DataFrame, problems: pd.DataFrame) -> pd.DataFrame:
    """The answers that `pack_answers` shrank, one row per problem.

    Args:
        packed: Its result.
        problems: All problems once: problem_id and those columns of `packed` that tell which
            group a problem is in, for instance its part.

    Returns:
        The columns of `packed`, problem_id, `correct` as a boolean and `grade`, its character.

    Raises:
        ValueError: A group has other problems than those that were packed, or no grades.
    """
    require_columns(packed, ["problems", "correct"], "the table of packed answers")
    require_columns(problems, ["problem_id"], "the table of problems")
    keys = [column for column in problems if column in packed]
    if not keys:
        raise ValueError(f"name the group of a problem by some of {', '.join(packed.columns)}")
    if not packed.correct.map(lambda text: bool(re.fullmatch("[01a-z]*", str(text)))).all():
        raise ValueError("correct holds something else than grades: read it with read_table")
    groups = problems.sort_values("problem_id").groupby(keys, sort=False, dropna=False)
    table = packed.merge(groups.problem_id.agg(list).reset_index(), on=keys, how="left")
    for row in table.to_dict("records"):
        ids = row["problem_id"] if isinstance(row["problem_id"], list) else []
        if len(ids) != len(row["correct"]) or _digest(ids) != row["problems"]:
            raise ValueError(
                f"the {len(row['correct'])} answers of { {key: row[key] for key in keys} } "
                f"belong to other problems than the {len(ids)} given"
            )
    table = table.assign(correct=table.correct.map(list)).explode(["problem_id", "correct"])
    table = table.assign(grade=table.correct, correct=table.correct == "1")
    return table.drop(columns="problems").reset_index(drop=True)


def item_grades(packed: pd.DataFrame) -> pd.DataFrame:
    """Packed answers with one row per problem, for tests over problems; needs no list of them.

    Rows of one part have the same problems. The other columns, `problem` (the part and a number:
    translations of a problem have the same name), `grade`, its character, and `correct`, 1.0 or
    0.0.

    Raises:
        ValueError: A column is missing, or rows of a part are about other problems.
    """
    require_columns(packed, ["part", "problems", "correct"], "the table of packed answers")
    grades = packed.assign(grade=packed.correct.astype(str).map(list))
    table = _by_item(grades, "grade", ["part"]).drop(columns="place")
    return table.assign(correct=(table.grade == "1").astype(float))


def _by_item(packed: pd.DataFrame, values: str, groups: list[str]) -> pd.DataFrame:
    """One row per entry of the lists of a column, with its place and the name of its problem.

    Rows of a group have the same problems, which are named by its first column and the place.
    """
    if (other := packed.groupby(groups).problems.nunique() > 1).any():
        first = other[other].index.to_frame().iloc[0]
        name = ", ".join(f"{column} {value}" for column, value in first.items())
        raise ValueError(f"{name}: its rows were asked different problems")
    table = packed.assign(place=packed[values].map(len).map(range))
    table = table.explode([values, "place"], ignore_index=True)
    return table.assign(problem=table[groups[0]] + " " + table.place.astype(str))


def pack_losses(likelihoods: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Shrink likelihoods of problems to one row per group, small enough to ship.

    From `by`, problem_id, log_likelihood (nats per token) and n_tokens: `by`, `problems` (a digest
    of the ids), `n_tokens` (of all problems) and `nats`: what is lost per token, four decimals
    each, in the order of the rows.
    """
    require_columns(likelihoods, [*by, "problem_id", "log_likelihood", "n_tokens"], "likelihoods")
    table = likelihoods.assign(nats=(-likelihoods.log_likelihood).map("{:.4f}".format))
    packed = table.groupby(list(by), sort=False).agg(
        problems=("problem_id", _digest), n_tokens=("n_tokens", "sum"), nats=("nats", " ".join)
    )
    return packed.reset_index()


def item_losses(packed: pd.DataFrame) -> pd.DataFrame:
    """Losses that `pack_losses` shrank, with one row per problem.

    Rows of one task and language have the same problems. The other columns, `place` (from 0),
    `problem` (the task and the place: translations of a problem have the same name) and `nats` as
    numbers.

    Raises:
        ValueError: A column is missing, or rows of a task and language are about other problems.
    """
    require_columns(packed, ["lang", "task", "problems", "nats"], "the table of losses")
    table = _by_item(packed.assign(nats=packed.nats.str.split()), "nats", ["task", "lang"])
    return table.astype({"nats": float})


def item_costs(
    packed: pd.DataFrame, by: str = "condition", plain: str = "none", also: Sequence[str] = ()
) -> pd.DataFrame:
    """`item_losses` of changed models, beside those of the model that they come from.

    That one has the value `plain` in the column `by`; `also` are further columns that tell it from
    others. Columns `plain`, its loss, and `cost`, what the change adds to it.
    """
    losses, on = item_losses(packed), ["model", *also, "lang", "task", "problem"]
    unchanged = losses[by] == plain
    before = losses[unchanged].drop_duplicates(on).set_index(on).nats
    changed = losses[~unchanged]
    changed = changed.assign(plain=before.reindex(pd.MultiIndex.from_frame(changed[on])).values)
    return changed.assign(cost=changed.nats - changed.plain)
