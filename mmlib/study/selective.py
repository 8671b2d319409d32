"""Selective alignment of a real LLM, judged by likelihoods: it solves too few problems for grades.

An expert in English math is trained first, then systems of `mmlib.study.systems` from it. What
counts is how likely the English solution of a problem is when the problem is asked in another
language, and how likely translations are that were set aside.
"""

import copy
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from transformers import PreTrainedModel

from mmlib.finetune import encode, mean_loss
from mmlib.study.evidence import read_evidence
from mmlib.study.pairs import texts_of
from mmlib.study.settings import Loading
from mmlib.study.stats import seed_means
from mmlib.study.systems import (
    Examples,
    Schedule,
    Stage,
    Texts,
    align,
    choose,
    compared,
    equal_rank,
    systems,
    translation_examples,
)
from mmlib.study.tables import RunInfo, item_costs, pack_losses
from mmlib.tasks.problems import load_problems

TRANSLATION, BLIND, SOLUTION = ("translation", "without its source", "solution")
"""What is read: English translations that were set aside; the same without the text that they
translate; English solutions of problems that are asked in a language."""
RANDOM_LAYERS = "random layers"
"""A system that trains as many layers as SLAM, others with every seed."""
START = Stage("English math", rank=16)
"""How the expert is trained from which all systems start: by LoRA, merged in the end."""
Measured = dict[tuple[str, str], tuple[list[str], Examples]]
"""(kind, language) -> ids and examples of what is read, with a loss on the English text only."""


def problems_in(given: Mapping[str, Any]) -> pd.DataFrame:
    """English problems with worked solutions, asked in every language in the English layout.

    As in the paper, where only the question changes its language.

    Args:
        given: Parameters of the page: `solutions` is a task with worked solutions in English,
            `questions` one with the questions of the same ids; `items` problems from number
            `first_item` on are asked, in `languages` and, if there are any, in `others`.

    Returns:
        Columns id, lang, prompt and response.

    Raises:
        ValueError: A problem has no question in a language, or is not the English question.
    """
    where = {"data_dir": given["data_dir"] or None, "split": "heldout"}
    solved = load_problems(given["solutions"], "en", **where)
    asked = solved[given["first_item"] : given["first_item"] + given["items"]]
    rows, english = [], {}
    for code in dict.fromkeys(["en", *given["languages"], *given.get("others", ())]):
        table = texts_of(given["questions"], code, where["data_dir"], where["split"])
        table = table[table.kind == "question"].set_index("id").text
        english = english or table.to_dict()
        for problem in asked:
            if english.get(problem.id, "\0") not in problem.prompt or problem.id not in table:
                raise ValueError(
                    f"questions={given['questions']!r} has no {problem.id!r} in {code!r} that is "
                    f"parallel to solutions={given['solutions']!r}: choose tasks of the same items"
                )
            prompt = problem.prompt.replace(english[problem.id], table[problem.id])
            rows.append((problem.id, code, prompt, problem.response))
    return pd.DataFrame(rows, columns=["id", "lang", "prompt", "response"])


def losses(model: PreTrainedModel, asked: Measured, *, bf16: bool) -> pd.DataFrame:
    """Loss of every text, packed by task (the kind) and lang, see `pack_losses`.

    In bfloat16 where that is what the model was trained with.
    """
    model = copy.deepcopy(model).to(torch.bfloat16) if bf16 else model
    rows = [
        (kind, lang, name, -mean_loss(model, [example]), sum(y >= 0 for y in example["labels"][1:]))
        for (kind, lang), (names, examples) in asked.items()
        for name, example in zip(names, examples, strict=True)
    ]
    columns = ["task", "lang", "problem_id", "log_likelihood", "n_tokens"]
    return pack_losses(pd.DataFrame(rows, columns=columns), ["task", "lang"])


class Asked:
    """A model, problems that it is asked, and texts that it can learn from."""

    def __init__(self, given: Mapping[str, Any]):
        """Load the model; see `problems_in` for what is refused."""
        self.given, loading = given, Loading.of(given)
        self.asked_in = problems_in(given)
        self.model, self.tokenizer = loading.load()
        self.run = loading.run(self.model, given)

    @property
    def out(self) -> Path:
        """Folder of what is trained."""
        return Path(self.given["runs_dir"]) / self.run.model.replace("/", "-")

    def solutions(self) -> Measured:
        """The English solutions of the problems, with the prompt in every language."""
        found: Measured = {}
        for code, rows in self.asked_in.groupby("lang", sort=False):
            examples = encode(self.tokenizer, zip(rows.prompt, rows.response, strict=True))
            found[SOLUTION, code] = [*rows.id], examples
        return found

    def parted(self, texts: Texts) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Pairs of at most `longest` tokens, prompt included: to train on, and set aside."""
        pairs, longest = texts.pairs(), self.given["longest"]
        lengths = map(_length, translation_examples(self.tokenizer, pairs))
        return texts.parted(pairs[[length <= longest for length in lengths]])

    def learned(
        self, texts: Texts, pairs: pd.DataFrame, *, number: int, seed: int, kinds: Collection[str]
    ) -> dict[str, Examples]:
        """`Texts.examples`, but of solutions only those of at most `longest` tokens."""
        draw = partial(texts.examples, self.tokenizer, pairs, seed=seed)
        solved = draw(number=4 * number, kinds={*kinds} & {START.data})
        longest = self.given["longest"]
        short = {
            name: [example for example in examples if _length(example) <= longest][:number]
            for name, examples in solved.items()
        }
        return draw(number=number, kinds={*kinds} - {START.data}) | short

    def solved(
        self, texts: Texts, pairs: pd.DataFrame, *, number: int, seed: int
    ) -> tuple[Examples, Examples]:
        """English problems with solutions to learn from, and `heldout` that are set aside."""
        held, name = self.given["heldout"], START.data
        examples = self.learned(texts, pairs, number=number + held, seed=seed, kinds={name})[name]
        return examples[held:], examples[:held]


class Bench(Asked):
    """An English math expert, what systems learn from it on, and what is read of them."""

    def __init__(self, given: Mapping[str, Any]):
        """Load the model; see `Texts` and `problems_in` for what is refused."""
        super().__init__(given)
        self.texts, self.schedule = Texts.of(given), Schedule.of(given)
        self.pairs, self.aside = self.parted(self.texts)
        depth = self.model.config.get_text_config().num_hidden_layers
        slam = systems(given["layers"], depth, rank=1)["SLAM"]
        self.recipes = systems(given["layers"], depth, rank=equal_rank(self.model, slam[0]))
        self.recipe = {"model": self.run.model, "steps": given["steps"]}
        self.recipe |= {"start_steps": given["start_steps"], "start_rate": given["start_rate"]}

    def _folder(self, *more: Any) -> Path:
        """Where trainings are kept, by what tells them apart beside their rates."""
        names = ("start_steps", "start_rate", "heldout")
        return self.out / "-".join(map(str, (*more, *(self.given[name] for name in names))))

    @property
    def asked(self) -> Measured:
        """Everything that is read of every system."""
        asked: Measured = {}
        for code, pairs in self.aside.groupby("lang", sort=False):
            blind = pairs.assign(text="")
            for kind, table in ((TRANSLATION, pairs), (BLIND, blind)):
                asked[kind, code] = [*pairs.id], translation_examples(self.tokenizer, table)
        return asked | self.solutions()

    def start(self) -> tuple[PreTrainedModel, pd.DataFrame]:
        """The expert in English math, and the log of its training; without steps the model."""
        given, name = self.given, START.data
        if not given["start_steps"]:
            return self.model, pd.DataFrame()
        plan = replace(self.schedule, steps=given["start_steps"], rate_lora=given["start_rate"])
        rest, aside = self.solved(self.texts, self.pairs, number=plan.examples, seed=0)
        out = self._folder("start")
        model, log, _ = align(self.model, [START], {name: rest}, out, plan.plans, heldout=aside)
        return model, log

    def systems(self, model: PreTrainedModel) -> dict[str, pd.DataFrame]:
        """Train every system from the expert, with every seed, and read it and the expert.

        Returns:
            "losses" (see `losses`), "log" and "costs" (see `align`), with system, seed,
            learning_rate and what names the expert. "random layers" are others for every seed.
        """
        given, asked = self.given, self.asked
        named = {f"random {seed}": RANDOM_LAYERS for seed in given["seeds"]}
        wanted = [("base", 0)] + [
            (f"random {seed}" if name == RANDOM_LAYERS else name, seed)
            for seed in given["seeds"]
            for name in given["systems"]
        ]
        plans = choose(self.recipes, [name for name, _ in wanted])
        kinds = {stage.data for stages in plans.values() for stage in stages}
        number = self.schedule.examples
        learned = partial(self.learned, self.texts, self.pairs, number=number, kinds=kinds)
        tables = compared(
            model,
            pd.DataFrame(wanted, columns=["system", "seed"]),
            plans,
            {seed: learned(seed=seed) for seed in given["seeds"]},
            measure=lambda model: {"losses": losses(model, asked, bf16=given["bf16"])},
            out=self._folder("systems", given["steps"]),
            plans=self.schedule.plans,
        )
        return {
            kind: table.assign(system=table.system.replace(named), **self.recipe)
            for kind, table in tables.items()
        }


def _length(example: Mapping[str, list[int]]) -> int:
    return len(example["input_ids"])


class Aligned(NamedTuple):
    """What `rows` gives."""

    losses: pd.DataFrame
    """See `Bench.systems`; as the next two."""
    log: pd.DataFrame
    costs: pd.DataFrame
    start: pd.DataFrame
    """Log of the expert's training."""
    run: RunInfo


def rows(given: Mapping[str, Any]) -> Aligned:
    """Train the expert and the systems, and read them."""
    bench = Bench(given)
    model, log = bench.start()
    tables = bench.systems(model)
    empty = pd.DataFrame()
    return Aligned(
        losses=tables["losses"],
        log=tables.get("log", empty),
        costs=tables.get("costs", empty),
        start=log.assign(**bench.recipe),
        run=bench.run,
    )


class Desk(NamedTuple):
    """What was trained on a real LLM and is shipped."""

    losses: pd.DataFrame
    """See `Bench.systems`; of systems that were trained for long, with three seeds."""
    rates: pd.DataFrame
    """The same of short trials of learning rates, on other items."""
    log: pd.DataFrame
    costs: pd.DataFrame
    starts: pd.DataFrame
    """Logs of the expert's training at several rates."""


def desk() -> Desk:
    """What is shipped of a real LLM."""
    names = ("", "_rates", "_log", "_costs", "_starts")
    return Desk(*(read_evidence(f"desk_aligned{name}")[0] for name in names))


def gains(packed: pd.DataFrame) -> pd.DataFrame:
    """How much more likely a text is than to the expert, nats per token.

    Args:
        packed: See `losses`, with system, seed, and what names the expert.

    Returns:
        One row per text of every trained system, see `item_costs`, with gain: -1 times the cost.
    """
    table = item_costs(packed, "system", "base", also=["start_steps", "start_rate"])
    return table.assign(gain=-table.cost)


def summary(packed: pd.DataFrame) -> pd.DataFrame:
    """Mean gain of every system by task and language, with a 95 % t interval over trainings.

    Returns:
        Columns system, task, lang, mean, low, high, n.
    """
    return seed_means(gains(packed), "gain", ["system", "task", "lang"])


def tried(packed: pd.DataFrame) -> pd.DataFrame:
    """What a trial of learning rates decides by.

    Args:
        packed: Losses of short trainings.

    Returns:
        By system and learning_rate: the mean loss of translations that were set aside, over the
        languages, and what English solutions lose; nats per token.
    """
    table, by = gains(packed), ["system", "learning_rate"]
    translated = table[table.task == TRANSLATION].groupby(by, sort=False).nats.mean()
    english = table[(table.task == SOLUTION) & (table.lang == "en")].groupby(by, sort=False).gain
    columns = {"translations": translated, "English loses": -english.mean()}
    return pd.DataFrame(columns).reset_index()


def told(found: Desk) -> dict[str, Any]:
    """Numbers that the page repeats; gains are means over problems and trainings, in nats."""
    table = gains(found.losses)
    plain = table.groupby(["task", "lang"], sort=False).plain.mean()
    seen, blind = plain[TRANSLATION], plain[BLIND]
    numbers: dict[str, Any] = {
        **found.losses.iloc[0][["model", "steps", "start_steps"]],
        "trainings": table.seed.nunique(),
        "problems": table[table.task == SOLUTION].place.nunique(),
    }
    for word, lang in {"hardest": seen.idxmax(), "easiest": seen.idxmin()}.items():
        numbers |= {word: lang, f"{word}_seen": seen[lang], f"{word}_blind": blind[lang]}
    means = table.groupby(["system", "task", "lang"], sort=False).gain.mean()
    for system, name in {"SLAM": "slam", RANDOM_LAYERS: "random"}.items():
        of = means[system]
        solved = of[SOLUTION]
        parts = {"": solved[seen.index], "_translation": of[TRANSLATION], "_blind": of[BLIND]}
        for word, part in parts.items():
            for end, lang in {"low": part.idxmin(), "high": part.idxmax()}.items():
                numbers |= {f"{name}{word}_{end}": part[lang], f"{name}{word}_{end}_lang": lang}
        numbers |= {f"{name}_en": solved["en"]}
        numbers |= {f"{name}_others": solved.drop(["en", *seen.index]).mean()}
    return {f"desk_{name}": value for name, value in numbers.items()}
