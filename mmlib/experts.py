"""Experts of layer swapping: one learns English math, another a language; and their mergers."""

import copy
import itertools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.data import Problem, load_problems
from mmlib.evaluation import part_answers
from mmlib.languages import get_language
from mmlib.merging import (
    LayerPlan,
    Others,
    Tensors,
    adjusted_weights,
    dense,
    holding,
    merged,
    soup,
    task_arithmetic,
    ties,
    update_magnitude,
)
from mmlib.models import resolve
from mmlib.results import pack_answers
from mmlib.training import encode, finetune, trainable_only

MATH = "math"
"""The role of an expert in English math; others are named by their language."""
Examples = list[dict[str, list[int]]]


def studied(task: str, language: str, *, data_dir: str = "") -> list[Problem]:
    """What an expert may learn from a task.

    Its calibration split; of organism-knowledge, which has none, every second held-out question:
    the others can be asked.
    """
    whole = task == "organism-knowledge"
    split = "heldout" if whole else "calibration"
    found = load_problems(task, language, data_dir=data_dir or None, split=split)
    return found[::2] if whole else found


def expert_examples(
    role: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    math_tasks: Sequence[str],
    language_tasks: Sequence[str],
    heldout: int,
    data_dir: str = "",
) -> tuple[Examples, Examples]:
    """Examples of one expert, with a loss on the response only.

    Args:
        role: "math" (English), a language, or "math+LANGUAGE" for training on both at once.
        tokenizer: The base's.
        math_tasks: Tasks of `mmlib.data` that the math expert learns.
        language_tasks: Those that a language expert learns in its language.
        heldout: Examples of each part of the role that are set aside.
        data_dir: As in `mmlib.data.load_problems`.

    Returns:
        Examples to train on and those set aside; both parts of a joint role are as large.

    Raises:
        ValueError: No example would be left; see also `mmlib.data.load_problems`.
    """
    parts = []
    for part in role.split("+"):
        tasks, code = (
            (math_tasks, "en") if part == MATH else (language_tasks, get_language(part).code)
        )
        problems = [p for task in tasks for p in studied(task, code, data_dir=data_dir)]
        if not 0 < heldout < len(problems):
            raise ValueError(f"heldout={heldout}: {part!r} has {len(problems)} examples")
        order = np.random.default_rng(1).permutation(len(problems))
        parts.append([problems[i] for i in order])
    number = min(map(len, parts)) if len(parts) > 1 else len(parts[0])
    aside, kept = (
        [p for part in parts for p in part[s]] for s in (slice(heldout), slice(heldout, number))
    )
    return tuple(encode(tokenizer, [(p.prompt, p.response) for p in own]) for own in (kept, aside))


def train_expert(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    out: str | Path,
    *,
    about: Mapping[str, Any],
    embeddings: bool = False,
    **options: Any,
) -> Path:
    """Fine-tune a copy of the base and keep it as a checkpoint that `from_pretrained` opens.

    Args:
        base: In float32; unchanged.
        tokenizer: Goes with it.
        examples: See `expert_examples`.
        out: Folder of the checkpoint, in bfloat16 and with a manifest; one that is there already
            is left as it is. An interrupted training goes on.
        about: What the manifest says of it: role, seed and whatever else names the expert.
        embeddings: Whether embeddings, final norm and head are trained too.
        **options: Further arguments of `mmlib.training.finetune`.

    Raises:
        ValueError: `out` holds another expert; see also `finetune`.
    """
    out = Path(out)
    plain = {k: v for k, v in options.items() if isinstance(v, str | int | float | bool)}
    manifest = {**about, "embeddings": embeddings, **plain}
    if out.is_dir():
        if expert_recipe(str(out)) != manifest:
            raise ValueError(f"{out} holds another expert: choose another folder or remove it")
        return out
    model, training = copy.deepcopy(base), out.with_name(f"{out.name}.training")
    with trainable_only(model, None, ()):
        if embeddings:
            model.requires_grad_(True)
        log = finetune(model, examples, training, **options)
    unfinished = out.with_name(f"{out.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.bfloat16().save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    log.to_csv(unfinished / "training_log.csv", index=False)
    (unfinished / "manifest.json").write_text(json.dumps(manifest, indent=1))
    unfinished.rename(out)
    shutil.rmtree(training)
    return out


def expert_recipe(name: str) -> dict[str, Any]:
    """What the manifest of a checkpoint says of an expert.

    Args:
        name: As in `mmlib.models.load_model`.

    Returns:
        role, seed and the settings of the training; of a checkpoint that somebody else made, role
        (the last part of its name) and seed 0.
    """
    path = Path(resolve(name)) / "manifest.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    return {"role": Path(name).name, "seed": 0}


def named_plans(depth: int, *, draws: int = 2) -> dict[str, LayerPlan]:
    """The swap as published, its parts, and its controls.

    Args:
        depth: Decoder layers of the model.
        draws: Swaps of random layers.

    Returns:
        "swap" (5 + 2 of 32 layers, scaled, with a transition layer on each side), "no transition",
        "6 + 2 of 32" (the follow-up's, scaled, without), "bottom only", "top only", "reversed" (the
        experts exchanged), "random i" (as many layers of each kind in random places).
    """
    swap, half = LayerPlan.fitted(depth), depth // 2
    bottom, top = swap.weights[:half], swap.weights[half:]
    six, two = max(1, round(6 / 32 * depth)), max(1, round(2 / 32 * depth))
    return {
        "swap": swap,
        "no transition": LayerPlan.fitted(depth, transition=0),
        "6 + 2 of 32": LayerPlan.bands(depth, six, two, transition=0),
        "bottom only": LayerPlan((*bottom, *(0.0 for _ in top))),
        "top only": LayerPlan((*(0.0 for _ in bottom), *top)),
        "reversed": swap.reversed(),
        **{f"random {draw}": swap.shuffled(draw) for draw in range(1, draws + 1)},
    }


def all_bands(
    depth: int, bottoms: Sequence[int], tops: Sequence[int], transitions: Sequence[int]
) -> dict[str, LayerPlan]:
    """Every swap of so many layers below and above with so many averaged ones, where they fit."""
    found = {}
    for bottom, top, transition in itertools.product(bottoms, tops, transitions):
        both = bottom + top + transition * ((bottom > 0) + (top > 0))
        if both <= depth:
            plan = LayerPlan.bands(depth, bottom, top, transition=transition)
            found[f"{bottom} + {top}, transition {transition}"] = plan
    return found


def mergers(
    base: PreTrainedModel,
    math: PreTrainedModel,
    language: PreTrainedModel,
    plans: Mapping[str, LayerPlan],
    *,
    others: Others = "average",
    joint: PreTrainedModel | None = None,
) -> dict[str, Callable[[], Tensors]]:
    """Everything that is compared with a swap, by name; weights are made when they are asked for.

    Args:
        base: What both experts were fine-tuned from.
        math: Math expert.
        language: Language expert.
        plans: Swaps, see `named_plans`.
        others: As in `mmlib.merging.merged`.
        joint: A model that was trained on both data sets.
    """
    experts = [math, language]
    updates = [update_magnitude(base, expert) for expert in experts]
    by_layer = [table.groupby("layer").share.sum() for table in updates]
    plans = {**plans, "by update": LayerPlan.from_updates(*by_layer)}
    found = {
        "base": partial(dense, base),
        "math expert": partial(dense, math),
        "language expert": partial(dense, language),
        "revert": partial(merged, math, base, plans["swap"], others=others, base=base),
        "soup, 1/4 language": partial(soup, experts, [0.75, 0.25]),
        "soup": partial(soup, experts, [0.5, 0.5]),
        "soup, 3/4 language": partial(soup, experts, [0.25, 0.75]),
        "adjusted soup": partial(soup, experts, adjusted_weights(base, experts)),
        "task arithmetic": partial(task_arithmetic, base, experts, [1.0, 1.0]),
        "TIES": partial(ties, base, experts, [1.0, 1.0]),
    }
    found |= {
        name: partial(merged, math, language, plan, others=others, base=base)
        for name, plan in plans.items()
    }
    return found | ({"joint": partial(dense, joint)} if joint is not None else {})


def skill_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    language: str,
    math: Mapping[str, Any],
    skills: Mapping[str, Any],
    **asking: Any,
) -> pd.DataFrame:
    """Math in English and in a language, and other skills in the language.

    Args:
        model: Any causal LM.
        tokenizer: Its tokenizer.
        language: ISO 639-1 code; English is asked for math either way.
        math: tasks, parts and items of math, as in `mmlib.evaluation.part_answers`.
        skills: The same of the other skills; empty: none.
        **asking: Further arguments of `part_answers`.

    Returns:
        Answers as `part_answers` gives them.
    """
    both = list(dict.fromkeys(["en", language]))
    tables = [part_answers(model, tokenizer, languages=both, **math, **asking)]
    if skills:
        tables.append(part_answers(model, tokenizer, languages=[language], **skills, **asking))
    return pd.concat(tables, ignore_index=True)


def merged_answers(
    model: PreTrainedModel,
    made: Mapping[str, Callable[[], Tensors]],
    ask: Callable[[PreTrainedModel], pd.DataFrame],
) -> pd.DataFrame:
    """Let a model hold other weights, one after the other, and ask it.

    Args:
        model: Of the shape of all of them; as it was afterwards.
        made: Name -> weights, see `mergers`.
        ask: Returns answers as `mmlib.evaluation.part_answers` does.

    Returns:
        Answers packed by part and lang (see `mmlib.results.pack_answers`), with system.
    """
    tables = []
    for system, weights in made.items():
        with holding(model, weights()):
            tables.append(pack_answers(ask(model), by=["part", "lang"]).assign(system=system))
    return pd.concat(tables, ignore_index=True)
