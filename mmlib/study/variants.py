"""The one loop of every experiment: change a model, ask it, record what it answers.

A `Variant` is one state of a model: the columns that tell it from others, and a context manager
that makes the state for the length of a block. Edits, trainings, swaps and merged weights are all
variants; what differs between experiments is which variants there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd
from transformers import PreTrainedModel

from mmlib.edits import scaled
from mmlib.masks import ParameterMask, digest
from mmlib.study.settings import Ask
from mmlib.study.tables import pack_answers

Grade = Callable[[pd.DataFrame], Sequence[str]]
"""Gives every answer its character; see `pack_answers`."""


@dataclass(frozen=True)
class Variant:
    """One state of a model."""

    columns: Mapping[str, Any]
    """What names it, as columns of the tables."""
    change: Callable[[], AbstractContextManager[tuple[PreTrainedModel, Mapping[str, Any]]]]
    """Makes the state; the block gets the model and columns of what came of it (`n_weights`)."""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the question, such as languages and parts."""


@contextmanager
def edited(
    model: PreTrainedModel, find: Callable[[], ParameterMask | None], **edit: Any
) -> Iterator[tuple[PreTrainedModel, dict[str, Any]]]:
    """The change of a variant that edits a set of weights and puts them back.

    Args:
        model: The model that is edited.
        find: The set, looked for when the block begins; None leaves the model as it is.
        **edit: Further arguments of `mmlib.edits.scaled`, such as factor (0 prunes).

    Yields:
        The model, n_weights (how many were edited) and mask (a digest of the set).
    """
    if (mask := find()) is None:
        yield model, {"n_weights": 0, "mask": ""}
        return
    with scaled(model, mask, **edit) as count:
        yield model, {"n_weights": count, "mask": digest(mask)}


def labels(table: pd.DataFrame, kind: type[NamedTuple]) -> list[str]:
    """What each row is, in words: `kind` names its columns and says them as text."""
    return [str(kind(*values)) for values in table[list(kind._fields)].itertuples(index=False)]


def record(
    variants: Iterable[Variant],
    ask: Ask | None,
    *,
    by: Sequence[str],
    grade: Grade | None = None,
) -> pd.DataFrame:
    """Ask every variant and keep its answers.

    Args:
        variants: States of a model, one after the other.
        ask: What is asked; None: nothing, the states are only made, one after the other.
        by: Columns that name a packed row, in their order: of the answers (part, lang) or of the
            variants; further columns of a variant stand behind the grades.
        grade: Gives every answer its character; default: 1 right, 0 wrong.

    Returns:
        Packed answers of all variants (see `pack_answers`), with their columns.
    """
    tables = []
    for variant in variants:
        named = {name: value for name, value in variant.columns.items() if name in by}
        rest = {name: value for name, value in variant.columns.items() if name not in by}
        with variant.change() as (model, came):
            answers = ask(model, **variant.asked) if ask else None
        if answers is None:
            continue
        if grade:
            answers = answers.assign(grade=grade(answers))
        packed = pack_answers(answers.assign(**named), by=by)
        tables.append(packed.assign(**rest, **came))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
