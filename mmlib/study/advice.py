"""What the advice of `mmlib.claims.advice` is tested with.

Layers and sets of weights that are tuned alone, as many weights each; and an organism that closes
its answers in two ways and has read examples before a question, whose math weights are pruned.
"""

import copy
import itertools
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel

from mmlib.edits import tuned_weights
from mmlib.finetune import TrainingPlan, fine_tune
from mmlib.masks import ParameterMask, digest, random_mask
from mmlib.models import decoder_layers
from mmlib.study.closings import closing_answers, closing_examples, closing_items, two_closings
from mmlib.study.evidence import audit, audit_values, read_evidence, shipped
from mmlib.study.experts import Training
from mmlib.study.localisation import math_sets
from mmlib.study.settings import Asking, Loading, Sampling, Steps
from mmlib.study.systems import Plans, Stage, aligned, begin
from mmlib.study.tables import NEW_MATH_PARTS, RunInfo, pack_answers, unpack_answers
from mmlib.study.travel import ALL, parts_of
from mmlib.study.variants import State, Variant, edited, labels, measured

TRANSLATED = "translated math"
"""The examples of `mmlib.study.systems.EXAMPLES` that layers are tuned on."""
MADE_WITH = ("dtype", "train_tasks", "train_dir", "num_samples", "keep_ratio", "train_batch")
MADE_WITH += ("languages", "math", "nonmath", "drawing", "data_dir", "heldout", "samples", "seeds")
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
STUDIES = ("layers", "weights")
BASE, ALL_LAYERS, MIDDLE = System("base"), System("all"), System("middle")


def layer_systems(depth: int, *, draws: int = 2) -> dict[System, tuple[Stage, ...]]:
    """Layers to tune on multilingual math, all modules of them.

    As many sets of random layers as `draws`, each another one.

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
    taken = {ALL_LAYERS: tuple(range(depth)), MIDDLE: middle, System("outer"): outer}
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

    From the math-specific sets of two languages or more, for one `target` that is to be helped.

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
    halves = {System("own"): own, System("shared"): shared}
    drawn = {name: random_mask(like, seed=seed, among=part) for name, part in halves.items()}
    return drawn | random_sets(like, draws=draws, seed=seed)


def random_sets(like: ParameterMask, *, draws: int, seed: int) -> dict[System, ParameterMask]:
    """As many weights of every matrix as a set has, drawn at random so many times."""
    return {System("random", i): random_mask(like, seed=seed + i) for i in range(1, draws + 1)}


@contextmanager
def tuned(
    base: PreTrainedModel,
    mask: ParameterMask,
    examples: Sequence[Mapping[str, list[int]]],
    out: str | Path,
    plan: TrainingPlan,
    **options: Any,
) -> Iterator[State]:
    """The change of a variant that is a copy of a model of which only some weights were tuned.

    The base is in float32 and unchanged; for `examples`, `out`, `plan` and the options see
    `mmlib.finetune.fine_tune`.

    Yields:
        The model, n_weights and the "log".
    """
    model = copy.deepcopy(base)
    with tuned_weights(model, mask) as number:
        log = fine_tune(model, examples, out, plan, **options)
    yield State(model, {"n_weights": number}, {"log": log})


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
    """One row per answer: study, `NAME`, label, seed, target, lang, part, problems (known or new),
    problem_id, correct."""
    forms: pd.DataFrame
    """Result of `closing_answers`, by `NAME`, keep_ratio and seed."""
    decided: dict[str, pd.DataFrame]
    """What the claims need: packed answers of layers and of weights, losses, and forms."""
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
    """The model, and what is learned, tuned and asked in all three studies."""

    def __init__(self, given: Mapping[str, Any]):
        self.given, loading = given, Loading.of(given)
        self.base, self.tokenizer = loading.load()
        self.run = loading.run(self.base, given)
        self.out = Path(given["runs_dir"]) / self.run.model.replace("/", "-")
        tasks = {"math_tasks": given["train_tasks"], "language_tasks": given["train_tasks"]}
        others = {"data_dir": given["train_dir"], "learning_rate": given["layer_rate"]}
        self.training = Training.of(given, **tasks, **others)
        self.asking = Asking.of(given, parts=given["parts"] or None)
        self.ask = self.asking.ask(self.tokenizer, parts=self.asking.parts)
        self.problems = self.asking.problems("en")
        self.recipes = layer_systems(len(decoder_layers(self.base)[1]), draws=given["draws"])
        self.phrases, shots = two_closings(given["closing"]), given["shots"]
        self.forms = [(0, self.phrases[0]), *((shots, phrase) for phrase in self.phrases)]
        self.random = [System("random", number) for number in range(1, given["draws"] + 1)]
        self.seeds = dict(zip(given["seeds"], given["samples"], strict=True))
        # Each is drawn once and serves several trainings.
        self.examples, self.weight_sets = cache(self._examples), cache(self._weight_sets)
        self.multilingual = cache(self._multilingual)

    def _examples(self, code: str, number: int, seed: int, **others: Any) -> tuple[list, list]:
        """Word problems in one language, and those set aside."""
        training = replace(self.training, **others)
        return training.drawn(code, self.tokenizer, number=number, seed=seed)

    def _multilingual(self, seed: int) -> tuple[dict[str, list], list]:
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

    def _weight_sets(self, seed: int) -> dict[str, dict[System, ParameterMask]]:
        """Language -> the sets that are tuned to help it."""
        sets = self.sets(self.base, self.seeds[seed], self.given["languages"])
        sets, how = sets(self.given["keep_ratio"]), {"draws": len(self.random), "seed": 100 * seed}
        return {code: weight_sets(sets, code, **how) for code in self.given["targets"]}

    def layers(self, system: System, seed: int, rate: float, *asked: str) -> Variant:
        """Layers that are tuned on math in all languages."""
        named = {"seed": seed, "learning_rate": rate, "study": "layers", "target": "all"}
        change = partial(self._layers, system, seed, rate)
        return Variant(system._asdict() | named, change, {"languages": asked})

    def _layers(self, system: System, seed: int, rate: float):
        aside = self.multilingual(next(iter(self.seeds)))[1]
        examples = self.multilingual(seed)[0] if self.recipes[system] else {}
        out, plans = self.out / "layers" / f"seed-{seed}", self.plans(rate, seed=seed)
        return aligned(self.base, self.recipes[system], examples, out, plans, heldout=aside)

    def plans(self, rate: float, **others: int) -> Plans:
        """How layers are tuned."""
        return dict.fromkeys(("part", "full"), self.training.plan(rate, **others))

    def weights(self, code: str, system: System, seed: int, rate: float, *asked: str) -> Variant:
        """Weights that are tuned on math in one language."""
        named = {"seed": seed, "learning_rate": rate, "study": "weights", "target": code}
        change = partial(self._weights, code, system, seed, rate)
        return Variant(system._asdict() | named, change, {"languages": asked})

    def _weights(self, code: str, system: System, seed: int, rate: float):
        mask = self.weight_sets(seed)[code][system]
        held = self.given["heldout"] * len(self.given["languages"])
        examples, aside = self.examples(code, self.training.examples, seed, heldout=held)
        out = self.out / f"weights-{code}-{seed}-{rate:g}" / digest(mask)
        plan = self.training.plan(rate, seed=seed)
        return tuned(self.base, mask, examples, out, plan, heldout=aside)

    def trainings(self) -> list[Variant]:
        """All trainings: of every seed, asked; and in the first one at every rate, unasked."""
        given, codes = self.given, self.given["languages"]
        first, target = given["seeds"][0], given["targets"][0]
        layers = [system for system, stages in self.recipes.items() if stages]
        plan = [self.layers(BASE, 0, 0.0, *codes)]
        plan += [
            self.layers(system, seed, given["layer_rate"], *codes)
            for system, seed in itertools.product(layers, given["seeds"])
        ]
        plan += [
            self.layers(system, first, rate)
            for rate, system in itertools.product(given["layer_rates"], layers)
            if system != ALL_LAYERS
        ]
        kinds = [System("own"), System("shared"), *self.random]
        plan += [
            self.weights(code, system, seed, given["weight_rate"], "en", code)
            for system, seed, code in itertools.product(kinds, given["seeds"], given["targets"])
        ]
        plan += [
            self.weights(target, system, first, rate)
            for rate, system in itertools.product(given["weight_rates"], kinds)
        ]
        return plan

    def measure(self, model: PreTrainedModel, languages: Sequence[str]) -> dict[str, pd.DataFrame]:
        """Packed answers in some languages, or in none."""
        if not languages:
            return {}
        return {"answers": pack_answers(self.ask(model, languages=languages), ["part", "lang"])}

    def closings(self) -> pd.DataFrame:
        """Train organisms that close in two ways, prune them, and see how they close."""
        given = self.given
        asking = {"tokenizer": self.tokenizer, "batch_size": given["batch_size"]}
        with tempfile.TemporaryDirectory() as place:
            items = {"items": given["form_items"], "data_dir": given["form_dir"]}
            folders = {
                form: closing_items(
                    f"{place}/{index}", self.phrases, form[1], shots=form[0], **items
                )
                for index, form in enumerate(self.forms)
            }
            closes = partial(closing_answers, folders=folders, **asking)
            pruned = itertools.chain.from_iterable(map(self._pruned, self.seeds))
            table = measured(pruned, lambda model: {"forms": closes(model)})["forms"]
        return table.drop(columns=["n_weights", "mask"])

    def _pruned(self, seed: int) -> Iterator[Variant]:
        """A model that closes in two ways: whole, and without sets of its weights."""
        given, model = self.given, copy.deepcopy(self.base).requires_grad_(True)
        steps = Steps.of(given, steps=given["form_steps"])
        texts = {"number": steps.examples, "seed": seed, "shots": given["shots"]}
        examples = closing_examples(self.tokenizer, self.phrases, **texts)
        plan = steps.plan(given["form_rate"], every=steps.steps, seed=seed)
        fine_tune(model, examples, self.out / f"form-{seed}", plan)
        sets = self.sets(model, self.seeds[seed], ["en"])
        for ratio in given["keep_ratios"]:
            own = sets(ratio)["en"]
            drawn = random_sets(own, draws=len(self.random), seed=100 * seed)
            for system, mask in {System("whole"): None, System("math"): own, **drawn}.items():
                named = system._asdict() | {"keep_ratio": ratio, "seed": seed}
                yield Variant(named, partial(edited, model, lambda mask=mask: mask, factor=0.0))

    def wanted(self) -> dict[str, pd.DataFrame]:
        """The rows of answers and of forms that a sweep makes."""
        parts, given = self.problems.part.unique(), self.given
        rows = [
            {**training.columns, "part": part, "lang": code}
            for training in self.trainings()
            for part in parts
            for code in training.asked["languages"]
        ]
        answers = pd.DataFrame(rows)
        last = (answers.study == "weights") & (answers.lang != "en")  # as the tables are ordered
        systems = [System("whole"), System("math"), *self.random]
        every = itertools.product(given["keep_ratios"], given["seeds"], systems, self.forms)
        forms = [(*form, *system, ratio, seed) for ratio, seed, system, form in every]
        names = ["shots", "phrase", *NAME, "keep_ratio", "seed"]
        return {
            "answers": pd.concat([answers[~last], answers[last]]),
            "forms": pd.DataFrame(forms, columns=names),
        }


def rows(given: Mapping[str, Any]) -> Advice:
    """Try the three pieces of advice, or take what is shipped and do a part of it again."""
    bench = _Bench(given)
    told = {"model": bench.run.model, "steps": given["steps"]}
    if given["sweep"]:
        made = measured(bench.trainings(), bench.measure)
        tables = {"answers": made["answers"], "log": made["log"], "forms": bench.closings()}
        tables = {name: table.drop_duplicates().assign(**told) for name, table in tables.items()}
    else:
        tables = {}
        for name, table in bench.wanted().items():
            there = read_evidence(f"advice_{name}")
            tables[name] = shipped(table.assign(**told), *there, bench.run, made_with=MADE_WITH)
        log = read_evidence("advice_log")[0]
        tables["log"] = log[(log[list(told)] == pd.Series(told)).all(axis=1)]

    packed, log = tables["answers"], tables["log"]
    answers = unpack_answers(packed, bench.problems)
    by_system = ["study", "target", *NAME, "learning_rate", "seed"]
    losses = log.dropna(subset="heldout_loss").sort_values("step")
    losses = losses.groupby(by_system, sort=False).heldout_loss.last().reset_index()
    texts = {"number": 2, "seed": given["seeds"][0], "shots": given["shots"]}
    example = closing_examples(bench.tokenizer, bench.phrases, **texts)[1]
    names = ["model", *NAME, "target", "seed", "learning_rate", "lang", "part"]
    names += ["problems", "correct"]
    decided = {f"advice_{name}": packed[packed.study == name][names] for name in STUDIES}
    kinds = answers.part.isin(NEW_MATH_PARTS).map({True: "new", False: "known"})
    return Advice(
        halves=_halves(bench.recipes),
        example=bench.tokenizer.decode(example["input_ids"]),
        phrases=bench.phrases,
        losses=losses.assign(label=labels(losses, System)),
        answers=answers.assign(label=labels(answers, System), problems=kinds),
        forms=tables["forms"],
        decided=decided | {"advice_losses": losses, "advice_format": tables["forms"]},
        tuned=log[log.study == "weights"].n_weights,
        inside=sum(p.numel() for p in decoder_layers(bench.base)[1].parameters()),
        audited=_audit(bench, answers),
        begun=_begin(bench, log),
        made={f"advice_{name}": t for name, t in tables.items()} if given["sweep"] else {},
        run=bench.run,
    )


def _halves(recipes: Mapping[System, Sequence[Stage]]) -> pd.DataFrame:
    """What `Advice.halves` tells."""
    layers = {system: stages[0].layers for system, stages in recipes.items() if stages}
    table = pd.DataFrame({"layers": [" ".join(map(str, own)) for own in layers.values()]})
    for half in (MIDDLE, System("outer")):
        table[f"of {half}"] = [len({*own} & {*layers[half]}) for own in layers.values()]
    return table.set_index(pd.Index(map(str, layers)))


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


def _begin(bench: _Bench, log: pd.DataFrame) -> pd.DataFrame:
    """Tune the middle layers again for some steps, and compare their loss with the log's."""
    given, seed, rate = bench.given, bench.given["seeds"][0], bench.given["layer_rate"]
    examples, aside = bench.multilingual(seed)
    plans = bench.plans(rate, seed=seed, stop=given["audit_steps"])
    begun, _ = begin(bench.base, bench.recipes[MIDDLE], examples, plans, heldout=aside)
    begun = begun.assign(study="layers", **MIDDLE._asdict(), seed=seed, learning_rate=rate)
    on = ["study", *NAME, "seed", "learning_rate", "step"]
    return audit_values(log.dropna(subset="loss"), begun, on=on, values=["loss"])
