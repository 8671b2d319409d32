"""The one loop of every experiment: change a model, measure it, keep what came out.

A `Variant` is one state of a model: the columns that tell it from others, and a context manager
that makes the state for the length of a block. Edits, trainings, swaps and merged weights are all
variants; what differs between experiments is which variants there are, and what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd
from transformers import PreTrainedModel

from mmlib.edits import holding, scaled
from mmlib.masks import ParameterMask, digest
from mmlib.merging import Tensors
from mmlib.study.settings import Ask
from mmlib.study.tables import pack_answers

Grade = Callable[[pd.DataFrame], Sequence[str]]
"""Gives every answer its character; see `pack_answers`."""
Tables = Mapping[str, pd.DataFrame]
"""Tables by their kind."""


class State(NamedTuple):
    """A model as a variant has made it, and what came of making it."""

    model: PreTrainedModel
    columns: Mapping[str, Any] = {}
    """Further columns, such as `n_weights`."""
    tables: Mapping[str, pd.DataFrame] = {}
    """Further tables, such as the log of a training."""


@dataclass(frozen=True)
class Variant:
    """One state of a model."""

    columns: Mapping[str, Any]
    """What names it, as columns of the tables."""
    change: Callable[[], AbstractContextManager[State]]
    """Makes the state, for the length of a block."""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the measurement, such as languages and parts."""


@contextmanager
def edited(
    model: PreTrainedModel, find: Callable[[], ParameterMask | None], **edit: Any
) -> Iterator[State]:
    """The change of a variant that edits a set of weights and puts them back.

    `find` gives the set when the block begins; None leaves the model as it is. For further
    arguments, such as factor (0 prunes), see `mmlib.edits.scaled`.

    Yields:
        The model, n_weights (how many were edited) and mask (a digest of the set).
    """
    if (mask := find()) is None:
        yield State(model, {"n_weights": 0, "mask": ""})
        return
    with scaled(model, mask, **edit) as count:
        yield State(model, {"n_weights": count, "mask": digest(mask)})


@contextmanager
def reweighted(model: PreTrainedModel, weights: Callable[[], Tensors]) -> Iterator[State]:
    """The change of a variant that lets a model hold other weights, made when the block begins."""
    with holding(model, weights()):
        yield State(model)


def labels(table: pd.DataFrame, kind: type[NamedTuple]) -> list[str]:
    """What each row is, in words: `kind` names its columns and says them as text."""
    return [str(kind(*values)) for values in table[list(kind._fields)].itertuples(index=False)]


def measured(
    variants: Iterable[Variant], measure: Callable[..., Tables]
) -> dict[str, pd.DataFrame]:
    """Make every variant, one after the other, and measure it.

    `measure` is called with the model and what the variant asks, and gives tables by their kind.

    Returns:
        Kind -> the tables of all variants, those of their making too, with their columns.
    """
    kept: dict[str, list[pd.DataFrame]] = {}
    for variant in variants:
        with variant.change() as state:
            tables = {**state.tables, **measure(state.model, **variant.asked)}
        for kind, table in tables.items():
            kept.setdefault(kind, []).append(table.assign(**variant.columns, **state.columns))
    return {
        kind: pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)
        for kind, tables in kept.items()
    }


def record(
    variants: Iterable[Variant], ask: Ask, *, by: Sequence[str], grade: Grade | None = None
) -> pd.DataFrame:
    """Ask every variant and keep its answers.

    Args:
        variants: States of a model, one after the other.
        ask: What is asked.
        by: Columns that name a packed row, in their order: of the answers (part, lang) or of the
            variants; further columns of a variant stand behind the grades.
        grade: Gives every answer its character; default: 1 right, 0 wrong.

    Returns:
        Packed answers of all variants (see `pack_answers`), with their columns.
    """

    def packed(model: PreTrainedModel, **asked: Any) -> Tables:
        answers = ask(model, **asked)
        if grade:
            answers = answers.assign(grade=grade(answers))
        return {"answers": pack_answers(answers, [name for name in by if name in answers])}

    table = measured(variants, packed).get("answers", pd.DataFrame(columns=list(by)))
    return table[[*by, *(name for name in table if name not in by)]]
