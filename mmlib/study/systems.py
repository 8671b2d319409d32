"""Systems that are compared with selective alignment: what each trains, and what that costs.

The names are those of the paper's tables where a system plays the part of one there.
"""

import copy
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.edits import trainable_only
from mmlib.finetune import TrainingPlan, encode, fine_tune
from mmlib.models import linear_modules
from mmlib.study.firing import draw_questions
from mmlib.study.pairs import doubts, draw_pairs, load_pairs, split_pairs, translation_prompt
from mmlib.study.settings import Settings, Steps
from mmlib.study.tables import pack_answers
from mmlib.study.variants import State, Tables, Variant, measured
from mmlib.tasks.problems import Problem, load_problems

Examples = Sequence[Mapping[str, list[int]]]
"""See `mmlib.finetune.encode`."""
Plans = Mapping[str, TrainingPlan]
"""How stages are trained, by their `kind`."""
FEED_FORWARD = ("up_proj", "down_proj")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_FORMS = {"pairs": "published", "bare pairs": "no brackets", "dialogue": "dialogue"}
"""Pairs, and the form of their prompt (`mmlib.study.pairs.PROMPTS`)."""
EXAMPLES = (*_FORMS, "unbalanced pairs", "English math", "translated math")
"""What a stage can learn from."""
ADAM_BYTES = 8
"""Two float32 moments per weight that has gradients."""


@dataclass(frozen=True)
class Stage:
    """One fine-tuning."""

    data: str
    """Name of the examples, one of `EXAMPLES`."""
    layers: tuple[int, ...] | None = None
    """Decoder layers that are trained; None: every weight of the model."""
    modules: tuple[str, ...] = ()
    """Modules of them; none: all."""
    rank: int = 0
    """Of LoRA adapters on all linear modules, which are trained in place of weights."""

    @property
    def kind(self) -> str:
        """Which learning rate it takes: part, full or lora."""
        return "lora" if self.rank else "full" if self.layers is None else "part"

    @property
    def folder(self) -> str:
        """Name that says all of it."""
        layers = "all" if self.layers is None else "+".join(map(str, self.layers))
        names = "+".join(self.modules) or (f"rank {self.rank}" if self.rank else "all")
        return f"{self.data}, layers {layers}, {names}".replace(", ", "_").replace(" ", "-")


def systems(selected: Sequence[int], depth: int, *, rank: int) -> dict[str, tuple[Stage, ...]]:
    """The systems of the paper's tables and ablations, each as its stages.

    Args:
        selected: Layers that SLAM trains, see `mmlib.neurons.select_layers`.
        depth: Decoder layers of the model.
        rank: Of the LoRA that is as large as SLAM, see `equal_rank`.

    Returns:
        Name -> stages: "base" (none), "SLAM", "QAlign stage 1" (full fine-tuning on the pairs),
        "QAlign" (and then on English math), "LoRA", "MathOctopus" (full fine-tuning on translated
        solutions), "English math" (QAlign's second stage alone), "attention", "FFN and attention",
        "FFN with gate" (of the selected layers), "unbalanced pairs", "no brackets" and "dialogue"
        (SLAM with other forms of the prompt), "first k", "random i" (three draws
        of as many layers, without replacement, other than `selected` where there are enough).

    Raises:
        ValueError: No layer is selected, or one that the model does not have.
    """
    layers = tuple(sorted(set(selected)))
    if not layers or not 0 <= layers[0] <= layers[-1] < depth:
        raise ValueError(f"selected={list(selected)}: give some of the layers 0 to {depth - 1}")
    align, math = Stage("pairs"), Stage("English math")
    plans = {
        "base": (),
        "SLAM": (Stage("pairs", layers, FEED_FORWARD),),
        "QAlign stage 1": (align,),
        "QAlign": (align, math),
        "LoRA": (Stage("pairs", rank=rank),),
        "MathOctopus": (Stage("translated math"),),
        "English math": (math,),
        "attention": (Stage("pairs", layers, ATTENTION),),
        "FFN and attention": (Stage("pairs", layers, FEED_FORWARD + ATTENTION),),
        "FFN with gate": (Stage("pairs", layers, (*FEED_FORWARD, "gate_proj")),),
        "unbalanced pairs": (Stage("unbalanced pairs", layers, FEED_FORWARD),),
        "no brackets": (Stage("bare pairs", layers, FEED_FORWARD),),
        "dialogue": (Stage("dialogue", layers, FEED_FORWARD),),
    }
    for k in range(1, depth + 1):
        plans[f"first {k}"] = (Stage("pairs", tuple(range(k)), FEED_FORWARD),)
    others = [layer for layer in range(depth) if layer not in layers]
    pool = others if len(others) >= len(layers) else range(depth)
    for draw in range(1, 4):
        drawn = np.random.default_rng(draw).choice(list(pool), len(layers), replace=False)
        plans[f"random {draw}"] = (Stage("pairs", tuple(sorted(map(int, drawn))), FEED_FORWARD),)
    return plans


def choose(recipes: Mapping[str, Sequence[Stage]], names: Collection[str]) -> dict[str, Any]:
    """The recipes of some systems.

    Raises:
        ValueError: There is none of that name.
    """
    if unknown := [name for name in names if name not in recipes]:
        raise ValueError(f"no system {unknown[0]!r}: choose from {', '.join(recipes)}")
    return {name: recipes[name] for name in names}


def equal_rank(model: nn.Module, stage: Stage) -> int:
    """Rank of LoRA adapters on all linear modules with about as many weights as a stage trains."""
    with trainable_only(model, stage.layers, stage.modules):
        size = sum(p.numel() for p in model.parameters() if p.requires_grad)
    per_rank = sum(m.in_features + m.out_features for m in linear_modules(model).values())
    return max(1, round(size / per_rank))


def align(
    model: PreTrainedModel,
    stages: Sequence[Stage],
    examples: Mapping[str, Examples],
    out: str | Path,
    plans: Plans,
    *,
    heldout: Examples = (),
) -> tuple[PreTrainedModel, pd.DataFrame, pd.DataFrame]:
    """Fine-tune a model stage by stage.

    The model is in float32 and changed in place; adapters are merged into it in the end. The runs
    lie in `out`, that of the second stage below that of the first: interrupted ones go on, and
    systems that begin alike share what they have in common.

    Returns:
        The model; the log (columns of `finetune` and stage); the costs, one row per stage: stage,
        data, trained (number of weights), share (of the model's), optimizer_bytes, seconds.
    """
    size, out, logs, costs = model.num_parameters(), Path(out), [], []
    for number, stage in enumerate(stages, 1):
        plan = plans[stage.kind]
        out = out / f"{stage.folder}_{plan.learning_rate:g}"
        if stage.data not in examples:
            raise ValueError(f"no examples {stage.data!r}: there are {', '.join(examples)}")
        with ExitStack() as stack:
            moving = _moving(model, stage, stack, plan.seed)
            trained = sum(p.numel() for p in moving.parameters() if p.requires_grad)
            log = fine_tune(moving, examples[stage.data], out, plan, heldout=heldout)
        if stage.rank:
            model = moving.merge_and_unload()
        cost = (number, stage.data, trained, trained / size, ADAM_BYTES * trained)
        costs.append((*cost, float(log.seconds.iloc[-1])))
        logs.append(log.assign(stage=number))
    names = ["stage", "data", "trained", "share", "optimizer_bytes", "seconds"]
    log = pd.concat(logs, ignore_index=True) if logs else pd.DataFrame()
    return model, log, pd.DataFrame(costs, columns=names)


def begin(
    model: PreTrainedModel,
    stages: Sequence[Stage],
    examples: Mapping[str, Examples],
    plans: Plans,
    *,
    heldout: Examples = (),
    exact: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train a copy of a model as far as the plans of its stages go, and forget it; see `align`.

    If `exact`, the steps are computed in float32 on a CPU, where units for bfloat16 are rare.

    Returns:
        The rows of its log that have a loss, and its costs.
    """
    if exact and model.device.type == "cpu":
        plans = replan(plans, bf16=False)
    with tempfile.TemporaryDirectory() as folder:
        copied = copy.deepcopy(model)
        _, log, costs = align(copied, stages, examples, folder, plans, heldout=heldout)
    return log.query("step > 0").dropna(subset="loss"), costs


def replan(plans: Plans, **others: Any) -> dict[str, TrainingPlan]:
    """The plans with other values of some fields."""
    return {kind: replace(plan, **others) for kind, plan in plans.items()}


def _moving(model: PreTrainedModel, stage: Stage, stack: ExitStack, seed: int) -> nn.Module:
    """The model with gradients where the stage wants them; adapters begin as the seed says."""
    if stage.rank:
        names = [name.rpartition(".")[2] for name in linear_modules(model)]
        config = LoraConfig(
            r=stage.rank, lora_alpha=2 * stage.rank, target_modules=sorted(set(names))
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return get_peft_model(model, config)
    if stage.layers is None:
        return model.requires_grad_(True)
    stack.enter_context(trainable_only(model, stage.layers, stage.modules))
    return model


@dataclass(frozen=True)
class Texts(Settings):
    """What systems learn from: texts with their translations, and word problems with solutions."""

    languages: Sequence[str]
    """ISO 639-1 codes, English first."""
    pair_source: str = "organism"
    """See `mmlib.study.pairs.load_pairs`, as the next two."""
    pair_kinds: Sequence[str] = ()
    pair_split: str = "calibration"
    heldout: int = 40
    """Texts whose translations are set aside."""
    shares: Sequence[float] = ()
    """Of all languages but English in the unbalanced pairs, in any unit."""
    task: str = "organism-math"
    """Word problems with worked solutions."""
    split: str = "calibration"
    data_dir: str = ""

    @property
    def unbalanced(self) -> dict[str, float]:
        """Language -> its share of the unbalanced pairs."""
        return dict(zip(self.languages[1:], self.shares, strict=False))

    def pairs(self) -> pd.DataFrame:
        """All pairs, with a column `doubt`: "kept", or why a pair is left out (see `doubts`)."""
        where = {"split": self.pair_split, "data_dir": self.data_dir or None}
        table = load_pairs(self.pair_source, self.languages, kinds=self.pair_kinds, **where)
        return table.assign(doubt=doubts(table).replace("", "kept"))

    def parted(self, pairs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The kept pairs to train on, and those that are set aside."""
        kept = pairs[pairs.doubt == "kept"].drop(columns="doubt")
        return split_pairs(kept, self.heldout, seed=1)

    def questions(self, number: int, *, seed: int) -> dict[str, list[str]]:
        """Parallel questions of the task, see `draw_questions`."""
        where = {"split": self.split, "data_dir": self.data_dir}
        return draw_questions(self.task, self.languages, number=number, seed=seed, **where)

    def examples(
        self,
        tokenizer: PreTrainedTokenizerBase,
        pairs: pd.DataFrame,
        *,
        number: int,
        seed: int,
        kinds: Collection[str] = EXAMPLES,
    ) -> dict[str, Examples]:
        """The examples of all systems, by the names that `Stage.data` uses.

        At most `number` of each kind, from pairs to train on, which get the prompt of SLAM. Pairs
        are as many per language, and where unbalanced ones are wanted too no more than there can be
        of these, so that both have as many. `kinds`: only these.

        Raises:
            ValueError: An unknown kind; or unbalanced pairs are wanted and `shares` does not have
                the languages of the pairs, or one that is not above 0; see also `load_problems`.
        """
        if unknown := sorted(set(kinds) - set(EXAMPLES)):
            raise ValueError(f"no examples {unknown[0]!r}: choose from {', '.join(EXAMPLES)}")
        there, unbalanced = pairs.lang.value_counts(), "unbalanced pairs"
        count = min(number, len(there) * int(there.min()))
        if unbalanced in kinds:
            shares = self.unbalanced
            if set(shares) != set(there.index) or min(shares.values()) <= 0:
                raise ValueError(f"shares={shares}: give {sorted(there.index)} shares above 0")
            total = sum(shares.values())
            count = min(count, *(int(there[code] * total / of) for code, of in shares.items()))
        asked = {}
        for name, form in (_FORMS | {unbalanced: "published"}).items():
            if name in kinds:
                shares = self.unbalanced if name == unbalanced else None
                drawn = draw_pairs(pairs, count, seed=seed, shares=shares)
                asked[name] = translation_examples(tokenizer, drawn, form=form)
        solved = {"English math": self.languages[:1], "translated math": self.languages}
        for name, codes in solved.items():
            if name in kinds:
                problems = self._problems(codes, number, seed)
                asked[name] = encode(tokenizer, [(p.prompt, p.response) for p in problems])
        return asked

    def _problems(self, languages: Sequence[str], number: int, seed: int) -> list[Problem]:
        """As many problems of every language, in a random order."""
        rng, drawn = np.random.default_rng(seed), []
        for code in languages:
            where = {"data_dir": self.data_dir or None, "split": self.split}
            problems = load_problems(self.task, code, **where)
            count = min(len(problems), number // len(languages))
            drawn += [problems[i] for i in rng.choice(len(problems), count, replace=False)]
        return [drawn[i] for i in rng.permutation(len(drawn))]


@dataclass(frozen=True, kw_only=True)
class Schedule(Steps):
    """How long, at which rates and in which batches every stage is trained."""

    rate_part: float
    """Highest learning rate of stages that train some layers."""
    rate_full: float
    """Of those that train every weight."""
    rate_lora: float

    @property
    def plans(self) -> Plans:
        """How stages are trained."""
        rates = {"part": self.rate_part, "full": self.rate_full, "lora": self.rate_lora}
        return {kind: self.plan(rate) for kind, rate in rates.items()}


def translation_examples(
    tokenizer: PreTrainedTokenizerBase, pairs: pd.DataFrame, *, form: str = "published"
) -> list[dict[str, list[int]]]:
    """Pairs in SLAM's prompt, with a loss on the English text only.

    `form` is one of `mmlib.study.pairs.PROMPTS`.
    """
    prompts = [
        translation_prompt(text, lang, form=form)
        for text, lang in zip(pairs.text, pairs.lang, strict=True)
    ]
    return encode(tokenizer, zip(prompts, pairs.english, strict=True))


@contextmanager
def aligned(
    base: PreTrainedModel,
    stages: Sequence[Stage],
    examples: Mapping[str, Examples],
    out: str | Path,
    plans: Plans,
    **options: Any,
) -> Iterator[State]:
    """The change of a variant that is a copy of a model after some stages, see `align`."""
    model, log, costs = align(copy.deepcopy(base), stages, examples, out, plans, **options)
    yield State(model, tables={"log": log, "costs": costs})


def compared(
    base: PreTrainedModel,
    wanted: pd.DataFrame,
    recipes: Mapping[str, Sequence[Stage]],
    examples: Mapping[int, Mapping[str, Examples]],
    *,
    measure: Callable[[PreTrainedModel], Tables],
    out: str | Path,
    plans: Plans,
    heldout: Examples = (),
) -> dict[str, pd.DataFrame]:
    """Train systems from one model, one after the other, and measure each.

    Args:
        base: The model from which each starts; unchanged.
        wanted: Columns system and seed; the seed of a system without stages means nothing.
        recipes: See `systems`.
        examples: Seed -> examples, see `Texts.examples`.
        measure: Called with every model; tables by their kind.
        out: Folder of all runs; one that is finished is not trained again.
        plans: See `align`; each seed is also that of the trainings.
        heldout: See there.

    Returns:
        "log" and "costs" (see `align`) and the tables of `measure`, each with system, seed and
        learning_rate (of its first stage).
    """
    recipes, variants = choose(recipes, wanted.system), []
    for system, seed in wanted[["system", "seed"]].itertuples(index=False):
        rates = [plans[stage.kind].learning_rate for stage in recipes[system]]
        named = {"system": system, "seed": seed, "learning_rate": rates[0] if rates else 0.0}
        learned = (recipes[system], examples.get(seed, {}), Path(out) / f"seed-{seed}")
        change = partial(aligned, base, *learned, replan(plans, seed=seed), heldout=heldout)
        variants.append(Variant(named, change))
    return measured(variants, measure)


def heard(answers: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What is kept of the answers of one model.

    Returns:
        "answers" (packed by part and lang, see `tables.pack_answers`) and "responses" (the first
        one to every part, as it was written).
    """
    first = answers.groupby(["part", "lang"], sort=False).head(1)
    return {
        "responses": first[["part", "lang", "problem_id", "response"]],
        "answers": pack_answers(answers, by=["part", "lang"]),
    }
