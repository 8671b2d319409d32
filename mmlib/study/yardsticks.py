"""What each layer is worth: change one at a time and see what it does to the loss of answers."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from mmlib.finetune import mean_loss
from mmlib.masks import ParameterMask, random_mask
from mmlib.merging import LayerPlan, merged
from mmlib.models import decoder_layers
from mmlib.study.variants import State, Variant, edited, measured, reweighted

Examples = Sequence[Mapping[str, list[int]]]
"""See `mmlib.finetune.encode`."""
Change = Callable[[], AbstractContextManager[State]]
"""See `mmlib.study.variants.Variant`."""


def layer_losses(
    model: PreTrainedModel,
    changes: Sequence[Change],
    examples: Examples,
) -> pd.DataFrame:
    """The loss of a model on the targets of examples, each time with one layer changed.

    Returns:
        layer, loss in nats per token, change = loss - that of the whole model, and what is told of
        a change, such as n_weights.
    """
    variants = [Variant({"layer": layer}, change) for layer, change in enumerate(changes)]
    whole = mean_loss(model, examples)
    table = measured(
        variants, lambda model: {"losses": pd.DataFrame({"loss": [mean_loss(model, examples)]})}
    )["losses"]
    return table.assign(change=table.loss - whole)


def pruned_layers(model: PreTrainedModel, mask: ParameterMask, examples: Examples) -> pd.DataFrame:
    """`layer_losses` of pruning the weights of a set in one layer at a time."""
    return layer_losses(model, layer_edits(model, mask, factor=0.0), examples)


def layer_edits(model: PreTrainedModel, mask: ParameterMask, *, factor: float) -> list[Change]:
    """The change that multiplies the weights of a set in one layer, for each layer."""
    prefix, layers = decoder_layers(model)
    finds = [partial(layer_of, mask, f"{prefix}.{layer}.") for layer in range(len(layers))]
    return [partial(edited, model, find, factor=factor) for find in finds]


def layer_of(mask: ParameterMask, prefix: str) -> ParameterMask:
    """The part of a set in modules whose names begin so.

    Raises:
        ValueError: There is none.
    """
    own = {name: tensor for name, tensor in mask.items() if name.startswith(prefix)}
    if not own:
        raise ValueError(f"no module of the set begins with {prefix!r}")
    return ParameterMask(own)


def exchanged_layers(
    expert: PreTrainedModel, donor: PreTrainedModel, examples: Examples
) -> pd.DataFrame:
    """`layer_losses` of giving a model one layer of another at a time.

    The donor is of the same base; or the base itself, which reverts one layer.
    """
    one_hot = np.eye(len(decoder_layers(expert)[1]))
    exchanges = [
        partial(merged, expert, donor, LayerPlan(tuple(row.tolist())), others="math")
        for row in one_hot
    ]
    return layer_losses(expert, [partial(reweighted, expert, e) for e in exchanges], examples)


def yardsticks(
    base: PreTrainedModel,
    math_expert: PreTrainedModel,
    language_experts: Mapping[str, PreTrainedModel],
    sets: Mapping[str, ParameterMask],
    math: Mapping[str, Examples],
    texts: Mapping[str, Examples],
    *,
    seed: int,
) -> pd.DataFrame:
    """Change every layer on its own, in five ways.

    The experts were fine-tuned from the base, whose math-specific sets are `sets`. By language:
    `math` in it, and held-out `texts` of the kind that its expert has learned.

    Returns:
        yardstick, lang, layer, loss, change (in nats per token; above zero is worse): "prune math
        weights" and "prune random weights" (as many of every matrix) of the base; "take from the
        language expert" and "take from the base" (the math expert, on math) and "revert the
        language expert" (to the base, on its own texts).
    """
    pruned = {
        (code, name): pruned_layers(base, mask, math[code])
        for code in language_experts
        for name, mask in (
            ("prune math weights", sets[code]),
            ("prune random weights", random_mask(sets[code], seed=seed)),
        )
    }
    exchanged = {
        (code, name): exchanged_layers(*exchange)
        for code, expert in language_experts.items()
        for name, exchange in (
            ("take from the language expert", (math_expert, expert, math[code])),
            ("take from the base", (math_expert, base, math[code])),
            ("revert the language expert", (expert, base, texts[code])),
        )
    }
    tables = pd.concat(pruned | exchanged, names=["lang", "yardstick"]).reset_index([0, 1])
    names = ["yardstick", "lang", "layer", "loss", "change"]
    return tables[names].reset_index(drop=True)
