"""Where mathematics and language live in the weights of multilingual language models.

`from mmlib import …` gives the public names below; each is loaded when it is first asked for, so
that rooms which need no torch stay quick. What stands here besides is where the shipped models lie,
and the writing of a file or a folder as a whole, or not at all.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

_PUBLIC = {
    "mmlib.models": "decoder_layers linear_modules load_model model_hash untrained_like",
    "mmlib.forward": "batches observe",
    "mmlib.importance": "ActivationNorms ImportanceScores collect_norms math_specific",
    "mmlib.masks": "ParameterMask chance_jaccard jaccard random_mask",
    "mmlib.overlap": "overlap_sweep overlap_table",
    "mmlib.edits": "holding pruned scaled trainable_only tuned_weights",
    "mmlib.merging": "LayerPlan merged soup task_arithmetic ties update_magnitude",
    "mmlib.neurons": "Firing firing_rates overlap_with_english select_layers",
    "mmlib.finetune": "TrainingPlan encode fine_tune mean_loss",
    "mmlib.tasks.problems": "calibration",
    "mmlib.tasks.evaluation": "evaluate",
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names.split()}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"mmlib has no {name!r}: choose from {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__


ORGANISMS = Path(__file__).parent / "organisms"


@contextmanager
def replacing(target: str | Path) -> Iterator[Path]:
    """Give a path to write a file or a folder to, which takes the place of `target` at the end.

    The path is on the same disk and has the same name. If the block raises, what it wrote is
    removed and `target` stays as it was.

    Args:
        target: File or folder; its parents are made.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        path = Path(folder) / target.name
        yield path
        replace(path, target)


def replace(source: Path, target: Path) -> None:
    """Move a file or a folder to `target` on the same disk, in the place of what stands there."""
    source.stat()  # it is there, before anything else moves
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as old:
        if target.is_dir():  # one that is not empty cannot be replaced in one step
            target.rename(Path(old) / "old")
        os.replace(source, target)
