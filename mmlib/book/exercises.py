"""Check answers to the book's exercises, with a hint where one is wrong.

A notebook makes an `Exercise` of what the package itself answers and of the values that known wrong
turns lead to. The reader writes a value, or the lines that make it, and `check` prints one
sentence: right, or which step to look at again. It never prints the solution.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmlib.masks import ParameterMask

STUB = "Your turn: put your answer in the place of the dots."


@dataclass(frozen=True)
class Exercise:
    """What an answer is compared with.

    Values are numbers (right to half a percent), texts, sets, arrays, tensors, tables or
    `ParameterMask`, lists of texts, or dicts of these by the name of a part.

    Raises:
        ValueError: A slip is the right answer too.
    """

    answer: Any
    """What is right; the package's own function computes it where there is one."""
    hint: str
    """For an answer that is wrong in no known way."""
    slips: Mapping[str, Any] = field(default_factory=dict)
    """Hint for a known wrong turn -> the value, or the parts of one, that it leads to."""

    def __post_init__(self) -> None:
        for hint, value in self.slips.items():
            if _same(value, _asked(self.answer, value)):
                raise ValueError(f"the right answer would get a hint: {hint!r}")

    def check(self, value: Any) -> None:
        """Print whether a value is right, else a hint."""
        print(self.verdict(value))

    def verdict(self, value: Any) -> str:
        """The sentence that `check` prints."""
        parts = value.values() if isinstance(value, Mapping) else [value]
        if any(part is ... for part in parts):
            return STUB
        if _same(value, self.answer):
            return "Right."
        for hint, wrong in self.slips.items():
            if _same(_asked(value, wrong), wrong):
                return f"Not yet: {hint}"
        return f"Not yet: {_unlike(value, self.answer) or self.hint}"


def _asked(value: Any, wanted: Any) -> Any:
    """The parts of a value that another one has."""
    if isinstance(value, Mapping) and isinstance(wanted, Mapping):
        return {name: value[name] for name in wanted if name in value}
    return value


def _plain(value: Any) -> Any:
    """A value in terms of numpy, text, sets and dicts."""
    if isinstance(value, ParameterMask):
        value = dict(value.items())
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, str | set | frozenset):
        return value.strip().casefold() if isinstance(value, str) else set(value)
    if hasattr(value, "detach"):  # a tensor, without importing torch for it
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    return np.asarray(value)


def _numbers(value: Any) -> np.ndarray | None:
    """A plain value as floats, or nothing."""
    try:
        return np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        return None


def _same(value: Any, target: Any) -> bool:
    try:
        value, target = _plain(value), _plain(target)
    except ValueError:  # lists of different lengths are no array
        return False
    if isinstance(target, dict):
        parts = isinstance(value, dict) and value.keys() == target.keys()
        return parts and all(_same(value[name], part) for name, part in target.items())
    wanted = _numbers(target)
    if wanted is None:
        return type(value) is type(target) and bool(np.array_equal(value, target))
    given = _numbers(value)
    if given is None or given.shape != wanted.shape:
        return False
    return bool(np.allclose(given, wanted, rtol=0.005, atol=1e-6))


def _unlike(value: Any, target: Any) -> str:
    """In what an answer is not of the kind that is asked for, or which of its parts are wrong."""
    if isinstance(target, ParameterMask):
        return "" if isinstance(value, ParameterMask) else "a ParameterMask is asked for."
    if isinstance(target, Mapping):
        if not isinstance(value, Mapping) or value.keys() != target.keys():
            return f"a dict of {', '.join(map(str, target))} is asked for."
        wrong = [str(name) for name, part in target.items() if not _same(value[name], part)]
        return f"look at {', '.join(wrong)} again." if len(wrong) < len(target) else ""
    if isinstance(target, str | set | frozenset):
        kind = "text" if isinstance(target, str) else "set"
        return "" if isinstance(value, type(target)) else f"a {kind} is asked for."
    try:
        value, target = _plain(value), _plain(target)
    except ValueError:
        return "its rows are of different lengths."
    if (wanted := _numbers(target)) is None:
        return ""
    given = _numbers(value)
    if given is None or not np.isfinite(given).all():
        many = "finite numbers are" if wanted.ndim else "one finite number is"
        return f"{many} asked for."
    if given.shape != wanted.shape:
        return f"the shape {wanted.shape or 'of one number'} is asked for, not {given.shape}."
    return ""
