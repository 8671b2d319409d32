"""Summed input norms of calibration samples: kept once computed, and shipped for the default pages.

All of them are named by content, so that another text, tokenizer or model finds nothing here.
"""

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd
import torch
from safetensors import safe_open
from torch import nn

from mmlib.files import sha256
from mmlib.importance import EMPTY, ActivationNorms, Batch, collect_sample_norms
from mmlib.study.evidence import AuditError
from mmlib.study.tables import PACKAGE, RunInfo, load_table, write_table

SHIPPED = PACKAGE / "evidence" / "norms"
"""Folder of the shipped norms: the vectors, a table of the samples and its manifest."""
TOLERANCE = 1e-3
"""Largest difference from norms computed again, as a share of a vector's largest entry."""
_LOG = logging.getLogger(__name__)


class Kept(NamedTuple):
    """Norms of a sample, and where they come from."""

    norms: ActivationNorms
    source: Literal["cached", "shipped", "computed"]


def cached_sample_norms(
    model: nn.Module,
    batches: Sequence[Batch],
    counts: torch.Tensor,
    *,
    model_hash: str,
    include_head: bool = False,
) -> list[Kept]:
    """`collect_sample_norms`, with its arguments, computed once per content.

    Looked for in the user's cache, then among the shipped norms. The cache is the folder
    `$MMLIB_CACHE` (default `~/.cache/mmlib`). The key of a sample is the hash of weights, dtype and
    configuration (`mmlib.models.model_hash`), of the token ids of its prompts (hence of data,
    sampling, seed and tokenizer), and the scope. A damaged file of the cache is computed again,
    with a warning.

    Raises:
        ValueError: No prompts, or the shipped file is damaged.
    """
    if not batches:
        raise ValueError(EMPTY)
    root = Path(os.environ.get("MMLIB_CACHE", "~/.cache/mmlib")).expanduser() / "norms"
    keys = _keys(batches, counts, f"norms 2 {model_hash} {include_head}")
    paths = [root / f"{key}.safetensors" for key in keys]
    kept: dict[int, Kept] = {}
    for row, (key, path) in enumerate(zip(keys, paths, strict=True)):
        if norms := _cached(path):
            kept[row] = Kept(norms, "cached")
        elif norms := shipped_norms(SHIPPED).get(key):
            kept[row] = Kept(norms, "shipped")
    missing = [row for row in range(len(paths)) if row not in kept]
    if missing:
        made = collect_sample_norms(model, batches, counts[missing], include_head=include_head)
        try:
            root.mkdir(parents=True, exist_ok=True)
            for row, norms in zip(missing, made, strict=True):
                norms.save(paths[row])
        except OSError as error:
            raise OSError(f"cannot write to the cache {root} (set MMLIB_CACHE): {error}") from error
        kept |= {row: Kept(norms, "computed") for row, norms in zip(missing, made, strict=True)}
    ordered = [kept[row] for row in range(len(paths))]
    for each in ordered:
        _LOG.info("norms %s", each.source)
    return ordered


def _keys(batches: Sequence[Batch], counts: torch.Tensor, scope: str) -> list[str]:
    """A name for the prompts of each sample, whatever their order."""
    prompts = [
        hashlib.sha256(ids[mask].numpy().tobytes()).hexdigest()
        for batch in batches
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True)
    ]
    names = []
    for row in counts.int().tolist():
        own = sorted(f"{prompt} {n}" for prompt, n in zip(prompts, row, strict=True) if n)
        names.append(hashlib.sha256("\n".join([scope, *own]).encode()).hexdigest()[:32])
    return names


def _cached(path: Path) -> ActivationNorms | None:
    try:
        return ActivationNorms.load(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        warnings.warn(f"{error}; it is computed again", stacklevel=3)
        return None


@cache
def shipped_norms(folder: Path) -> Mapping[str, ActivationNorms]:
    """The norms of a folder that `ship_norms` has written, by the keys of their samples.

    Raises:
        ValueError: A file is damaged.
    """
    if not (folder / "norms.json").exists():
        return {}
    table, manifest = load_table("norms", folder)
    path = folder / "norms.safetensors"
    if not path.exists() or sha256(path) != manifest["run"]["parameters"]["sha256"]:
        raise ValueError(
            f"{path} is not the file its manifest describes: restore it with git, or remove its "
            "folder, and all norms are computed"
        )
    with safe_open(path, framework="pt") as file:  # its digest is right
        stacked = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        shared = json.loads(file.metadata()["shared"])
    return {
        row.key: ActivationNorms(
            {name: rows[row.Index] for name, rows in stacked.items()}, shared, row.num_samples
        )
        for row in table.itertuples()
    }


def ship_norms(runs: Path, folder: Path = SHIPPED) -> Path:
    """Ship the norms that runs have left in their cache (`MMLIB_CACHE`), in place of those so far.

    Returns:
        The table of the samples; the vectors and the manifest lie beside it.

    Raises:
        ValueError: No norms are there, one is damaged, or their models have different shapes.
    """
    paths = sorted((runs / "norms").glob("*.safetensors"))
    if not paths:
        raise ValueError(f"{runs} holds no norms: run chapters with MMLIB_CACHE={runs} first")
    norms = [ActivationNorms.load(path) for path in paths]
    first = norms[0]
    shapes = [{name: len(vector) for name, vector in n.vectors.items()} for n in norms]
    if any(n.shared != first.shared for n in norms) or any(s != shapes[0] for s in shapes):
        raise ValueError(f"the norms in {runs} are of models of several shapes: ship those of one")
    vectors = {name: torch.stack([n.vectors[name] for n in norms]) for name in first.vectors}
    sizes = [n.num_samples for n in norms]
    folder.mkdir(parents=True, exist_ok=True)
    ActivationNorms(vectors, first.shared, sum(sizes)).save(folder / "norms.safetensors")
    table = pd.DataFrame({"key": [path.stem for path in paths], "num_samples": sizes})
    run = RunInfo.collect("", parameters={"sha256": sha256(folder / "norms.safetensors")})
    shipped_norms.cache_clear()
    return write_table(table, "norms", run, folder=folder)


def audit_norms(shipped: ActivationNorms, again: ActivationNorms, sample: str) -> float:
    """Compare shipped norms of a sample with those computed here; the largest difference.

    It is a share of the largest entry of its vector: another processor adds in another order.

    Raises:
        AuditError: It is more than `TOLERANCE`, or not a number.
    """
    shares = {
        name: float((vector.cpu() - shipped.vectors[name]).abs().max() / (vector.max() + 1e-30))
        for name, vector in again.vectors.items()
    }
    worst = max(shares, key=lambda name: (shares[name] != shares[name], shares[name]))
    if not shares[worst] <= TOLERANCE:
        raise AuditError(
            f"the shipped norms of {sample} are not those computed here: at {worst} they differ by "
            f"{shares[worst]:.2g} of the largest, and {TOLERANCE:g} may be rounding. Tell it, or "
            f"remove {SHIPPED}, and all norms are computed"
        )
    _LOG.info("norms of %s computed again (largest difference %.0e)", sample, shares[worst])
    return shares[worst]
