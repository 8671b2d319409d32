"""Layer swapping: a math expert with the bottom and top layers of a language expert.

Both experts come from one base; the adapter of a LoRA expert is merged into it first. A plan gives
every decoder layer the weight w of the language expert, θ_i = w_i θ_i(language) + (1 - w_i)
θ_i(math); whole layers move, with their norms and biases (Bandarkar et al., arXiv 2410.01335).
Arithmetic is in float32, cast at the end.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.models import check_float, check_in_memory, decoder_layers, state

Others = Literal["average", "math", "language", "base"]
Tensors = dict[str, torch.Tensor]
OWN = (
    "_name_or_path",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "architectures",
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "pretraining_tp",
    "initializer_range",
    "unsloth_fixed",
    "unsloth_version",
)
"""Entries of a config that may differ between experts, like all of dropout: none of them changes
what a weight is."""


@dataclass(frozen=True)
class LayerPlan:
    """Weight of the language expert in every decoder layer, 0 (math) to 1 (language)."""

    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.weights or not all(0 <= w <= 1 for w in self.weights):
            raise ValueError(f"weights {self.weights}: give one within [0, 1] per layer")

    @classmethod
    def bands(cls, layers: int, bottom: int, top: int, *, transition: int = 1) -> "LayerPlan":
        """Language below and above, math between, transition layers where they meet.

        Args:
            layers: Decoder layers of the model.
            bottom: Layers of the language expert below.
            top: Layers of the language expert above.
            transition: Averaged layers at each border.

        Raises:
            ValueError: A negative number, or more layers than the model has.
        """
        lower, upper = transition if bottom else 0, transition if top else 0
        bands = (bottom, lower, layers - bottom - lower - upper - top, upper, top)
        if min(bands) < 0:
            raise ValueError(
                f"bottom={bottom}, top={top}, transition={transition} do not fit into "
                f"{layers} layers"
            )
        values = (1.0, 0.5, 0.0, 0.5, 1.0)
        return cls(tuple(w for w, n in zip(values, bands, strict=True) for _ in range(n)))

    @classmethod
    def fitted(cls, layers: int, *, transition: int = 1) -> "LayerPlan":
        """The published 5 + 2 of 32 layers, scaled: .16 L and L / 16; raises as `bands`."""
        bottom, top = max(1, round(0.16 * layers)), max(1, round(layers / 16))
        return cls.bands(layers, bottom, top, transition=transition)

    @classmethod
    def from_updates(
        cls, math: Sequence[float], language: Sequence[float], *, margin: float = 0.001
    ) -> "LayerPlan":
        """Each layer from the expert that moved it more; the average where they are close.

        Args:
            math: Update of each layer by the math expert; made to sum to 1.
            language: The same of the language expert.
            margin: Largest difference of the two shares that counts as close.
        """
        shares = [np.asarray(x, dtype=float) / np.sum(x) for x in (math, language)]
        difference = shares[1] - shares[0]
        chosen = np.where(np.abs(difference) <= margin, 0.5, (difference > 0).astype(float))
        return cls(tuple(chosen.tolist()))

    def reversed(self) -> "LayerPlan":
        """The same plan with the experts exchanged: math outside, language inside."""
        return LayerPlan(tuple(1 - w for w in self.weights))

    def shuffled(self, seed: int) -> "LayerPlan":
        """As many layers of each kind, in places drawn at random."""
        return LayerPlan(tuple(np.random.default_rng(seed).permutation(self.weights).tolist()))


def dense(model: PreTrainedModel) -> Tensors:
    """The parameters and the layers' buffers of a model by name, no copies; a tied matrix once.

    Raises:
        ValueError: Weights that are quantised or offloaded, or an adapter.
    """
    check_float(model)
    check_in_memory(model, "merged")
    return {name: tensor.detach() for name, tensor in state(model).items()}


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a configuration, and of those within it, that experts must share."""
    return {
        key: _comparable(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in OWN and "dropout" not in str(key) and not str(key).endswith("_pdrop")
    }


def check_comparable(*models: PreTrainedModel) -> None:
    """Refuse models that are not fine-tuned from one base.

    Raises:
        ValueError: Their configurations or parameters differ; the message lists how.
    """
    for model in models:
        check_float(model)
    configs = [_comparable(model.config.to_dict()) for model in models]
    shapes = [{name: tuple(t.shape) for name, t in state(model).items()} for model in models]
    for kind, tables in (("configurations", configs), ("parameters", shapes)):
        for other in tables[1:]:
            keys = sorted(set(tables[0]) | set(other), key=str)
            pairs = {key: (tables[0].get(key), other.get(key)) for key in keys}
            if differing := {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}:
                shown = dict(list(differing.items())[:8])
                raise ValueError(f"experts of different bases: their {kind} differ in {shown}")


def check_vocabularies(*tokenizers: PreTrainedTokenizerBase) -> None:
    """Refuse experts whose rows of the embeddings stand for other tokens.

    Raises:
        ValueError: The vocabularies differ; the message names some tokens.
    """
    first = tokenizers[0].get_vocab()
    for other in tokenizers[1:]:
        if differing := sorted(set(first.items()) ^ set(other.get_vocab().items())):
            raise ValueError(f"experts of different vocabularies: they differ in {differing[:8]}")


def merged(
    math: PreTrainedModel,
    language: PreTrainedModel,
    plan: LayerPlan,
    *,
    others: Others = "average",
    base: PreTrainedModel | None = None,
) -> Tensors:
    """The weights of the swap.

    Args:
        math: Math expert.
        language: Language expert; the base itself reverts the math expert's layers.
        plan: Weights of the language expert, one per layer.
        others: Where embeddings, final norm and head come from.
        base: Needed for `others="base"`.

    Returns:
        Name -> tensor, of the math expert's dtype and device; `mmlib.edits.holding` lets a model
        have them. Layers of weight 0 or 1 are the expert's own tensors, bit by bit.

    Raises:
        ValueError: See `check_comparable`; or a plan of another depth.
    """
    check_comparable(math, language, *([base] if base is not None else []))
    if others not in get_args(Others):
        raise ValueError(f"others={others!r}: choose {get_args(Others)}")
    if others == "base" and base is None:
        raise ValueError("others='base' needs the base model")
    prefix, layers = decoder_layers(math)
    if len(plan.weights) != len(layers):
        raise ValueError(f"the plan has {len(plan.weights)} layers, the model {len(layers)}")
    own, other = dense(math), dense(language)
    outside = {"average": 0.5, "math": 0.0, "language": 1.0, "base": 0.0}[others]
    rest = dense(base) if others == "base" else own
    made = {}
    for name, tensor in own.items():
        if name.startswith(f"{prefix}."):
            index = int(name.removeprefix(f"{prefix}.").split(".")[0])
            made[name] = _mix(tensor, other[name], plan.weights[index])
        else:
            kept = rest[name].to(tensor.device, tensor.dtype)
            made[name] = _mix(kept, other[name], outside)
    return made


def _mix(math: torch.Tensor, language: torch.Tensor, weight: float) -> torch.Tensor:
    """Weighted mean in float32; exactly one of them for a weight of 0 or 1."""
    language = language.to(math.device)
    if not math.is_floating_point():  # a count in a buffer has no mean
        weight = round(weight)
    if weight in (0, 1):
        return language.to(math.dtype) if weight else math
    return (weight * language.float() + (1 - weight) * math.float()).to(math.dtype)


def soup(experts: Sequence[PreTrainedModel], weights: Sequence[float]) -> Tensors:
    """Weighted mean of whole experts, Σ w_e θ_e / Σ w_e."""
    if len(experts) != len(weights) or not sum(weights) > 0:
        raise ValueError(f"{len(experts)} experts need as many weights, not {list(weights)}")
    check_comparable(*experts)
    tables = [dense(expert) for expert in experts]
    shares, made = [weight / sum(weights) for weight in weights], {}
    for name, first in tables[0].items():
        mean = torch.zeros_like(first).float()
        for share, table in zip(shares, tables, strict=True):
            mean += share * table[name].to(first.device).float()
        made[name] = mean.to(first.dtype)
    return made


def adjusted_weights(base: PreTrainedModel, experts: Sequence[PreTrainedModel]) -> list[float]:
    """Weights of a magnitude-adjusted soup: w_e ∝ 1 / mean |ΔW_e|, summing to 1.

    Raises:
        ValueError: An expert that is the base.
    """
    means = [mean_update(base, expert) for expert in experts]
    if not all(means):
        raise ValueError("an expert equals the base: it has no update to weigh by")
    inverse = [1 / m for m in means]
    return [w / sum(inverse) for w in inverse]


def mean_update(base: PreTrainedModel, expert: PreTrainedModel) -> float:
    """Mean |ΔW| over all parameters."""
    table = update_magnitude(base, expert)
    return float((table.absolute * table.n).sum() / table.n.sum())


def task_arithmetic(
    base: PreTrainedModel, experts: Sequence[PreTrainedModel], weights: Sequence[float]
) -> Tensors:
    """θ_base + Σ w_e (θ_e - θ_base) (Ilharco et al., 2023)."""
    return _on_base(base, experts, _rules().task_arithmetic, weights)


def ties(
    base: PreTrainedModel,
    experts: Sequence[PreTrainedModel],
    weights: Sequence[float],
    *,
    density: float = 0.2,
) -> Tensors:
    """TIES: the largest updates of each expert, where they agree in sign (Yadav et al., 2023).

    Args:
        base: What the experts were fine-tuned from.
        experts: At least one.
        weights: Of the experts' updates.
        density: Share of each tensor's update that is kept, by magnitude.
    """
    rule = functools.partial(_rules().ties, density=density)
    return _on_base(base, experts, rule, weights)


def _rules() -> ModuleType:
    """The rules of peft, which a plain install has not."""
    try:
        from peft.utils import merge_utils
    except ImportError as error:
        raise ImportError("task arithmetic and TIES need peft: pip install peft") from error
    return merge_utils


def _on_base(
    base: PreTrainedModel,
    experts: Sequence[PreTrainedModel],
    rule: Callable[[list[torch.Tensor], torch.Tensor], torch.Tensor],
    weights: Sequence[float],
) -> Tensors:
    if len(experts) != len(weights):
        raise ValueError(f"{len(experts)} experts need as many weights, not {list(weights)}")
    check_comparable(base, *experts)
    tables, given = [dense(expert) for expert in experts], torch.tensor(list(weights))
    made = {}
    for name, tensor in dense(base).items():
        deltas = [t[name].float().to(tensor.device) - tensor.float() for t in tables]
        if any(delta.any() for delta in deltas):
            tensor = (tensor.float() + rule(deltas, given.to(tensor.device))).to(tensor.dtype)
        made[name] = tensor  # without copies, where no expert moved it: embeddings are large
    return made


def update_magnitude(base: PreTrainedModel, expert: PreTrainedModel) -> pd.DataFrame:
    """How far fine-tuning moved each tensor; raises as `check_comparable`.

    Returns:
        One row per tensor: tensor, module (its name without prefix, layer and `weight`), layer
        (<NA> outside the decoder layers), n, absolute = mean ``|ΔW|``, relative = absolute over
        mean ``|W|``, share = Σ ``|ΔW|`` of the tensor over that of the model (0 for an expert that
        is the base).
    """
    check_comparable(base, expert)
    prefix, _ = decoder_layers(base)
    before, after, rows = dense(base), dense(expert), []
    for name, _ in base.named_parameters():  # buffers are not what fine-tuning moves
        tensor = before[name]
        layer, module = pd.NA, name.removesuffix(".weight")
        if name.startswith(f"{prefix}."):
            index, _, module = module.removeprefix(f"{prefix}.").partition(".")
            layer = int(index)
        moved = (after[name].to(tensor.device).float() - tensor.float()).abs()
        absolute = moved.mean().item()
        relative = absolute / max(tensor.float().abs().mean().item(), 1e-30)
        rows.append((name, module, layer, tensor.numel(), absolute, relative))
    table = pd.DataFrame(rows, columns=["tensor", "module", "layer", "n", "absolute", "relative"])
    total = (table.absolute * table.n).sum()
    table["share"] = table.absolute * table.n / total if total else 0.0
    return table.astype({"layer": "Int64"})
