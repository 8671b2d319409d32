"""Tidy tables, their provenance, intervals and tests, published numbers.

Every number of the book is a cell of a table written here: a CSV file and a JSON manifest that says
which run made it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import math
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
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd

PACKAGE = Path(__file__).resolve().parent
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
    git = ("git", "-C", str(PACKAGE.parent))
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


def hardware() -> str:
    """The machine in words, without its name: `2 x Intel Xeon (AMX bf16), 24 GiB, no GPU`."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"model name\s*:\s*(.+)", info)
    name = found[1] if found else platform.processor()
    name = " ".join(re.sub(r"\((R|TM)\)|@.*|\b(CPU|Processor)\b", "", name).split())
    unit = " (AMX bf16)" if "amx_bf16" in info else ""
    available = getattr(os, "sched_getaffinity", None)
    cores = len(available(0)) if available else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cards = _command("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or ""
    cards = cards.splitlines()
    gpus = ", ".join(f"{cards.count(card)} x {card}" for card in sorted(set(cards))) or "no GPU"
    return f"{cores} x {name or 'unknown CPU'}{unit}, {memory:.0f} GiB, {gpus}"


def _portable(value: Any) -> Any:
    """Keep the last part of a path: where a folder lies is nobody else's business."""
    if not isinstance(value, str | Path) or not value:
        return value
    path = Path(value)
    return path.name if path.is_absolute() or path.is_dir() else value


@dataclass(frozen=True)
class RunInfo:
    """What made a table: model, code, software, machine, date and parameters."""

    model: str
    revision: str = ""
    dtype: str = ""
    checkpoint_hash: str = ""
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
        """Describe the present run; `known` are revision, dtype and checkpoint_hash."""
        packages = {name: _version(name) for name in ("torch", "transformers")}
        return cls(
            model=_portable(model),
            commit=_commit(),
            package_version=_version("mmlib"),
            versions={"python": platform.python_version(), **packages},
            hardware=hardware(),
            date=datetime.now(UTC).date().isoformat(),
            parameters={key: _portable(value) for key, value in (parameters or {}).items()},
            **known,
        )


# --- tables on disk -----------------------------------------------------------------------------


def _parse(data: bytes, manifest: Mapping[str, Any]) -> pd.DataFrame:
    table = pd.read_csv(io.BytesIO(data), dtype=manifest["columns"], **_CSV)
    # An empty cell is a missing value, except in text columns that had none: there it is "".
    return table.fillna(dict.fromkeys(manifest["complete_text"], ""))


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_table(
    table: pd.DataFrame, name: str, run: RunInfo, *, folder: Path | None = None
) -> Path:
    """Write `name.csv` and its manifest `name.json` into `folder` (default `output_dir()`).

    The bytes are read back and compared before they are moved into place, so a table that CSV
    cannot hold exactly is refused (ValueError), never changed. A plain index is dropped.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"table name {name!r}: use letters, digits, '_' and '-' only")
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
    folder = folder or output_dir()
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / f"{name}.csv", data)
    _replace(folder / f"{name}.json", (json.dumps(manifest, indent=1) + "\n").encode())
    return folder / f"{name}.csv"


def _load(name: str, *folders: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table `name` of the first folder that has it, checked against its manifest."""
    path = next((f / f"{name}.csv" for f in folders if (f / f"{name}.json").exists()), None)
    if path is None:
        places = " or ".join(map(str, folders))
        raise FileNotFoundError(f"no table {name!r} in {places}; run the chapter that writes it")
    manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    data = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(data).hexdigest() != manifest["sha256"]:
        raise ValueError(f"{path} is not the file its manifest describes; write it again")
    return _parse(data, manifest), manifest


def read_table(name: str, *, columns: Iterable[str] = ()) -> pd.DataFrame:
    """Read a table of `output_dir()`, else of the published edition; it must have `columns`."""
    table, _ = _load(name, output_dir(), _root() / "book" / "results")
    require_columns(table, columns, f"table {name!r}")
    return table


def read_manifest(name: str) -> dict[str, Any]:
    """The manifest of the table that `read_table(name)` returns; `run` holds its `RunInfo`."""
    return _load(name, output_dir(), _root() / "book" / "results")[1]


def evidence(name: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A table too long to recompute in the laptop edition, and its manifest."""
    return _load(name, PACKAGE / "evidence")


def keep_evidence(
    name: str, paths: Sequence[Path], *, where: str = "", folder: Path | None = None
) -> Path:
    """Ship tables of runs as one evidence table, whose manifest names every run.

    Args:
        name: Name of the evidence table.
        paths: CSV files written by `write_table` (their manifests lie beside them).
        where: `DataFrame.query` expression; only these rows are kept.
        folder: Where to (default: `mmlib/evidence`).

    Raises:
        ValueError: The tables have different columns, or no row is left.
    """
    if wrong := [str(path) for path in paths if path.suffix != ".csv"]:
        raise ValueError(f"{', '.join(wrong)}: give CSV files of finished runs")
    loaded = [_load(path.stem, path.parent) for path in paths]
    if len({frozenset(table.columns) for table, _ in loaded}) > 1:
        raise ValueError(f"the tables {[str(path) for path in paths]} have different columns")
    table = pd.concat([table for table, _ in loaded], ignore_index=True)
    try:
        table = table.query(where).reset_index(drop=True) if where else table
    except (SyntaxError, KeyError, ValueError, NameError) as error:
        has = ", ".join(table.columns)
        raise ValueError(f"where={where!r} is no query over {has}: {error}") from error
    if table.empty:
        raise ValueError(f"no row satisfies {where!r}")
    runs = [manifest["run"] for _, manifest in loaded]
    newest = max(runs, key=lambda run: run["date"])
    models = ", ".join(dict.fromkeys(run["model"] for run in runs))
    about = newest | {"model": models, "parameters": {"where": where, "runs": runs}}
    return write_table(table, name, RunInfo(**about), folder=folder or PACKAGE / "evidence")


# --- intervals and tests ------------------------------------------------------------------------


class Interval(NamedTuple):
    """A mean over `n` replicates and its two-sided 95 % interval."""

    mean: float
    low: float
    high: float
    n: int


def seed_interval(values: Iterable[float]) -> Interval:
    """Student t interval over replicates (calibration seeds); NaN bounds for a single one."""
    from scipy.stats import t

    x = np.asarray(list(values), dtype=np.float64)
    if not x.size or not np.isfinite(x).all():
        raise ValueError(f"an interval needs finite values, not {x.tolist()}")
    mean, half = float(x.mean()), math.nan
    if x.size > 1:
        half = float(t.ppf(0.975, x.size - 1) * x.std(ddof=1) / math.sqrt(x.size))
    return Interval(mean, mean - half, mean + half, x.size)


def summarize(answers: pd.DataFrame, by: Sequence[str] = ("lang", "task")) -> pd.DataFrame:
    """Accuracy of each group with its 95 % Wilson interval.

    Args:
        answers: one row per problem, with a boolean column `correct`.
        by: columns that define the groups.

    Returns:
        One row per group: `by`, accuracy, n, n_correct, low, high.
    """
    from statsmodels.stats.proportion import proportion_confint

    require_columns(answers, [*by, "correct"], "the table of answers")
    groups = answers.astype({"correct": bool}).groupby(list(by), sort=False, dropna=False).correct
    table = groups.agg(accuracy="mean", n="size", n_correct="sum").reset_index()
    low, high = proportion_confint(table.n_correct, table.n, alpha=0.05, method="wilson")
    return table.assign(low=np.asarray(low), high=np.asarray(high))


def compare(
    a: pd.DataFrame, b: pd.DataFrame, *, on: Sequence[str] = ("id",), resamples: int = 9999
) -> dict[str, float]:
    """Compare answers to the same problems under two conditions.

    Args:
        a: one row per problem, with the key columns `on` and a boolean column `correct`.
        b: the same problems under the other condition, in any order.
        on: columns that identify a problem.
        resamples: draws of the paired percentile bootstrap (fixed seed).

    Returns:
        n, accuracy_a, accuracy_b, difference (a minus b) with its 95 % interval low and high,
        only_a and only_b (problems solved under one condition), p_value (exact McNemar).
    """
    from scipy.stats import bootstrap
    from statsmodels.stats.contingency_tables import mcnemar

    for side in (a, b):
        require_columns(side, [*on, "correct"], "the table of answers")
        if len(side) < 2:
            raise ValueError(f"a comparison needs two problems or more, got {len(side)}")
    columns = [*on, "correct"]
    paired = a[columns].merge(
        b[columns], on=list(on), how="outer", validate="1:1", indicator=True, suffixes=("_a", "_b")
    )
    if unmatched := int((paired["_merge"] != "both").sum()):
        raise ValueError(f"{unmatched} problems are in one table only; compare the same problems")
    x, y = (paired[column].to_numpy(dtype=bool) for column in ("correct_a", "correct_b"))
    only_a, only_b = int((x & ~y).sum()), int((y & ~x).sum())
    gain = x.astype(float) - y
    drawn = bootstrap(
        (gain,), np.mean, n_resamples=resamples, batch=200, method="percentile", rng=0
    ).confidence_interval
    test = mcnemar([[int((x & y).sum()), only_a], [only_b, int((~x & ~y).sum())]], exact=True)
    return {
        "n": x.size,
        "accuracy_a": float(x.mean()),
        "accuracy_b": float(y.mean()),
        "difference": float(gain.mean()),
        "low": float(drawn.low),
        "high": float(drawn.high),
        "only_a": only_a,
        "only_b": only_b,
        "p_value": float(test.pvalue),
    }


def paired_changes(
    edited: pd.DataFrame,
    plain: pd.DataFrame,
    *,
    by: Sequence[str],
    on: Sequence[str] = ("problem_id",),
    replicate: str = "seed",
    resamples: int = 1999,
) -> pd.DataFrame:
    """What edits change on the same problems, over replicates (calibration seeds) of each edit.

    A problem counts once: its change is the mean over the replicates of edited - plain. The
    interval is the percentile bootstrap over problems (fixed seed); the test is the exact sign
    test on the problems that changed, which for one replicate is McNemar's.

    Args:
        edited: One row per problem and replicate: `by`, `on`, `replicate` and a boolean `correct`.
        plain: The same problems once, without an edit: `on` and `correct`.
        by: Columns that define an edit.
        on: Columns that identify a problem.
        replicate: Column that tells the replicates apart.
        resamples: Draws of the bootstrap.

    Returns:
        One row per group: `by`, n (problems), replicates, accuracy, plain, difference, low, high,
        gained and lost (problems), p_value, and p_holm with Holm's correction over all rows.

    Raises:
        ValueError: A column is missing, a problem occurs twice, a group has a problem that `plain`
            lacks, or its replicates have different problems.
    """
    from scipy.stats import binomtest, bootstrap
    from statsmodels.stats.multitest import multipletests

    _check_answers(edited, [*by, *on, replicate])
    _check_answers(plain, on)
    for table, key in ((edited, {*by, *on, replicate}), (plain, {*on})):
        if table.duplicated(list(key)).any():
            raise ValueError(f"a problem occurs twice within {', '.join(sorted(key))}")
    known = plain.set_index(list(on)).correct.astype(float)
    rows = []
    for key, group in edited.groupby(list(by), sort=False, dropna=False):
        answers = group.groupby(list(on), sort=True).correct.agg(["mean", "size"])
        before = known.reindex(answers.index)
        if before.isna().any() or (answers["size"] != group[replicate].nunique()).any():
            raise ValueError(f"{dict(zip(by, key, strict=True))}: not the problems of the others")
        change = (answers["mean"] - before).to_numpy()
        options = {"n_resamples": resamples, "batch": 500, "method": "percentile", "rng": 0}
        low = high = change[0]  # no variance, no interval
        if np.ptp(change):
            low, high = bootstrap((change,), np.mean, **options).confidence_interval
        gained, lost = int((change > 0).sum()), int((change < 0).sum())
        p_value = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
        counts = (len(change), int(answers["size"].iloc[0]))
        means = (answers["mean"].mean(), before.mean(), change.mean(), low, high)
        rows.append((*key, *counts, *means, gained, lost, p_value))
    names = "n replicates accuracy plain difference low high gained lost p_value"
    table = pd.DataFrame(rows, columns=[*by, *names.split()])
    return table.assign(p_holm=multipletests(table.p_value, method="holm")[1])


def equivalence(
    a: pd.DataFrame,
    b: pd.DataFrame,
    *,
    by: Sequence[str],
    on: Sequence[str] = ("problem_id",),
    margin: float = 0.02,
) -> pd.DataFrame:
    """Is the accuracy of `a` lower than that of `b`, on the same problems, or as good as equal?

    Two one-sided tests (Schuirmann 1987) by statsmodels: the 90 % t interval of the paired
    difference b - a lies within the margin exactly where both reject at 5 %.

    Args:
        a: One row per problem: `by`, `on` and a boolean `correct`. Where `b` has several rows for a
            problem (draws of a control), their mean counts.
        b: Likewise.
        by: Columns that define a comparison.
        on: Columns that identify a problem.
        margin: Largest difference that is called no change.

    Returns:
        One row per comparison: `by`, n, accuracy (of a), control (of b), difference (control -
        accuracy), low, high, p_equivalent, and `verdict`: "no measurable change" (interval within
        the margin), "loss" or "gain" (interval beyond it), else "undecided".

    Raises:
        ValueError: A column is missing, a problem of `a` occurs twice or is not in `b`.
    """
    from statsmodels.stats.weightstats import DescrStatsW

    for table in (a, b):
        _check_answers(table, [*by, *on])
    key = [*by, *on]
    if a.duplicated(key).any():
        raise ValueError(f"a problem occurs twice within {', '.join(key)}")
    means = b.groupby(key, sort=False).correct.mean().rename("control")
    both = a[[*key, "correct"]].join(means, on=key)
    if both.control.isna().any():
        raise ValueError("a problem has no answer under the control")
    rows = []
    for name, group in both.groupby(list(by), sort=False):
        change = (group.control - group.correct).to_numpy(float)
        low = high = change[0]  # no variance, no interval
        p_value = float(abs(change[0]) >= margin)
        if np.ptp(change):
            stats = DescrStatsW(change)
            low, high = stats.tconfint_mean(alpha=0.1)
            p_value = stats.ttost_mean(-margin, margin)[0]
        verdict = "undecided"
        if -margin < low and high < margin:
            verdict = "no measurable change"
        elif low > margin or high < -margin:
            verdict = "loss" if low > margin else "gain"
        means = (len(change), group.correct.mean(), group.control.mean(), change.mean())
        rows.append((*name, *means, low, high, p_value, verdict))
    names = "n accuracy control difference low high p_equivalent verdict"
    return pd.DataFrame(rows, columns=[*by, *names.split()])


def agreement(labels: pd.DataFrame, kinds: Sequence[str]) -> pd.DataFrame:
    """How far raters agree beyond chance: Cohen's kappa of every pair, by statsmodels.

    Args:
        labels: One row per item and a column per rater.
        kinds: The labels that they may give.

    Returns:
        One row per pair: rater_a, rater_b, n, same (items with the same label), kappa, low, high
        (asymptotic 95 % interval, cut at 1).

    Raises:
        ValueError: Fewer than two raters, or a label that is none of `kinds`.
    """
    from statsmodels.stats.inter_rater import cohens_kappa

    if labels.shape[1] < 2:
        raise ValueError(f"raters are {list(labels)}: give two or more")
    unknown = set(labels.to_numpy().ravel()) - set(kinds)
    if unknown:
        raise ValueError(f"label {unknown.pop()!r}: choose from {', '.join(kinds)}")
    rows = []
    for a, b in itertools.combinations(labels, 2):
        counts = pd.crosstab(labels[a], labels[b])
        counts = counts.reindex(index=kinds, columns=kinds, fill_value=0).to_numpy()
        found = cohens_kappa(counts)
        same, high = int(np.trace(counts)), min(float(found.kappa_upp), 1.0)
        rows.append((a, b, len(labels), same, float(found.kappa), float(found.kappa_low), high))
    return pd.DataFrame(rows, columns=["rater_a", "rater_b", "n", "same", "kappa", "low", "high"])


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
    _check_answers(answers, [*by, "problem_id"])
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


def _check_answers(answers: pd.DataFrame, columns: Sequence[str]) -> None:
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


class AuditError(ValueError):
    """What was computed again is not what was shipped."""


def audit(
    kept: pd.DataFrame, again: pd.DataFrame, *, by: Sequence[str], tolerance: float = 0.05
) -> pd.DataFrame:
    """Compare answers computed again with the shipped ones, problem by problem.

    Single answers may change with the hardware or the number of threads. Two things stop: a group
    that became better or worse (exact McNemar test, Holm over the groups, 5 %), and one in which
    more answers than `tolerance` changed, in whatever direction (95 % Wilson interval above it,
    and at least two answers).

    Args:
        kept: Shipped answers: problem_id, a boolean `correct` and columns that, with `by`, name a
            problem.
        again: The same columns for some of these problems.
        by: Columns that define the groups.
        tolerance: Share of the answers that may change.

    Returns:
        One row per group: `by`, n, changed (problems with another answer), accuracy_kept,
        accuracy_again, p_value (McNemar, with Holm's correction), least_changed (lower bound of
        the share).

    Raises:
        AuditError: A group differs as told above, nothing was computed again, or it was for
            problems that were not shipped.
        ValueError: A column is missing, or `correct` is not boolean.
    """
    from scipy.stats import binomtest
    from statsmodels.stats.multitest import multipletests
    from statsmodels.stats.proportion import proportion_confint

    for table in (kept, again):
        _check_answers(table, [*by, "problem_id"])
    if again.empty:
        raise AuditError("nothing was computed again: draw at least one problem")
    told = ("correct", "grade", "n_weights", "mask")  # what is found, not what is asked
    on = [c for c in kept if c in again and c not in told]
    paired = again[[*on, "correct"]].merge(
        kept[[*on, "correct"]], on=on, how="left", validate="1:1", suffixes=("_again", "_kept")
    )
    if missing := int(paired.correct_kept.isna().sum()):
        raise AuditError(f"{missing} of {len(again)} problems are not among the shipped answers")
    paired = paired.astype({"correct_kept": bool})
    paired = paired.assign(
        changed=paired.correct_again != paired.correct_kept,
        gained=paired.correct_again & ~paired.correct_kept,
    )
    table = paired.groupby(list(by), sort=False, dropna=False).agg(
        n=("changed", "size"),
        changed=("changed", "sum"),
        gained=("gained", "sum"),
        accuracy_kept=("correct_kept", "mean"),
        accuracy_again=("correct_again", "mean"),
    )
    table = table.reset_index()
    p_values = [
        binomtest(row.gained, row.changed).pvalue if row.changed else 1.0
        for row in table.itertuples()
    ]
    least, _ = proportion_confint(table.changed, table.n, alpha=0.05, method="wilson")
    least = np.where(table.changed > 1, least, 0.0)  # one answer may change in any group
    table = table.drop(columns="gained").assign(
        p_value=multipletests(p_values, method="holm")[1], least_changed=least
    )
    wrong = table[(table.p_value < 0.05) | (table.least_changed > tolerance)]
    if not wrong.empty:
        raise AuditError(f"not what was shipped:\n{wrong.to_string(index=False)}")
    return table


def audit_values(
    kept: pd.DataFrame,
    again: pd.DataFrame,
    *,
    on: Sequence[str],
    values: Sequence[str],
    tolerance: float = 0.01,
) -> pd.DataFrame:
    """Compare numbers computed again with the shipped ones, row by row.

    Args:
        kept: Shipped rows.
        again: Some of these rows, computed again.
        on: Columns that name a row.
        values: Columns of numbers.
        tolerance: Largest difference, as a share of the larger of the two: sums come out in another
            order on other hardware, and single weights at a cut change places.

    Returns:
        One row per column: value, n, largest (difference, as a share), differing (rows that are
        not equal).

    Raises:
        AuditError: A number differs by more than the tolerance, a row is not among the shipped
            ones, or nothing was computed again.
    """
    for table in (kept, again):
        require_columns(table, [*on, *values], "an audited table")
    if again.empty:
        raise AuditError("nothing was computed again: draw at least one row")
    paired = again[[*on, *values]].merge(
        kept[[*on, *values]], on=list(on), how="left", suffixes=("", "_kept"), indicator=True
    )
    absent = paired[paired._merge == "left_only"]
    if len(absent):
        first = absent[list(on)].iloc[0].to_dict()
        raise AuditError(f"{len(absent)} of {len(again)} rows are not shipped, such as {first}")
    rows = []
    for name in values:
        new, old = paired[name].astype(float), paired[f"{name}_kept"].astype(float)
        larger = np.maximum(new.abs(), old.abs())
        share = ((new - old).abs() / larger.where(larger > 0)).fillna(0.0)
        share[new.isna() != old.isna()] = np.inf
        rows.append((name, len(share), share.max(), int((share > 0).sum())))
        if share.max() > tolerance:
            worst = paired.loc[share.idxmax()]
            raise AuditError(
                f"{name} is {worst[name]:g}, but {worst[f'{name}_kept']:g} was shipped, for "
                f"{worst[list(on)].to_dict()}"
            )
    return pd.DataFrame(rows, columns=["value", "n", "largest", "differing"])
