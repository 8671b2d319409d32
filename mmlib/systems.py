"""Systems that are compared with selective alignment: what each trains, and what that costs.

The names are those of the paper's tables where a system plays the part of one there.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from mmlib.models import linear_modules
from mmlib.training import finetune, trainable_only

FEED_FORWARD = ("up_proj", "down_proj")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ADAM_BYTES = 8
"""Two float32 moments per weight that has gradients."""


@dataclass(frozen=True)
class Stage:
    """One fine-tuning."""

    data: str
    """Name of the examples: pairs, unbalanced pairs, English math or translated math."""
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


def systems(
    selected: Sequence[int], depth: int, *, rank: int, draws: int = 3
) -> dict[str, tuple[Stage, ...]]:
    """The systems of the paper's tables and ablations, each as its stages.

    Args:
        selected: Layers that SLAM trains, see `mmlib.alignment.select_layers`.
        depth: Decoder layers of the model.
        rank: Of the LoRA that is as large as SLAM, see `equal_rank`.
        draws: Random layers are drawn so often, without replacement and other than `selected`
            where there are enough.

    Returns:
        Name -> stages: "base" (none), "SLAM", "QAlign stage 1" (full fine-tuning on the pairs),
        "QAlign" (and then on English math), "LoRA", "MathOctopus" (full fine-tuning on translated
        solutions), "English math" (QAlign's second stage alone), "attention", "FFN and attention",
        "FFN with gate" (of the selected layers), "unbalanced pairs", "first k", "random i".

    Raises:
        ValueError: No layer is selected, or one that the model does not have.
    """
    layers = tuple(sorted(set(selected)))
    if not layers or not 0 <= layers[0] <= layers[-1] < depth:
        raise ValueError(f"selected={list(selected)}: give some of the layers 0 to {depth - 1}")
    align, math = Stage("pairs"), Stage("English math")
    found = {
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
    }
    for k in range(1, depth + 1):
        found[f"first {k}"] = (Stage("pairs", tuple(range(k)), FEED_FORWARD),)
    others = [layer for layer in range(depth) if layer not in layers]
    pool = others if len(others) >= len(layers) else range(depth)
    for draw in range(1, draws + 1):
        chosen = np.random.default_rng(draw).choice(list(pool), len(layers), replace=False)
        found[f"random {draw}"] = (Stage("pairs", tuple(sorted(map(int, chosen))), FEED_FORWARD),)
    return found


def equal_rank(model: nn.Module, stage: Stage) -> int:
    """Rank of LoRA adapters on all linear modules with about as many weights as a stage trains."""
    with trainable_only(model, stage.layers, stage.modules):
        size = sum(p.numel() for p in model.parameters() if p.requires_grad)
    per_rank = sum(m.in_features + m.out_features for m in linear_modules(model).values())
    return max(1, round(size / per_rank))


def align(
    model: PreTrainedModel,
    stages: Sequence[Stage],
    examples: Mapping[str, Sequence[Mapping[str, list[int]]]],
    out: str | Path,
    *,
    steps: int,
    rates: Mapping[str, float],
    **options: Any,
) -> tuple[PreTrainedModel, pd.DataFrame, pd.DataFrame]:
    """Fine-tune a model stage by stage.

    Args:
        model: In float32; changed in place (adapters are merged into it in the end).
        stages: See `systems`.
        examples: Name of the data -> examples, see `mmlib.training.encode`.
        out: Folder of the runs, one below it per stage; interrupted ones go on.
        steps: Optimizer steps of each stage.
        rates: Learning rates of the kinds part, full and lora.
        **options: Further arguments of `mmlib.training.finetune`.

    Returns:
        The model; the log (columns of `finetune` and stage); the costs, one row per stage: stage,
        data, trained (number of weights), share (of the model's), optimizer_bytes, seconds.
    """
    size, logs, costs = model.num_parameters(), [], []
    for number, stage in enumerate(stages, 1):
        if stage.data not in examples:
            raise ValueError(f"no examples {stage.data!r}: there are {', '.join(examples)}")
        with ExitStack() as stack:
            moving = _moving(model, stage, stack)
            trained = sum(p.numel() for p in moving.parameters() if p.requires_grad)
            log = finetune(
                moving,
                examples[stage.data],
                Path(out) / f"stage-{number}",
                steps=steps,
                learning_rate=rates[stage.kind],
                **options,
            )
        if stage.rank:
            model = moving.merge_and_unload()
        cost = (number, stage.data, trained, trained / size, ADAM_BYTES * trained)
        costs.append((*cost, float(log.seconds.iloc[-1])))
        logs.append(log.assign(stage=number))
    names = ["stage", "data", "trained", "share", "optimizer_bytes", "seconds"]
    log = pd.concat(logs, ignore_index=True) if logs else pd.DataFrame()
    return model, log, pd.DataFrame(costs, columns=names)


def _moving(model: PreTrainedModel, stage: Stage, stack: ExitStack) -> nn.Module:
    """The model with gradients where the stage wants them."""
    if stage.rank:
        names = [name.rpartition(".")[2] for name in linear_modules(model)]
        config = LoraConfig(
            r=stage.rank, lora_alpha=2 * stage.rank, target_modules=sorted(set(names))
        )
        return get_peft_model(model, config)
    if stage.layers is None:
        return model.requires_grad_(True)
    stack.enter_context(trainable_only(model, stage.layers, stage.modules))
    return model
