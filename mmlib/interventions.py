"""Change the weights of a set for the length of a block.

    with pruned(model, english):
        answers = evaluate(model, tokenizer, "organism-math", languages=["en"])

Leaving the block, also by an exception, puts every weight back bit for bit: only the weights of the
set are kept aside and written, so the cost is that of the set, not of the model.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

from mmlib.masks import ParameterMask

_Places = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""Module name -> rows and columns (int64) of the weights to change, on the weight's device."""


@contextmanager
def scaled(
    model: nn.Module,
    *masks: ParameterMask,
    factor: float,
    fraction: float = 1.0,
    seed: int | None = None,
) -> Iterator[int]:
    """Multiply the weights of a set by a factor inside the block.

    Args:
        model: A model whose weights are all in memory, on one device or spread over several.
        *masks: One set, or several whose union is taken; a weight in two of them is changed once.
        factor: What each weight is multiplied by, in the dtype of the weights (in bfloat16 1.01 is
            one to three units in the last place).
        fraction: Share of the set that is changed, drawn uniformly over the whole set; with one
            seed a smaller share is part of a larger one.
        seed: Seed of that draw; needed when `fraction` is below 1.

    Yields:
        The number of weights changed.

    Raises:
        ValueError: No mask, a mask over other modules or shapes than the model's, a factor that is
            not finite, a fraction outside 0 to 1 or without a seed, or weights that cannot be
            changed in place (offloaded, on `meta`, quantised). Nothing is changed then.
    """
    if not math.isfinite(factor):
        raise ValueError(f"factor is {factor}: give a finite number, 0 to prune")
    modules = _modules(model, masks)
    places = _draw(_places(modules, masks), fraction, seed)
    kept = {name: modules[name].weight.data[place] for name, place in places.items()}
    try:
        for name, place in places.items():
            modules[name].weight.data[place] = kept[name] * factor if factor else 0.0
        yield sum(len(rows) for rows, _ in places.values())
    finally:
        for name, place in places.items():
            weight = modules[name].weight.data  # perhaps converted or moved inside the block
            weight[place] = kept[name].to(weight.device, weight.dtype)


def pruned(
    model: nn.Module, *masks: ParameterMask, fraction: float = 1.0, seed: int | None = None
) -> AbstractContextManager[int]:
    """Set the weights of a set to zero inside the block; see `scaled`."""
    return scaled(model, *masks, factor=0.0, fraction=fraction, seed=seed)


def _modules(model: nn.Module, masks: tuple[ParameterMask, ...]) -> dict[str, nn.Module]:
    """The modules of the masks, all of which can be changed in place."""
    if not masks:
        raise ValueError("give at least one mask")
    known = dict(model.named_modules())
    found = {}
    for mask in masks:
        for name, tensor in mask.items():
            weight = getattr(known.get(name), "weight", None)
            _check(name, weight, tensor)
            found[name] = known[name]
    owners: dict[int, str] = {}
    for name, module in found.items():
        if (first := owners.setdefault(id(module.weight), name)) != name:
            raise ValueError(f"{first} and {name} are one tied weight: keep one of them in the set")
    return found


def _check(name: str, weight: torch.Tensor | None, mask: torch.Tensor) -> None:
    """Refuse a weight that cannot be changed in place, or not with this mask."""
    if weight is None:
        raise ValueError(
            f"the mask has {name} with shape {tuple(mask.shape)}, the model has no such module: "
            "a mask belongs to the model that it was made with"
        )
    if weight.device.type == "meta":
        raise ValueError(
            f"{name} is offloaded or on meta and cannot be changed: load the model into memory, "
            "or over more devices with device_map='auto'"
        )
    if not weight.is_floating_point():
        raise ValueError(f"{name} is quantised ({weight.dtype}): load it in a float dtype")
    if weight.shape != mask.shape or weight.dim() != 2:
        raise ValueError(
            f"the mask has {name} with shape {tuple(mask.shape)}, the model has "
            f"shape {tuple(weight.shape)}: "
            "a mask belongs to the matrices of the model that it was made with"
        )


def _places(modules: dict[str, nn.Module], masks: tuple[ParameterMask, ...]) -> _Places:
    """Where the union of the masks is."""
    union: dict[str, torch.Tensor] = {}
    for mask in masks:
        for name, tensor in mask.items():
            tensor = tensor.to(modules[name].weight.device)
            union[name] = union[name] | tensor if name in union else tensor
    return {name: tensor.nonzero(as_tuple=True) for name, tensor in union.items()}


def _draw(places: _Places, fraction: float, seed: int | None) -> _Places:
    """A share of the places, drawn on the CPU so that it does not depend on the device."""
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction is {fraction}: give a share from 0 to 1")
    if fraction == 1:
        return places
    if seed is None:
        raise ValueError(f"fraction is {fraction}: give the seed of its draw")
    sizes = [len(rows) for rows, _ in places.values()]
    order = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(seed))
    chosen = torch.zeros(sum(sizes), dtype=torch.bool)
    chosen[order[: round(fraction * sum(sizes))]] = True
    parts = chosen.split(sizes)
    return {
        name: tuple(index[part.to(index.device)] for index in place)
        for (name, place), part in zip(places.items(), parts, strict=True)
    }
