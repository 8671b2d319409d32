"""Score weights by magnitude times input norm.

The importance of weight (i, j) of a matrix W is S_ij = Σ_k |W_ij|·‖X_j^k‖₂ over the prompts k,
where X_j^k is input feature j of that matrix at all tokens of prompt k (MathNeuro, arXiv
2410.16930, as used by arXiv 2606.18453). Since S_ij = |W_ij| · Σ_k ‖X_j^k‖₂, one vector per matrix
is enough.
"""

import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from mmlib.files import load_tensors, save_tensors
from mmlib.forward import check_tokens, observe
from mmlib.masks import ParameterMask
from mmlib.models import check_in_memory, linear_modules

Batch = Mapping[str, torch.Tensor]
EMPTY = "the calibration set is empty: give at least one prompt"
TIES = ("index", "topk")
"""Rules for equal scores at the cut of a set, see `largest`."""


@dataclass(frozen=True)
class ActivationNorms:
    """Summed input norms Σ_k ‖X^k‖₂ of each linear module: the small thing that is kept.

    Modules that read the same tensor (q, k, v; gate, up) share one vector. `+` merges the norms of
    two shards of the calibration data.
    """

    vectors: dict[str, torch.Tensor]
    """Name of the first module that reads a tensor -> float32 vector (d_in,)."""
    shared: dict[str, str]
    """Module name -> key in `vectors`, for every scored module, in the model's order."""
    num_samples: int

    def __getitem__(self, module: str) -> torch.Tensor:
        return self.vectors[self.shared[module]]

    def __add__(self, other: "ActivationNorms") -> "ActivationNorms":
        if self.shared != other.shared:
            raise ValueError("cannot merge norms of different modules: use one model and one scope")
        vectors = {n: v + other.vectors[n].to(v.device) for n, v in self.vectors.items()}
        return ActivationNorms(vectors, self.shared, self.num_samples + other.num_samples)

    def scores(self, model: nn.Module) -> "ImportanceScores":
        """Combine with the weights of `model`, without copying them.

        Raises:
            ValueError: A module is missing from the model, or of another width; or weights are
                offloaded.
        """
        check_in_memory(model, "scored")
        modules = dict(model.named_modules())
        weights = {
            name: _weight(name, getattr(modules.get(name), "weight", None), len(self[name]))
            for name in self.shared
        }
        moved = {n: v.to(weights[n].device) for n, v in self.vectors.items()}
        norms = ActivationNorms(moved, self.shared, self.num_samples)
        return ImportanceScores(weights, norms)

    def math_specific(
        self, nonmath: "ActivationNorms", model: nn.Module, *, keep_ratio: float
    ) -> ParameterMask:
        """The math-specific set T = top-K(math) - top-K(nonmath); these are the norms on math.

        Args:
            nonmath: Norms of the same model on non-math text.
            model: The model whose weights are scored.
            keep_ratio: K, the share of each matrix that is kept.

        Raises:
            ValueError: See `scores`; or a keep ratio that is not in (0, 1].
        """
        return math_specific(self.scores(model), nonmath.scores(model), keep_ratio)

    def save(self, path: str | Path) -> None:
        """Write the vectors (safetensors; sharing and number of samples in the metadata)."""
        metadata = {"shared": json.dumps(self.shared), "num_samples": str(self.num_samples)}
        vectors = {name: vector.cpu().numpy() for name, vector in self.vectors.items()}
        save_tensors(path, vectors, metadata)

    @classmethod
    def load(cls, path: str | Path) -> "ActivationNorms":
        """Read norms written by `save`.

        Raises:
            ValueError: The file is damaged or holds something else.
        """
        arrays, metadata = load_tensors(path)
        try:
            shared, samples = json.loads(metadata["shared"]), int(metadata["num_samples"])
            _ = [arrays[name] for name in shared.values()]
            vectors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            if wrong := [n for n, v in vectors.items() if not ((v >= 0) & (v < torch.inf)).all()]:
                raise ValueError(f"{wrong[0]} has a norm that is negative or not finite")
        except (KeyError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is no ActivationNorms: {error!r}") from error
        return cls(vectors, shared, samples)


def _weight(name: str, weight: torch.Tensor | None, width: int) -> torch.Tensor:
    """The weight, unless it cannot be scored with a vector of `width` norms."""
    if weight is None or weight.shape[1] != width:
        found = "missing" if weight is None else f"{weight.shape[1]} inputs"
        raise ValueError(
            f"norms are for another model: {name} has {width} inputs here, {found} there"
        )
    return weight


class _NormSums:
    """Running Σ ‖X‖₂ of the modules in view; called by the hooks, once per module and batch."""

    def __init__(self, modules: Mapping[str, nn.Linear]) -> None:
        self.modules = modules
        self.shape: torch.Size = torch.Size()
        self.mask: torch.Tensor | None = None
        self.counts = torch.empty(0)
        self.vectors: dict[str, torch.Tensor] = {}
        self.shared: dict[str, str] = {}
        self._previous: tuple[str, torch.Tensor] | None = None

    def start(self, shape: torch.Size, mask: torch.Tensor | None, counts: torch.Tensor) -> None:
        """Begin a batch of (batch, seq) tokens; `mask` is None when there is no padding.

        `counts` tells how often each sample has each prompt, (samples, batch).
        """
        self.shape, self.mask, self.counts, self._previous = shape, mask, counts, None

    def __call__(self, name: str, inputs: torch.Tensor) -> None:
        if self._previous is not None and inputs is self._previous[1]:
            self.shared[name] = self._previous[0]
            return
        self._previous = (name, inputs)
        self.shared[name] = name
        norms = prompt_norms(name, inputs, self.shape, self.mask)
        total = self.counts.to(norms.device) @ norms
        old = self.vectors.get(name)
        self.vectors[name] = total if old is None else old.add_(total)

    def result(self, sizes: Sequence[int]) -> list[ActivationNorms]:
        """The norms of each sample, of so many prompts."""
        never = [name for name in self.modules if name not in self.shared]
        if never:
            raise ValueError(f"{len(never)} linear modules were never run, for instance {never[0]}")
        first = next(iter(self.vectors.values())).device
        finite = [v.isfinite().all().to(first, non_blocking=True) for v in self.vectors.values()]
        for name, good in zip(self.vectors, torch.stack(finite).tolist(), strict=True):
            if not good:
                raise ValueError(_not_finite(name, self.modules[name].weight))
        shared = {name: self.shared[name] for name in self.modules}
        return [
            ActivationNorms({n: v[row].clone() for n, v in self.vectors.items()}, shared, size)
            for row, size in enumerate(sizes)
        ]


def _not_finite(name: str, weight: torch.Tensor) -> str:
    cause = (
        "float16 overflows beyond 65504: use dtype='bfloat16' or 'float32'"
        if weight.dtype == torch.float16
        else "look for NaN in the weights of the checkpoint"
    )
    return f"the input of {name}, the first of its kind, is not finite ({cause})"


def prompt_norms(
    name: str, inputs: torch.Tensor, shape: torch.Size, mask: torch.Tensor | None
) -> torch.Tensor:
    """L2 norm over the tokens of each prompt, per input feature, in float32.

    Args:
        name: Module name, for the error message.
        inputs: (batch, seq, d_in), or the same flattened to (batch · seq, d_in); any float dtype.
        shape: (batch, seq).
        mask: (batch, seq) bool, False at padding; None when there is none.

    Returns:
        (batch, d_in) float32.

    Raises:
        ValueError: Not all tokens pass the module, as in mixture-of-experts routing.
    """
    if inputs.shape[:-1].numel() != shape.numel():
        raise ValueError(
            f"{name} gets {tuple(inputs.shape)} for {tuple(shape)} tokens: modules that see only "
            "some tokens (mixtures of experts) are not supported"
        )
    squares = inputs.float().square().view(*shape, -1)
    if mask is None:
        return squares.sum(1).sqrt()
    inside = mask.to(squares.device, non_blocking=True).float()
    return torch.bmm(inside[:, None], squares).squeeze(1).sqrt()


def _run(model: PreTrainedModel, batch: Batch, mask: torch.Tensor | None, *, head: bool) -> None:
    """One forward pass; the head is left out unless it is scored."""
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    length = batch["input_ids"].shape[1]
    if longest and length > longest:
        raise ValueError(
            f"a prompt has {length} tokens, the model reads {longest}: shorten or drop it "
            "(`batches` names it if you give max_length)"
        )
    check_tokens(batch["input_ids"], model)
    ids = batch["input_ids"].to(model.device, non_blocking=True)
    attention = None if mask is None else mask.long()
    (model if head else model.base_model)(ids, attention_mask=attention, use_cache=False)


def collect_norms(
    model: PreTrainedModel, batches: Iterable[Batch], *, include_head: bool = False
) -> ActivationNorms:
    """Sum the input norms of every scored linear module over the calibration prompts.

    Nothing but one float32 vector per distinct linear input is kept, on the device of its layer;
    padding is left out, and the result does not depend on batching (up to the rounding of the
    forward pass), nor on the padding side where positions are relative (rotary).

    Args:
        model: A Hugging Face causal language model made of `nn.Linear`.
        batches: Dicts of CPU tensors `input_ids` and `attention_mask`, (batch, seq), one prompt a
            row; see `mmlib.forward.batches`.
        include_head: Score the output projection too, unless it is tied.

    Raises:
        ValueError: No prompt, one beyond the model's context, a module that never ran or sees
            some of the tokens only, or activations that are not finite (NaN weights, float16
            overflow).
    """
    return _collect(model, batches, None, include_head=include_head)[0]


def collect_sample_norms(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    counts: torch.Tensor,
    *,
    include_head: bool = False,
) -> list[ActivationNorms]:
    """`collect_norms` of several samples that share prompts, which are read once.

    Σ_k n_k ‖X^k‖₂ over the distinct prompts, n_k times in a sample: drawing with replacement, and
    drawing again with another seed, repeats most prompts. `batches` are of the distinct prompts,
    and `counts` says how often each sample has each of them, (samples, prompts), in their order;
    the other arguments are those of `collect_norms`.

    Returns:
        One per row of `counts`.

    Raises:
        ValueError: As in `collect_norms`; or a sample without prompts, or counts of
            more or fewer prompts than there are.
    """
    if not counts.sum(1).all():
        raise ValueError(EMPTY)
    return _collect(model, batches, counts, include_head=include_head)


@torch.no_grad()
def _collect(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    counts: torch.Tensor | None,
    *,
    include_head: bool,
) -> list[ActivationNorms]:
    modules = linear_modules(model, include_head=include_head)
    check_in_memory(model, "scored")
    head = model.get_output_embeddings() in modules.values()
    sums, start = _NormSums(modules), 0
    with observe(modules, sums):
        for batch in batches:
            end = start + len(batch["input_ids"])
            own = torch.ones(1, end - start) if counts is None else counts[:, start:end].float()
            start = end
            if own.shape[1] == len(batch["input_ids"]) and own.any():
                wanted = own.any(0)  # a prompt of no sample, such as one that is known, is not read
                if not wanted.all():
                    batch = {name: part[wanted] for name, part in batch.items()}
                    own = own[:, wanted]
                own = own.to(model.device, non_blocking=True)
                inside = batch["attention_mask"].bool()  # on the CPU
                mask = None if inside.all() else inside.to(model.device, non_blocking=True)
                sums.start(batch["input_ids"].shape, mask, own)
                _run(model, batch, mask, head=head)
    if not start:
        raise ValueError(EMPTY)
    if counts is not None and counts.shape[1] != start:
        raise ValueError(f"counts of {counts.shape[1]} prompts for {start}")
    return sums.result([start] if counts is None else counts.sum(1).int().tolist())


@dataclass(frozen=True)
class ImportanceScores:
    """Scores of all weights, one matrix at a time: ``|W|`` · norms, or sums kept as matrices."""

    weights: dict[str, torch.Tensor]
    """Module name -> weight (not copied), or the summed score matrix when `norms` is None."""
    norms: ActivationNorms | None
    ties: str = "index"
    """Which of equal scores are in a top-K set: "index" or "topk", see `largest`."""

    def copy(self) -> "ImportanceScores":
        """These scores as they are now; sums are copied, weights and norms are not."""
        if self.norms is not None:
            return self
        copies = {name: sums.clone() for name, sums in self.weights.items()}
        return ImportanceScores(copies, None, self.ties)

    def matrix(self, module: str) -> torch.Tensor:
        """Scores of one matrix, float32, (d_out, d_in).

        Raises:
            ValueError: The scores are not finite.
        """
        weight = self.weights[module].detach()
        if self.norms is None:
            scores = weight.float()
        else:
            scores = weight.abs().float() * self.norms[module].to(weight.device)
        if not bool(scores.isfinite().all()):
            raise ValueError(f"the scores of {module} are not finite: look for NaN in its weights")
        return scores

    def top_of(self, module: str, keep_ratios: Sequence[float]) -> list[torch.Tensor]:
        """Top-K sets of one matrix, one bool tensor per keep ratio; see `largest`."""
        scores = self.matrix(module)
        sizes = [selection_size(scores.numel(), ratio) for ratio in keep_ratios]
        return [flat.view(scores.shape) for flat in largest(scores.flatten(), sizes, self.ties)]

    def levels_of(self, module: str, keep_ratios: Sequence[float]) -> torch.Tensor:
        """Of how many top-K sets each weight of a matrix is a member, (numel,)."""
        if self.ties != "index":
            (top,) = self.top_of(module, keep_ratios)  # several need not be nested
            return top.flatten().to(torch.uint8)
        scores = self.matrix(module).flatten()
        sizes = [selection_size(scores.numel(), ratio) for ratio in keep_ratios]
        return nesting_levels(scores, sizes)

    def top(self, keep_ratio: float) -> ParameterMask:
        """The top-K set: the int(numel · K) highest-scored weights of every matrix."""
        return self.tops([keep_ratio])[0]

    def tops(self, keep_ratios: Sequence[float]) -> list[ParameterMask]:
        """The top-K sets at several keep ratios; every matrix is selected from once."""
        check_keep_ratios(keep_ratios, self.weights)
        found = {name: self.top_of(name, keep_ratios) for name in self.weights}
        sets = zip(*found.values(), strict=True)
        return [ParameterMask(dict(zip(found, tensors, strict=True))) for tensors in sets]


def selection_size(numel: int, keep_ratio: float) -> int:
    """Number of weights kept in a matrix: int(numel · K), as published."""
    return int(numel * keep_ratio)


def check_keep_ratios(keep_ratios: Sequence[float], weights: Mapping[str, torch.Tensor]) -> None:
    """Refuse impossible keep ratios, and warn when one selects nothing in some matrix.

    Raises:
        ValueError: No ratio, one twice, or one that is not a number in (0, 1].
    """
    if not keep_ratios or len(set(keep_ratios)) < len(keep_ratios):
        raise ValueError(f"keep_ratios={list(keep_ratios)}: give one or more, each once")
    for ratio in keep_ratios:
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= 1:
            raise ValueError(f"keep_ratio={ratio!r}: give numbers above 0 and at most 1, as 0.1")
    name, weight = min(weights.items(), key=lambda item: item[1].numel())
    for ratio in keep_ratios:
        if selection_size(weight.numel(), ratio) == 0:
            warnings.warn(
                f"keep_ratio={ratio} selects 0 of the {weight.numel()} weights of {name}; "
                f"the smallest usable value is {_round_up(1 / weight.numel()):.3g}",
                stacklevel=3,
            )


def _round_up(value: float) -> float:
    """Three significant digits, never below `value`."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return math.ceil(value / unit) * unit


def largest(scores: torch.Tensor, sizes: Sequence[int], ties: str = "index") -> list[torch.Tensor]:
    """Sets of the k highest scores for every k of `sizes`.

    Args:
        scores: (n,) float.
        sizes: Set sizes, each between 0 and n.
        ties: Which of the scores that equal the lowest one in a set are in it. "index": those of
            lower index, everywhere and for every set, so that the sets are nested. "topk": those
            that `torch.topk` takes, as in the published code; which these are depends on the
            version of torch, on the device, and on k.

    Returns:
        One bool tensor (n,) per size, on the device of `scores`.

    Raises:
        ValueError: Unknown `ties`.
    """
    if ties not in TIES:
        raise ValueError(f"ties={ties!r}: choose from {', '.join(TIES)}")
    if ties == "topk":
        none = torch.zeros_like(scores, dtype=torch.bool)
        return [none.index_fill(0, torch.topk(scores, size).indices, True) for size in sizes]
    levels = nesting_levels(scores, sizes)
    return [levels >= sum(other >= size for other in sizes) for size in sizes]


def nesting_levels(scores: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """In how many of the sets of the k highest scores, k of `sizes`, each of the scores is.

    The sets are nested (ties go to the lower index), so that the level of a weight tells all sets
    that it is in. One selection pass gives all of them.

    Args:
        scores: (n,) float.
        sizes: Set sizes, each between 0 and n.

    Returns:
        (n,) uint8 (int16 beyond 255 sizes), on the device of `scores`.
    """
    dtype = torch.uint8 if len(sizes) < 256 else torch.int16
    levels = torch.zeros(len(scores), dtype=dtype, device=scores.device)
    sizes = sorted(size for size in sizes if size)
    if not sizes:
        return levels
    if scores.device.type == "cpu":
        indices, inside = _levels_of_candidates(scores.numpy(), sizes)
        levels.numpy()[indices] = inside
        return levels
    ordered = torch.topk(scores, sizes[-1]).values
    for size in sizes:  # without asking the device for a number
        above, ties = scores > ordered[size - 1], scores == ordered[size - 1]
        levels += above | (ties & (ties.cumsum(0) <= size - above.count_nonzero()))
    return levels


def _levels_of_candidates(scores: np.ndarray, sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the scores that can be in a set, rising, and their levels; `sizes` rise."""
    indices = _candidates(scores, sizes[-1])
    values = scores[indices]
    ordered = np.sort(values)
    levels = np.zeros(len(values), np.uint8 if len(sizes) < 256 else np.int16)
    for size in sizes:
        cut = ordered[len(ordered) - size]
        members = values >= cut
        surplus = np.count_nonzero(members) - size
        if surplus:
            members[np.flatnonzero(values == cut)[-surplus:]] = False
        np.add(levels, members, out=levels)
    return indices, levels


def _candidates(scores: np.ndarray, size: int) -> np.ndarray:
    """Rising indices of at least the `size` highest scores, ties of the lowest included.

    A sample tells roughly where the cut is, so that few scores have to be ordered; should fewer
    than `size` lie above it, the cut is found exactly. A prime step meets all columns of a matrix.
    """
    sample = scores[::61]
    rank = int(1.1 * size / 61) + 50
    if rank < len(sample):
        bound = np.partition(sample, len(sample) - rank)[len(sample) - rank]
        indices = np.flatnonzero(scores >= bound)
        if len(indices) >= size:
            return indices
    bound = np.partition(scores, len(scores) - size)[len(scores) - size]
    return np.flatnonzero(scores >= bound)


def math_specific(
    on_math: ImportanceScores, on_nonmath: ImportanceScores, keep_ratio: float
) -> ParameterMask:
    """The math-specific set T = top-K(math) - top-K(nonmath)."""
    return on_math.top(keep_ratio) - on_nonmath.top(keep_ratio)
