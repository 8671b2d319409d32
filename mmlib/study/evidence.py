"""Evidence tables: shipped, drawn from, and audited by computing a part again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mmlib.study.stats import holm
from mmlib.study.tables import (
    PACKAGE,
    RunInfo,
    check_answers,
    load_table,
    require_columns,
    unpack_answers,
    write_table,
)

MADE_WITH = ("dtype", "math", "nonmath", "num_samples", "drawing", "data_dir", "items")
"""Parameters that shipped cells have to share with the run that checks them."""


def shipped(
    wanted: pd.DataFrame,
    table: pd.DataFrame,
    manifest: Mapping[str, Any],
    run: RunInfo,
    *,
    made_with: Sequence[str] = MADE_WITH,
) -> pd.DataFrame:
    """The rows of an evidence table that this run would compute.

    `wanted` has columns that name a row of the table, which has these and `model`; `made_with` are
    parameters that the runs of its manifest have to share with the present one.

    Returns:
        One row of `table` per row of `wanted`.

    Raises:
        ValueError: A cell is not there, or the table was made with other weights or texts.
    """
    check_made(manifest, run, made_with)
    name = list(wanted)
    own = table[table.model == run.model].drop_duplicates(name)
    found = wanted.merge(own, on=name, how="left", indicator=True)
    absent = found[found._merge == "left_only"]
    if len(absent):
        first = absent[name].iloc[0].to_dict()
        raise ValueError(
            f"no cells are shipped for {len(absent)} of {len(found)} that these parameters ask "
            f"for, such as {first}: compute them with sweep=true"
        )
    return found.drop(columns="_merge").astype(own.dtypes.to_dict())


def check_made(manifest: Mapping[str, Any], run: RunInfo, made_with: Sequence[str]) -> None:
    """Raise a ValueError unless evidence on a run's model has its weights and these parameters."""
    for made in made_by(manifest):
        if made["model"] == run.model:
            drawn = {"drawing": "replacement"}  # what it was before there was a parameter
            before, now = ({**drawn, **r["parameters"], **r} for r in (made, asdict(run)))
            for key in ("checkpoint_hash", *made_with):
                if before[key] != now[key]:
                    raise ValueError(
                        f"the shipped cells have {key}={before[key]!r}, not {now[key]!r}: "
                        "give what they were made with, or compute your own"
                    )


def made_by(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The runs that filled an evidence table: model, parameters and checkpoint_hash of each."""
    return list(manifest["run"]["parameters"]["runs"])


def read_evidence(name: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A table too long to recompute in the laptop edition, and its manifest."""
    return load_table(name, PACKAGE / "evidence")


@dataclass(frozen=True)
class Taken:
    """A sweep of answers that a page shows, see `Sweep`."""

    packed: pd.DataFrame
    """The answers as they are shipped, see `mmlib.study.tables.pack_answers`."""
    made: pd.DataFrame
    """Those of them that this run computed."""
    answers: pd.DataFrame
    """All answers, one row per problem: see `mmlib.study.tables.unpack_answers`."""
    audited: pd.DataFrame
    """Those computed again against the shipped ones, see `audit`."""
    run: RunInfo


@dataclass(frozen=True)
class Sweep:
    """How a sweep of answers is shipped, and what of it is audited."""

    evidence: str
    """Name of the shipped table."""
    name: Sequence[str]
    """Columns that name what is computed at one time, such as an edit and a part of a task."""
    per: Sequence[str]
    """Of every combination of their values one is computed again."""
    by: Sequence[str]
    """Columns that define the groups of `audit`."""
    made_with: Sequence[str] = MADE_WITH
    """See `shipped`."""

    def taken(
        self,
        wanted: pd.DataFrame,
        compute: Callable[[pd.DataFrame], pd.DataFrame],
        run: RunInfo,
        *,
        problems: pd.DataFrame,
        asked_again: pd.DataFrame,
        drawn_from: str = "",
    ) -> Taken:
        """Take what is shipped and compute a part of it again, or compute everything.

        Args:
            wanted: One row per row of the table: the columns that name it.
            compute: From such rows to the table, without its column `model`.
            run: The present run; its parameters `sweep` and `audit_seed` say what is computed.
            problems: All problems of the table, see `mmlib.study.tables.unpack_answers`.
            asked_again: Those that `compute` asks.
            drawn_from: `DataFrame.query` expression; only such rows are computed again.
        """
        packed, again = None, wanted
        if not run.parameters["sweep"]:
            packed = shipped(wanted, *read_evidence(self.evidence), run, made_with=self.made_with)
            groups = (packed.query(drawn_from) if drawn_from else packed).groupby(
                list(self.per), sort=False
            )
            drawn = groups.sample(1, random_state=run.parameters["audit_seed"])
            again = drawn[list(self.name)].merge(wanted, on=list(self.name))
        made = compute(again)
        made.insert(0, "model", run.model)
        packed = made if packed is None else packed
        answers, again = unpack_answers(packed, problems), unpack_answers(made, asked_again)
        return Taken(packed, made, answers, audit(answers, again[list(answers)], by=self.by), run)


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
    loaded = [load_table(path.stem, path.parent) for path in paths]
    if len({frozenset(table.columns) for table, _ in loaded}) > 1:
        raise ValueError(f"the tables {[str(path) for path in paths]} have different columns")
    table = pd.concat([table for table, _ in loaded], ignore_index=True)
    if "@" in where or "__" in where:  # what a query calls names of Python by
        raise ValueError(f"where={where!r}: compare columns with values, and nothing else")
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


class AuditError(ValueError):
    """What was computed again is not what was shipped."""


def audit(kept: pd.DataFrame, again: pd.DataFrame, *, by: Sequence[str]) -> pd.DataFrame:
    """Compare answers computed again with the shipped ones, problem by problem.

    Single answers may change with the hardware or the number of threads. Two things stop: a group
    that became better or worse (exact McNemar test, Holm over the groups, 5 %), and one in which
    more than 5 % of the answers changed, in whatever direction (95 % Wilson interval above that,
    and at least two answers).

    Args:
        kept: Shipped answers: problem_id, a boolean `correct` and columns that, with `by`, name a
            problem.
        again: The same columns for some of these problems.
        by: Columns that define the groups.

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
    from statsmodels.stats.proportion import proportion_confint

    for table in (kept, again):
        check_answers(table, [*by, "problem_id"])
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
    counts = zip(table.gained, table.changed, strict=True)
    p_values = [binomtest(*pair).pvalue if pair[1] else 1.0 for pair in counts]
    least, _ = proportion_confint(table.changed, table.n, alpha=0.05, method="wilson")
    least = np.where(table.changed > 1, least, 0.0)  # one answer may change in any group
    table = table.drop(columns="gained").assign(p_value=holm(p_values)[1], least_changed=least)
    wrong = table[(table.p_value < 0.05) | (table.least_changed > 0.05)]
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


@dataclass(frozen=True)
class Numbers:
    """A table of numbers that a page shows: how it is shipped, and what is audited."""

    evidence: str
    """Name of the shipped table."""
    name: Sequence[str]
    """Columns that name a row."""
    values: Sequence[str]
    """Columns that are compared, see `audit_values`."""
    tolerance: float = 0.01

    def take(self, made: pd.DataFrame, *, sweep: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
        """What is shipped, or in a sweep what was made; and how the latter compares with it."""
        table = made if sweep else read_evidence(self.evidence)[0].drop_duplicates()
        how = {"on": self.name, "values": self.values, "tolerance": self.tolerance}
        return table, audit_values(table, made, **how)


class Measured(NamedTuple):
    """Tables of numbers that a page shows, see `take_all`."""

    tables: dict[str, pd.DataFrame]
    """By their names on the page."""
    made: dict[str, pd.DataFrame]
    """Those that this run computed, by the names under which they are shipped."""
    audited: pd.DataFrame
    """See `audit_values`."""
    run: RunInfo


def take_all(
    numbers: Mapping[str, Numbers], made: Mapping[str, pd.DataFrame], run: RunInfo
) -> Measured:
    """`Numbers.take` of several tables, told apart by the same keys, for a run with its `sweep`."""
    sweep = run.parameters["sweep"]
    taken = {name: kind.take(made[name], sweep=sweep) for name, kind in numbers.items()}
    return Measured(
        tables={name: table for name, (table, _) in taken.items()},
        made={kind.evidence: made[name] for name, kind in numbers.items()},
        audited=pd.concat([audited for _, audited in taken.values()], ignore_index=True),
        run=run,
    )
