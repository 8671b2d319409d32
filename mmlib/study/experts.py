"""Experts of layer swapping: one learns English math, another a language."""

import copy
import itertools
import json
import random
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.edits import trainable_only
from mmlib.files import replacing
from mmlib.finetune import encode, fine_tune
from mmlib.merging import check_vocabularies
from mmlib.models import model_hash, resolve
from mmlib.organism.corpus import Mix, draw, render
from mmlib.organism.training import write_manifest
from mmlib.study.settings import Loading, Steps
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
        fresh = {task in CORPUS for task in tasks}
        if len(fresh) != 1:
            raise ValueError(f"tasks {list(tasks)}: give some, of organisms or others")
        source = _fresh if fresh == {True} else partial(_loaded, data_dir=data_dir)
        own, other = source(tasks, code, number, heldout, seed)
        kept += own
        aside += other
    return encode(tokenizer, kept), encode(tokenizer, aside)


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


@dataclass(frozen=True, kw_only=True)
class Training(Steps):
    """How experts are trained, and on what; steps are those of one part of a role."""

    math_tasks: Sequence[str]
    """See `expert_examples`."""
    language_tasks: Sequence[str]
    learning_rate: float
    """Highest rate."""
    heldout: int
    """Examples that are set aside."""
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

    @property
    def data(self) -> dict[str, Any]:
        """What the examples are drawn from: arguments of `expert_examples`."""
        names = ("math_tasks", "language_tasks", "heldout", "data_dir")
        return {name: getattr(self, name) for name in names}

    def drawn(
        self, role: str, tokenizer: PreTrainedTokenizerBase, *, seed: int
    ) -> tuple[Examples, Examples]:
        """As many as the steps need, and those set aside; see `expert_examples`."""
        return expert_examples(role, tokenizer, number=self.examples, seed=seed, **self.data)

    def expert(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        role: str,
        *,
        name: str,
        seed: int,
    ) -> Path:
        """Fine-tune a copy of the base and keep it as a checkpoint that `from_pretrained` opens.

        The base is in float32 and unchanged; `name` is its name for the folder and the manifest,
        `role` as in `expert_examples`, `seed` that of the examples and of the training.

        Returns:
            The checkpoint's folder: weights in float32, since bfloat16 would round small updates
            to nothing; tokenizer, manifest.json, training_log.csv. It lies in `experts_dir` and is
            named after the settings; one that is there already is left as it is, an interrupted
            training goes on.

        Raises:
            ValueError: The folder holds another expert; see also `expert_examples` and
                `fine_tune`.
        """
        plan = self.plan(self.learning_rate, seed=seed)
        told = {"role": role, "base": name, "base_hash": model_hash(base)}
        told |= asdict(plan) | self.data | {"embeddings": self.embeddings}
        del told["stop"]
        told = json.loads(json.dumps(told, default=str))
        marks = [name, role, self.steps, f"{self.learning_rate:g}"]
        marks += ["embeddings", seed] if self.embeddings else [seed]
        out = Path(self.experts_dir).absolute() / "_".join(map(str, marks)).replace("/", "-")
        out.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(out.with_name(f"{out.name}.lock")):
            if not out.is_dir():
                examples, aside = self.drawn(role, tokenizer, seed=seed)
                plan = replace(plan, steps=self.steps * len(role.split("+")))
                model, training = copy.deepcopy(base), out.with_name(f"{out.name}.training")
                with trainable_only(model, None, ()):
                    if self.embeddings:
                        model.requires_grad_(True)
                    log = fine_tune(model, examples, training, plan, heldout=aside)
                run = asdict(RunInfo.collect(name))
                with replacing(out) as folder:
                    model.save_pretrained(folder)
                    tokenizer.save_pretrained(folder)
                    log.to_csv(folder / "training_log.csv", index=False)
                    write_manifest(folder, told | {"run": run})
                shutil.rmtree(training)
        there = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        if differing := {k: v for k, v in told.items() if there.get(k) != v}:
            raise ValueError(
                f"{out} holds another expert, not of {differing}: choose another folder"
            )
        return out


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
