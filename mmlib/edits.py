"""Change the weights of a set for the length of a block.

    with pruned(model, english):
        answers = evaluate(model, tokenizer, "organism-math", languages=["en"])

Leaving the block, also by an exception, puts every weight back bit for bit: only the weights of the
set are kept aside and written, so the cost is that of the set, not of the model.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from mmlib.masks import ParameterMask
from mmlib.models import check_float, check_in_memory, decoder_layers, state

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
            changed in place (offloaded, quantised, with an adapter). Nothing is changed then.
    """
    if not math.isfinite(factor):
        raise ValueError(f"factor is {factor}: give a finite number, 0 to prune")
    modules = _modules(model, masks)
    places = _draw(_places(modules, masks), fraction, seed)
    kept = {name: _weight(modules[name]).data[place] for name, place in places.items()}
    try:
        for name, place in places.items():
            _weight(modules[name]).data[place] = kept[name] * factor if factor else 0.0
        yield sum(len(rows) for rows, _ in places.values())
    finally:
        for name, place in places.items():
            weight = _weight(modules[name]).data  # perhaps converted or moved inside the block
            weight[place] = kept[name].to(weight.device, weight.dtype)


def pruned(model: nn.Module, *masks: ParameterMask) -> AbstractContextManager[int]:
    """Set the weights of a set to zero inside the block; see `scaled`, also for a part of a set."""
    return scaled(model, *masks, factor=0.0)


def _modules(model: nn.Module, masks: tuple[ParameterMask, ...]) -> dict[str, nn.Module]:
    """The modules of the masks, all of which can be changed in place."""
    if not masks:
        raise ValueError("give at least one mask")
    check_float(model)
    check_in_memory(model, "changed")
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


def _weight(module: nn.Module) -> torch.Tensor:
    """The matrix of a module, as it is now."""
    return module.get_parameter("weight")


def _check(name: str, weight: torch.Tensor | None, mask: torch.Tensor) -> None:
    """Refuse a mask that is not of the model's matrices."""
    shape = () if weight is None else tuple(weight.shape)
    if shape != tuple(mask.shape) or len(shape) != 2:
        has = "no such module" if weight is None else f"shape {shape}"
        raise ValueError(
            f"the mask has {name} with shape {tuple(mask.shape)}, the model has {has}: "
            "a mask belongs to the matrices of the model that it was made with"
        )


def _places(modules: dict[str, nn.Module], masks: tuple[ParameterMask, ...]) -> _Places:
    """Where the union of the masks is."""
    union: dict[str, torch.Tensor] = {}
    for mask in masks:
        for name, tensor in mask.items():
            tensor = tensor.to(_weight(modules[name]).device)
            union[name] = union[name] | tensor if name in union else tensor
    places: _Places = {}
    for name, tensor in union.items():
        rows, columns = tensor.nonzero(as_tuple=True)
        places[name] = (rows, columns)
    return places


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
    parts = chosen.split_with_sizes(sizes)
    return {
        name: (rows[part.to(rows.device)], columns[part.to(columns.device)])
        for (name, (rows, columns)), part in zip(places.items(), parts, strict=True)
    }


@contextmanager
def holding(model: PreTrainedModel, tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Let a model hold other weights inside the block; its own are back after it, bit by bit.

    Args:
        model: Its parameters and its layers' buffers are replaced.
        tensors: One for each of them, see `mmlib.models.state`.

    Raises:
        ValueError: A tensor is missing, or of another shape; or weights that cannot be replaced
            (offloaded, quantised).
    """
    check_float(model)
    check_in_memory(model, "changed")
    own = state(model)
    if wrong := [n for n, p in own.items() if n not in tensors or tensors[n].shape != p.shape]:
        raise ValueError(f"no fitting tensor for {', '.join(wrong[:5])}")
    new = {n: tensors[n] for n, p in own.items() if tensors[n].data_ptr() != p.data_ptr()}
    kept = {name: own[name].detach().clone() for name in new}
    try:
        with torch.no_grad():
            for name, tensor in new.items():
                own[name].copy_(tensor)
        yield
    finally:
        with torch.no_grad():
            for name, tensor in kept.items():
                own[name].copy_(tensor)


@contextmanager
def trainable_only(
    model: PreTrainedModel,
    layers: Sequence[int] | None,
    modules: Sequence[str] = ("up_proj", "down_proj"),
) -> Iterator[list[str]]:
    """Let only some parameters have gradients inside the block.

    Args:
        model: A causal language model.
        layers: Decoder layers, counted from 0; None: all.
        modules: Endings of module names, such as `up_proj` or `self_attn.q_proj`; none: everything
            in these layers.

    Yields:
        The names of the trainable parameters.

    Raises:
        ValueError: A layer that does not exist, or nothing that fits.
    """
    prefix, stack = decoder_layers(model)
    indices = list(range(len(stack))) if layers is None else sorted(set(layers))
    if wrong := [index for index in indices if not 0 <= index < len(stack)]:
        raise ValueError(f"layers {wrong}: the model has 0 to {len(stack) - 1}")
    inside = tuple(f"{prefix}.{index}." for index in indices)
    ends = tuple(f".{name.strip('.')}." for name in modules) or (".",)
    parameters = (name for name, _ in model.named_parameters())
    names = [n for n in parameters if n.startswith(inside) and any(end in n for end in ends)]
    if not names:
        raise ValueError(f"no parameter of layers {indices} belongs to {list(modules)}")
    with gradients_of(model, names):
        yield names


@contextmanager
def gradients_of(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Let only these parameters have gradients inside the block, then those of before."""
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before.get(name, parameter.requires_grad))


@contextmanager
def tuned_weights(model: PreTrainedModel, mask: ParameterMask) -> Iterator[int]:
    """Let only the weights of a set move while the model is trained inside the block.

    Gradients of the others are zero, which leaves them as they are under AdamW without weight
    decay; that they are is checked in the end, bit by bit. The model is in float32.

    Yields:
        The number of weights that may move.

    Raises:
        ValueError: The set is empty, or has a module that the model has not.
        RuntimeError: A weight outside of it has moved.
    """
    parameters = dict(model.named_parameters())
    chosen = {f"{name}.weight": own for name, own in mask.items() if own.any()}
    if absent := [name for name in chosen if name not in parameters]:
        raise ValueError(f"the model has no {absent[0]}: a set belongs to the model it was made of")
    if not chosen:
        raise ValueError("the set is empty: there is nothing to tune")
    chosen = {name: own.to(parameters[name].device) for name, own in chosen.items()}
    kept = {name: parameters[name].detach().clone() for name in chosen}
    with gradients_of(model, chosen), ExitStack() as hooks:
        for name, own in chosen.items():
            hooks.callback(parameters[name].register_hook(own.__mul__).remove)
        yield len(mask)
        for name, own in chosen.items():
            if not torch.equal(parameters[name][~own], kept[name][~own]):
                raise RuntimeError(f"weights of {name} have moved that are not in the set")
