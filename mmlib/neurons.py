"""SLAM's view of a model: which neurons fire for a language, and which layers that selects.

A neuron is one of the hidden units of a gated feed-forward block; it fires at a token where its
gate is positive, f(x) = act(gate_proj(x)) > 0 (Eq. 2 and 3 of *SLAM*, Fan et al. 2025). Rates are
kept per question, so that every aggregation and every resample comes from one pass.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import PreTrainedModel

from mmlib.forward import last_tokens, observe, on_device
from mmlib.models import decoder_layers

Aggregation = Literal["token_rate", "sample_rate", "any_token", "last_token", "set"]
Denominator = Literal["english", "other", "union"]


@dataclass(frozen=True)
class Firing:
    """How often every neuron fires in the questions of one language."""

    counts: np.ndarray
    """Tokens of a question at which a neuron fires, float32 (questions, layers, neurons)."""
    last: np.ndarray
    """Whether it fires at the last token, bool (questions, layers, neurons)."""
    tokens: np.ndarray
    """Tokens that count, int64 (questions,)."""

    def take(self, places: slice | np.ndarray) -> "Firing":
        """The same of some of the questions, or in another order."""
        return Firing(self.counts[places], self.last[places], self.tokens[places])

    def rates(
        self,
        aggregation: Aggregation = "token_rate",
        weights: np.ndarray | None = None,
        threshold: float = 0.5,
    ) -> np.ndarray:
        """Firing rates of the neurons.

        Args:
            aggregation: `token_rate` fires / tokens over all questions; `sample_rate` the mean over
                questions of that; `any_token` the share of questions with at least one firing
                token; `last_token` the share of questions in which the last token fires; `set` 1
                where the token rate is above `threshold`, else 0.
            weights: How often each question counts, (questions,); default: once.
            threshold: Of `set`.

        Returns:
            float32 (layers, neurons), within [0, 1].

        Raises:
            ValueError: An aggregation that does not exist.
        """
        if aggregation not in get_args(Aggregation):
            raise ValueError(f"aggregation={aggregation!r}: choose {get_args(Aggregation)}")
        w = np.ones(len(self.tokens)) if weights is None else np.asarray(weights)
        w = w.astype(np.float32)
        if aggregation in ("token_rate", "set"):
            found: np.ndarray = np.tensordot(w, self.counts, 1) / (w @ self.tokens)
            return found if aggregation == "token_rate" else (found > threshold).astype(np.float32)
        layers = range(self.counts.shape[1])
        sums = np.stack([w @ self._of_questions(aggregation, layer) for layer in layers])
        return np.asarray(sums / w.sum())

    def _of_questions(self, aggregation: Aggregation, layer: int) -> np.ndarray:
        """What one layer contributes per question, float32 (questions, neurons)."""
        if aggregation == "last_token":
            return self.last[:, layer].astype(np.float32)
        counts = self.counts[:, layer]
        if aggregation == "any_token":
            return (counts > 0).astype(np.float32)
        return counts / self.tokens[:, None].astype(np.float32)


def gates(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The gate projections of a model, one per decoder layer, in their order.

    Raises:
        ValueError: A layer has no gate, several (a mixture of experts), one that is cut before the
            activation function, or an activation function that is positive elsewhere than its
            input.
    """
    prefix, layers = decoder_layers(model)
    found: dict[str, nn.Module] = {}
    for index, layer in enumerate(layers):
        own = [name for name, _ in layer.named_modules() if name.endswith("gate_proj")]
        mixture = any(name.rpartition(".")[2] == "experts" for name, _ in layer.named_modules())
        if len(own) != 1 or mixture:
            raise ValueError(
                f"layer {index} of {type(model).__name__} has {len(own)} gate projections"
                f"{' and experts' * mixture}: firing is defined for gated feed-forward blocks such "
                "as Llama's, Qwen's and Mistral's"
            )
        block = layer.get_submodule(own[0].rpartition(".")[0])
        if cut := getattr(block, "activation_sparsity", 0):
            raise ValueError(
                f"layer {index} of {type(model).__name__} cuts its gates (activation_sparsity="
                f"{cut}): a neuron may be silent where its gate is positive, so that firing is not "
                "defined by the gate's sign"
            )
        _check_sign(getattr(block, "act_fn", None), index)
        found[f"{prefix}.{index}.{own[0]}"] = layer.get_submodule(own[0])
    return found


def _check_sign(activation: nn.Module | None, index: int) -> None:
    probe = torch.tensor([-3.0, -0.01, 0.01, 3.0])
    if activation is None or ((activation(probe) > 0) != (probe > 0)).any():
        raise ValueError(
            f"layer {index}: the activation function {activation} does not keep the sign of its "
            "input, so that a positive gate is not a firing neuron"
        )


@torch.no_grad()
def firing_rates(
    model: PreTrainedModel,
    batches: Iterable[Mapping[str, torch.Tensor]],
    *,
    skip: Sequence[int] = (),
) -> Firing:
    """Count the tokens at which every neuron fires, question by question.

    Args:
        model: A gated decoder; its mode is left as it is.
        batches: Dicts of `input_ids` and `attention_mask`, (batch, seq), padded on either side; in
            the order of the questions (`mmlib.forward.batches(..., sort=False)`).
        skip: Token ids that do not count, such as that of BOS.

    Raises:
        ValueError: See `gates`; or a question without a token that counts.
    """
    modules = gates(model)
    parts: list[tuple[np.ndarray, ...]] = []
    for batch in batches:
        counted = _counted(batch, skip)
        tokens = counted.sum(1)
        if not tokens.all():
            raise ValueError("a question has no token that counts: leave out empty texts")
        seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        with observe(modules, partial(_note, seen, counted, last_tokens(counted)), what="output"):
            model.base_model(**on_device(batch, model), use_cache=False)
        both = zip(*(seen[name] for name in modules), strict=True)
        counts, last = (torch.stack(layers, 1).numpy() for layers in both)
        parts.append((counts, last, tokens.numpy()))
    if not parts:
        raise ValueError("no question was given")
    return Firing(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _note(
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]],
    counted: torch.Tensor,
    end: torch.Tensor,
    name: str,
    gate: torch.Tensor,
) -> None:
    """Keep in `seen` at how many tokens the neurons of a gate fire, and whether at the last."""
    fires = (gate > 0) & counted.to(gate.device)[..., None]
    last = fires[torch.arange(len(fires), device=gate.device), end.to(gate.device)]
    seen[name] = (fires.sum(1, dtype=torch.float32).cpu(), last.cpu())


def _counted(batch: Mapping[str, torch.Tensor], skip: Sequence[int]) -> torch.Tensor:
    ids = batch["input_ids"].cpu()
    return batch["attention_mask"].cpu().bool() & ~torch.isin(ids, torch.tensor(list(skip)))


def overlap_with_english(
    rates: Mapping[str, np.ndarray],
    *,
    english: str = "en",
    threshold: float | None = 0.5,
    of: Denominator = "english",
) -> pd.DataFrame:
    """How many of the neurons that fire in English fire in another language too.

    Args:
        rates: Language -> firing rates (layers, neurons).
        english: The language to compare with.
        threshold: A neuron belongs to a language where its rate is above it; None compares the
            rates themselves, Σ min(p_x, p_en) / Σ p_en.
        of: What the shared neurons are a share of: those of `english`, of the `other` language, or
            their `union`.

    Returns:
        A row per layer, a column per other language. Not a number where the denominator is 0.

    Raises:
        ValueError: No rates of English or of another language, or an unknown `of`.
    """
    if english not in rates or len(rates) < 2:
        raise ValueError(f"needs {english!r} and another language, there are {sorted(rates)}")
    if of not in get_args(Denominator):
        raise ValueError(f"of={of!r}: choose {get_args(Denominator)}")
    fires = {x: p if threshold is None else (p > threshold).astype(float) for x, p in rates.items()}
    own, columns = fires[english], {}
    for language, other in fires.items():
        if language == english:
            continue
        base = {"english": own, "other": other, "union": np.maximum(own, other)}[of].sum(1)
        shared = np.minimum(own, other).sum(1)
        columns[language] = np.divide(shared, base, out=np.full(len(base), np.nan), where=base > 0)
    return pd.DataFrame(columns).rename_axis("layer").rename_axis(columns="lang")


def ranges(rates: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Language-specific range R (Eq. 4): mean firing rate of a layer, a column per language."""
    means = pd.DataFrame({x: p.mean(1) for x, p in rates.items()})
    return means.rename_axis("layer").rename_axis(columns="lang")


class Selection(NamedTuple):
    """The layers that SLAM trains, and what led to them."""

    layers: list[int]
    peak: int
    threshold: float
    msd: pd.Series


def select_layers(
    ranges: pd.DataFrame,
    overlap: pd.DataFrame,
    *,
    peak: int | None = None,
    last: bool = False,
    inclusive: bool = False,
) -> Selection:
    """Layers before the peak of the overlap whose rates differ most between languages.

    With MSD_i the population variance of the ranges of layer i over all languages, English
    included: K = the layers before argmax of the mean overlap, θ = mean of MSD over K, selected =
    {i in K: MSD_i > θ} (Eq. 5 to 7).

    Args:
        ranges: See `ranges`; all languages.
        overlap: See `overlap_with_english`; the other languages.
        peak: Takes the place of the argmax, for a model whose overlap has no peak.
        last: Let the last layer be the peak, as the equations do.
        inclusive: The peak belongs to K.

    Raises:
        ValueError: A value is not a number; there are fewer than two candidates, of which none can
            lie above their mean; the overlap is highest in the last layer (it only rises: a
            plateau, not a peak); or `peak` is no layer.
    """
    if ranges.isna().any(axis=None) or overlap.isna().any(axis=None):
        raise ValueError("a rate or an overlap is not a number: lower the firing threshold")
    msd = ranges.var(axis=1, ddof=0)
    top = int(overlap.mean(axis=1).argmax()) if peak is None else peak
    if peak is None and not last and top == len(msd) - 1:
        raise ValueError(
            f"the overlap is highest in the last layer, {top}: it has no peak, give `peak`"
        )
    if not 0 <= top < len(msd):
        raise ValueError(f"peak={peak}: the model has layers 0 to {len(msd) - 1}")
    before = msd.iloc[: top + inclusive]
    if len(before) < 2:
        raise ValueError(f"the overlap is highest in layer {top}, with {len(before)} candidate(s)")
    theta = float(before.mean())
    return Selection([int(i) for i in before.index[before > theta]], top, theta, msd)
