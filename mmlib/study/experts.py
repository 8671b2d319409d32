"""Experts of layer swapping: one learns English math, another a language; and their mergers."""

import copy
import itertools
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.edits import holding, trainable_only
from mmlib.finetune import encode, fine_tune
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
from mmlib.models import model_hash, resolve
from mmlib.organism.corpus import Mix, draw, render
from mmlib.study.tables import RunInfo, pack_answers
from mmlib.tasks.evaluation import part_answers
from mmlib.tasks.languages import get_language
from mmlib.tasks.problems import load_problems, organism_folder
from mmlib.tasks.sources import read_table

MATH = "math"
"""The role of an expert in English math; others are named by their language."""
Examples = list[dict[str, list[int]]]
Texts = list[tuple[str, str]]


def expert_examples(
    role: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    math_tasks: Sequence[str],
    language_tasks: Sequence[str],
    number: int,
    heldout: int,
    seed: int,
    data_dir: str = "",
) -> tuple[Examples, Examples]:
    """Examples of one expert, with a loss on the response only.

    Args:
        role: "math" (English), a language, or "math+LANGUAGE" for training on both at once.
        tokenizer: The base's.
        math_tasks: What the math expert learns: tasks of an organism's corpus (`organism-math`),
            drawn afresh from its training part (`organism-math-new`: with the templates that
            organisms do not see, but never an item that is asked), or others of `problems`
            (their training split); not both.
        language_tasks: The same for a language expert.
        number: Examples of each part of the role.
        heldout: Further ones that are set aside, the same for every seed.
        seed: Of their draw.
        data_dir: As in `mmlib.tasks.problems.load_problems`.

    Returns:
        Examples to train on and those set aside.

    Raises:
        ValueError: A number below 1, tasks of both kinds, or too few examples; see also
            `mmlib.tasks.problems.load_problems`.
    """
    if min(number, heldout) < 1:
        raise ValueError(f"number={number}, heldout={heldout}: give at least 1")
    kept, aside = [], []
    for part in role.split("+"):
        code = "en" if part == MATH else get_language(part).code
        tasks = math_tasks if part == MATH else language_tasks
        fresh = {task.startswith("organism-") for task in tasks}
        if len(fresh) != 1:
            raise ValueError(f"tasks {list(tasks)}: give some, of organisms or others")
        source = _fresh if fresh == {True} else partial(_loaded, data_dir=data_dir)
        own, other = source(tasks, code, number, heldout, seed)
        kept += own
        aside += other
    return encode(tokenizer, kept), encode(tokenizer, aside)


def _fresh(tasks, code: str, number: int, heldout: int, seed: int) -> tuple[Texts, Texts]:
    """Documents of the corpus in one language, in the shares that organisms are trained on."""
    names = [task.removeprefix("organism-") for task in tasks]
    shares = Mix().tasks | {"math-new": Mix().tasks["math"]}
    if unknown := [name for name in names if name not in shares]:
        raise ValueError(f"the corpus has no {unknown[0]!r}: choose from {', '.join(shares)}")
    table = read_table(
        organism_folder(None) / "heldout.jsonl.gz", ["part", "lang", "template", "prompt"]
    )
    table = table[table.part.eq("math-new") & table.lang.eq("en")]
    asked = {_numbers(*row) for row in table[["template", "prompt"]].itertuples(index=False)}

    def documents(seed: int) -> Iterator[tuple[str, tuple[str, str]]]:
        rng = random.Random(f"experts {seed} {code}")
        while True:
            name = rng.choices(names, [shares[name] for name in names])[0]
            new = name == "math-new"
            item = draw(rng, "math" if new else name, heldout_template=new)
            if not new or _numbers(item.template, render(item, "en")["prompt"]) not in asked:
                row = render(item, code)
                yield item.key, (row["prompt"], row["response"])

    aside = list(itertools.islice(documents(0), heldout))
    keys = {key for key, _ in aside}
    drawn = itertools.islice(documents(seed), 20 * number)  # of little text, most may be set aside
    kept = list(itertools.islice((text for key, text in drawn if key not in keys), number))
    if len(kept) < number:
        raise ValueError(
            f"number={number}, heldout={heldout}: the corpus has too little of {names}"
        )
    return kept, [text for _, text in aside]


def _numbers(template: str, text: str) -> tuple[str, ...]:
    """What tells a problem, whatever layout it is asked in."""
    return template, *sorted(re.findall(r"\d+", text))


def _loaded(tasks, code: str, number: int, heldout: int, seed: int, data_dir: str) -> tuple:
    """Problems of data sets, those set aside drawn first."""
    load = partial(load_problems, language=code, data_dir=data_dir or None, split="train")
    texts = [(p.prompt, p.response) for task in tasks for p in load(task)]
    if len(texts) < number + heldout:
        raise ValueError(
            f"number={number}, heldout={heldout}: {', '.join(tasks)} have {len(texts)} in {code}"
        )
    order = np.random.default_rng(0).permutation(len(texts))
    rest = np.random.default_rng(seed).permutation(order[heldout:])[:number]
    return [texts[i] for i in rest], [texts[i] for i in order[:heldout]]


def train_expert(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    role: str,
    root: str | Path,
    *,
    name: str,
    seed: int,
    steps: int,
    learning_rate: float,
    batch_size: int,
    accumulation: int = 1,
    embeddings: bool = False,
    data: Mapping[str, Any],
    **options: Any,
) -> Path:
    """Fine-tune a copy of the base and keep it as a checkpoint that `from_pretrained` opens.

    Args:
        base: In float32; unchanged.
        tokenizer: Goes with it.
        role: As in `expert_examples`.
        root: Folder of the experts. The expert's own folder below it is named after the settings;
            one that is there already is left as it is, an interrupted training goes on.
        name: The base's, for the folder and the manifest.
        seed: Of the examples, and of the training.
        steps: Optimizer steps for each part of the role.
        learning_rate: Highest rate.
        batch_size: Examples per batch; one device.
        accumulation: Batches per step.
        embeddings: Whether embeddings, final norm and head are trained too.
        data: math_tasks, language_tasks, heldout and data_dir of `expert_examples`.
        **options: Further arguments of `mmlib.finetune.fine_tune`.

    Returns:
        The checkpoint's folder: weights in float32, since bfloat16 would round small updates to
        nothing; tokenizer, manifest.json, training_log.csv.

    Raises:
        ValueError: The folder holds another expert; see also `expert_examples` and `finetune`.
    """
    told = {"role": role, "base": name, "base_hash": model_hash(base), "seed": seed}
    told |= {"steps": steps, "learning_rate": learning_rate, "embeddings": embeddings, **data}
    told |= {"batch_size": batch_size, "accumulation": accumulation, **options}
    told = json.loads(json.dumps(told, default=str))
    marks = (name, role, steps, f"{learning_rate:g}", *(["embeddings"] if embeddings else []), seed)
    out = Path(root).absolute() / "_".join(map(str, marks)).replace("/", "-")
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(out.with_name(f"{out.name}.lock")):
        if not out.is_dir():
            number = steps * batch_size * accumulation
            examples, aside = expert_examples(role, tokenizer, number=number, seed=seed, **data)
            how = {"steps": steps * len(role.split("+")), "learning_rate": learning_rate}
            how |= {"batch_size": batch_size, "accumulation": accumulation, "seed": seed, **options}
            model, training = copy.deepcopy(base), out.with_name(f"{out.name}.training")
            with trainable_only(model, None, ()):
                if embeddings:
                    model.requires_grad_(True)
                log = fine_tune(model, examples, training, heldout=aside, **how)
            _save(model, tokenizer, log, told | {"run": asdict(RunInfo.collect(name))}, out)
            shutil.rmtree(training)
    there = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    if differing := {k: v for k, v in told.items() if there.get(k) != v}:
        raise ValueError(f"{out} holds another expert, not of {differing}: choose another folder")
    return out


def _save(model, tokenizer, log: pd.DataFrame, manifest: Mapping[str, Any], out: Path) -> None:
    unfinished = out.with_name(f"{out.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    log.to_csv(unfinished / "training_log.csv", index=False)
    (unfinished / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    unfinished.rename(out)


def expert_recipe(name: str) -> dict[str, Any]:
    """What the manifest of a checkpoint says of an expert.

    Args:
        name: As in `mmlib.models.load_model`.

    Returns:
        role, seed and the settings of the training; where a manifest does not tell them, role is
        the last part of the name and the seed 0.
    """
    path = Path(resolve(name)) / "manifest.json"
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {"role": Path(name).name, "seed": 0} | told


def named_plans(depth: int, *, draws: int = 2) -> dict[str, LayerPlan]:
    """The swap as published, its parts, and its controls.

    Args:
        depth: Decoder layers of the model.
        draws: Swaps of random layers.

    Returns:
        "swap" (5 + 2 of 32 layers, scaled, with a transition layer on each side), "no transition",
        "6 + 2 of 32" (the follow-up's, scaled, without), "bottom only", "top only", "reversed" (the
        experts exchanged), "random i" (as many layers of each kind in random places).
    """
    swap, half = LayerPlan.fitted(depth), depth // 2
    bottom, top = swap.weights[:half], swap.weights[half:]
    six, two = max(1, round(6 / 32 * depth)), max(1, round(2 / 32 * depth))
    return {
        "swap": swap,
        "no transition": LayerPlan.fitted(depth, transition=0),
        "6 + 2 of 32": LayerPlan.bands(depth, six, two, transition=0),
        "bottom only": LayerPlan((*bottom, *(0.0 for _ in top))),
        "top only": LayerPlan((*(0.0 for _ in bottom), *top)),
        "reversed": swap.reversed(),
        **{f"random {number}": plan for number, plan in enumerate(_random(swap, draws), 1)},
    }


def _random(swap: LayerPlan, draws: int) -> list[LayerPlan]:
    """As many layers of each kind in other places, each time in different ones where possible."""
    found: dict[LayerPlan, None] = {}
    for seed in range(100):
        if len(found) < draws and swap.shuffled(seed) != swap:
            found.setdefault(swap.shuffled(seed))
    return list(found)


def all_bands(
    depth: int, bottoms: Sequence[int], tops: Sequence[int], transitions: Sequence[int]
) -> dict[str, LayerPlan]:
    """Every swap of so many layers below and above with so many averaged ones, where they fit."""
    found = {}
    for bottom, top, transition in itertools.product(bottoms, tops, transitions):
        both = bottom + top + transition * ((bottom > 0) + (top > 0))
        if both <= depth:
            plan = LayerPlan.bands(depth, bottom, top, transition=transition)
            found[f"{bottom} + {top}, transition {transition}"] = plan
    return found


def mergers(
    base: PreTrainedModel,
    math: PreTrainedModel,
    language: PreTrainedModel,
    plans: Mapping[str, LayerPlan],
    *,
    others: Others = "average",
    joint: PreTrainedModel | None = None,
) -> dict[str, Callable[[], Tensors]]:
    """Everything that is compared with a swap, by name; weights are made when they are asked for.

    Args:
        base: What both experts were fine-tuned from.
        math: Math expert.
        language: Language expert.
        plans: Swaps, see `named_plans`; "revert" undoes what "swap" swaps, where there is one.
        others: As in `mmlib.merging.merged`.
        joint: A model that was trained on both data sets.
    """
    experts, how = [math, language], {"others": others, "base": base}
    check_comparable(base, *experts, *([joint] if joint is not None else []))
    found = {
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
    if "swap" in plans:
        found["revert"] = partial(merged, math, base, plans["swap"], **how)
    found |= {name: partial(merged, *experts, plan, **how) for name, plan in plans.items()}
    found["by update"] = lambda: merged(*experts, _plan_of_updates(base, *experts), **how)
    return found | ({"joint": partial(dense, joint)} if joint is not None else {})


def _plan_of_updates(base: PreTrainedModel, *experts: PreTrainedModel) -> LayerPlan:
    updates = [update_magnitude(base, expert) for expert in experts]
    return LayerPlan.from_updates(*(table.groupby("layer").share.sum() for table in updates))


def wanted_answers(
    pairs: Sequence[tuple[str, int, int]],
    systems: Sequence[str],
    crossed: Sequence[str],
    *,
    math_parts: Sequence[str],
    skill_parts: Sequence[str],
) -> pd.DataFrame:
    """The rows that mergers of pairs of experts leave, one per part and language.

    Args:
        pairs: Language, seed of the math expert, seed of the language expert.
        systems: Mergers of the pairs of equal seeds.
        crossed: Those of the others.
        math_parts: Asked in English and in the language.
        skill_parts: Asked in the language.

    Returns:
        target, math_seed, lang_seed, system, part, lang.
    """
    rows = [
        (target, first, second, system, part, lang)
        for target, first, second in pairs
        for system in (systems if first == second else crossed)
        for parts, asked in ((math_parts, ("en", target)), (skill_parts, (target,)))
        for part in parts
        for lang in dict.fromkeys(asked)
    ]
    names = ["target", "math_seed", "lang_seed", "system", "part", "lang"]
    return pd.DataFrame(rows, columns=names)


def skill_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    language: str,
    math: Mapping[str, Any],
    skills: Mapping[str, Any],
    **asking: Any,
) -> pd.DataFrame:
    """Math in English and in a language, and other skills in the language.

    Args:
        model: Any causal LM.
        tokenizer: Its tokenizer.
        language: ISO 639-1 code; English is asked for math either way.
        math: tasks, parts and items of math, as in `mmlib.tasks.evaluation.part_answers`.
        skills: The same of the other skills; empty: none.
        **asking: Further arguments of `part_answers`.

    Returns:
        Answers as `part_answers` gives them.
    """
    both = list(dict.fromkeys(["en", language]))
    tables = [part_answers(model, tokenizer, languages=both, **math, **asking)]
    if skills:
        tables.append(part_answers(model, tokenizer, languages=[language], **skills, **asking))
    return pd.concat(tables, ignore_index=True)


def merged_answers(
    model: PreTrainedModel,
    made: Mapping[str, Callable[[], Tensors]],
    ask: Callable[[PreTrainedModel], pd.DataFrame],
) -> pd.DataFrame:
    """Let a model hold other weights, one after the other, and ask it.

    Args:
        model: Of the shape of all of them; as it was afterwards.
        made: Name -> weights, see `mergers`.
        ask: Returns answers as `mmlib.tasks.evaluation.part_answers` does.

    Returns:
        Answers packed by part and lang (see `mmlib.study.tables.pack_answers`), with system.
    """
    tables = []
    for system, weights in made.items():
        with holding(model, weights()):
            tables.append(pack_answers(ask(model), by=["part", "lang"]).assign(system=system))
    return pd.concat(tables, ignore_index=True)
