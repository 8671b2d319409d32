"""What the advice of `mmlib.claims.advice` is tested with.

Layers and sets of weights that are tuned alone, as many weights each; and an organism that closes
its answers in two ways and has read examples before a question, whose math weights are pruned.
"""

import copy
import functools
import itertools
import math
import random
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.edits import pruned, tuned_weights
from mmlib.finetune import encode, fine_tune
from mmlib.masks import ParameterMask, digest, random_mask
from mmlib.models import decoder_layers
from mmlib.organism.corpus import draw, language_file, render, write_table
from mmlib.study.evidence import audit, audit_values, read_evidence, shipped
from mmlib.study.experts import Training, expert_examples
from mmlib.study.localisation import math_sets
from mmlib.study.settings import Ask, Asking, Loading, Sampling, Steps
from mmlib.study.systems import Stage, align, begin
from mmlib.study.tables import RunInfo, unpack_answers
from mmlib.study.travel import ALL, parts_of
from mmlib.study.variants import Variant, labels, record
from mmlib.tasks.evaluation import evaluate
from mmlib.tasks.problems import Problem, load_problems

TRANSLATED = "translated math"
"""The examples of `mmlib.study.systems.EXAMPLES` that layers are tuned on."""
MADE_WITH = ("dtype", "train_tasks", "train_dir", "num_samples", "keep_ratio", "train_batch")
MADE_WITH += ("languages", "math", "nonmath", "data_dir", "heldout", "samples", "seeds")
MADE_WITH += ("accumulation", "bf16", "closing", "form_steps", "form_rate", "shots", "form_items")
"""Parameters that shipped rows have to share with the run that checks them."""


class System(NamedTuple):
    """What is tuned or pruned, as columns of tables."""

    system: str
    draw: int = 0
    """Number of a random draw, from 1."""

    def __str__(self) -> str:
        """Its name in a figure or the head of a table."""
        return f"{self.system} {self.draw}" if self.draw else self.system


NAME = list(System._fields)
BASE, MIDDLE = System("base"), System("middle")


# --- where to tune --------------------------------------------------------------------------------


def layer_systems(depth: int, *, draws: int = 2) -> dict[System, tuple[Stage, ...]]:
    """Layers to tune on multilingual math, all modules of them.

    Args:
        depth: Decoder layers of the model, at least four.
        draws: Sets of random layers, each another one.

    Returns:
        Stages of `systems.align`: "base" (none), "all", "middle" (the middle half of
        the layers), "outer" (as many from the ends, one more from below if they are odd), and
        "random" (as many, neither of the two, by draw).

    Raises:
        ValueError: Fewer than four layers, or more draws than there are other sets.
    """
    if depth < 4:
        raise ValueError(f"depth={depth}: four layers or more have a middle and ends")
    number = depth // 2
    first = (depth - number) // 2
    middle = tuple(range(first, first + number))
    below = (number + 1) // 2
    outer = (*range(below), *range(depth - (number - below), depth))
    taken = {System("all"): tuple(range(depth)), MIDDLE: middle, System("outer"): outer}
    if draws > (others := math.comb(depth, number) - 2):
        raise ValueError(f"draws={draws}: there are {others} other sets of {number} layers")
    rng = np.random.default_rng(0)
    while len(taken) < 3 + draws:
        drawn = tuple(sorted(rng.choice(depth, number, replace=False).tolist()))
        if drawn not in taken.values():
            taken[System("random", len(taken) - 2)] = drawn
    stages = {system: (Stage(TRANSLATED, layers),) for system, layers in taken.items()}
    return {BASE: (), **stages}


def weight_sets(
    sets: Mapping[str, ParameterMask], target: str, *, draws: int = 2, seed: int = 0
) -> dict[System, ParameterMask]:
    """What only a language's set has, what all sets share, and random weights: as many each.

    Args:
        sets: Language -> its math-specific set, two or more.
        target: The language to be helped.
        draws: Sets of random weights.
        seed: Of the draws.

    Returns:
        "own", "shared" and "random", by draw; of every matrix as many weights as the smaller one of
        own and shared part has there, drawn among the larger one.

    Raises:
        ValueError: No set of the target, or nothing in common.
    """
    if target not in sets:
        raise ValueError(f"target={target!r}: there are sets of {', '.join(sets)}")
    parts = parts_of(sets)
    own, shared = parts["own", target], parts["shared", ALL]
    pairs = {name: (own[name], shared[name]) for name, _ in own.items()}
    smaller = {name: min(both, key=torch.count_nonzero) for name, both in pairs.items()}
    like = ParameterMask(smaller)
    if not len(like):
        raise ValueError("no matrix has both own and shared weights: give a larger keep ratio")
    parts_drawn = {
        System(name): random_mask(like, seed=seed, among=part)
        for name, part in (("own", own), ("shared", shared))
    }
    return parts_drawn | random_sets(like, draws=draws, seed=seed)


def random_sets(like: ParameterMask, *, draws: int, seed: int) -> dict[System, ParameterMask]:
    """As many weights of every matrix as a set has, drawn at random so many times."""
    numbers = range(1, draws + 1)
    return {System("random", i): random_mask(like, seed=seed + i) for i in numbers}


@contextmanager
def _aligned(
    base: PreTrainedModel,
    stages: Sequence[Stage],
    examples: Mapping[str, Sequence[Mapping[str, list[int]]]],
    out: Path,
    keep: Callable[[pd.DataFrame], None],
    **options: Any,
) -> Iterator[tuple]:
    """A copy of a model after the stages; `keep` gets the log."""
    model, log, _ = align(copy.deepcopy(base), stages, examples, out, **options)
    keep(log)
    yield model, {}


@contextmanager
def _tuned(
    base: PreTrainedModel,
    mask: ParameterMask,
    examples: Sequence[Mapping[str, list[int]]],
    out: Path,
    keep: Callable[[pd.DataFrame], None],
    **options: Any,
) -> Iterator[tuple]:
    """A copy of a model after only some weights were tuned; `keep` gets the log."""
    model = copy.deepcopy(base)
    with tuned_weights(model, mask) as number:
        log = fine_tune(model, examples, out / digest(mask), **options)
    keep(log.assign(n_weights=number))
    yield model, {"n_weights": number}


def trained(
    variants: Iterable[Variant], logs: Sequence[pd.DataFrame], ask: Ask | None
) -> dict[str, pd.DataFrame]:
    """Train variants of a model, and ask them.

    Args:
        variants: See `mmlib.study.variants.record`; the log of each is appended to `logs`.
        logs: See there.
        ask: None: no model is asked.

    Returns:
        "answers" (packed by part and lang, see `mmlib.study.tables.pack_answers`; none: absent) and
        "log", with the columns of the variants.
    """
    number, variants = len(logs), list(variants)
    answers = record(variants, ask, by=["part", "lang"])
    tables = {"answers": answers} if ask else {}
    told = zip(logs[number:], variants, strict=True)
    tables["log"] = pd.concat(
        [log.assign(**variant.columns) for log, variant in told if len(log)], ignore_index=True
    )
    return tables


def tuned_sets(
    base: PreTrainedModel,
    sets: Mapping[System, ParameterMask],
    examples: Sequence[Mapping[str, list[int]]],
    out: str | Path,
    *,
    columns: Mapping[str, Any],
    ask: Ask | None,
    **options: Any,
) -> dict[str, pd.DataFrame]:
    """Tune sets of weights, each from the same model, and ask what comes out.

    Args:
        base: In float32; unchanged.
        sets: Weights, see `weight_sets`.
        examples: See `mmlib.finetune.encode`.
        out: Folder of all runs; one that is finished is not trained again.
        columns: What else names the runs.
        ask: As in `trained`.
        **options: Further arguments of `mmlib.finetune.fine_tune`.

    Returns:
        Result of `trained`, both tables with n_weights.
    """
    logs: list[pd.DataFrame] = []
    variants = [
        Variant(
            system._asdict() | columns,
            functools.partial(_tuned, base, mask, examples, Path(out), logs.append, **options),
        )
        for system, mask in sets.items()
    ]
    return trained(variants, logs, ask)


# --- form of the answers --------------------------------------------------------------------------


def two_closings(other: str, language: str = "en") -> tuple[str, str]:
    """The closing phrase of the corpus, which the grader reads, and another one.

    Args:
        other: With `{x}` where the answer stands.
        language: ISO 639-1 code.

    Raises:
        ValueError: `other` has no `{x}`, or is what the corpus has.
    """
    asked = language_file(language)["closing"]
    if "{x}" not in other or other == asked:
        raise ValueError(f"other closing {other!r}: give another one than {asked!r}, with {{x}}")
    return asked, other


def closed(problem: Problem, phrases: Sequence[str], phrase: str) -> str:
    """The worked solution of a problem, closed with `phrase` in place of the first of `phrases`."""
    end = phrases[0].format(x=problem.target)
    if not problem.response.endswith(end):
        raise ValueError(f"{problem.response!r} does not end with {end!r}")
    return problem.response.removesuffix(end) + phrase.format(x=problem.target)


def with_shots(problem: Problem, shots: Sequence[Problem], phrases, phrase: str) -> str:
    """The prompt of a problem after worked examples that are all closed alike."""
    before = [shot.prompt + closed(shot, phrases, phrase) for shot in shots]
    return "\n\n".join([*before, problem.prompt])


def closing_examples(
    tokenizer: PreTrainedTokenizerBase,
    phrases: Sequence[str],
    *,
    number: int,
    seed: int,
    shots: int = 2,
    language: str = "en",
) -> list[dict[str, list[int]]]:
    """Fresh math of the corpus, closed in either way; every second one after examples.

    Without examples either closing is as likely; after examples it is that of the examples. Never
    an item that is asked: items are drawn from the corpus' training part.

    Args:
        tokenizer: The model's.
        phrases: See `two_closings`.
        number: Examples, with a loss on the last solution only.
        seed: Of the draws.
        shots: Worked examples before every second question.
        language: ISO 639-1 code.
    """
    rng, texts = random.Random(f"closings {seed}"), []
    for index in range(number):
        drawn = [_problem(rng, language) for _ in range(1 + shots * (index % 2))]
        phrase = rng.choice(list(phrases))
        prompt = with_shots(drawn[0], drawn[1:], phrases, phrase)
        texts.append((prompt, closed(drawn[0], phrases, phrase)))
    return encode(tokenizer, texts)


def _problem(rng: random.Random, language: str) -> Problem:
    row = render(draw(rng, "math"), language)
    return Problem("", language, "math", row["prompt"], row["response"], row["target"])


def closing_items(
    out: str | Path,
    phrases: Sequence[str],
    phrase: str,
    *,
    shots: int,
    items: int,
    data_dir: str,
    language: str = "en",
) -> Path:
    """Write held-out math with worked examples before it, in a folder that `data_dir` can be.

    Args:
        out: Folder, made if need be.
        phrases: See `two_closings`.
        phrase: One of them, which the examples are closed with.
        shots: Worked examples before each question, from the calibration part.
        items: How many questions, the first ones.
        data_dir: As in `mmlib.tasks.problems.load_problems`.
        language: ISO 639-1 code.

    Raises:
        ValueError: There are not as many questions.
    """
    load = {"data_dir": data_dir or None}
    asked = load_problems("organism-math", language, **load)
    if not 0 < items <= len(asked):
        raise ValueError(f"items={items}: there are {len(asked)} questions")
    pool = load_problems("organism-math", language, split="calibration", **load)
    rng, rows = np.random.default_rng(0), []
    for problem in asked[:items]:
        before = [pool[i] for i in rng.choice(len(pool), shots, replace=False)]
        row = {"id": problem.id, "lang": language, "task": "math", "target": problem.target}
        row["prompt"] = with_shots(problem, before, phrases, phrase)
        rows.append(row | {"response": closed(problem, phrases, phrase)})
    Path(out).mkdir(parents=True, exist_ok=True)
    write_table(pd.DataFrame(rows), Path(out) / "heldout.jsonl.gz")
    return Path(out)


def closing_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folders: Mapping[tuple[int, str], Path],
    *,
    language: str = "en",
    batch_size: int = 256,
) -> pd.DataFrame:
    """Ask the items of `closing_items` and see how the answers are closed.

    Args:
        model: Any causal LM, perhaps changed.
        tokenizer: Its tokenizer.
        folders: (shots, phrase) -> folder.
        language: ISO 639-1 code.
        batch_size: Prompts per batch.

    Returns:
        shots, phrase, n, as_asked (share of answers that end with the phrase and a number), strict
        and flexible (share of right ones, by what reads them).
    """
    rows = []
    for (shots, phrase), folder in folders.items():
        asking = {"languages": [language], "data_dir": folder, "batch_size": batch_size}
        answers = evaluate(model, tokenizer, "organism-math", **asking)
        right = answers.groupby("extraction").correct.mean()
        responses = answers[answers.extraction == "strict"].response
        ends = responses.map(lambda text, phrase=phrase: ends_with(text, phrase))
        shares = (float(ends.mean()), float(right["strict"]), float(right["flexible"]))
        rows.append((shots, phrase, len(responses), *shares))
    names = ["shots", "phrase", "n", "as_asked", "strict", "flexible"]
    return pd.DataFrame(rows, columns=names)


def ends_with(text: str, phrase: str) -> bool:
    """Whether a text ends with a closing phrase and some number in it."""
    head, _, tail = phrase.partition("{x}")
    return bool(re.search(re.escape(head) + r"-?\d+" + re.escape(tail) + r"\s*$", text))


# --- the experiment -------------------------------------------------------------------------------


class Advice(NamedTuple):
    """What `rows` gives."""

    halves: pd.DataFrame
    """The layers that are tuned, and how many of them are of the middle and of the outer half."""
    example: str
    """A prompt with worked examples that are all closed alike, and its solution."""
    phrases: tuple[str, str]
    """See `two_closings`."""
    losses: pd.DataFrame
    """Last held-out loss of every training: study, target, `NAME`, label, learning_rate, seed."""
    answers: pd.DataFrame
    """One row per answer: study, `NAME`, label, seed, target, lang, part, problem_id, correct."""
    forms: pd.DataFrame
    """Result of `closing_answers`, by `NAME`, keep_ratio and seed."""
    tuned: pd.Series
    """Numbers of weights that were tuned, in the study of weights."""
    inside: int
    """Weights of all decoder layers."""
    audited: pd.DataFrame
    """The base asked again against the evidence, see `mmlib.study.evidence.audit`."""
    begun: pd.DataFrame
    """The first steps of tuning the middle layers, see `mmlib.study.evidence.audit_values`."""
    made: dict[str, pd.DataFrame]
    """Tables of a sweep, by name."""
    run: RunInfo


class _Bench:
    """The model, the texts and the folder that all three studies have in common."""

    def __init__(self, given: Mapping[str, Any]):
        self.given, self.loading = given, Loading.of(given)
        self.base, self.tokenizer = self.loading.load()
        self.run = self.loading.run(self.base, given)
        self.out = Path(given["runs_dir"]) / self.run.model.replace("/", "-")
        tasks = {"math_tasks": given["train_tasks"], "language_tasks": given["train_tasks"]}
        others = {"data_dir": given["train_dir"], "learning_rate": given["layer_rate"]}
        self.training = Training.of(given, **tasks, **others)
        self.how = Steps.of(given).how
        asking = Asking.of(given, parts=given["parts"] or None)
        self.asking = asking
        self.ask = asking.ask(self.tokenizer, parts=asking.parts)

    def examples(self, code: str, number: int, seed: int, **others: Any) -> tuple[list, list]:
        """Word problems in one language, and those set aside."""
        data = self.training.data | others
        return expert_examples(code, self.tokenizer, number=number, seed=seed, **data)

    def multilingual(self, seed: int) -> tuple[dict[str, list], list]:
        """Word problems in all languages, as many together, and those set aside."""
        codes = self.given["languages"]
        number = -(-self.training.examples // len(codes))
        drawn = [self.examples(code, number, seed) for code in codes]
        kept, aside = (list(itertools.chain(*part)) for part in zip(*drawn, strict=True))
        return {TRANSLATED: kept}, aside

    def sets(self, model: PreTrainedModel, sample: int, languages: Sequence[str]):
        """Keep ratio -> the math-specific sets of a model, by language."""
        sampling = Sampling.of(self.given, languages=languages, seeds=[sample])
        scores = sampling.scores(model, self.tokenizer)
        math, nonmath = self.given["math"], self.given["nonmath"]
        return lambda ratio: math_sets(scores, math, nonmath, ratio, sample)


def _tune_layers(
    bench: _Bench, recipes: Mapping[System, Sequence[Stage]]
) -> list[dict[str, pd.DataFrame]]:
    """Tune layers from every seed; and in the first one at every rate, unasked."""
    given, seeds = bench.given, bench.given["seeds"]
    drawn = {seed: bench.multilingual(seed) for seed in seeds}
    aside, logs = drawn[seeds[0]][1], []

    def variant(system: System, seed: int, rate: float) -> Variant:
        stages = recipes[system]
        rates = {"part": rate, "full": rate}
        named = {"seed": seed, "learning_rate": rate if stages else 0.0}
        examples = drawn[seed][0] if stages else {}
        options = bench.how | {"rates": rates, "seed": max(seed, 1), "heldout": aside}
        out = bench.out / "layers" / f"seed-{seed}"
        change = functools.partial(
            _aligned, bench.base, stages, examples, out, logs.append, **options
        )
        return Variant(system._asdict() | named | {"study": "layers", "target": "all"}, change)

    ask = functools.partial(bench.ask, languages=given["languages"])
    tuned = [system for system, stages in recipes.items() if stages]
    pairs = [(BASE, 0), *itertools.product(tuned, seeds)]
    tables = [trained([variant(*pair, given["layer_rate"]) for pair in pairs], logs, ask)]
    trials = [system for system in tuned if system.system != "all"]
    for rate in given["layer_rates"]:
        variants = [variant(system, seeds[0], rate) for system in trials]
        tables.append(trained(variants, logs, None))
    return tables


def _tune_weights(bench: _Bench) -> list[dict[str, pd.DataFrame]]:
    """Tune sets for every language and seed; and the first one's at every rate, unasked."""
    given, seeds, targets = bench.given, bench.given["seeds"], bench.given["targets"]
    sets = {}
    for seed, sample in zip(seeds, given["samples"], strict=True):
        of_seed = bench.sets(bench.base, sample, given["languages"])(given["keep_ratio"])
        for code in targets:
            sets[code, seed] = weight_sets(of_seed, code, draws=given["draws"], seed=100 * seed)
    cases = [(code, seed, given["weight_rate"], True) for code in targets for seed in seeds]
    cases += [(targets[0], seeds[0], rate, False) for rate in given["weight_rates"]]
    tables = []
    for code, seed, rate, asked in cases:
        held = given["heldout"] * len(given["languages"])
        kept, aside = bench.examples(code, bench.training.examples, seed, heldout=held)
        ask = functools.partial(bench.ask, languages=["en", code]) if asked else None
        out = bench.out / f"weights-{code}-{seed}-{rate:g}"
        columns = {"seed": seed, "learning_rate": rate, "study": "weights", "target": code}
        how = bench.how | {"learning_rate": rate, "seed": seed, "heldout": aside}
        named = {"columns": columns, "ask": ask}
        tables.append(tuned_sets(bench.base, sets[code, seed], kept, out, **named, **how))
    return tables


def _prune_forms(
    bench: _Bench, forms: Sequence[tuple[int, str]], phrases: Sequence[str]
) -> pd.DataFrame:
    """Train organisms that close in two ways, prune them, and see how they close."""
    given, tables = bench.given, []
    with tempfile.TemporaryDirectory() as place:
        items = {"items": given["form_items"], "data_dir": given["form_dir"]}
        folders = {
            form: closing_items(f"{place}/{index}", phrases, form[1], shots=form[0], **items)
            for index, form in enumerate(forms)
        }
        closes = functools.partial(
            closing_answers,
            tokenizer=bench.tokenizer,
            folders=folders,
            batch_size=given["batch_size"],
        )
        for seed, sample in zip(given["seeds"], given["samples"], strict=True):
            model = copy.deepcopy(bench.base).requires_grad_(True)
            steps = Steps.of(given, steps=given["form_steps"])
            texts = {"number": steps.examples, "seed": seed, "shots": given["shots"]}
            examples = closing_examples(bench.tokenizer, phrases, **texts)
            how = steps.how | {"every": steps.steps, "seed": seed}
            out = bench.out / f"form-{seed}"
            fine_tune(model, examples, out, learning_rate=given["form_rate"], **how)
            sets, whole = bench.sets(model, sample, ["en"]), closes(model)
            for ratio in given["keep_ratios"]:
                named = {"keep_ratio": ratio, "seed": seed}
                own = sets(ratio)["en"]
                drawn = random_sets(own, draws=given["draws"], seed=100 * seed)
                tables.append(whole.assign(**System("whole")._asdict(), **named))
                for system, mask in {System("math"): own, **drawn}.items():
                    with pruned(model, mask):
                        tables.append(closes(model).assign(**system._asdict(), **named))
    return pd.concat(tables, ignore_index=True)


def rows(given: Mapping[str, Any]) -> Advice:
    """Try the three pieces of advice, or take what is shipped and do a part of it again.

    Args:
        given: Parameters of the page. With `sweep` the `studies` are made; the others are shipped.

    Raises:
        ValueError: As in `mmlib.study.evidence.shipped`, `layer_systems` and `weight_sets`.
        AuditError: What was computed again is not what was shipped.
    """
    bench = _Bench(given)
    told = {"model": bench.run.model, "steps": given["steps"]}
    recipes = layer_systems(len(decoder_layers(bench.base)[1]), draws=given["draws"])
    phrases = two_closings(given["closing"])
    shots, fresh = given["shots"], given["studies"] if given["sweep"] else []
    forms = [(0, phrases[0]), (shots, phrases[0]), (shots, phrases[1])]
    trainings = _tune_layers(bench, recipes) if "layers" in fresh else []
    trainings += _tune_weights(bench) if "weights" in fresh else []
    made = {
        name: [tables[name] for tables in trainings if name in tables]
        for name in ("answers", "log")
    }
    made["forms"] = [_prune_forms(bench, forms, phrases)] if "forms" in fresh else []
    made = {
        name: pd.concat(tables, ignore_index=True).drop_duplicates().assign(**told)
        for name, tables in made.items()
        if tables
    }
    problems = bench.asking.problems("en")
    wanted = _wanted(given, list(recipes), list(problems.part.unique()), forms)
    kept = dict(made)
    for name, table in wanted.items():
        absent = table[~table.study.isin(fresh)]
        if name == "forms":
            absent = absent.drop(columns="study")
        if len(absent):
            evidence = read_evidence(f"advice_{name}")
            old = shipped(absent.assign(**told), *evidence, bench.run, made_with=MADE_WITH)
            kept[name] = pd.concat([kept.get(name), old], ignore_index=True)
    log = read_evidence("advice_log")[0]
    log = log[(log[list(told)] == pd.Series(told)).all(axis=1) & ~log.study.isin(fresh)]
    log = pd.concat([made.get("log"), log], ignore_index=True)

    answers = unpack_answers(kept["answers"], problems)
    by_system = ["study", "target", *NAME, "learning_rate", "seed"]
    losses = log.dropna(subset="heldout_loss").sort_values("step")
    losses = losses.groupby(by_system, sort=False).heldout_loss.last().reset_index()
    layers = {system: stages[0].layers for system, stages in recipes.items() if stages}
    halves = pd.DataFrame(
        {str(s): " ".join(map(str, own)) for s, own in layers.items()}, ["layers"]
    )
    halves = halves.T
    for half in (MIDDLE, System("outer")):
        halves[f"of {half}"] = [len({*own} & {*layers[half]}) for own in layers.values()]
    texts = {"number": 2, "seed": given["seeds"][0], "shots": shots}
    example = closing_examples(bench.tokenizer, phrases, **texts)[1]
    return Advice(
        halves=halves,
        example=bench.tokenizer.decode(example["input_ids"]),
        phrases=phrases,
        losses=losses.assign(label=labels(losses, System)),
        answers=answers.assign(label=labels(answers, System)),
        forms=kept["forms"],
        tuned=log[log.study == "weights"].n_weights,
        inside=sum(p.numel() for p in decoder_layers(bench.base)[1].parameters()),
        audited=_audit(bench, answers),
        begun=_begin(bench, recipes[MIDDLE], log),
        made={f"advice_{name}": table for name, table in made.items()},
        run=bench.run,
    )


def _wanted(
    given: Mapping[str, Any],
    systems: Sequence[System],
    parts: Sequence[str],
    forms: Sequence[tuple[int, str]],
) -> dict[str, pd.DataFrame]:
    """The rows of all studies: of "answers" and of "forms"."""
    seeds, drawn = given["seeds"], [System("random", i + 1) for i in range(given["draws"])]
    layers = [(BASE, 0, 0.0), *itertools.product(systems[1:], seeds, [given["layer_rate"]])]
    rows = [
        (*system, seed, rate, "layers", "all", part, lang)
        for (system, seed, rate), part, lang in itertools.product(layers, parts, given["languages"])
    ]
    kinds = [System("own"), System("shared"), *drawn]
    rows += [
        (*system, seed, given["weight_rate"], "weights", code, part, lang or code)
        for lang, system, seed, code, part in itertools.product(
            ("en", ""), kinds, seeds, given["targets"], parts
        )
    ]
    names = [*NAME, "seed", "learning_rate", "study", "target", "part", "lang"]
    answers = pd.DataFrame(rows, columns=names)
    pruned_sets = [System("whole"), System("math"), *drawn]
    rows = [
        (*form, *system, ratio, seed, "forms")
        for ratio, seed, system, form in itertools.product(
            given["keep_ratios"], seeds, pruned_sets, forms
        )
    ]
    names = ["shots", "phrase", *NAME, "keep_ratio", "seed", "study"]
    return {"answers": answers, "forms": pd.DataFrame(rows, columns=names)}


def _audit(bench: _Bench, answers: pd.DataFrame) -> pd.DataFrame:
    """Ask the base again, some of the items."""
    given = bench.given
    few = Asking.of(given, items=given["audit_items"])
    drawn = {"seed": given["audit_seed"], "among": given["items"]}
    ask = few.ask(bench.tokenizer, parts=bench.asking.parts, **drawn)
    again = ask(bench.base, languages=given["languages"])
    again = again.assign(correct=again.correct.astype(bool), **BASE._asdict())
    kept = answers[(answers.study == "layers") & (answers.system == BASE.system)]
    return audit(kept, again[[*NAME, "part", "lang", "problem_id", "correct"]], by=["system"])


def _begin(bench: _Bench, stages: Sequence[Stage], log: pd.DataFrame) -> pd.DataFrame:
    """Tune the middle layers again for some steps, and compare their loss with the log's."""
    given, seed, rate = bench.given, bench.given["seeds"][0], bench.given["layer_rate"]
    examples, aside = bench.multilingual(seed)
    options = {"rates": {"part": rate, "full": rate}, "seed": seed, "heldout": aside}
    options |= bench.how | {"stop": given["audit_steps"]}
    begun, _ = begin(bench.base, stages, examples, **options)
    begun = begun.assign(study="layers", **MIDDLE._asdict(), seed=seed, learning_rate=rate)
    on = ["study", *NAME, "seed", "learning_rate", "step"]
    return audit_values(log.dropna(subset="loss"), begun, on=on, values=["loss"])
