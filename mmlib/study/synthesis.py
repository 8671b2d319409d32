"""Three views of the layers beside a causal yardstick: do they name the same ones?

A view gives every layer a value without changing anything: how far languages share its math
weights, how its neurons fire, how far fine-tuning moved it. A yardstick changes one layer at a time
and measures by how much right answers become less expected.
"""

import itertools
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.finetune import encode
from mmlib.merging import update_magnitude
from mmlib.models import decoder_layers
from mmlib.neurons import overlap_with_english, ranges
from mmlib.study.evidence import audit_values, read_evidence, shipped
from mmlib.study.experts import MATH, Pair, Training, load_pair
from mmlib.study.firing import draw_questions, question_firing
from mmlib.study.localisation import math_sets, set_tables
from mmlib.study.settings import Loading, Sampling
from mmlib.study.stats import seed_interval
from mmlib.study.tables import RunInfo, item_costs
from mmlib.study.yardsticks import Examples, exchanged_layers, yardsticks
from mmlib.tasks.problems import load_problems

CELL = ["seed", "lang"]
EVIDENCE = {"view": "layer_views", "yardstick": "layer_yardsticks"}
"""Shipped tables, by the column that names a profile."""
MADE_WITH = ("dtype", "math", "nonmath", "num_samples", "drawing", "keep_ratio", "prune_ratio")
MADE_WITH += ("num_questions", "items", "math_tasks", "language_tasks", "train_batch")
MADE_WITH += ("accumulation", "bf16", "samples", "languages", "data_dir", "train_dir", "heldout")
"""Parameters that they have to share with the run that checks them."""
METHOD = {
    "math-set overlap": "sets",
    "firing overlap": "firing",
    "firing MSD": "firing",
    "math update": "updates",
    "language update": "updates",
    "depth": "depth",
}
"""What each view looks at; depth, the number of the layer, looks at nothing."""
SHORT = {
    "prune math weights": "prune math",
    "prune random weights": "prune random",
    "take from the language expert": "from language",
    "take from the base": "from base",
    "revert the language expert": "revert language",
}
"""Yardsticks, as they are called in figures."""


class Layers(NamedTuple):
    """What `rows` gives."""

    exchanged: pd.DataFrame
    """Result of `exchanged_layers`, for the pair of the page."""
    views: pd.DataFrame
    """name, seed, lang, layer, value: see `layer_views`, and depth."""
    yardsticks: pd.DataFrame
    """The same columns, value being the change: see `SHORT`, and "beyond random": the difference
    of the two prunings."""
    audited: pd.DataFrame
    """The pair in the evidence (see `mmlib.study.evidence.audit_values`); or empty."""
    made: dict[str, pd.DataFrame]
    """Tables of a sweep, by name."""
    run: RunInfo


def rows(given: Mapping[str, Any]) -> Layers:
    """Exchange the layers of a pair, beside all views and yardsticks, shipped or computed.

    In a sweep the experts are trained, and everything is measured.
    """
    loading, training = Loading.of(given), Training.of(given, data_dir=given["train_dir"])
    base, tokenizer = loading.load()
    run = loading.run(base, given)
    told = {"model": run.model, **training.recipe}
    depth, pair = len(decoder_layers(base)[1]), load_pair(loading, tokenizer, given)
    seeds, targets, place = given["seeds"], given["targets"], given["data_dir"] or None
    answers = {}
    for code in targets:
        problems = load_problems(given["math"], code, data_dir=place, split=given["split"])
        texts = [(p.prompt, p.response) for p in problems[: given["items"]]]
        answers[code] = encode(tokenizer, texts)

    names = {"lang": pair.target, "seed": min(pair.seeds)}
    exchanged = exchanged_layers(pair.math, pair.language, answers[pair.target])
    exchanged = exchanged.assign(yardstick="take from the language expert", **names)
    if given["sweep"]:
        tables = _sweep(training, base, tokenizer, answers, given, run.model)
        tables = {kind: table.assign(**told) for kind, table in tables.items()}
    else:
        every, names = [targets, seeds, range(depth)], ["lang", "seed", "layer"]
        cells = pd.MultiIndex.from_product(every, names=names).to_frame(index=False)
        tables = {}
        for kind, name in EVIDENCE.items():
            evidence, manifest = read_evidence(name)
            wanted = cells.merge(evidence[[kind]].drop_duplicates(), how="cross").assign(**told)
            tables[kind] = shipped(wanted, evidence, manifest, run, made_with=MADE_WITH)
    first, second = pair.seeds
    known = first == second and first in seeds and pair.target in targets and not given["sweep"]
    audited = _audit(base, pair, exchanged, tables) if known else pd.DataFrame()
    views = tables["view"].rename(columns={"view": "name"})
    layers = views[views.name == views.name.iloc[0]]
    views = pd.concat([views, layers.assign(name="depth", value=layers.layer.astype(float))])
    names = {"yardstick": "name", "change": "value"}
    changes = tables["yardstick"].rename(columns=names).replace({"name": SHORT})
    sides = changes.pivot(index=["lang", "seed", "layer"], columns="name", values="value")
    beyond = (sides["prune math"] - sides["prune random"]).rename("value")
    changes = pd.concat([changes, beyond.reset_index().assign(name="beyond random")])
    made = {EVIDENCE[kind]: table for kind, table in tables.items() if given["sweep"]}
    return Layers(exchanged, views, changes, audited, made, run)


def _sweep(
    training: Training,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    answers: Mapping[str, Examples],
    given: Mapping[str, Any],
    name: str,
) -> dict[str, pd.DataFrame]:
    """Train the experts, and look at every layer in every way, once per seed."""
    math, nonmath, targets = given["math"], given["nonmath"], given["targets"]
    roles, seeds = [MATH, *targets], given["seeds"]
    train = partial(training.expert, base, tokenizer, name=name)
    aside = {code: training.drawn(code, tokenizer, seed=seeds[0])[1] for code in targets}
    texts = {code: examples[: given["items"]] for code, examples in aside.items()}
    asking = {"number": given["num_questions"], "data_dir": given["data_dir"]}
    views, measured = [], []
    for sample, seed in zip(given["samples"], seeds, strict=True):
        scores = Sampling.of(given, seeds=[sample]).scores(base, tokenizer)
        overlap = set_tables(scores, math, nonmath, [given["keep_ratio"]]).overlap
        asked = draw_questions(math, given["languages"], seed=sample, **asking)
        fired = question_firing(base, tokenizer, asked)
        rates = {code: firing.rates() for code, firing in fired.items()}
        experts = {role: train(role, seed=seed).model for role in roles}
        moved = {role: update_magnitude(base, expert) for role, expert in experts.items()}
        of_math, expert = moved.pop(MATH), experts.pop(MATH)
        seen = layer_views(overlap[overlap.group == "layer"], rates, of_math, moved)
        sets = math_sets(scores, math, nonmath, given["prune_ratio"], sample)
        changes = yardsticks(base, expert, experts, sets, answers, texts, seed=sample)
        views.append(seen.assign(seed=seed))
        measured.append(changes.assign(seed=seed))
    tables = {"view": views, "yardstick": measured}
    return {kind: pd.concat(parts, ignore_index=True) for kind, parts in tables.items()}


def _audit(
    base: PreTrainedModel,
    pair: Pair,
    exchanged: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame],
) -> pd.DataFrame:
    """Losses and updates of the pair, against the same pair in the evidence."""
    on = ["lang", "seed", "layer"]
    moved = {"math update": pair.math, "language update": pair.language}
    moved = {name: update_by_layer(update_magnitude(base, it)) for name, it in moved.items()}
    moved = pd.concat(moved, names=["view"]).rename("value").reset_index()
    moved = moved.assign(lang=pair.target, seed=min(pair.seeds))
    losses = audit_values(tables["yardstick"], exchanged, on=["yardstick", *on], values=["loss"])
    updates = audit_values(tables["view"], moved, on=["view", *on], values=["value"])
    names = {"loss": "loss with another layer", "value": "update of a layer"}
    return pd.concat([losses, updates], ignore_index=True).replace({"value": names})


def desk(keep_ratio: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Views and yardsticks of a real LLM, from tables that other chapters ship, see `Layers`.

    Languages are taken together (lang is ""). A seed is the number of a block of prompts or of
    questions, and of a training.
    """
    names = ("overlap", "firing", "firing_shared", "swapped_moves", "layers")
    overlap, firing, shared, moves, edits = (read_evidence(f"desk_{name}")[0] for name in names)
    overlap = overlap[(overlap.group == "layer") & (overlap.keep_ratio == keep_ratio)]
    by, of_math = ["seed", "layer"], moves.role == MATH
    views = {
        "math-set overlap": overlap.groupby(by).jaccard.mean(),
        "firing overlap": shared.groupby(by).overlap.mean(),
        "firing MSD": firing.groupby(by).rate.var(ddof=0),
        "math update": moves[of_math].groupby(by).share.mean(),
        "language update": moves[~of_math].groupby(by).share.mean(),
        "depth": overlap.astype({"layer": float}).groupby(by).layer.first(),
    }
    costs = item_costs(edits.astype({"layer": "Int64"})).groupby(["condition", *by]).cost.mean()
    changes = {"prune math": costs["math-specific"], "prune random": costs["random"]}
    changes["beyond random"] = changes["prune math"] - changes["prune random"]
    tables = (pd.concat(kind, names=["name"]).rename("value") for kind in (views, changes))
    return tuple(table.reset_index().assign(lang="") for table in tables)


def mean_ranks(profiles: pd.DataFrame) -> pd.DataFrame:
    """Rank of every layer, 1 for the highest value, mean over languages and seeds: layers x names.

    The profiles are those of `rank_agreement`.
    """
    ranks = profiles.groupby(["name", "seed", "lang"]).value.rank(ascending=False)
    ranks = profiles.assign(rank=ranks).groupby(["layer", "name"], sort=False)["rank"]
    return ranks.mean().unstack()


def layer_views(
    overlap: pd.DataFrame,
    rates: Mapping[str, np.ndarray],
    math_update: pd.DataFrame,
    language_updates: Mapping[str, pd.DataFrame],
) -> pd.DataFrame:
    """What each of the three methods says of every layer.

    Args:
        overlap: Overlap rows of `localisation.set_tables` with group "layer", of one seed and
            keep ratio.
        rates: Language -> firing rates (layers, neurons), see `mmlib.neurons.Firing.rates`.
        math_update: See `mmlib.merging.update_magnitude`, of the math expert.
        language_updates: The same by language, of the language experts.

    Returns:
        view, lang, layer, value: "math-set overlap" (mean Jaccard with the other languages),
        "firing overlap" (with English), "firing MSD" (variance over languages of the mean rate, one
        profile for all), "math update" (mean |ΔW|, one profile for all) and "language update", for
        the languages of `language_updates`.
    """
    pairs = overlap[overlap.lang_a != overlap.lang_b]
    both = pd.concat([pairs.assign(lang=pairs.lang_a), pairs.assign(lang=pairs.lang_b)])
    shared = both.groupby(["lang", "layer"]).jaccard.mean().unstack("lang")
    firing = overlap_with_english(rates)
    msd, moved = ranges(rates).var(axis=1, ddof=0), update_by_layer(math_update)
    tables = []
    for code, update in language_updates.items():
        columns = {
            "math-set overlap": shared[code].rename_axis("layer"),
            "firing overlap": firing[code],
            "firing MSD": msd,
            "math update": moved,
            "language update": update_by_layer(update),
        }
        of_lang = pd.concat({name: c.astype(float) for name, c in columns.items()}, names=["view"])
        tables.append(of_lang.rename("value").reset_index().assign(lang=code))
    return pd.concat(tables, ignore_index=True)[["view", "lang", "layer", "value"]]


def update_by_layer(update: pd.DataFrame) -> pd.Series:
    """Mean |ΔW| over the weights of each decoder layer, from `mmlib.merging.update_magnitude`."""
    inside = update.dropna(subset="layer")
    sums = (inside.absolute * inside.n).groupby(inside.layer).sum()
    return (sums / inside.groupby("layer").n.sum()).rename_axis("layer")


def rank_agreement(left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation over the layers of every profile of one kind with every one of another.

    Both tables have name, seed, lang, layer, value; they may be the same.

    Returns:
        left, right (the names), rho (mean over seeds of the mean over languages that both have),
        low, high (95 % interval over seeds, cut at -1 and 1), n (seeds). A profile without any
        differences has no ranks and does not count.

    Raises:
        ValueError: The tables have no seed and language in common.
    """
    wide = [t.pivot(index=[*CELL, "layer"], columns="name", values="value") for t in (left, right)]
    cells = sorted(set.intersection(*({i[:2] for i in t.index} for t in wide)))
    if not cells:
        raise ValueError("the profiles have no seed and language in common")
    rows = [
        (a, b, *cell, _spearman(wide[0].loc[cell, a], wide[1].loc[cell, b]))
        for cell in cells
        for a in wide[0]
        for b in wide[1]
    ]
    rhos = pd.DataFrame(rows, columns=["left", "right", *CELL, "rho"]).dropna()
    means = rhos.groupby(["left", "right", "seed"], sort=False).rho.mean()
    groups = means.groupby(["left", "right"], sort=False)
    rows = [(*names, *seed_interval(values)) for names, values in groups]
    table = pd.DataFrame(rows, columns=["left", "right", "rho", "low", "high", "n"])
    return table.assign(low=table.low.clip(lower=-1), high=table.high.clip(upper=1))


def compared(views: pd.DataFrame, changes: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`rank_agreement` of views of different methods, and of every view with every yardstick.

    The column "beyond chance" is by `beyond_chance`.
    """
    least = chance_rank_correlation(views.layer.nunique())
    among = rank_agreement(views, views)
    methods = [among[side].map(METHOD) for side in ("left", "right")]
    among = among[(among.left < among.right) & (methods[0] != methods[1])]
    return tuple(
        table.assign(**{"beyond chance": beyond_chance(table, least)})
        for table in (among, rank_agreement(views, changes))
    )


def in_words(against: pd.DataFrame) -> pd.DataFrame:
    """Rank correlations with their intervals, as text: yardsticks x views."""
    text = [f"{row.rho:.2f} ({row.low:.2f} to {row.high:.2f})" for row in against.itertuples()]
    table = against.assign(text=text).pivot(index="right", columns="left", values="text")
    return table.rename_axis(index="yardstick", columns="")


def told(views: pd.DataFrame, among: pd.DataFrame, against: pd.DataFrame) -> dict[str, Any]:
    """Numbers that the page repeats, from what `compared` gives.

    Both prunings count once, as "beyond random"; depth is no view.
    """
    counts = against[~against.right.isin(["prune math", "prune random"])]
    seeing, blind = counts[counts.left != "depth"], counts[counts.left == "depth"]
    best = seeing.loc[seeing.rho.abs().idxmax()]
    counted = among[(among.left != "depth") & (among.right != "depth")]
    pair = counted.loc[counted.rho.abs().idxmax()]
    numbers = {
        "depth": views.layer.nunique(),
        "chance": chance_rank_correlation(views.layer.nunique()),
        "n_among": len(counted),
        "n_agree": int(counted["beyond chance"].sum()),
        "n_pairs": len(seeing),
        "n_seen": int(seeing["beyond chance"].sum()),
        "n_yards": len(blind),
        "n_depth": int(blind["beyond chance"].sum()),
        "pair_left": pair.left,
        "pair_right": pair.right,
        "pair_rho": pair.rho,
        "best_view": best.left,
        "best_yard": best.right,
        "best_rho": best.rho,
    }
    answer = f"{numbers['n_agree']} of {len(counted)} pairs of views agree beyond chance, and "
    answer += f"{numbers['n_seen']} of {len(seeing)} pairs of a view and a yardstick"
    return numbers | {"answer_views": answer}


def beyond_chance(agreement: pd.DataFrame, least: float) -> pd.Series:
    """Whether a correlation is one that chance rarely gives, and its interval has no 0.

    From `rank_agreement`; `least` is the `chance_rank_correlation`.
    """
    return (agreement.rho.abs() >= least) & (agreement.low * agreement.high > 0)


def repeatability(table: pd.DataFrame) -> pd.Series:
    """Rank correlation of each profile with itself in another seed: what a comparison can reach.

    By name, the mean over pairs of seeds and over languages; not a number with one seed. The
    profiles are those of `rank_agreement`.
    """
    wide = table.pivot(index=["name", "lang", "layer"], columns="seed", values="value")
    pairs = list(itertools.combinations(wide.columns, 2))
    if not pairs:
        return pd.Series(np.nan, table.name.unique())
    rhos = wide.groupby(level=["name", "lang"]).apply(
        lambda own: np.nanmean([_spearman(own[a], own[b]) for a, b in pairs])
    )
    return rhos.groupby(level="name").mean()


def _spearman(x: pd.Series, y: pd.Series) -> float:
    """Spearman's rho; not a number where one side is constant or incomplete."""
    if any(side.hasnans or side.nunique() == 1 for side in (x, y)):
        return float("nan")
    return float(spearmanr(x, y).statistic)


def chance_rank_correlation(depth: int) -> float:
    """Least |rho| that at most one of twenty pairs of unrelated orders of so many layers reaches.

    Few layers have few values of rho; this is one of them, rounded down so that an equal rho that
    was computed in another way reaches it.
    """
    draws, rng, ranks = 20_000, np.random.default_rng(0), np.arange(depth) - (depth - 1) / 2
    orders = rng.permuted(np.tile(ranks, (draws, 1)), axis=1)
    found, counts = np.unique(np.abs(orders @ ranks) / (ranks @ ranks), return_counts=True)
    reached = counts[::-1].cumsum()[::-1] / draws
    rare = found[reached <= 0.05]
    return float(np.floor(rare.min() * 1e6) / 1e6) if len(rare) else 1.0
