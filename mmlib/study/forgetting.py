"""What selective alignment does to a model: rates, other layers, other starts, and its states."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from mmlib.finetune import encode, mean_loss
from mmlib.models import load_model
from mmlib.organism.corpus import translation_request
from mmlib.study.alignment import (
    KNOWN,
    RECIPE,
    Bench,
    accuracies,
    selected_layers,
    with_problems,
)
from mmlib.study.alignment import (
    by_part as by_part,  # for the page
)
from mmlib.study.evidence import audit_values, read_evidence
from mmlib.study.pairs import doubts, load_pairs, split_pairs
from mmlib.study.settings import Asking
from mmlib.study.stats import paired_changes
from mmlib.study.systems import translation_examples
from mmlib.study.tables import RunInfo, published, unpack_answers


class Trials(NamedTuple):
    """Short trainings at several learning rates."""

    losses: pd.Series
    """Loss of held-out translations in the end, by system and learning_rate."""
    accuracy: pd.DataFrame
    """Known templates: a row per system and learning_rate, a column per language, and `loss`."""
    responses: pd.DataFrame
    """What is written in answer to the first problem of each part: system, learning_rate, …"""
    steps: int
    items: int
    """Problems of each part."""


class Forgetting(NamedTuple):
    """What `rows` finds."""

    layers: Sequence[int]
    """Those that SLAM trains."""
    described: pd.DataFrame
    """See `mmlib.study.alignment.Bench.described`."""
    n_trainings: int
    """Trainings that are shipped, or made."""
    trials: Trials
    translated: pd.DataFrame
    """Loss of translations before training: a row per kind of text, a column per prompt."""
    answers: pd.DataFrame
    """Of the main comparison: one row per system, seed, language and problem."""
    once_steps: int
    """Steps of the ablations."""
    ablated: pd.DataFrame
    """One training each: system, problems, lang, accuracy, gain (over the model itself)."""
    ablated_costs: pd.DataFrame
    """By system: loss (of held-out translations), trained share (of the weights)."""
    audited: pd.DataFrame
    """Firing rates and states of the model itself against the shipped ones."""
    firing: pd.DataFrame
    """See `mmlib.study.states.views`, as the next two; of the main comparison."""
    states: pd.DataFrame
    maps: pd.DataFrame
    starts: Mapping[str, pd.DataFrame]
    """Answers of SLAM and the model before, from a "stronger" expert and on the "knowledge" task;
    shipped, none in a sweep."""
    stronger_layers: Sequence[int]
    """Those that the rule selects in the expert."""
    stronger_loss: float
    """Of held-out translations after SLAM from it."""
    made: Mapping[str, pd.DataFrame]
    """Tables that a sweep makes, by name."""
    laboratory: Mapping[str, pd.DataFrame]
    """See `mmlib.study.alignment.Bench.laboratory`."""
    run: RunInfo


def rows(given: Mapping[str, Any]) -> Forgetting:
    """Train and look at everything, or take what is shipped and look at the model itself."""
    bench, sweep = Bench(given), given["sweep"]
    made = bench.made(ask=bench.ask if sweep else None)
    graded = bench.answers(made)
    answers = graded[graded.steps == given["steps"]]
    seen = {kind: bench.taken(kind, made) for kind in ("firing", "states", "maps")}
    tried = {kind: bench.tried(kind, made) for kind in ("answers", "log", "responses")}
    laboratory = bench.laboratory(made)
    told = pd.concat([laboratory["evidence/system_log"], tried["log"]])
    told = told[(told.system != "QAlign") | (told.stage == 2)]  # its first stage is another system
    named = ["steps", "start", "pair_source", "learning_rate", "system", "seed"]
    starts, stronger_layers, stronger_loss = ({}, [], 0.0) if sweep else _starts(bench)
    return Forgetting(
        layers=bench.layers,
        described=bench.described(),
        n_trainings=len(told.drop_duplicates(named)),
        trials=_trials(bench, tried),
        translated=translated(bench),
        answers=answers,
        once_steps=bench.once_steps,
        ablated=_ablated(bench, graded, answers),
        ablated_costs=_ablated_costs(bench, made),
        audited=_audited(seen, made),
        starts=starts,
        stronger_layers=stronger_layers,
        stronger_loss=stronger_loss,
        made={f"system_{kind}": table for kind, table in made.items()} if sweep else {},
        laboratory=laboratory,
        run=bench.run,
        **seen,
    )


def _audited(kept: Mapping[str, pd.DataFrame], made: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """States of the later layers only: in the first ones a state hardly tells anything."""
    on = [*RECIPE, "system", "seed", "lang", "layer"]
    states = made["states"]
    later = states[states.layer >= sorted(states.layer.unique())[-2]]
    compare = {"on": on, "tolerance": 0.1}
    firing = audit_values(kept["firing"], made["firing"], values=["rate", "overlap"], **compare)
    told = ["retrieval", "language_accuracy"]
    return pd.concat([firing, audit_values(kept["states"], later, values=told, **compare)])


def _trials(bench: Bench, tried: Mapping[str, pd.DataFrame]) -> Trials:
    given, log = bench.given, tried["log"]
    items = given["items"] if given["sweep"] else given["trial_items"]
    name = ["system", "learning_rate"]
    last = log.query("step == steps and stage == 1").dropna(subset="heldout_loss")
    losses = last.groupby(name).heldout_loss.first()
    asked = Asking.of(given, parts=given["parts"] or None, items=items)
    asked = asked.problems(given["languages"][0])
    packed = tried["answers"].drop_duplicates([*name, "seed", "part", "lang"])
    known = with_problems(unpack_answers(packed, asked))
    known = known[known.problems == KNOWN]
    means = known.groupby([*name, "lang"], sort=False).correct.mean().unstack("lang")
    accuracy = means[given["languages"]].assign(loss=losses)
    accuracy.loc[("base", 0.0), "loss"] = log.query("step == 0").heldout_loss.mean()
    responses = tried["responses"].drop_duplicates([*name, "lang", "part"])
    return Trials(losses, accuracy, responses, int(log.steps.max()), items)


def translated(bench: Bench) -> pd.DataFrame:
    """Loss of translations (nats per token) by the model itself, after two prompts.

    Returns:
        A row per kind of text that the organism's pairs have, none for other pairs; columns "as it
        was taught" and "published prompt".
    """
    given, lm, tokenizer = bench.given, bench.model, bench.tokenizer
    where = {"languages": given["languages"], "data_dir": given["data_dir"] or None}
    columns = {"as it was taught": {}, "published prompt": {}}
    for kind in ("general", "math") if given["pair_source"] == "organism" else ():
        pairs = load_pairs(given["pair_source"], kinds=[kind], **where)
        _, few = split_pairs(pairs, max(1, given["heldout"] // 4), seed=1)
        asked = [translation_request(*pair) for pair in zip(few.text, few.lang, strict=True)]
        targets = " " + few.english.str.rstrip(".")
        taught = encode(tokenizer, zip(asked, targets, strict=True), end=False)
        columns["as it was taught"][kind] = mean_loss(lm, taught)
        columns["published prompt"][kind] = mean_loss(lm, translation_examples(tokenizer, few))
    return pd.DataFrame(columns)


def _ablated(bench: Bench, graded: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    once = (graded.steps == bench.once_steps) & (graded.seed == bench.given["seeds"][0])
    once = graded[once & graded.system.isin(["SLAM", *bench.ablations])]
    table = accuracies(once, "problems")
    before = accuracies(answers[answers.system == "base"], "problems")
    before = before.set_index(["problems", "lang"]).accuracy
    before = before.reindex(pd.MultiIndex.from_frame(table[["problems", "lang"]]))
    return table.assign(gain=table.accuracy - before.to_numpy())


def _ablated_costs(bench: Bench, made: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    steps, seed = bench.once_steps, bench.given["seeds"][0]
    log, costs = (bench.taken(kind, made, steps=steps) for kind in ("log", "costs"))
    last = log[(log.seed == seed) & (log.step == steps)].groupby("system").heldout_loss.first()
    share = costs[costs.seed == seed].groupby("system").share.max()
    return pd.DataFrame({"loss": last, "trained share": share})


def _starts(bench: Bench) -> tuple[dict[str, pd.DataFrame], list[int], float]:
    """SLAM from a stronger expert, and with translations of half of the knowledge questions.

    Answers by start, the layers that are selected in the expert, and its loss in the end.
    """
    given, source = bench.given, "organism-knowledge"
    where = {"languages": given["languages"], "data_dir": given["data_dir"]}
    facts = load_pairs(source, split="heldout", **where)
    unseen = split_pairs(facts[doubts(facts) == ""], 150, seed=1)[1].id
    asked = Asking(tasks=[source], parts=["knowledge"], **where).problems(given["languages"][0])
    knowledge = _shipped_start(bench, asked, pair_source=source)
    knowledge = knowledge[knowledge.problem_id.isin(unseen)].assign(problems="knowledge")
    stronger = _shipped_start(bench, bench.problems(), model=given["stronger"])
    options = {"dtype": given["dtype"], "device_map": given["device_map"] or None}
    expert, _ = load_model(given["stronger"], **options)
    layers = selected_layers(expert, bench.tokenizer, bench.texts, given, last=True)
    log = read_evidence("system_log")[0]
    last = log[(log.model == given["stronger"]) & (log.step == given["short_steps"])]
    answers = {"stronger": with_problems(stronger), "knowledge": knowledge}
    return answers, layers, float(last.heldout_loss.mean())


def _shipped_start(bench: Bench, asked: pd.DataFrame, **other: Any) -> pd.DataFrame:
    recipe = {"start": "none", "steps": bench.given["short_steps"], "pair_source": "organism"}
    packed = bench.taken("answers", {}, **recipe | other)
    seeds = [0, *bench.given["seeds"]]
    packed = packed[packed.seed.isin(seeds) & packed.system.isin(["base", "SLAM"])]
    return unpack_answers(packed, asked)


def gains(starts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What SLAM changes from each start, see `paired_changes`; index start, problems, lang."""
    tables, on = {}, ["lang", "part", "problem_id"]
    for name, answers in starts.items():
        pair = (answers[answers.system == system] for system in ("SLAM", "base"))
        tables[name] = paired_changes(*pair, by=["problems", "lang"], on=on)
    if not tables:
        return pd.DataFrame()
    table = pd.concat(tables, names=["start", None]).droplevel(1)
    return table.set_index(["problems", "lang"], append=True)


def prediction_consistency(answers: pd.DataFrame) -> pd.Series:
    """Prediction consistency with English (PCR): |M ∩ N| / |M|, M being what is right in English.

    From rows of lang, part, problem_id and correct: the share of the problems right in English that
    a language has right too; not a number where English has none right.

    Raises:
        ValueError: Languages that were asked different problems.
    """
    wide = answers.pivot(index=["part", "problem_id"], columns="lang", values="correct")
    if wide.isna().any(axis=None):
        raise ValueError("the languages were asked different problems: ask all of them the same")
    right = wide[wide["en"].astype(bool)]
    return right.drop(columns="en").astype(float).mean()


def consistency(answers: pd.DataFrame, systems: Sequence[str]) -> pd.DataFrame:
    """Prediction consistency on known templates: a row per system and seed, a column per language.

    From `Forgetting.answers`, of the `systems` that are compared, with "base".
    """
    known = answers[(answers.problems == KNOWN) & answers.system.isin(systems)]
    by_training = known.groupby(["system", "seed"], sort=False)
    shares = {name: prediction_consistency(table) for name, table in by_training}
    return pd.DataFrame(shares).T.rename_axis(index=["system", "seed"])


def published_elsewhere() -> pd.DataFrame:
    """Published averages over languages from another start and on another task, in percent."""
    theirs = published("slam_accuracy")
    theirs = theirs[theirs.table.isin([5, 10, 11, 12]) & (theirs.lang == "avg")]
    return theirs.pivot_table(
        index="system",
        columns=["benchmark", "size"],
        values="accuracy",
        aggfunc="first",
        sort=False,
    )
