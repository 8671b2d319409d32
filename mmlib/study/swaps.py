"""Swaps of layers between a math expert and a language expert, and other mergers of the two."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.merging import (
    LayerPlan,
    Others,
    Tensors,
    adjusted_weights,
    check_comparable,
    dense,
    merged,
    soup,
    task_arithmetic,
    ties,
    update_magnitude,
)
from mmlib.study.evidence import audit, read_evidence, shipped
from mmlib.study.experts import MATH, Training, load_pair
from mmlib.study.settings import Ask, Asking, Loading
from mmlib.study.stats import paired_changes
from mmlib.study.tables import MATH_PARTS, RunInfo, published, unpack_answers
from mmlib.study.variants import Variant, labels, record, reweighted

MADE_WITH = ("dtype", "math_tasks", "language_tasks", "data_dir", "train_batch")
MADE_WITH += ("accumulation", "bf16")
"""Parameters that shipped answers have to share with the run that checks them."""


class Merger(NamedTuple):
    """What names a merger of two experts, as columns of tables."""

    system: str
    """Kind of merger, see `named_plans` and `mergers`; "bands": one of `all_bands`."""
    bottom: int = 0
    """Layers of the language expert below, of a swap among `all_bands`."""
    top: int = 0
    """And above."""
    transition: int = 0
    """Averaged layers at each of its borders."""
    draw: int = 0
    """Number of a draw, from 1, of random layers."""

    def __str__(self) -> str:
        """Its name in a figure or the head of a table."""
        if self.system == "bands":
            return f"{self.bottom} + {self.top}, transition {self.transition}"
        return f"{self.system} {self.draw}" if self.draw else self.system


SWAP = Merger("swap")
NAME = list(Merger._fields)
PAIR = ["target", "math_seed", "lang_seed"]
"""Columns that name two experts: the language, and the seeds of their trainings."""


def named_plans(depth: int, *, draws: int = 2) -> dict[Merger, LayerPlan]:
    """The swap as published, its parts, and its controls, for a model of `depth` decoder layers.

    "swap" (5 + 2 of 32 layers, scaled, with a transition layer on each side), "no transition", "6 +
    2 of 32" (the follow-up's, scaled, without), "bottom only", "top only", "reversed" (the experts
    exchanged), "random" (as many layers of each kind in random places, by draw).
    """
    swap, half = LayerPlan.fitted(depth), depth // 2
    bottom, top = swap.weights[:half], swap.weights[half:]
    six, two = max(1, round(6 / 32 * depth)), max(1, round(2 / 32 * depth))
    plans = {
        "swap": swap,
        "no transition": LayerPlan.fitted(depth, transition=0),
        "6 + 2 of 32": LayerPlan.bands(depth, six, two, transition=0),
        "bottom only": LayerPlan((*bottom, *(0.0 for _ in top))),
        "top only": LayerPlan((*(0.0 for _ in bottom), *top)),
        "reversed": swap.reversed(),
    }
    drawn: dict[LayerPlan, None] = {}  # each time in different places where possible
    for seed in range(100):
        if len(drawn) < draws and (plan := swap.shuffled(seed)) != swap:
            drawn.setdefault(plan)
    named = {Merger(name): plan for name, plan in plans.items()}
    return named | {Merger("random", draw=number): plan for number, plan in enumerate(drawn, 1)}


def all_bands(
    depth: int, bottoms: Sequence[int], tops: Sequence[int], transitions: Sequence[int]
) -> dict[Merger, LayerPlan]:
    """Every swap of so many layers below and above with so many averaged ones, where they fit."""
    plans = {}
    for bottom, top, transition in itertools.product(bottoms, tops, transitions):
        both = bottom + top + transition * ((bottom > 0) + (top > 0))
        if both <= depth:
            plan = LayerPlan.bands(depth, bottom, top, transition=transition)
            plans[Merger("bands", bottom, top, transition)] = plan
    return plans


def mergers(
    base: PreTrainedModel,
    math: PreTrainedModel,
    language: PreTrainedModel,
    plans: Mapping[Merger, LayerPlan],
    *,
    others: Others = "average",
    joint: PreTrainedModel | None = None,
) -> dict[Merger, Callable[[], Tensors]]:
    """Everything that is compared with a swap; weights are made when they are asked for.

    `plans` are swaps, see `named_plans`; "revert" undoes what "swap" swaps, where there is one. For
    `others` see `mmlib.merging.merged`; `joint` was trained on both data sets.
    """
    experts, how = [math, language], {"others": others, "base": base}
    check_comparable(base, *experts, *([joint] if joint is not None else []))
    named: dict[str, Callable[[], Tensors]] = {
        "base": partial(dense, base),
        "math expert": partial(dense, math),
        "language expert": partial(dense, language),
        "soup, 1/4 language": partial(soup, experts, [0.75, 0.25]),
        "soup": partial(soup, experts, [0.5, 0.5]),
        "soup, 3/4 language": partial(soup, experts, [0.25, 0.75]),
        "adjusted soup": lambda: soup(experts, adjusted_weights(base, experts)),
        "task arithmetic": partial(task_arithmetic, base, experts, [1.0, 1.0]),
        "TIES": partial(ties, base, experts, [1.0, 1.0]),
    }
    if SWAP in plans:
        named["revert"] = partial(merged, math, base, plans[SWAP], **how)
    made = {Merger(name): weights for name, weights in named.items()}
    made |= {merger: partial(merged, *experts, plan, **how) for merger, plan in plans.items()}

    def by_update() -> Tensors:
        tables = [update_magnitude(base, expert) for expert in experts]
        shares = [table.groupby("layer").share.sum() for table in tables]
        return merged(*experts, LayerPlan.from_updates(*shares), **how)

    made[Merger("by update")] = by_update
    if joint is not None:
        made[Merger("joint")] = partial(dense, joint)
    return made


def select(mergers: Mapping[Merger, Any], systems: Sequence[str]) -> dict[Merger, Any]:
    """The mergers of some systems, in their order, with all draws and bands; none: all.

    Raises:
        ValueError: There is no such system.
    """
    there = list(dict.fromkeys(merger.system for merger in mergers))
    if wrong := [name for name in systems if name not in there]:
        raise ValueError(f"there is no merger {wrong[0]!r}: choose from {', '.join(there)}")
    names = systems or there
    ordered = [merger for name in names for merger in mergers if merger.system == name]
    return {merger: mergers[merger] for merger in (ordered if systems else mergers)}


def wanted_answers(
    pairs: Iterable[tuple[str, int, int]],
    merged: Sequence[Merger],
    crossed: Sequence[Merger],
    *,
    math_parts: Sequence[str],
    skill_parts: Sequence[str],
) -> pd.DataFrame:
    """The rows that mergers of pairs of experts leave: `PAIR`, `NAME`, part, lang.

    `pairs` are language, seed of the math expert, seed of the language expert; those of equal seeds
    have the mergers `merged`, the others `crossed`. Math is asked in English and in the language,
    other skills in the language.
    """
    rows = [
        (target, first, second, *merger, part, lang)
        for target, first, second in pairs
        for merger in (merged if first == second else crossed)
        for parts, asked in ((math_parts, ("en", target)), (skill_parts, (target,)))
        for part in parts
        for lang in dict.fromkeys(asked)
    ]
    return pd.DataFrame(rows, columns=[*PAIR, *NAME, "part", "lang"])


@dataclass(frozen=True)
class Questions:
    """Math, which is asked in English and in a language, and other skills, in the language."""

    math: Asking
    skills: Asking
    drawn: Mapping[str, int]
    """Which items: arguments of `mmlib.tasks.evaluation.choose_items`."""

    @classmethod
    def of(cls, given: Mapping[str, Any], items: int, **drawn: int) -> "Questions":
        """What a page asks, by its parameters."""
        place = {"items": items, "data_dir": given["ask_dir"]}
        math = Asking.of(given, parts=given["parts"] or None, **place)
        named = {"tasks": given["skill_tasks"], "parts": given["skill_parts"] or None}
        return cls(math, Asking.of(given, **named, **place), drawn)

    def ask(self, tokenizer: PreTrainedTokenizerBase, language: str) -> Ask:
        """Called with a model; English is asked for math either way."""
        asked = [(self.math, list(dict.fromkeys(["en", language])))]
        asked += [(self.skills, [language])] if self.skills.tasks else []

        def ask(model: PreTrainedModel) -> pd.DataFrame:
            tables = [
                asking.ask(tokenizer, parts=asking.parts, **self.drawn)(model, languages=codes)
                for asking, codes in asked
            ]
            return pd.concat(tables, ignore_index=True)

        return ask

    def problems(self, language: str) -> pd.DataFrame:
        """What is asked, by its parts: part, problem_id, and skill: whether it is not math."""
        math = self.math.problems("en", **self.drawn).assign(skill=False)
        if not self.skills.tasks:
            return math
        skills = self.skills.problems(language, **self.drawn).assign(skill=True)
        return pd.concat([math, skills])


def merged_answers(
    model: PreTrainedModel,
    made: Mapping[Merger, Callable[[], Tensors]],
    ask: Ask,
    columns: Mapping[str, Any],
) -> pd.DataFrame:
    """Let a model hold other weights (see `mergers`), one after the other, and ask it.

    Returns:
        Answers packed by part and lang (see `mmlib.study.tables.pack_answers`), with `NAME` and the
        columns, which name the experts.
    """
    variants = [
        Variant(merger._asdict() | columns, partial(reweighted, model, weights))
        for merger, weights in made.items()
    ]
    return record(variants, ask, by=["part", "lang"])


class Swaps(NamedTuple):
    """What `rows` gives."""

    plans: pd.DataFrame
    """Weight of the language expert in every layer (columns), by plan."""
    live: pd.DataFrame
    """Packed answers of the pair that is merged on the page, with `accuracy`."""
    audited: pd.DataFrame
    """They against the same pair in the evidence (see `mmlib.study.evidence.audit`); or empty."""
    made: pd.DataFrame
    """Packed answers of a sweep; or empty."""
    answers: pd.DataFrame
    """One row per answer: `NAME`, label, target, seed (of the math expert), lang_seed, part, lang,
    problem_id, correct, and kind: math, new templates (both perhaps "in English"), other skills."""
    in_language: pd.DataFrame
    """Accuracy of known math in the language, of every row of the evidence."""
    decided: dict[str, pd.DataFrame]
    """What claims about swaps need: packed answers of pairs of equal seeds, in the language and in
    English, and, of shipped experts, the log of their training."""
    published: pd.DataFrame
    """What is known of the paper's results."""
    target: str
    """Language of the pair."""
    run: RunInfo


def rows(given: Mapping[str, Any]) -> Swaps:
    """Merge a pair of experts and ask it, beside what is shipped or, in a sweep, every pair.

    In a sweep the experts of all `languages` and `seeds` are trained, merged and asked; without
    `languages` there is the pair alone.
    """
    loading, training = Loading.of(given), Training.of(given)
    base, tokenizer = loading.load()
    run = loading.run(base, given)
    depth = base.config.get_text_config().num_hidden_layers
    counts = (given[name] for name in ("bottoms", "tops", "transitions"))
    plans = named_plans(depth, draws=given["draws"]) | all_bands(depth, *counts)
    merging = partial(mergers, base, plans=plans, others=given["others"])
    told = {"model": run.model, "others": given["others"], **training.recipe}

    pair = load_pair(loading, tokenizer, given)
    every = merging(math=pair.math, language=pair.language)
    if given["languages"]:
        drawn = {"seed": given["audit_seed"], "among": given["items"]}
        whole = Questions.of(given, given["items"])
        few = Questions.of(given, given["audit_items"], **drawn)
    else:
        whole = few = Questions.of(given, given["audit_items"])
    names = dict(zip(PAIR, (pair.target, *pair.seeds), strict=True)) | told
    ask = few.ask(tokenizer, pair.target)
    live = merged_answers(base, select(every, given["audited"]), ask, names)

    problems = whole.problems(pair.target)
    of_parts, is_skill = problems[["part", "problem_id"]], problems.skill
    made = audited = pd.DataFrame()
    pairs = [(code, *seeds) for code in given["languages"] for seeds in _seeded(given)]
    table = everywhere = live
    logs = {}
    if given["sweep"]:
        made = _sweep(base, tokenizer, merging, whole, given, told)
        table = everywhere = made if pairs else live
    elif pairs:
        joint = {Merger("joint"): None} if given["joint"] else {}
        wanted = wanted_answers(
            pairs,
            list(select(every | joint, given["merge"])),
            list(select(every, given["crossed"])) if given["crossed"] else [],
            math_parts=problems[~is_skill].part.unique(),
            skill_parts=problems[is_skill].part.unique(),
        )
        everywhere, manifest = read_evidence("swap_answers")
        table = shipped(wanted.assign(**told), everywhere, manifest, run, made_with=MADE_WITH)
        logs = {"evidence/expert_log": read_evidence("expert_log")[0]}

    graded = unpack_answers(table, of_parts)
    if logs:
        again = unpack_answers(live, few.problems(pair.target)[["part", "problem_id"]])
        on = [*PAIR, *NAME, "part", "lang", "problem_id", "correct"]
        audited = audit(graded, again[on], by=["system"])
    of_math = graded.part.isin(problems[~is_skill].part)
    kind = pd.Series("other skills", graded.index).mask(of_math, "new templates")
    kind = kind.mask(graded.part.isin(MATH_PARTS), "math")
    kind = kind.mask(of_math & (graded.lang == "en"), kind + " in English")
    answers = graded.assign(kind=kind, label=labels(graded, Merger))
    same = (table.lang.eq(table.target) | table.lang.eq("en")) & table.math_seed.eq(table.lang_seed)
    names = ["model", "steps", "embeddings", "learning_rate", "system", "draw", "seed", "target"]
    names += ["lang", "part", "problems", "correct"]
    decided = table[same].rename(columns={"math_seed": "seed"})[names].reset_index(drop=True)
    known = everywhere[everywhere.part.isin(MATH_PARTS) & (everywhere.lang == everywhere.target)]
    return Swaps(
        plans=pd.DataFrame({str(merger): plan.weights for merger, plan in plans.items()}).T,
        live=live.assign(accuracy=_accuracy(live), label=labels(live, Merger)),
        audited=audited,
        made=made,
        answers=answers.rename(columns={"math_seed": "seed"}),
        in_language=known.assign(accuracy=_accuracy(known), label=labels(known, Merger)),
        decided={"swap": decided} | logs,
        published=published("layerswap_headline"),
        target=pair.target,
        run=run,
    )


def _seeded(given: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Seeds of the math expert and of the language expert, of every pair."""
    pairs = itertools.product(given["seeds"], repeat=2)
    return [(a, b) for a, b in pairs if a == b or given["crossed"]]


def _sweep(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    merging: Callable[..., dict[Merger, Callable[[], Tensors]]],
    questions: Questions,
    given: Mapping[str, Any],
    told: Mapping[str, Any],
) -> pd.DataFrame:
    """Train the experts of all languages and seeds, merge every pair, and ask."""
    languages = given["languages"]
    train = partial(Training.of(given).expert, base, tokenizer, name=told["model"])
    tables = []
    for code in languages:
        ask = questions.ask(tokenizer, code)
        for first, second in _seeded(given):
            roles = {"math": (MATH, first), "language": (code, second)}
            if given["joint"] and first == second:
                roles["joint"] = (f"{MATH}+{code}", first)
            experts = {key: train(role, seed=seed).model for key, (role, seed) in roles.items()}
            made = merging(**experts)
            made = select(made, given["merge"] if first == second else given["crossed"])
            names = dict(zip(PAIR, (code, first, second), strict=True))
            tables.append(merged_answers(base, made, ask, names | told))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _accuracy(packed: pd.DataFrame) -> pd.Series:
    return packed.correct.map(lambda digits: digits.count("1") / len(digits))


def gains(answers: pd.DataFrame) -> pd.DataFrame:
    """What the swap changes in known math of each language, against its math expert.

    From `Swaps.answers` of pairs of equal seeds, index target: the columns of
    `mmlib.study.stats.paired_changes`, over the problems, each once per training.
    """
    known = answers[answers.kind == "math"].rename(columns={"seed": "training"})
    plain = known[known.system == "math expert"].drop(columns="target")
    swapped = known[known.system == "swap"].assign(seed=0)
    same = ["lang", "training", "part", "problem_id"]
    return paired_changes(swapped, plain, by=["target"], on=same).set_index("target")


def band_accuracies(in_language: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by number of swapped layers, mean of the trainings.

    From `Swaps.in_language`, of one base and recipe: target, transition, bottom, top, accuracy;
    with none and one averaged layer at a border. 0 + 0 has no border, and stands in both.
    """
    bands = in_language[(in_language.system == "bands") & in_language.transition.isin([0, 1])]
    no_border = bands[(bands.bottom == 0) & (bands.top == 0)]
    zones = set(bands.transition) - {0}
    bands = pd.concat([bands, *(no_border.assign(transition=zone) for zone in zones)])
    by = ["target", "transition", "bottom", "top"]
    return bands.groupby(by, as_index=False).accuracy.mean()


def same_when_embedded(in_language: pd.DataFrame) -> float:
    """Share of problems that experts answer alike whether their embeddings are trained or not.

    From rows of `Swaps.in_language`, of one base, recipe and treatment of embeddings.
    """
    experts = in_language[in_language.system.isin(["math expert", "language expert"])]
    experts = experts.drop_duplicates(["system", "target", "math_seed", "part", "embeddings"])
    by = ["system", "target", "math_seed", "part"]
    pairs = experts.pivot(index=by, columns="embeddings", values="correct").dropna()
    kept, trained = ("".join(pairs[way]) if way in pairs else "" for way in (False, True))
    return sum(map(str.__eq__, kept, trained)) / max(1, len(kept))


AVERAGED = {(1, 1, zone): f"{zone} averaged" for zone in range(3)}
AVERAGED |= {(2, 1, 0): "more layers", (1, 2, 0): "more layers"}
"""Swaps (bottom, top, transition) that are compared by the length of the experts' training."""


def length_accuracies(in_language: pd.DataFrame) -> pd.DataFrame:
    """Rows of swaps with averaged layers, by the length of the experts' training.

    Those of `Swaps.in_language`, of one language, recipe and treatment of embeddings, with any
    number of steps; each once, with group: see `AVERAGED`, "base" or "math expert".
    """
    counts = zip(*(in_language[name] for name in ("bottom", "top", "transition")), strict=True)
    bands = pd.Series([AVERAGED.get(key) for key in counts], in_language.index, dtype=object)
    plain = in_language.system.where(in_language.system.isin(["base", "math expert"]))
    group = bands.where(in_language.system == "bands", plain)
    rows = in_language.assign(group=group).dropna(subset="group")
    return rows.drop_duplicates(["model", "steps", *NAME, "math_seed", "part", "lang"])
