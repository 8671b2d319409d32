"""What fine-tuning moves: how far every tensor of an expert is from its base."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from mmlib.merging import LayerPlan, update_magnitude
from mmlib.study.evidence import audit_values, read_evidence, shipped
from mmlib.study.experts import Examples, Training, expert_recipe, load_expert
from mmlib.study.settings import Loading
from mmlib.study.systems import begin
from mmlib.study.tables import RunInfo

MADE_WITH = ("dtype", "math_tasks", "language_tasks", "data_dir", "train_batch")
MADE_WITH += ("accumulation", "heldout", "bf16")
"""Parameters that shipped updates have to share with the run that checks them."""
RECIPE = ["steps", "embeddings", "learning_rate"]
"""What tells trainings of one base apart."""


class Moves(NamedTuple):
    """What `rows` gives."""

    examples: pd.DataFrame
    """First example of every role."""
    losses: pd.DataFrame
    """Held-out loss of every training: role, seed, model, `RECIPE`, first, last."""
    seen: pd.DataFrame
    """Updates of the tensors in the layers of the experts that are looked at (expert), with block
    (the last word of the module) and times (absolute over the mean of the expert)."""
    audited: pd.DataFrame
    """They against the same experts in the evidence (`mmlib.study.evidence.audit_values`)."""
    updates: pd.DataFrame
    """Updates of all experts, by role and seed; see `mmlib.merging.update_magnitude`."""
    begun: pd.DataFrame
    """The first steps of the first role, trained again, against the log of the evidence."""
    made: dict[str, pd.DataFrame]
    """Tables of a sweep, by name."""
    roles: list[str]
    """Of the updates."""
    run: RunInfo


def rows(given: Mapping[str, Any]) -> Moves:
    """Measure how far two experts are from their base, beside those that were trained.

    In a sweep an expert of every role and seed is trained; else the updates are shipped and
    `audit_steps` steps are trained again. Without `roles` there are only the `experts` that are
    looked at.
    """
    loading, training = Loading.of(given), Training.of(given)
    base, tokenizer = loading.load()
    run = loading.run(base, given)
    told = {"model": run.model} | {name: given[name] for name in RECIPE}
    roles, seeds = given["roles"], given["seeds"]
    examples = {role: training.drawn(role, tokenizer, seed=seeds[0])[0] for role in roles}
    wanted = pd.MultiIndex.from_product([roles, seeds], names=["role", "seed"])

    made, paths, updates = {}, {}, pd.DataFrame()
    if given["sweep"]:
        logs, moved = {}, {}
        for role, seed in wanted:
            expert = training.expert(base, tokenizer, role, name=run.model, seed=seed)
            logs[role, seed], paths[role, seed] = expert.log, str(expert.folder)
            moved[role, seed] = update_magnitude(base, expert.model)
        made = {
            name: pd.concat(tables, names=wanted.names).reset_index(wanted.names).assign(**told)
            for name, tables in (("expert_log", logs), ("expert_updates", moved))
        }
    log = made["expert_log"] if made else read_evidence("expert_log")[0]
    if made:
        updates = made["expert_updates"]
    elif roles:
        tensors = update_magnitude(base, base)[["tensor"]]
        cells = wanted.to_frame(index=False).merge(tensors, how="cross").assign(**told)
        updates = shipped(cells, *read_evidence("expert_updates"), run, made_with=MADE_WITH)

    experts = given["experts"] or [*paths.values()][:2]
    seen = {name: update_magnitude(base, load_expert(loading, name)[0]) for name in experts}
    seen = pd.concat(seen, names=["expert"])
    seen = seen.reset_index("expert").dropna(subset="layer")
    seen["times"] = seen.absolute / seen.groupby("expert").absolute.transform("mean")
    seen["block"] = seen.module.str.rpartition(".")[2]
    recipes = pd.DataFrame({name: expert_recipe(name) for name in experts}).T
    recipes = recipes.reindex(columns=["role", "seed", *RECIPE])
    if not roles:
        recipes["seed"] = recipes.groupby("role").cumcount()
    trained = (recipes[RECIPE] == pd.Series(told)[RECIPE]).all(axis=1) & recipes.role.isin(roles)
    fresh = seen.merge(recipes[["role", "seed"]], left_on="expert", right_index=True)
    fresh = fresh.astype({"seed": int})
    again = fresh[fresh.expert.isin(recipes.index[trained])]
    on = ["role", "seed", "tensor"]
    audited = audit_values(updates, again, on=on, values=["absolute"]) if len(again) else again
    begun = _begun(base, training, examples, log, told, given) if roles else pd.DataFrame()
    shown = {role: tokenizer.decode(kept[0]["input_ids"]) for role, kept in examples.items()}
    ends = log.dropna(subset="heldout_loss").sort_values("step")
    ends = ends.groupby([*wanted.names, *told], sort=False).heldout_loss.agg(["first", "last"])
    return Moves(
        examples=pd.DataFrame({"first example": shown}).rename_axis("role"),
        losses=ends.reset_index(),
        seen=seen,
        audited=audited,
        updates=updates if roles else fresh,
        begun=begun,
        made=made,
        roles=roles or list(dict.fromkeys(recipes.role)),
        run=run,
    )


def _begun(
    base: PreTrainedModel,
    training: Training,
    examples: Mapping[str, Examples],
    log: pd.DataFrame,
    told: Mapping[str, Any],
    given: Mapping[str, Any],
) -> pd.DataFrame:
    """Train the first steps of the first role again, and compare their loss with the log's."""
    role, seed = given["roles"][0], given["seeds"][0]
    plan = training.plan(training.learning_rate, seed=seed, stop=given["audit_steps"])
    stage = training.stage(base, role)
    begun, _ = begin(base, [stage], examples, {stage.kind: plan}, exact=False)
    again, on = begun.assign(role=role, seed=seed), ["role", "seed", "step"]
    kept = log[(log[list(told)] == pd.Series(told)).all(axis=1)]
    return audit_values(kept, again, on=on, values=["loss"], tolerance=0.05)


def layer_shares(updates: pd.DataFrame) -> pd.Series:
    """Share of every layer in what an expert moved in all layers, by role, seed and layer."""
    layers = updates.dropna(subset="layer")
    shares = layers.groupby(["role", "seed", "layer"], sort=False).share.sum()
    return shares / shares.groupby(["role", "seed"], sort=False).transform("sum")


def swapped_shares(shares: pd.Series) -> tuple[pd.Series, float]:
    """Share of the layers that a swap takes from the language expert; averaged ones count half.

    From `layer_shares`: by role and seed; and what it were if all layers moved alike.
    """
    depth = int(shares.index.get_level_values("layer").max()) + 1
    plan = pd.Series(LayerPlan.fitted(depth).weights).rename_axis("layer")
    weighted = shares * plan.reindex(shares.index, level="layer")
    return weighted.groupby(["role", "seed"]).sum(), float(plan.mean())


def correlations(updates: pd.DataFrame, *, within_kinds: bool = False) -> pd.DataFrame:
    """Rank correlation over the tensors of the layers, of trainings from different seeds.

    From `Moves.updates`, the mean over the pairs of seeds: role, other, correlation.
    `within_kinds`: the mean over the layers of a tensor's kind is taken away first, from the
    logarithm.
    """
    layers = updates.dropna(subset="layer")
    table = layers.pivot_table(index="tensor", columns=["role", "seed"], values="absolute")
    if within_kinds:
        logs = np.log(table)
        kind = logs.index.str.replace(r"\.\d+\.", ".", regex=True)
        table = logs - logs.groupby(kind).transform("mean")
    pairs = table.corr("spearman").stack([0, 1], future_stack=True)
    pairs.index.names = ["role", "seed", "other", "other_seed"]
    pairs = pairs.rename("correlation").reset_index()
    pairs = pairs[pairs.seed != pairs.other_seed]
    return pairs.groupby(["role", "other"], sort=False).correlation.mean().reset_index()
