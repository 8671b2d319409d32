"""Sets of weights, how far they overlap, and how far by chance.

Torch is loaded by what makes tensors: tables and claims compare with chance without it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, ItemsView, KeysView, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmlib.files import load_tensors, save_tensors

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class ParameterMask:
    """A set of weights: module name -> bool tensor of the weight's shape, True = in the set.

    `&`, `|`, `-` and `~` are the operations on sets; `len` is the number of weights in the set.
    Two masks can only be combined when they have the same modules and shapes.
    """

    tensors: dict[str, torch.Tensor]

    def __getitem__(self, module: str) -> torch.Tensor:
        return self.tensors[module]

    def keys(self) -> KeysView[str]:
        """Names of the modules."""
        return self.tensors.keys()

    def items(self) -> ItemsView[str, torch.Tensor]:
        """Pairs of module name and bool tensor."""
        return self.tensors.items()

    def __len__(self) -> int:
        """Number of weights in the set."""
        return sum(int(mask.count_nonzero()) for mask in self.tensors.values())

    @property
    def n_scored(self) -> int:
        """Number of weights that could have been in the set."""
        return sum(mask.numel() for mask in self.tensors.values())

    def __and__(self, other: ParameterMask) -> ParameterMask:
        return self._combine(other, lambda a, b: a & b)

    def __or__(self, other: ParameterMask) -> ParameterMask:
        return self._combine(other, lambda a, b: a | b)

    def __sub__(self, other: ParameterMask) -> ParameterMask:
        return self._combine(other, lambda a, b: a & ~b)

    def __invert__(self) -> ParameterMask:
        return ParameterMask({name: ~mask for name, mask in self.tensors.items()})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ParameterMask):
            return NotImplemented
        check_comparable(self, other)
        return all(self[name].equal(other[name]) for name in self.keys())

    def _combine(
        self, other: ParameterMask, operation: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    ) -> ParameterMask:
        check_comparable(self, other)
        pairs = ((name, self[name], other[name].to(self[name].device)) for name in self.keys())
        return ParameterMask({name: operation(a, b) for name, a, b in pairs})

    def save(self, path: str | Path) -> None:
        """Write the set packed, one bit per weight (safetensors; shapes in its metadata)."""
        packed = {name: np.packbits(mask.cpu().numpy()) for name, mask in self.items()}
        shapes = json.dumps({name: list(mask.shape) for name, mask in self.items()})
        save_tensors(path, packed, {"kind": "ParameterMask", "shapes": shapes})

    @classmethod
    def load(cls, path: str | Path) -> ParameterMask:
        """Read a set written by `save`.

        Raises:
            ValueError: The file is damaged or holds something else.
        """
        packed, metadata = load_tensors(path)
        try:
            shapes = json.loads(metadata["shapes"])
            return cls({name: _unpack(packed[name], shape) for name, shape in shapes.items()})
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no ParameterMask: {error!r}") from error


def _unpack(packed: np.ndarray, shape: list[int]) -> torch.Tensor:
    import torch

    if packed.size != -(-math.prod(shape) // 8):
        raise ValueError(f"{packed.size} bytes for the shape {shape}")
    bits = np.unpackbits(packed, count=math.prod(shape))
    return torch.from_numpy(bits.astype(bool).reshape(shape))


def check_comparable(
    a: ParameterMask | Mapping[str, torch.Tensor], b: ParameterMask | Mapping[str, torch.Tensor]
) -> None:
    """Refuse two sets, or the weights that two sets are chosen from, which do not correspond.

    Raises:
        ValueError: The module names or shapes differ; the message names the first differences.
    """
    only = sorted(set(a.keys()) ^ set(b.keys()))
    shapes = [n for n in a.keys() & b.keys() if a[n].shape != b[n].shape]
    if only or shapes:
        differing = only[:3] or [f"{n} {tuple(a[n].shape)}/{tuple(b[n].shape)}" for n in shapes[:3]]
        raise ValueError(
            f"the sets are over different weights ({len(only)} modules in one only, "
            f"{len(shapes)} of another shape), for instance {', '.join(differing)}: "
            "compare sets of one model, made with the same include_head"
        )


STRATUM = 64
"""Neighbours in magnitude among which `random_mask(within=…)` draws."""


def random_mask(
    like: ParameterMask,
    *,
    seed: int,
    within: Mapping[str, torch.Tensor] | None = None,
    among: ParameterMask | None = None,
) -> ParameterMask:
    """Draw a random set with as many weights per matrix as `like` has; members may be drawn too.

    Drawn on the CPU from one generator, so that the result does not depend on the device.

    Args:
        like: The set whose sizes are matched.
        seed: Seed of the draw.
        within: Module name -> value of each weight, for instance its magnitude. Then the draw is
            uniform only among `STRATUM` weights that are neighbours in value (equal values in
            random order), so that the set has the values of `like` too.
        among: Only these weights are drawn; not together with `within`.

    Raises:
        ValueError: `within` lacks a matrix of `like` or has another shape; `among` has too few
            weights in a matrix; both are given.
    """
    import torch

    if within is not None and among is not None:
        raise ValueError("give `within` or `among`, not both")
    if among is not None:
        check_comparable(like, among)
    if within is not None:
        for name, mask in like.items():
            if name not in within or within[name].shape != mask.shape:
                has = tuple(within[name].shape) if name in within else "nothing"
                raise ValueError(f"{name} has the shape {tuple(mask.shape)}, `within` has {has}")
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, mask in like.items():
        order, size = torch.randperm(mask.numel(), generator=generator), int(mask.count_nonzero())
        if among is not None:
            order = order[among[name].flatten().cpu()[order]]
            if len(order) < size:
                raise ValueError(f"{name}: {size} weights cannot be drawn among {len(order)}")
        chosen = order[:size]
        if within is not None:
            values = within[name].detach().flatten().cpu()[order]
            chosen = _among_neighbours(mask, order[values.argsort(stable=True)], generator)
        flat = torch.zeros(mask.numel(), dtype=torch.bool)
        flat[chosen] = True
        drawn[name] = flat.view(mask.shape).to(mask.device)
    return ParameterMask(drawn)


def _among_neighbours(
    mask: torch.Tensor, order: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Draw as many indices from each stratum of `order` as the mask has there."""
    import torch

    missing = -len(order) % STRATUM
    members = torch.nn.functional.pad(mask.flatten().cpu()[order], (0, missing))
    keys = torch.rand(len(members), generator=generator)
    keys[len(order) :] = 2.0  # the last stratum is filled up, never drawn from
    ranks = keys.view(-1, STRATUM).argsort(dim=1).argsort(dim=1)
    drawn = ranks < members.view(-1, STRATUM).sum(dim=1, keepdim=True)
    return order[drawn.flatten()[: len(order)]]


def jaccard(a: ParameterMask, b: ParameterMask) -> float:
    """``|A ∩ B| / |A ∪ B|`` over all weights; NaN for two empty sets."""
    union = len(a | b)
    return len(a & b) / union if union else float("nan")


def expected_intersection(size_a: Any, size_b: Any, n_scored: Any) -> Any:
    """Weights that random sets of these sizes (numbers or columns) share among `n_scored`."""
    return size_a * size_b / n_scored


def chance_jaccard(size_a: Any, size_b: Any, expected: Any) -> Any:
    """Size-matched chance: the Jaccard of two sets that share what random ones are expected to.

    Args:
        size_a: Number of weights in the first set, or a column of such numbers.
        size_b: The same of the second set.
        expected: Their `expected_intersection`; over several matrices the sum of theirs.
    """
    return expected / (size_a + size_b - expected)


def chance_of(pairs: Any) -> Any:
    """Size-matched chance of the rows of an overlap table.

    Over several matrices the sets are expected to share what they do in each of them; a table that
    does not say how much (a published one, or some rows) counts as one matrix.
    """
    expected = expected_intersection(pairs["size_a"], pairs["size_b"], pairs["n_scored"])
    if "expected_intersection" in pairs:
        expected = pairs["expected_intersection"].fillna(expected)
    return chance_jaccard(pairs["size_a"], pairs["size_b"], expected)


def digest(mask: ParameterMask) -> str:
    """Twelve characters that tell one set of weights from another."""
    digest = hashlib.sha256()
    for name, tensor in sorted(mask.items()):
        digest.update(name.encode() + np.packbits(tensor.cpu().numpy()).tobytes())
    return digest.hexdigest()[:12]
