"""Systems that are compared with selective alignment: what each trains, and what that costs.

The names are those of the paper's tables where a system plays the part of one there.
"""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.edits import trainable_only
from mmlib.finetune import encode, fine_tune
from mmlib.forward import batches
from mmlib.models import linear_modules
from mmlib.neurons import firing_rates, overlap_with_english, ranges
from mmlib.study.pairs import draw_pairs, translation_prompt
from mmlib.study.states import final_states, language_accuracy, retrieval, spaced_layers, tsne
from mmlib.study.tables import pack_answers
from mmlib.tasks.problems import Problem, load_problems


def prediction_consistency(
    answers: pd.DataFrame, *, english: str = "en", problem: Sequence[str] = ("part", "problem_id")
) -> pd.Series:
    """Prediction consistency with English (PCR): |M ∩ N| / |M|.

    Args:
        answers: Rows of lang, correct and the columns that name a problem in every language.
        english: The language whose right answers are M.
        problem: These columns.

    Returns:
        Language -> share of the problems right in English that it has right too; not a number where
        English has none right.

    Raises:
        ValueError: Languages that were asked different problems.
    """
    wide = answers.pivot(index=list(problem), columns="lang", values="correct")
    if wide.isna().any(axis=None):
        raise ValueError("the languages were asked different problems: ask all of them the same")
    right = wide[wide[english].astype(bool)]
    return right.drop(columns=english).astype(float).mean()


FEED_FORWARD = ("up_proj", "down_proj")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_FORMS = {"pairs": "published", "bare pairs": "no brackets", "dialogue": "dialogue"}
"""Pairs, and the form of their prompt (`mmlib.study.pairs.PROMPTS`)."""
EXAMPLES = (*_FORMS, "unbalanced pairs", "English math", "translated math")
"""What a stage can learn from."""
ADAM_BYTES = 8
"""Two float32 moments per weight that has gradients."""


@dataclass(frozen=True)
class Stage:
    """One fine-tuning."""

    data: str
    """Name of the examples, one of `EXAMPLES`."""
    layers: tuple[int, ...] | None = None
    """Decoder layers that are trained; None: every weight of the model."""
    modules: tuple[str, ...] = ()
    """Modules of them; none: all."""
    rank: int = 0
    """Of LoRA adapters on all linear modules, which are trained in place of weights."""

    @property
    def kind(self) -> str:
        """Which learning rate it takes: part, full or lora."""
        return "lora" if self.rank else "full" if self.layers is None else "part"

    @property
    def folder(self) -> str:
        """Name that says all of it."""
        layers = "all" if self.layers is None else "+".join(map(str, self.layers))
        names = "+".join(self.modules) or (f"rank {self.rank}" if self.rank else "all")
        return f"{self.data}, layers {layers}, {names}".replace(", ", "_").replace(" ", "-")


def systems(
    selected: Sequence[int], depth: int, *, rank: int, draws: int = 3
) -> dict[str, tuple[Stage, ...]]:
    """The systems of the paper's tables and ablations, each as its stages.

    Args:
        selected: Layers that SLAM trains, see `mmlib.neurons.select_layers`.
        depth: Decoder layers of the model.
        rank: Of the LoRA that is as large as SLAM, see `equal_rank`.
        draws: Random layers are drawn so often, without replacement and other than `selected`
            where there are enough.

    Returns:
        Name -> stages: "base" (none), "SLAM", "QAlign stage 1" (full fine-tuning on the pairs),
        "QAlign" (and then on English math), "LoRA", "MathOctopus" (full fine-tuning on translated
        solutions), "English math" (QAlign's second stage alone), "attention", "FFN and attention",
        "FFN with gate" (of the selected layers), "unbalanced pairs", "no brackets" and "dialogue"
        (SLAM with other forms of the prompt), "first k", "random i".

    Raises:
        ValueError: No layer is selected, or one that the model does not have.
    """
    layers = tuple(sorted(set(selected)))
    if not layers or not 0 <= layers[0] <= layers[-1] < depth:
        raise ValueError(f"selected={list(selected)}: give some of the layers 0 to {depth - 1}")
    align, math = Stage("pairs"), Stage("English math")
    found = {
        "base": (),
        "SLAM": (Stage("pairs", layers, FEED_FORWARD),),
        "QAlign stage 1": (align,),
        "QAlign": (align, math),
        "LoRA": (Stage("pairs", rank=rank),),
        "MathOctopus": (Stage("translated math"),),
        "English math": (math,),
        "attention": (Stage("pairs", layers, ATTENTION),),
        "FFN and attention": (Stage("pairs", layers, FEED_FORWARD + ATTENTION),),
        "FFN with gate": (Stage("pairs", layers, (*FEED_FORWARD, "gate_proj")),),
        "unbalanced pairs": (Stage("unbalanced pairs", layers, FEED_FORWARD),),
        "no brackets": (Stage("bare pairs", layers, FEED_FORWARD),),
        "dialogue": (Stage("dialogue", layers, FEED_FORWARD),),
    }
    for k in range(1, depth + 1):
        found[f"first {k}"] = (Stage("pairs", tuple(range(k)), FEED_FORWARD),)
    others = [layer for layer in range(depth) if layer not in layers]
    pool = others if len(others) >= len(layers) else range(depth)
    for draw in range(1, draws + 1):
        drawn = np.random.default_rng(draw).choice(list(pool), len(layers), replace=False)
        found[f"random {draw}"] = (Stage("pairs", tuple(sorted(map(int, drawn))), FEED_FORWARD),)
    return found


def chosen(recipes: Mapping[str, Sequence[Stage]], names: Collection[str]) -> dict[str, Any]:
    """The recipes of some systems.

    Raises:
        ValueError: There is none of that name.
    """
    if unknown := [name for name in names if name not in recipes]:
        raise ValueError(f"no system {unknown[0]!r}: choose from {', '.join(recipes)}")
    return {name: recipes[name] for name in names}


def equal_rank(model: nn.Module, stage: Stage) -> int:
    """Rank of LoRA adapters on all linear modules with about as many weights as a stage trains."""
    with trainable_only(model, stage.layers, stage.modules):
        size = sum(p.numel() for p in model.parameters() if p.requires_grad)
    per_rank = sum(m.in_features + m.out_features for m in linear_modules(model).values())
    return max(1, round(size / per_rank))


def align(
    model: PreTrainedModel,
    stages: Sequence[Stage],
    examples: Mapping[str, Sequence[Mapping[str, list[int]]]],
    out: str | Path,
    *,
    steps: int,
    rates: Mapping[str, float],
    **options: Any,
) -> tuple[PreTrainedModel, pd.DataFrame, pd.DataFrame]:
    """Fine-tune a model stage by stage.

    Args:
        model: In float32; changed in place (adapters are merged into it in the end).
        stages: See `systems`.
        examples: Name of the data -> examples, see `mmlib.finetune.encode`.
        out: Folder of the runs: the first stage's below it, the second's below that; interrupted
            ones go on, and systems that begin alike share what they have in common.
        steps: Optimizer steps of each stage.
        rates: Learning rates of the kinds part, full and lora.
        **options: Further arguments of `mmlib.finetune.fine_tune`.

    Returns:
        The model; the log (columns of `finetune` and stage); the costs, one row per stage: stage,
        data, trained (number of weights), share (of the model's), optimizer_bytes, seconds.
    """
    size, out, logs, costs = model.num_parameters(), Path(out), [], []
    for number, stage in enumerate(stages, 1):
        out = out / f"{stage.folder}_{rates[stage.kind]:g}"
        if stage.data not in examples:
            raise ValueError(f"no examples {stage.data!r}: there are {', '.join(examples)}")
        with ExitStack() as stack:
            moving = _moving(model, stage, stack, options.get("seed", 1))
            trained = sum(p.numel() for p in moving.parameters() if p.requires_grad)
            log = fine_tune(
                moving,
                examples[stage.data],
                out,
                steps=steps,
                learning_rate=rates[stage.kind],
                **options,
            )
        if stage.rank:
            model = moving.merge_and_unload()
        cost = (number, stage.data, trained, trained / size, ADAM_BYTES * trained)
        costs.append((*cost, float(log.seconds.iloc[-1])))
        logs.append(log.assign(stage=number))
    names = ["stage", "data", "trained", "share", "optimizer_bytes", "seconds"]
    log = pd.concat(logs, ignore_index=True) if logs else pd.DataFrame()
    return model, log, pd.DataFrame(costs, columns=names)


def _moving(model: PreTrainedModel, stage: Stage, stack: ExitStack, seed: int) -> nn.Module:
    """The model with gradients where the stage wants them; adapters begin as the seed says."""
    if stage.rank:
        names = [name.rpartition(".")[2] for name in linear_modules(model)]
        config = LoraConfig(
            r=stage.rank, lora_alpha=2 * stage.rank, target_modules=sorted(set(names))
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return get_peft_model(model, config)
    if stage.layers is None:
        return model.requires_grad_(True)
    stack.enter_context(trainable_only(model, stage.layers, stage.modules))
    return model


def training_examples(
    tokenizer: PreTrainedTokenizerBase,
    pairs: pd.DataFrame,
    *,
    number: int,
    seed: int,
    unbalanced: Mapping[str, float],
    task: str,
    languages: Sequence[str],
    data_dir: str = "",
    split: str = "calibration",
    kinds: Collection[str] | None = None,
) -> dict[str, list[dict[str, list[int]]]]:
    """The examples of all systems, by the names that `Stage.data` uses.

    Args:
        tokenizer: The model's tokenizer.
        pairs: See `mmlib.study.pairs.load_pairs`; they get SLAM's prompt.
        number: Examples of each kind, at most. Pairs are as many per language, and where unbalanced
            ones are wanted too no more than there can be of these, so that both have as many.
        seed: Of the draws.
        unbalanced: Language -> its share of the unbalanced pairs.
        task: Word problems with worked solutions.
        languages: ISO 639-1 codes, English first.
        data_dir: As in `mmlib.tasks.problems.load_problems`.
        split: Of the word problems.
        kinds: Only these of the examples; None: all.

    Raises:
        ValueError: An unknown kind; or unbalanced pairs are wanted and `unbalanced` does not have
            the languages of the pairs, or has a share that is not above 0; see also
            `mmlib.tasks.problems.load_problems`.
    """
    kinds = EXAMPLES if kinds is None else kinds
    if unknown := sorted(set(kinds) - set(EXAMPLES)):
        raise ValueError(f"no examples {unknown[0]!r}: choose from {', '.join(EXAMPLES)}")
    there = pairs.lang.value_counts()
    count = min(number, len(there) * int(there.min()))
    if "unbalanced pairs" in kinds:
        count = min(count, _most(there, unbalanced))
    asked = {}
    for name in kinds:
        if name in _FORMS:
            drawn = draw_pairs(pairs, count, seed=seed)
            asked[name] = translation_examples(tokenizer, drawn, form=_FORMS[name])
    if "unbalanced pairs" in kinds:
        drawn = draw_pairs(pairs, count, seed=seed, shares=unbalanced)
        asked["unbalanced pairs"] = translation_examples(tokenizer, drawn)
    for name, codes in (("English math", languages[:1]), ("translated math", languages)):
        if name in kinds:
            problems = _problems(task, codes, number, seed, data_dir, split)
            asked[name] = encode(tokenizer, [(p.prompt, p.response) for p in problems])
    return asked


def _most(there: pd.Series, shares: Mapping[str, float]) -> int:
    """How many pairs can be drawn with these shares, of as many as there are by language."""
    if set(shares) != set(there.index) or min(shares.values()) <= 0:
        raise ValueError(f"unbalanced={dict(shares)}: give {sorted(there.index)} shares above 0")
    total = sum(shares.values())
    return min(int(there[code] * total / share) for code, share in shares.items())


def translation_examples(
    tokenizer: PreTrainedTokenizerBase, pairs: pd.DataFrame, *, form: str = "published"
) -> list[dict[str, list[int]]]:
    """Pairs in SLAM's prompt, with a loss on the English text only.

    `form` is one of `mmlib.study.pairs.PROMPTS`.
    """
    prompts = [
        translation_prompt(text, lang, form=form)
        for text, lang in zip(pairs.text, pairs.lang, strict=True)
    ]
    return encode(tokenizer, zip(prompts, pairs.english, strict=True))


def _problems(
    task: str, languages: Sequence[str], number: int, seed: int, data_dir: str, split: str
) -> list[Problem]:
    """As many problems of every language, in a random order."""
    rng, found = np.random.default_rng(seed), []
    for code in languages:
        own = load_problems(task, code, data_dir=data_dir or None, split=split)
        count = min(len(own), number // len(languages))
        found += [own[i] for i in rng.choice(len(own), count, replace=False)]
    return [found[i] for i in rng.permutation(len(found))]


def views(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Mapping[str, Sequence[str]],
    *,
    maps: Sequence[int] = (),
    batch_size: int = 32,
) -> dict[str, pd.DataFrame]:
    """How a model sees the same questions in several languages.

    Args:
        model: A gated decoder.
        tokenizer: Its tokenizer.
        questions: Language -> questions, English first, see `mmlib.study.firing.draw_questions`.
        maps: Seeds of maps by t-SNE.
        batch_size: Questions per forward pass.

    Returns:
        "firing": lang, layer, rate and overlap (with English; missing for English); "states": lang,
        layer, depth, retrieval, language_accuracy (of the layer), at `spaced_layers`; "maps": lang,
        question, x, y, layer, map_seed.
    """
    english, skip = next(iter(questions)), [tokenizer.bos_token_id]
    skip = [token for token in skip if token is not None]
    texts = {
        x: batches(tokenizer, own, batch_size=batch_size, sort=False)
        for x, own in questions.items()
    }
    rates = {x: firing_rates(model, own, skip=skip).rates() for x, own in texts.items()}
    both = {"rate": ranges(rates), "overlap": overlap_with_english(rates, english=english)}
    firing = pd.concat({name: t.stack() for name, t in both.items()}, axis=1).reset_index()
    depth = model.config.get_text_config().num_hidden_layers
    layers = spaced_layers(depth)
    found = {x: final_states(model, own, layers) for x, own in texts.items()}
    states, drawn = [], []
    for layer in layers:
        own = {x: of[layer] for x, of in found.items()}
        near = retrieval(own, english=english).rename("retrieval").rename_axis("lang")
        about = {"layer": layer, "depth": depth, "language_accuracy": language_accuracy(own)}
        states.append(near.reset_index().assign(**about))
        drawn += [tsne(own, seed=seed).assign(layer=layer, map_seed=seed) for seed in maps]
    columns = ["lang", "question", "x", "y", "layer", "map_seed"]
    return {
        "firing": firing,
        "states": pd.concat(states, ignore_index=True),
        "maps": pd.concat(drawn, ignore_index=True) if drawn else pd.DataFrame(columns=columns),
    }


def compared(
    base: PreTrainedModel,
    wanted: pd.DataFrame,
    recipes: Mapping[str, Sequence[Stage]],
    examples: Mapping[int, Mapping[str, Sequence]],
    *,
    ask: Callable[[PreTrainedModel], pd.DataFrame] | None,
    look: Callable[[PreTrainedModel], Mapping[str, pd.DataFrame]],
    out: str | Path,
    **options: Any,
) -> dict[str, pd.DataFrame]:
    """Train systems from one model, one after the other; ask each, and look at it.

    Args:
        base: The model from which each starts; unchanged.
        wanted: Columns system and seed; the seed of a system without stages means nothing.
        recipes: See `systems`.
        examples: Seed -> examples, see `training_examples`.
        ask: Called with every model; answers as of `mmlib.tasks.evaluation.part_answers`. None: no
            model is asked.
        look: Called with every model; tables as of `views`.
        out: Folder of all runs; one that is finished is not trained again.
        **options: Further arguments of `align`.

    Returns:
        "log" and "costs" (see `align`), the tables of `look`, "answers" (packed by part and lang,
        see `tables.pack_answers`) and "responses" (the first one to every part, as it was
        written), each with system, seed and learning_rate (of its first stage).

    Raises:
        ValueError: A wanted system has no recipe.
    """
    recipes = chosen(recipes, wanted.system)
    joined: dict[str, list[pd.DataFrame]] = {}
    for system, seed in wanted[["system", "seed"]].itertuples(index=False):
        stages, model = recipes[system], copy.deepcopy(base)
        model, log, costs = align(
            model,
            stages,
            examples.get(seed, {}),
            Path(out) / f"seed-{seed}",
            seed=max(seed, 1),
            **options,
        )
        tables = {"log": log, "costs": costs, **look(model)}
        if ask:
            answers = ask(model)
            tables["answers"] = pack_answers(answers, by=["part", "lang"])
            first = answers.groupby(["part", "lang"], sort=False).head(1)
            tables["responses"] = first[["part", "lang", "problem_id", "response"]]
        rate = options["rates"][stages[0].kind] if stages else 0.0
        about = {"system": system, "seed": seed, "learning_rate": rate}
        for name, table in tables.items():
            joined.setdefault(name, []).append(table.assign(**about))
    return {
        name: pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)
        for name, tables in joined.items()
    }
