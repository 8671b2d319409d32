"""What running sums in bfloat16 do to sets of weights and to the numbers made from them."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import gguf
import pandas as pd
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.edits import holding
from mmlib.forward import batches
from mmlib.importance import TIES, ImportanceScores
from mmlib.masks import ParameterMask, jaccard
from mmlib.models import linear_modules, state
from mmlib.study.ceilings import growing_scores
from mmlib.study.evidence import Numbers, read_evidence
from mmlib.study.localisation import (
    Sample,
    norms_by_prompt,
    published_sums,
    score_samples,
)
from mmlib.study.settings import Asking, Loading, Sampling
from mmlib.study.stats import paired_changes
from mmlib.study.sweeps import Sets, cells, sweep
from mmlib.study.tables import RunInfo, unpack_answers
from mmlib.tasks.problems import Calibration


@contextmanager
def float32_products(model: PreTrainedModel) -> Iterator[None]:
    """Multiply in float32 in the linear modules of a model on a CPU, and round what comes out.

    That is what units for bfloat16 do. On processors without them, products in bfloat16 take five
    times as long, and agree with these but for one value in ten thousand.
    """

    def product(module: nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
        bias = None if module.bias is None else module.bias.float()
        return nn.functional.linear(inputs.float(), module.weight.float(), bias).to(inputs.dtype)

    modules = linear_modules(model).values() if model.device.type == "cpu" else ()
    for module in modules:
        module.forward = partial(product, module)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


Sums = dict[int, dict[Sample, ImportanceScores]]
"""Number of prompts -> scores of every language, task and seed over so many."""


class Growing(NamedTuple):
    """Scores over the first prompts of every sample, added in both ways."""

    rounded: Sums
    """As published, in bfloat16."""
    exact: Sums
    """In float32."""


def growing_sums(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    samples: Mapping[Sample, Calibration],
    sizes: Sequence[int],
) -> Growing:
    """Add the norms of the first n texts of every sample in both ways, for every n of `sizes`.

    Each text is read once and on its own, as in the published code; samples are added in their
    order.

    Raises:
        ValueError: A size is not from 1 to the number of texts.
    """
    fewest = min(len(sample.texts) for sample in samples.values())
    if not sizes or not 1 <= min(sizes) <= max(sizes) <= fewest:
        raise ValueError(f"sizes={list(sizes)}: give numbers from 1 to {fewest}")
    sums = Growing({size: {} for size in sizes}, {size: {} for size in sizes})
    for group in dict.fromkeys((key.lang, key.task) for key in samples):
        drawn = {k: s.texts[: max(sizes)] for k, s in samples.items() if k[:2] == group}
        texts = list(dict.fromkeys(itertools.chain(*drawn.values())))
        with float32_products(model):
            each = norms_by_prompt(model, batches(tokenizer, texts, sort=False))
            norms = dict(zip(texts, each, strict=True))
        for key, own in drawn.items():
            rounded = published_sums(model, (norms[text] for text in own))
            exact = itertools.accumulate(norms[text] for text in own)
            for size, (low, high) in enumerate(zip(rounded, exact, strict=True), 1):
                if size in sizes:
                    sums.rounded[size][key] = low.copy()
                    sums.exact[size][key] = high.scores(model)
    return sums


def tied(scores: ImportanceScores, top: ParameterMask) -> float:
    """Share of a top-K set whose scores equal the lowest of its matrix in the set.

    Of these, and of the equal scores outside, only the rule for ties says which are in.
    """
    kept = [scores.matrix(name)[mask] for name, mask in top.items() if mask.any()]
    return sum(int((values == values.min()).sum()) for values in kept) / len(top)


class Selected(NamedTuple):
    """What one language's scores select at one keep ratio."""

    top: ParameterMask
    """The top-K set on math."""
    specific: ParameterMask
    """The math-specific set."""
    tied: float
    """See `tied`, of the top-K set."""


def select(
    scores: Mapping[Sample, ImportanceScores],
    tasks: tuple[str, str],
    seed: int,
    keep_ratios: Sequence[float],
    ties: str,
) -> list[dict[str, Selected]]:
    """The sets of every language, for each keep ratio; every score is selected from once.

    `tasks` are the math and the non-math task, `ties` is a rule of `mmlib.importance.largest`.
    """
    found: list[dict[str, Selected]] = [{} for _ in keep_ratios]
    for code in dict.fromkeys(key.lang for key in scores):
        math, nonmath = (replace(scores[Sample(code, task, seed)], ties=ties) for task in tasks)
        pairs = zip(math.tops(keep_ratios), nonmath.tops(keep_ratios), strict=True)
        for sets, (top, other) in zip(found, pairs, strict=True):
            sets[code] = Selected(top, top - other, tied(math, top))
    return found


def _numbers(
    sets: Mapping[str, Selected],
    exact: Mapping[str, Selected],
    ours: Mapping[str, Selected] | None = None,
) -> Iterator[tuple[str, str, str, float]]:
    """Two languages, what, and its value; the sets are compared with `exact` and with `ours`.

    Without `ours` the top-K sets are not looked at.
    """
    for code, (top, specific, share) in sets.items():
        others = {"membership": exact} | ({"rule": ours} if ours else {})
        for what, other in others.items():
            yield code, code, what, jaccard(specific, other[code].specific)
            if ours:
                yield code, code, f"top-K {what}", jaccard(top, other[code].top)
        if ours:
            yield code, code, "ties", share
        yield code, code, "set size", len(specific)
    for a, b in itertools.combinations(sets, 2):
        yield a, b, "overlap", jaccard(sets[a].specific, sets[b].specific)


def compare(
    rounded: Mapping[Sample, ImportanceScores],
    exact: Mapping[Sample, ImportanceScores],
    *,
    math: str,
    nonmath: str,
    keep_ratios: Sequence[float],
) -> pd.DataFrame:
    """Every number of the overlap study from rounded and from exact sums, by both rules for ties.

    The scores are of the same languages, tasks and seeds, on math and on non-math text.

    Returns:
        One row per number: ties (the rule by which both were selected, see
        `mmlib.importance.largest`), seed, keep_ratio, lang_a, lang_b (equal where it is about one
        language), what, value (from rounded sums) and exact. `what` is "membership" (Jaccard of
        a language's math-specific set with that from exact sums), "rule" (with that from the same
        sums by the rule "index"), "top-K membership" and "top-K rule" (the same of the top-K sets
        on math), "ties" (see `tied`), "set size", or "overlap" (Jaccard of two languages).
    """
    rows = []
    for seed in dict.fromkeys(key.seed for key in exact):
        low, high = (
            {rule: select(scores, (math, nonmath), seed, keep_ratios, rule) for rule in TIES}
            for scores in (rounded, exact)
        )
        for (i, ratio), rule in itertools.product(enumerate(keep_ratios), TIES):
            sums = (low, high)
            both = (_numbers(s[rule][i], high[rule][i], s["index"][i]) for s in sums)
            for (*about, value), (*_, reference) in zip(*both, strict=True):
                rows.append((rule, seed, ratio, *about, value, reference))
    return pd.DataFrame(rows, columns=COLUMNS)


def padding(
    alone: Mapping[Sample, ImportanceScores], padded: Mapping[Sample, ImportanceScores], **sets: Any
) -> pd.DataFrame:
    """What reading prompts in padded batches moves in exact sums.

    `alone` are scores with every prompt read on its own, `padded` those of some of the same
    languages, tasks and seeds, read in batches; `sets` as in `compare`.

    Returns:
        Rows as in `compare` by the rule "index", "padding" (Jaccard of the math-specific sets of a
        language) and "top-K padding": `exact` is of exact sums; `value` is 1, since the published
        sums read one prompt at a time.
    """
    table = compare(padded, {key: alone[key] for key in padded}, **sets)
    table = table[(table.ties == "index") & table.what.str.endswith("membership")]
    return table.assign(
        what=table.what.str.replace("membership", "padding"), value=table.exact, exact=table.value
    )


STORED = ("Q8_0", "Q5_0", "Q4_0")
"""Block types of a release in few bits: eight, five and four bits a weight, a scale per 32."""


@contextmanager
def quantised(model: PreTrainedModel, stored: str) -> Iterator[None]:
    """Let the scored matrices of a model hold what a release in few bits leaves of them.

    `stored` is one of `STORED`. A 4-bit release has Q5_0 and Q8_0 in place of its own types
    wherever the rows of a matrix are no multiple of 256 long.

    Raises:
        ValueError: Rows are no multiple of 32 long.
    """
    kind, tensors = gguf.GGMLQuantizationType[stored], dict(state(model))
    for name, module in linear_modules(model).items():
        if module.in_features % 32:
            raise ValueError(f"{name} has rows of {module.in_features}: {stored} needs 32s")
        values = module.weight.detach().float().cpu().numpy()
        few = gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind)
        tensors[f"{name}.weight"] = torch.from_numpy(few)
    with holding(model, tensors):
        yield


def compare_quantised(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    samples: Mapping[Sample, Calibration],
    *,
    math: str,
    nonmath: str,
    keep_ratios: Sequence[float],
) -> pd.DataFrame:
    """Sets and overlaps of a model in few bits beside its own, by block type.

    Returns:
        One row per number, as in `compare` by the rule "index": stored, seed, keep_ratio, lang_a,
        lang_b, what ("membership", "set size" or "overlap"), value (in few bits) and exact.
    """
    seeds, tasks = list(dict.fromkeys(key.seed for key in samples)), (math, nonmath)

    def found() -> list[list[dict[str, Selected]]]:
        scores = score_samples(model, tokenizer, samples)
        return [select(scores, tasks, seed, keep_ratios, "index") for seed in seeds]

    own, rows = found(), []
    for stored in STORED:
        with quantised(model, stored):
            few = found()
        at = itertools.product(zip(seeds, few, own, strict=True), enumerate(keep_ratios))
        for (seed, low, high), (i, ratio) in at:
            both = (_numbers(sets[i], high[i]) for sets in (low, high))
            for (*about, value), (*_, reference) in zip(*both, strict=True):
                rows.append((stored, seed, ratio, *about, value, reference))
    return pd.DataFrame(rows, columns=["stored", *COLUMNS[1:]])


COLUMNS = ["ties", "seed", "keep_ratio", "lang_a", "lang_b", "what", "value", "exact"]
NAME = ["model", *COLUMNS[:-2], "num_samples"]
NUMBERS = Numbers("precision", NAME, ["value", "exact"], tolerance=0.05)
FEW_BITS = Numbers("quantised", ["model", "stored", *COLUMNS[1:-2]], ["value", "exact"], 0.05)


class Precision(NamedTuple):
    """What `rows` gives."""

    table: pd.DataFrame
    """Rows of `compare` with num_samples, model and nonmath, of this and of other models."""
    made: pd.DataFrame
    """Those that this run computed."""
    audited: pd.DataFrame
    """See `mmlib.study.evidence.audit_values`."""
    quantised: pd.DataFrame
    """Rows of `compare_quantised` with model and nonmath."""
    made_quantised: pd.DataFrame
    """Those that this run computed."""
    answers: pd.DataFrame
    """Packed answers after pruning the sets by either sum, with a column `sums`."""
    problems: pd.DataFrame
    """What was asked: part, problem_id."""
    run: RunInfo


def rows(given: Mapping[str, Any]) -> Precision:
    """Sum in both ways and prune by either, or take what is shipped and sum one language again."""
    loading, every = Loading.of(given), given["sweep"]
    model, tokenizer = loading.load()
    run = loading.run(model, given)
    languages, seeds, most = given["languages"], given["seeds"], given["num_samples"]
    if not every:
        languages = [languages[given["audit_seed"] % len(languages)]]
        seeds, most = seeds[:1], given["audit_prompts"]
    sizes = [n for n in given["prompts"] if n <= most]
    tasks = {name: given[name] for name in ("math", "nonmath")}
    samples = Sampling.of(given, languages=languages, seeds=seeds).draw()
    sums = growing_sums(model, tokenizer, samples, sizes)
    sets = {**tasks, "keep_ratios": given["keep_ratios"]}
    tables = [compare(sums.rounded[n], sums.exact[n], **sets).assign(num_samples=n) for n in sizes]
    if every and sizes[-1] == most:
        first = {key: sample for key, sample in samples.items() if key.seed == seeds[0]}
        with float32_products(model):
            padded = {
                key: growing_scores(model, tokenizer, sample, [most])[most]
                for key, sample in first.items()
            }
        tables.append(padding(sums.exact[most], padded, **sets).assign(num_samples=most))
    made = pd.concat(tables, ignore_index=True).assign(model=run.model, nonmath=given["nonmath"])
    table, audited = NUMBERS.take(made, sweep=every)
    exactly, _ = loading.load("float32")
    about = {"model": run.model, "nonmath": given["nonmath"]}
    few = compare_quantised(exactly, tokenizer, samples, **sets).assign(**about)
    quantised_table, again = FEW_BITS.take(few, sweep=every)
    asking = Asking.of(given)
    if every and given["ask"]:
        same = given["edit_dtype"] == given["dtype"]
        edited = model if same else loading.load(given["edit_dtype"])[0]
        grid = {"languages": languages, "seeds": seeds, "keep_ratios": given["keep_ratios"]}
        wanted = cells(**grid, dtypes=[given["edit_dtype"]], conditions=["math-specific"])
        wanted = wanted.merge(pd.DataFrame({"part": given["parts"]}), how="cross")
        both = {"bfloat16": sums.rounded, "float32": sums.exact}
        models, ask = {given["edit_dtype"]: edited}, asking.ask(tokenizer)
        swept = {
            name: sweep(models, Sets(scores[sizes[-1]], **tasks), wanted, ask)
            for name, scores in both.items()
        }
        answers = [table.assign(sums=name) for name, table in swept.items()]
        answers = pd.concat(answers, ignore_index=True).assign(model=run.model)
    else:
        answers = read_evidence("precision_answers")[0]
    return Precision(
        table=table,
        made=made,
        audited=pd.concat([audited, again], ignore_index=True),
        quantised=quantised_table,
        made_quantised=few,
        answers=answers,
        problems=asking.problems(given["languages"][0]),
        run=run,
    )


def shifts(table: pd.DataFrame) -> pd.DataFrame:
    """How rounded sums change set sizes and overlaps.

    Rows of `Precision.table` of the two, with `change`: of sizes as a share of the exact one.
    """
    table = table[table.what.isin(["set size", "overlap"])]
    scale = table.exact.where(table.what == "set size", 1.0)
    return table.assign(change=(table.value - table.exact) / scale)


def moved(table: pd.DataFrame) -> pd.DataFrame:
    """Share of the members of a top-K set on math that something other than the sums changes.

    From `Precision.table`, over most prompts, means of languages and seeds: one row for the rule
    for ties in either sums (members by "topk" that are none by "index") and one for padding, one
    column per keep ratio.
    """
    most = table[table.num_samples == table.num_samples.max()]
    rule = most[(most.what == "top-K rule") & (most.ties == "topk")].set_index("keep_ratio")
    padded = most[most.what == "top-K padding"].set_index("keep_ratio")
    same = {
        "bfloat16 sums, rule": rule.value,
        "exact sums, rule": rule.exact,
        "exact sums, padding": padded.exact,
    }
    # Of two sets of one size with Jaccard J, 2J / (1 + J) of either is in both.
    shares = {name: 1 - 2 * both / (1 + both) for name, both in same.items()}
    return pd.DataFrame(
        {name: share.groupby("keep_ratio").mean() for name, share in shares.items()}
    ).T


def pruned_by_either(sums: Precision, seed: int) -> pd.DataFrame:
    """Accuracy after pruning the set by bfloat16 sums (accuracy) and by exact ones (plain).

    From the result of `rows`, with the sets of one calibration seed: rows of
    `mmlib.study.stats.paired_changes` by keep_ratio and lang.
    """
    answers = unpack_answers(sums.answers, sums.problems)
    answers = answers[(answers.condition != "none") & (answers.seed == seed)]
    sides = {name: side.drop(columns="sums") for name, side in answers.groupby("sums")}
    by = ["keep_ratio", "lang"]
    on = [*by, "part", "problem_id"]
    return paired_changes(sides["bfloat16"], sides["float32"], by=by, on=on)
