"""Settings of an experiment as frozen records, filled from a page's parameters by their names."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.importance import ImportanceScores
from mmlib.models import is_trained, load_model, model_hash
from mmlib.study.localisation import Sample, score_samples
from mmlib.study.tables import RANDOM, RunInfo
from mmlib.tasks.evaluation import choose_items, part_answers
from mmlib.tasks.problems import Calibration, calibration

if TYPE_CHECKING:
    from mmlib.finetune import TrainingPlan

Ask = Callable[..., pd.DataFrame]
"""Called with a model and perhaps `languages=[…]`, `parts=[…]`; returns graded answers."""


class Settings:
    """Base of the records: each is filled from parameters by the names of its fields."""

    @classmethod
    def of(cls, given: Mapping[str, Any], **others: Any) -> Self:
        """The record that a page's parameters describe; those that are no field are left out.

        `others` are fields whose parameter has another name, or none.
        """
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in given.items() if name in names} | others)


def check_comparison(
    given: Mapping[str, Any], keep_ratios: Iterable[float], why: str, **least: int
) -> None:
    """Refuse, before any work, what would leave a page of overlaps without a row to show.

    Its `keep_ratio` has to be one of `keep_ratios`, for the reason `why`; `least` says how many
    values a parameter has to have.

    Raises:
        ValueError: Too few values, or another keep ratio.
    """
    for name, number in least.items():
        if len(given[name]) < number:
            raise ValueError(f"{name}={given[name]}: give {number} or more, which are compared")
    if given["keep_ratio"] not in (known := sorted(set(keep_ratios))):
        raise ValueError(f"keep_ratio={given['keep_ratio']}: choose one of {known}, {why}")


@dataclass(frozen=True)
class Loading(Settings):
    """Which checkpoint is loaded, and how."""

    model: str
    """An organism's name, a folder in hub layout, or a hub id."""
    revision: str = ""
    dtype: str = "float32"
    device_map: str = ""

    def load(self, dtype: str = "") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model, in the record's precision or another, and its tokenizer."""
        options = {"revision": self.revision or None, "device_map": self.device_map or None}
        return load_model(self.model, dtype=dtype or self.dtype, **options)

    def run(self, model: PreTrainedModel, given: Mapping[str, Any]) -> RunInfo:
        """What makes the tables: this checkpoint with these parameters."""
        known = {"revision": self.revision, "dtype": self.dtype}
        known["checkpoint_hash"] = model_hash(model)
        known["weights"] = "" if is_trained(model) else RANDOM
        return RunInfo.collect(self.model, parameters=given, **known)


@dataclass(frozen=True)
class Sampling(Settings):
    """Which calibration texts the importance scores come from."""

    math: str
    nonmath: str
    languages: Sequence[str]
    seeds: Sequence[int]
    """Numbers of blocks, or seeds of draws: published are 1, 101 and 201."""
    num_samples: int = 500
    drawing: str = "blocks"
    """One of `mmlib.tasks.problems.DRAWINGS`."""
    data_dir: str = ""
    audit_seed: int = 1
    """Which of the shipped norms are computed again, see `score_samples`."""

    def draw(self) -> dict[Sample, Calibration]:
        """Texts of every language, task and seed, see `mmlib.tasks.problems.calibration`.

        Raises:
            ValueError: A doubled or missing task, language or seed, or as there.
        """
        tasks, folder = [self.math, self.nonmath], self.data_dir or None
        lists = {"tasks": tasks, "languages": self.languages, "seeds": self.seeds}
        for what, values in lists.items():
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{what}={list(values)}: give one or more, each once")
        how = {"samples": self.num_samples, "drawing": self.drawing, "data_dir": folder}
        return {
            Sample(language, task, seed): calibration(task, language, seed=seed, **how)
            for language, task, seed in itertools.product(self.languages, tasks, self.seeds)
        }

    def scores(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> dict[Sample, ImportanceScores]:
        """Scores of every language, task and seed, see `score_samples`."""
        return score_samples(model, tokenizer, self.draw(), audit_seed=self.audit_seed)


@dataclass(frozen=True)
class Asking(Settings):
    """What a model is asked: the same problems in every state."""

    tasks: Sequence[str]
    languages: Sequence[str]
    parts: Sequence[str] | None = None
    items: int | Mapping[str, int] = 0
    """Problems per part (0: all), or by part."""
    batch_size: int = 256
    data_dir: str = ""

    def ask(self, tokenizer: PreTrainedTokenizerBase, **options: Any) -> Ask:
        """`part_answers` of these tasks and as many items; the rest is given when it is called."""
        asking = {"tasks": self.tasks, "items": self.items, "data_dir": self.data_dir or None}
        batching = {"tokenizer": tokenizer, "batch_size": self.batch_size}
        return functools.partial(part_answers, **batching, **asking, **options)

    def problems(
        self, language: str, parts: Sequence[str] | None = None, **drawn: int
    ) -> pd.DataFrame:
        """What is asked in a language, by its parts: part, problem_id.

        `parts` in place of the record's; `drawn` as in `choose_items`, where the items are not the
        first.
        """
        asking = {"items": self.items, "data_dir": self.data_dir or None, **drawn}
        chosen = choose_items(self.tasks, language, parts=parts or self.parts, **asking)
        return chosen[["part", "problem_id"]]


@dataclass(frozen=True, kw_only=True)
class Steps(Settings):
    """How long something is trained, and in which batches."""

    steps: int
    """Optimizer steps."""
    train_batch: int = 32
    """Examples per batch and device."""
    accumulation: int = 1
    """Batches per step."""
    bf16: bool = True
    """Whether it computes in bfloat16."""

    @property
    def examples(self) -> int:
        """Examples that are seen."""
        return self.steps * self.train_batch * self.accumulation

    def plan(self, learning_rate: float, **others: Any) -> TrainingPlan:
        """All of it at a rate; held-out losses are taken halfway. `others`: further fields."""
        from mmlib.finetune import TrainingPlan  # brings the Trainer, which few pages need

        how = {"steps": self.steps, "batch_size": self.train_batch, "bf16": self.bf16}
        how |= {"accumulation": self.accumulation, "every": max(5, self.steps // 2)}
        return TrainingPlan(learning_rate=learning_rate, **how | others)
