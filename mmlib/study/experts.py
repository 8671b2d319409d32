"""Experts of layer swapping: one learns English math, another a language."""

import copy
import itertools
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.files import replacing
from mmlib.finetune import encode
from mmlib.merging import check_vocabularies
from mmlib.models import resolve
from mmlib.organism.corpus import Mix, draw, render
from mmlib.organism.training import write_manifest
from mmlib.study.settings import Loading, Steps
from mmlib.study.systems import Stage, align
from mmlib.study.tables import RunInfo
from mmlib.tasks.benchmarks.organism import organism_folder
from mmlib.tasks.languages import get_language
from mmlib.tasks.problems import load_problems
from mmlib.tasks.sources import read_table

MATH = "math"
"""The role of an expert in English math; others are named by their language."""
CORPUS = {f"organism-{name}": name for name in (*Mix().tasks, "math-new")}
"""Tasks that are drawn afresh, and what the corpus calls them."""
Examples = list[dict[str, list[int]]]
Texts = list[tuple[str, str]]


def _fresh(tasks, code: str, number: int, heldout: int, seed: int) -> tuple[Texts, Texts]:
    """Documents of the corpus in one language, in the shares that organisms are trained on."""
    names = [CORPUS[task] for task in tasks]
    shares = Mix().tasks | {"math-new": Mix().tasks["math"]}

    def documents(seed: int) -> Iterator[tuple[str, tuple[str, str]]]:
        rng = random.Random(f"experts {seed} {code}")
        while True:
            name = rng.choices(names, [shares[name] for name in names])[0]
            new = name == "math-new"
            item = draw(rng, "math" if new else name, heldout_template=new)
            if not new or _numbers(item.template, render(item, "en")["prompt"]) not in _asked():
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


@lru_cache(1)
def _asked() -> frozenset[tuple[str, ...]]:
    """The problems with new templates that organisms are asked."""
    columns = ["part", "lang", "template", "prompt"]
    table = read_table(organism_folder(None) / "heldout.jsonl.gz", columns)
    rows = table.loc[table.part.eq("math-new") & table.lang.eq("en"), ["template", "prompt"]]
    return frozenset(_numbers(*row) for row in rows.itertuples(index=False))


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


class Expert(NamedTuple):
    """A trained expert."""

    model: PreTrainedModel
    log: pd.DataFrame
    """Of its training, see `mmlib.finetune.fine_tune`."""
    folder: Path
    """Its checkpoint, in float32, since bfloat16 would round small updates to nothing."""


@dataclass(frozen=True, kw_only=True)
class Training(Steps):
    """How experts are trained, and on what; steps are those of one part of a role."""

    math_tasks: Sequence[str]
    """What the math expert learns: tasks of an organism's corpus (`organism-math`), drawn afresh
    from its training part (`organism-math-new`: with the templates that organisms do not see, but
    never an item that is asked), or others of `problems` (their training split); not both."""
    language_tasks: Sequence[str]
    """The same for a language expert."""
    learning_rate: float
    """Highest rate."""
    heldout: int
    """Examples of each part of a role that are set aside, the same for every seed."""
    embeddings: bool = False
    """Whether embeddings, final norm and head are trained too."""
    data_dir: str = ""
    experts_dir: str = "runs/experts"
    """Folder of the experts."""

    @property
    def recipe(self) -> dict[str, Any]:
        """What tells experts of one base apart, as columns of tables."""
        names = ("steps", "learning_rate", "embeddings")
        return {name: getattr(self, name) for name in names}

    def drawn(
        self,
        role: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        seed: int,
        number: int | None = None,
    ) -> tuple[Examples, Examples]:
        """Examples of an expert, and those set aside, with a loss on the response only.

        Args:
            role: "math" (English), a language, or "math+LANGUAGE" for training on both at once.
            tokenizer: The base's.
            seed: Of the draw.
            number: Examples of each part of the role; default: as many as the steps need.

        Raises:
            ValueError: A number below 1, tasks of both kinds, or too few examples; see also
                `mmlib.tasks.problems.load_problems`.
        """
        number = self.examples if number is None else number
        if min(number, self.heldout) < 1:
            raise ValueError(f"number={number}, heldout={self.heldout}: give at least 1")
        kept, aside = [], []
        for part in role.split("+"):
            code = "en" if part == MATH else get_language(part).code
            tasks = self.math_tasks if part == MATH else self.language_tasks
            fresh = {task in CORPUS for task in tasks}
            if len(fresh) != 1:
                raise ValueError(f"tasks {list(tasks)}: give some, of organisms or others")
            source = _fresh if fresh == {True} else partial(_loaded, data_dir=self.data_dir)
            own, other = source(tasks, code, number, self.heldout, seed)
            kept += own
            aside += other
        return encode(tokenizer, kept), encode(tokenizer, aside)

    def stage(self, base: PreTrainedModel, role: str) -> Stage:
        """What an expert learns from and trains: the layers, or with `embeddings` everything."""
        depth = base.config.get_text_config().num_hidden_layers
        return Stage(role, None if self.embeddings else tuple(range(depth)))

    def expert(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        role: str,
        *,
        name: str,
        seed: int,
    ) -> Expert:
        """Fine-tune a copy of the base (see `mmlib.study.systems.align`), and keep a checkpoint.

        The base is in float32 and unchanged; `name` is its name for the folder and the manifest,
        `role` as in `drawn`, `seed` that of the examples and of the training. What is finished is
        not trained again.

        Raises:
            ValueError: The folder, which is named after the settings, holds an expert of another
                base or with other examples; see also `drawn` and `fine_tune`.
        """
        marks = [name, role, self.steps, f"{self.learning_rate:g}"]
        marks += ["embeddings", seed] if self.embeddings else [seed]
        out = Path(self.experts_dir).absolute() / "_".join(map(str, marks)).replace("/", "-")
        stage, plan = self.stage(base, role), self.plan(self.learning_rate, seed=seed)
        plans = {stage.kind: replace(plan, steps=self.steps * len(role.split("+")))}
        examples, aside = self.drawn(role, tokenizer, seed=seed)
        learned = ([stage], {role: examples}, out, plans)
        model, log, _ = align(copy.deepcopy(base), *learned, heldout=aside)
        if not (out / "checkpoint").is_dir():
            told = {"role": role, "seed": seed, **self.recipe, "run": asdict(RunInfo.collect(name))}
            with replacing(out / "checkpoint") as folder:
                model.save_pretrained(folder)
                tokenizer.save_pretrained(folder)
                write_manifest(folder, told)
        return Expert(model, log.drop(columns="stage"), out / "checkpoint")


def expert_recipe(name: str) -> dict[str, Any]:
    """What the manifest of a checkpoint says of an expert: role, seed, settings of the training.

    Where a manifest does not tell them, role is the last part of the name and the seed 0.
    """
    path = Path(resolve(name)) / "manifest.json"
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {"role": Path(name).name, "seed": 0} | told


class Pair(NamedTuple):
    """A math expert and a language expert of one base."""

    math: PreTrainedModel
    language: PreTrainedModel
    target: str
    """Language of the language expert."""
    seeds: tuple[int, int]
    """Of their trainings, as far as their manifests tell."""


def load_pair(
    loading: Loading, tokenizer: PreTrainedTokenizerBase, given: Mapping[str, Any]
) -> Pair:
    """The two experts that a page looks at.

    Its parameters math_expert and language_expert are checkpoints of the base of `loading`; target
    is a language, or empty: what the manifest says.

    Raises:
        ValueError: An expert splits text in another way than the base.
    """
    names = (given["math_expert"], given["language_expert"])
    (math, first), (language, second) = (load_expert(loading, name) for name in names)
    check_vocabularies(tokenizer, first, second)
    recipes = [expert_recipe(name) for name in names]
    seeds = tuple(int(recipe["seed"]) for recipe in recipes)
    return Pair(math, language, given["target"] or recipes[1]["role"], seeds)


def load_expert(
    loading: Loading, name: str | Path
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A checkpoint as its base is loaded, and its tokenizer."""
    return replace(loading, model=str(name), revision="").load()
