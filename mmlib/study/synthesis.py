"""Three views of the layers beside a causal yardstick: do they name the same ones?

A view gives every layer a value without changing anything: how far languages share its math
weights, how its neurons fire, how far fine-tuning moved it. A yardstick changes one layer at a time
and measures by how much right answers become less expected.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.edits import pruned
from mmlib.finetune import encode, mean_loss
from mmlib.forward import batches
from mmlib.masks import ParameterMask, random_mask
from mmlib.merging import LayerPlan, swapped_layers, update_magnitude
from mmlib.models import decoder_layers
from mmlib.neurons import firing_rates, overlap_with_english, ranges
from mmlib.study.evidence import audit_values, read_evidence, shipped
from mmlib.study.experts import MATH, Pair, Training, load_expert, load_pair
from mmlib.study.firing import draw_questions
from mmlib.study.localisation import math_sets, set_tables
from mmlib.study.settings import Loading, Sampling
from mmlib.study.stats import seed_interval
from mmlib.study.tables import RunInfo
from mmlib.tasks.problems import load_problems

Examples = Sequence[Mapping[str, list[int]]]
CELL = ["seed", "lang"]
EVIDENCE = {"view": "layer_views", "yardstick": "layer_yardsticks"}
"""Shipped tables, by the column that names a profile."""
MADE_WITH = ("dtype", "math", "nonmath", "num_samples", "keep_ratio", "prune_ratio")
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
    depth: int
    """Decoder layers."""
    run: RunInfo


def rows(given: Mapping[str, Any]) -> Layers:
    """Exchange the layers of a pair, beside all views and yardsticks, shipped or computed.

    Args:
        given: Parameters of the page. With `sweep` the experts are trained, and everything is
            measured.

    Raises:
        ValueError: As in `mmlib.study.evidence.shipped` and `load_pair`.
        AuditError: What was computed again is not what was shipped.
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
        tables = _sweep(loading, training, base, tokenizer, answers, given, run.model)
        tables = {kind: table.assign(**told) for kind, table in tables.items()}
    else:
        cells = pd.MultiIndex.from_product([targets, seeds, range(depth)])
        cells = cells.set_names(["lang", "seed", "layer"]).to_frame(index=False)
        tables = {}
        for kind, name in EVIDENCE.items():
            evidence, manifest = read_evidence(name)
            wanted = cells.merge(evidence[[kind]].drop_duplicates(), how="cross").assign(**told)
            tables[kind] = shipped(wanted, evidence, manifest, run, made_with=MADE_WITH)
    trained = set(pair.seeds) <= set(seeds) and len(set(pair.seeds)) == 1
    audited = pd.DataFrame()
    if trained and pair.target in targets and not given["sweep"]:
        audited = _audit(base, pair, exchanged, tables)
    views = tables["view"].rename(columns={"view": "name"})
    layers = views[views.name == views.name.iloc[0]]
    views = pd.concat([views, layers.assign(name="depth", value=layers.layer.astype(float))])
    names = {"yardstick": "name", "change": "value"}
    changes = tables["yardstick"].rename(columns=names).replace({"name": SHORT})
    sides = changes.pivot(index=["lang", "seed", "layer"], columns="name", values="value")
    beyond = (sides["prune math"] - sides["prune random"]).rename("value")
    changes = pd.concat([changes, beyond.reset_index().assign(name="beyond random")])
    made = {EVIDENCE[kind]: table for kind, table in tables.items() if given["sweep"]}
    return Layers(exchanged, views, changes, audited, made, depth, run)


def _sweep(
    loading: Loading,
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
    paths = {
        (role, seed): training.expert(base, tokenizer, role, name=name, seed=seed)
        for role in roles
        for seed in seeds
    }
    texts = {
        code: training.drawn(code, tokenizer, seed=seeds[0])[1][: given["items"]]
        for code in targets
    }
    skip = [token for token in [tokenizer.bos_token_id] if token is not None]
    asking = {"number": given["num_questions"], "data_dir": given["data_dir"]}
    views, measured = [], []
    for sample, seed in zip(given["samples"], seeds, strict=True):
        scores = Sampling.of(given, seeds=[sample]).scores(base, tokenizer)
        overlap = set_tables(scores, math, nonmath, [given["keep_ratio"]]).overlap
        asked = draw_questions(math, given["languages"], seed=sample, **asking)
        rates = {
            code: firing_rates(base, batches(tokenizer, prompts), skip=skip).rates()
            for code, prompts in asked.items()
        }
        experts = {role: load_expert(loading, paths[role, seed])[0] for role in roles}
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
    losses = audit_values(
        tables["yardstick"], exchanged, on=["yardstick", *on], values=["loss"]
    ).replace({"value": {"loss": "loss with another layer"}})
    updates = audit_values(tables["view"], moved, on=["view", *on], values=["value"])
    updates = updates.replace({"value": {"value": "update of a layer"}})
    return pd.concat([losses, updates], ignore_index=True)


def mean_ranks(profiles: pd.DataFrame) -> pd.DataFrame:
    """Rank of every layer, 1 for the highest value, mean over languages and seeds.

    Args:
        profiles: As in `rank_agreement`.

    Returns:
        Layers x names.
    """
    ranks = profiles.groupby(["name", "seed", "lang"]).value.rank(ascending=False)
    ranks = profiles.assign(rank=ranks).groupby(["layer", "name"], sort=False)["rank"]
    return ranks.mean().unstack()


def layer_views(
    overlap: pd.DataFrame,
    rates: Mapping[str, np.ndarray],
    math_update: pd.DataFrame,
    language_updates: Mapping[str, pd.DataFrame],
    *,
    english: str = "en",
) -> pd.DataFrame:
    """What each of the three methods says of every layer.

    Args:
        overlap: Overlap rows of `localisation.set_tables` with group "layer", of one seed and
            keep ratio.
        rates: Language -> firing rates (layers, neurons), see `mmlib.neurons.Firing.rates`.
        math_update: See `mmlib.merging.update_magnitude`, of the math expert.
        language_updates: The same by language, of the language experts.
        english: The language whose neurons the others are compared with.

    Returns:
        view, lang, layer, value: "math-set overlap" (mean Jaccard with the other languages),
        "firing overlap" (with English), "firing MSD" (variance over languages of the mean rate, one
        profile for all), "math update" (mean |ΔW|, one profile for all) and "language update", for
        the languages of `language_updates`.
    """
    pairs = overlap[overlap.lang_a != overlap.lang_b]
    both = pd.concat([pairs.assign(lang=pairs.lang_a), pairs.assign(lang=pairs.lang_b)])
    shared = both.groupby(["lang", "layer"]).jaccard.mean().unstack("lang")
    firing = overlap_with_english(rates, english=english)
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
    """Mean |ΔW| over the weights of each decoder layer.

    Args:
        update: See `mmlib.merging.update_magnitude`.
    """
    inside = update.dropna(subset="layer")
    sums = (inside.absolute * inside.n).groupby(inside.layer).sum()
    return (sums / inside.groupby("layer").n.sum()).rename_axis("layer")


def pruned_layers(
    model: PreTrainedModel,
    sets: Mapping[str, ParameterMask],
    examples: Mapping[str, Examples],
    *,
    seed: int,
) -> pd.DataFrame:
    """Prune the math weights of one layer at a time, and as many random ones.

    Args:
        model: As it was afterwards.
        sets: Language -> its math-specific set.
        examples: Language -> math, see `mmlib.finetune.encode`.
        seed: Of the random weights, as many in every matrix.

    Returns:
        lang, layer, yardstick ("prune math weights", "prune random weights"), n_weights, loss
        without them, in nats per token of the answer, and change = loss - that of the whole model.
    """
    prefix, layers = decoder_layers(model)
    rows = []
    for code, own in sets.items():
        whole = mean_loss(model, examples[code])
        drawn = random_mask(own, seed=seed)
        for name, mask in (("prune math weights", own), ("prune random weights", drawn)):
            for layer in range(len(layers)):
                with pruned(model, layer_of(mask, f"{prefix}.{layer}.")) as number:
                    loss = mean_loss(model, examples[code])
                rows.append((code, layer, name, number, loss, loss - whole))
    names = ["lang", "layer", "yardstick", "n_weights", "loss", "change"]
    return pd.DataFrame(rows, columns=names)


def layer_of(mask: ParameterMask, prefix: str) -> ParameterMask:
    """The part of a set in modules whose names begin so.

    Raises:
        ValueError: There is none.
    """
    own = {name: tensor for name, tensor in mask.items() if name.startswith(prefix)}
    if not own:
        raise ValueError(f"no module of the set begins with {prefix!r}")
    return ParameterMask(own)


def exchanged_layers(
    expert: PreTrainedModel, donor: PreTrainedModel, examples: Examples
) -> pd.DataFrame:
    """Give a model one layer of another at a time.

    Args:
        expert: As it was afterwards.
        donor: Of the same base; or the base itself, which reverts one layer.
        examples: See `mmlib.finetune.encode`.

    Returns:
        layer, loss with the donor's layer, in nats per token, and change = loss - the expert's.

    Raises:
        ValueError: See `mmlib.merging.check_comparable`.
    """
    depth = len(decoder_layers(expert)[1])
    whole, rows = mean_loss(expert, examples), []
    for layer in range(depth):
        plan = LayerPlan(tuple(float(i == layer) for i in range(depth)))
        with swapped_layers(expert, donor, plan, others="math"):
            loss = mean_loss(expert, examples)
        rows.append((layer, loss, loss - whole))
    return pd.DataFrame(rows, columns=["layer", "loss", "change"])


def yardsticks(
    base: PreTrainedModel,
    math_expert: PreTrainedModel,
    language_experts: Mapping[str, PreTrainedModel],
    sets: Mapping[str, ParameterMask],
    math: Mapping[str, Examples],
    texts: Mapping[str, Examples],
    *,
    seed: int,
) -> pd.DataFrame:
    """Change every layer on its own, in five ways.

    Args:
        base: What the experts were fine-tuned from.
        math_expert: Math expert.
        language_experts: Language -> expert.
        sets: Language -> math-specific set of the base.
        math: Language -> math in it.
        texts: Language -> held-out texts of the kind that its expert has learned.
        seed: Of the random weights.

    Returns:
        yardstick, lang, layer, loss, change (in nats per token; above zero is worse): those of
        `pruned_layers` in the base; of `exchanged_layers` "take from the language expert" and "take
        from the base" (the math expert, on math) and "revert the language expert" (to the base, on
        its own texts).
    """
    tables = [pruned_layers(base, {x: sets[x] for x in language_experts}, math, seed=seed)]
    for code, expert in language_experts.items():
        exchanges = {
            "take from the language expert": (math_expert, expert, math[code]),
            "take from the base": (math_expert, base, math[code]),
            "revert the language expert": (expert, base, texts[code]),
        }
        for name, exchange in exchanges.items():
            tables.append(exchanged_layers(*exchange).assign(lang=code, yardstick=name))
    names = ["yardstick", "lang", "layer", "loss", "change"]
    return pd.concat(tables, ignore_index=True)[names]


def rank_agreement(left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation over the layers of every profile of one kind with every one of another.

    Args:
        left: name, seed, lang, layer, value.
        right: The same columns; may be the same table.

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
    rhos = {}
    for cell in cells:
        sides = [table.loc[cell].sort_index() for table in wide]
        for a in sides[0]:
            for b in sides[1]:
                rho = _spearman(sides[0][a].to_numpy(), sides[1][b].to_numpy())
                rhos.setdefault((a, b), []).append((*cell, rho))
    rows = []
    for names, values in rhos.items():
        table = pd.DataFrame(values, columns=[*CELL, "rho"]).dropna()
        if len(table):
            rows.append((*names, *seed_interval(table.groupby("seed").rho.mean())))
    table = pd.DataFrame(rows, columns=["left", "right", "rho", "low", "high", "n"])
    return table.assign(low=table.low.clip(lower=-1), high=table.high.clip(upper=1))


def beyond_chance(agreement: pd.DataFrame, least: float) -> pd.Series:
    """Whether a correlation is one that chance rarely gives, and its interval has no 0.

    Args:
        agreement: See `rank_agreement`.
        least: See `chance_rank_correlation`.
    """
    return (agreement.rho.abs() >= least) & (agreement.low * agreement.high > 0)


def repeatability(table: pd.DataFrame) -> pd.Series:
    """Rank correlation of each profile with itself in another seed: what a comparison can reach.

    Args:
        table: As in `rank_agreement`.

    Returns:
        By name, the mean over pairs of seeds and over languages; not a number with one seed.
    """
    wide = table.pivot(index=["name", "lang", "layer"], columns="seed", values="value")
    pairs = list(itertools.combinations(wide.columns, 2))
    if not pairs:
        return pd.Series(np.nan, table.name.unique())
    rhos = wide.groupby(level=["name", "lang"]).apply(
        lambda own: np.nanmean([_spearman(own[a].to_numpy(), own[b].to_numpy()) for a, b in pairs])
    )
    return rhos.groupby(level="name").mean()


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rho; not a number where one side is constant or incomplete."""
    if np.isnan(x).any() or np.isnan(y).any() or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(spearmanr(x, y).statistic)


def chance_rank_correlation(depth: int, *, draws: int = 20_000, seed: int = 0) -> float:
    """Least |rho| that at most one of twenty pairs of unrelated orders of so many layers reaches.

    Few layers have few values of rho; this is one of them, rounded down so that an equal rho that
    was computed in another way reaches it.
    """
    rng, ranks = np.random.default_rng(seed), np.arange(depth) - (depth - 1) / 2
    orders = rng.permuted(np.tile(ranks, (draws, 1)), axis=1)
    found, counts = np.unique(np.abs(orders @ ranks) / (ranks @ ranks), return_counts=True)
    reached = counts[::-1].cumsum()[::-1] / draws
    rare = found[reached <= 0.05]
    return float(np.floor(rare.min() * 1e6) / 1e6) if len(rare) else 1.0
