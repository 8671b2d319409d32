"""Small tables of every kind that is drawn, and how each figure is asked for."""

from itertools import combinations

import numpy as np
import pandas as pd

from mmlib.book import figures as plotting
from mmlib.study.tables import published

CODES = ["en", "de", "fr", "hi"]


RNG = np.random.default_rng(5)


def overlaps(codes=CODES, *, model="organism-skewed", seeds=(1, 101, 201), layers=4, same=False):
    pairs = [(c, c) for c in codes] if same else list(combinations(codes, 2))
    rows = []
    for (a, b), k, seed in ((p, k, s) for p in pairs for k in (0.01, 0.1) for s in seeds):
        for layer in [None, *range(layers)]:
            size_a, size_b, shared = 900, 700, int(RNG.integers(100, 600))
            rows.append({
                "model": model, "lang_a": a, "lang_b": b, "keep_ratio": k, "seed": seed,
                "nonmath": "organism-reading", "group": "global" if layer is None else "layer",
                "layer": layer, "size_a": size_a, "size_b": size_b, "intersection": shared,
                "union": size_a + size_b - shared, "jaccard": shared / (size_a + size_b - shared),
                "n_scored": 30_000, "expected_intersection": 25.0,
            })  # fmt: skip
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def sizes(codes=CODES, *, keep_ratios=(0.001, 0.01, 0.1), seeds=(1, 101, 201)):
    return pd.DataFrame(
        {"model": "organism-skewed", "lang": c, "keep_ratio": k, "seed": s, "group": "global",
         "n_topk": int(1e6 * k), "n_math_specific": int(RNG.integers(100, 1e6 * k))}
        for c in codes for k in keep_ratios for s in seeds
    )  # fmt: skip


def controls():
    untrained = overlaps(["en", "de", "hi"]).assign(control="untrained")
    return pd.concat([overlaps(same=True).assign(control="same language"), untrained])


def answers():
    row = {"accuracy": [0.9, 0.8, 0.5], "low": [0.85, 0.75, 0.4], "high": [0.94, 0.84, 0.6]}
    table = pd.DataFrame({"lang": ["hi", "en", "de"], **row})
    return pd.concat([table.assign(task="math"), table.assign(task="reading", accuracy=0.5)])


def travelled():
    """Losses of every ordered pair of languages, by two kinds of weights."""
    rows = [
        (kind, a, b, 0.1 * i + 0.02 * j + shift, 0.9 - 0.1 * i)
        for kind, shift in (("whole", 0.3), ("own", 0.0))
        for i, a in enumerate(CODES)
        for j, b in enumerate(CODES)
    ]
    return pd.DataFrame(rows, columns=["weights", "edited", "lang", "loss", "jaccard"])


def log():
    return pd.DataFrame({"tokens": [1e5, 2e5, 3e5], "loss": [6, 3, 2.5], "lr": [1, np.nan, 0.5]})


FIGURES = {
    "set_sizes": lambda: plotting.set_sizes(
        sizes(), published("mathlang_set_sizes").query("source == 'jaccard_file'"), sizes()
    ),
    "overlap_pairs": lambda: plotting.overlap_pairs(
        overlaps(), published("mathlang_overlap"), controls()
    ),
    "layer_profile": lambda: plotting.layer_profile(
        overlaps(), published("mathlang_overlap"), controls()
    ),
    "overlap_heatmap": lambda: plotting.overlap_heatmap(
        pd.concat([overlaps(), overlaps(same=True)])
    ),
    "training_curve": lambda: plotting.training_curve(log(), columns=["loss", "lr"]),
    "bars": lambda: plotting.bars(travelled(), "Loss", **BARS),
    "dots": lambda: plotting.dots(travelled(), "Loss", y="lang", x="loss", look="weights"),
    "matrix": lambda: plotting.matrix(travelled(), "Loss", **PAIRS, value="loss", panel="weights"),
    "scatter": lambda: plotting.scatter(
        travelled(), "Loss", x="jaccard", y="loss", look="edited", panel="weights"
    ),
}


BARS = {"y": "lang", "x": "loss", "look": "edited", "panel": "weights"}
PAIRS = {"rows": "edited", "columns": "lang"}


def rgb(color):
    return pd.Series([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
