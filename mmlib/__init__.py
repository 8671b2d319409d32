"""Where mathematics and language live in the weights of multilingual language models.

`from mmlib import …` gives the public names below; each is loaded when it is first asked for, so
that rooms which need no torch stay quick.
"""

from importlib import import_module

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
