"""Where the math weights lie and how far languages share them: the pages of sizes and overlaps."""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd
import torch

from mmlib.importance import ImportanceScores, check_keep_ratios
from mmlib.models import layer_index, linear_modules, untrained_like
from mmlib.study.evidence import made_by, read_evidence
from mmlib.study.localisation import Sample, score_samples, set_tables
from mmlib.study.settings import Loading, Sampling, check_comparison
from mmlib.study.stats import summarize
from mmlib.study.tables import MATH_PARTS, RunInfo, item_grades


class Localised(NamedTuple):
    """What `rows` finds; the tables have a column `model`."""

    shapes: pd.Series
    """Shape of every matrix that is scored, by its name."""
    texts: pd.DataFrame
    """First text of the first sample, by language and task: lang, task, text."""
    pool: int
    """How many texts a sample of the first language's math is drawn from."""
    sizes: pd.DataFrame
    """See `localisation.SetTables`."""
    floor: pd.DataFrame
    """Likewise."""
    overlap: pd.DataFrame
    """Likewise."""
    controls: pd.DataFrame
    """The ceiling likewise and, with `untrained`, the overlap in the same architecture with
    freshly drawn weights; told apart by `control`."""
    scores: Mapping[Sample, ImportanceScores]
    """See `localisation.score_samples`."""
    run: RunInfo


def overlaps(given: Mapping[str, Any]) -> Localised:
    """`rows` of a page that compares languages, and shows a real LLM beside them.

    Raises:
        ValueError: A single language, or a `keep_ratio` that no table of the real LLM has.
    """
    shown = desk().overlap.keep_ratio if given["real_control"] else [given["keep_ratio"]]
    why = "those of the real LLM that is shown beside it, or leave it out by real_control=false"
    check_comparison(given, shown, why, languages=2)
    return rows(given)


def rows(given: Mapping[str, Any]) -> Localised:
    """Score every sample and compare the sets at every keep ratio."""
    loading, sampling = Loading.of(given), Sampling.of(given)
    model, tokenizer = loading.load()
    modules = {name: module.weight for name, module in linear_modules(model).items()}
    keep_ratios = sorted({*given["keep_ratios"], given["keep_ratio"]})
    check_keep_ratios(keep_ratios, modules)
    run = loading.run(model, given)
    samples = sampling.draw()
    scoring = {name: given[name] for name in ("batch_size", "include_head", "accumulation")}
    by_tasks = {"math": sampling.math, "nonmath": sampling.nonmath, "keep_ratios": keep_ratios}
    scores = score_samples(model, tokenizer, samples, **scoring)
    tables = set_tables(scores, **by_tasks)
    controls = [tables.ceiling]
    if given.get("untrained"):
        blank = untrained_like(model, seed=sampling.seeds[0])
        before = score_samples(blank, tokenizer, samples, **scoring)
        controls.append(set_tables(before, **by_tasks).overlap.assign(control="untrained"))
    texts = [
        (key.lang, key.task, sample.texts[0])
        for key, sample in samples.items()
        if key.seed == sampling.seeds[0]
    ]
    return Localised(
        shapes=pd.Series({name: tuple(weight.shape) for name, weight in modules.items()}),
        texts=pd.DataFrame(texts, columns=["lang", "task", "text"]),
        pool=next(iter(samples.values())).num_available,
        sizes=tables.sizes.assign(model=run.model),
        floor=tables.floor.assign(model=run.model),
        overlap=tables.overlap.assign(model=run.model),
        # A ceiling of one seed has no rows, and no types either.
        controls=pd.concat([t for t in controls if len(t)] or controls).assign(model=run.model),
        scores=scores,
        run=run,
    )


def parts(localised: Localised, given: Mapping[str, Any]) -> pd.DataFrame:
    """How many weights of every layer are in the set of a language, by how many others have them.

    The sets are those at the `keep_ratio` of the page.

    Returns:
        Columns lang, layer, seed, others (languages whose set has the weight too), n_weights,
        n_scored, keep_ratio and model. The head is left out.
    """
    sampling, keep_ratio, scores = Sampling.of(given), given["keep_ratio"], localised.scores
    rows = []
    for seed, module in itertools.product(sampling.seeds, next(iter(scores.values())).weights):
        levels = {
            (code, task): scores[Sample(code, task, seed)].levels_of(module, [keep_ratio])
            for code in sampling.languages
            for task in (sampling.math, sampling.nonmath)
        }
        members = {
            code: levels[code, sampling.math] > levels[code, sampling.nonmath]
            for code in sampling.languages
        }
        having = sum(member.to(torch.uint8) for member in members.values())
        for code, member in members.items():
            counts = having[member].bincount(minlength=len(members) + 1)[1:].tolist()
            place = {"lang": code, "layer": layer_index(module), "seed": seed}
            place["n_scored"] = member.numel()
            rows += [place | {"others": n, "n_weights": found} for n, found in enumerate(counts)]
    table = pd.DataFrame(rows).dropna(subset="layer").astype({"layer": int})
    by = ["lang", "layer", "seed", "others"]
    table = table.groupby(by, sort=False).sum().reset_index()
    return table.assign(keep_ratio=keep_ratio, model=localised.run.model)


def math_accuracy(model: str) -> dict[str, pd.DataFrame]:
    """What a shipped organism solves, as claims about sets read it; nothing of another model."""
    rows, _ = read_evidence("family_answers")
    rows = rows[(rows.model == model) & rows.part.isin(MATH_PARTS)]
    if rows.empty:
        return {}
    graded = item_grades(rows).assign(task="organism-math")
    return {"accuracy": summarize(graded)}


class Desk(NamedTuple):
    """Sets of a real LLM."""

    num_samples: int
    """Prompts per block."""
    overlap: pd.DataFrame
    """As in `Localised`, without single matrices; `seed` is the number of the block."""
    controls: pd.DataFrame
    """Likewise."""
    parts: pd.DataFrame
    """See `parts`."""
    larger: pd.DataFrame
    """Overlap in a larger model of the same family."""
    larger_controls: pd.DataFrame
    """Its ceiling."""


def desk() -> Desk:
    """What was computed on real LLMs and is shipped."""
    overlap, manifest = read_evidence("desk_overlap")
    (run,) = made_by(manifest)
    names = ("controls", "parts", "larger", "larger_controls")
    tables = (read_evidence(f"desk_{name}")[0] for name in names)
    return Desk(run["parameters"]["num_samples"], overlap, *tables)


def desk_sizes() -> pd.DataFrame:
    """Sizes of the shipped sets of real LLMs, as in `Localised`, of layers and the whole model."""
    parts = [read_evidence(name)[0] for name in ("desk_overlap", "desk_larger")]
    overlap = pd.concat(parts, ignore_index=True)
    named = ["model", "nonmath", "keep_ratio", "seed", "group", "layer", "n_scored"]
    sides = [
        overlap[[*named, f"lang_{side}", f"size_{side}"]].set_axis(
            [*named, "lang", "n_math_specific"], axis=1
        )
        for side in "ab"
    ]
    sizes = pd.concat(sides).drop_duplicates([*named[:-1], "lang"], ignore_index=True)
    return sizes.assign(n_topk=(sizes.keep_ratio * sizes.n_scored).astype(int))


def desk_accuracy() -> pd.DataFrame:
    """What real LLMs solve of the held-out problems, strictly read, see `summarize`."""
    answers, _ = read_evidence("desk_answers")
    graded = item_grades(answers.query("condition == 'none' and extraction == 'strict'"))
    return summarize(graded.assign(task=graded.part), by=["model", "lang", "task"])


def untrained_overlap() -> pd.DataFrame:
    """Overlaps in models of random weights on real text, as they are shipped."""
    return read_evidence("untrained_overlap")[0]
